"""Train a policy from demonstrations: tokeniser, target, draft. Writes a checkpoint folder.

Examples:
  python jobs/train.py --data data/spatial --output checkpoints/spatial
  python jobs/train.py --data data/spatial --output checkpoints/spatial --resume
  python jobs/train.py --data data/spatial --output checkpoints/wide --model.target.width 256
  python jobs/train.py --data data/spatial data/dagger --start-from checkpoints/spatial \
      --train.steps 2000 --train.learning-rate 3e-4 --output checkpoints/better    # fine-tune
  ray job submit --working-dir . -- python jobs/train.py --data /mnt/spatial \
      --output /mnt/policy --workers 8

Reads the HDF5 files of jobs/collect.py, LIBERO's published ones and openvla-oft's *_no_noops. The
same command trains on a CPU, on a GPU and on all GPUs of a cluster. Reports go to training.parquet
and to TensorBoard (`tensorboard --logdir OUTPUT`). Ctrl-C keeps the training state: the same
command with --resume goes on. Under `ray job submit` a relative --output starts at the home folder.
Exit codes: 0 done, 1 stopped (workers kept dying, the disk is full, the cluster is lost), 2 bad
request, 130 interrupted. After 1 and 130 --resume goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

# A working folder that `ray job submit` has uploaded is not installed, and wins over what is.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rsd import commands

if __name__ == "__main__":
    commands.leave_on_interrupt()

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from rsd.cluster.address import check_cluster
from rsd.config import LocalFolder
from rsd.console import PLAIN, complain, make_console
from rsd.demonstrations import check_files
from rsd.errors import RunStoppedError, UserError
from rsd.leaving import terminable
from rsd.provenance import cpus
from rsd.training.config import TrainJob
from rsd.training.metrics import Progress

DONE, STOPPED, BAD_REQUEST, INTERRUPTED = 0, 1, 2, commands.INTERRUPTED


@dataclass(frozen=True)
class TrainCommand(TrainJob):
    """Train SmallVLA and its draft from demonstrations."""

    output: LocalFolder
    """Checkpoint folder to write; on a cluster, where every node finds it"""

    workers: int | None = None
    """Processes that train together; on this machine they share its CPUs, on a cluster more than
    fit now wait for nodes. None: one a GPU, or one on CPUs"""

    gpus_per_worker: float | None = None
    """None: 1 where there are GPUs; 0: CPUs"""

    restarts: int = 3
    """Times that the workers are started again after one has died"""


def main(arguments: Sequence[str]) -> int:
    """Train on Ray; returns the exit code."""
    job: Any = tyro.cli(
        Annotated[TrainCommand, tyro.conf.arg(name="")], args=arguments, description=__doc__
    )
    console = make_console()
    go_on = "the same command with --resume goes on"
    try:
        with terminable():
            return carry_out(job, " ".join(["python", "jobs/train.py", *arguments]), console)
    except UserError as error:
        complain(f"error: {error}")
        return BAD_REQUEST
    except RunStoppedError as error:
        complain(f"stopped: {error}; {go_on}")
        return STOPPED
    except KeyboardInterrupt:
        complain(f"interrupted; {go_on}")
        return INTERRUPTED


def carry_out(job: TrainCommand, words: str, console: Console) -> int:
    """Check the request, then train on a cluster. `words` describe the command.

    Raises UserError for a bad request, RunStoppedError where workers keep dying.
    """
    check_files(*job.data)
    check_cluster()
    with commands.importing():  # torch and ray take seconds
        from rsd.cluster.nodes import cluster_size
        from rsd.cluster.session import connected
        from rsd.cluster.training import Placement, absolute, gpus_of_cluster, train
        from rsd.cluster.watch import Interrupts, beside
        from rsd.training.run import reserved

    with (
        reserved(job),
        Display(console) as display,
        connected(max(job.workers or 1, cpus())),
        Interrupts(lambda _: None) as interrupts,
    ):
        placement = Placement.choose(
            job.workers, job.gpus_per_worker, job.restarts, beside(gpus_of_cluster)
        )
        display.show(str(placement))
        size = beside(cluster_size)
        if placement.workers > size.cpus:
            display.show(f"they wait for nodes: a CPU each, the cluster has {size}")
        work = absolute(job)
        beside(
            lambda: train(work, words, placement, display.show, lambda: interrupts.finish),
            lambda: interrupts.finish,
        )
    console.print(f"wrote {job.output}: `python jobs/evaluate.py --policy {job.output}`", **PLAIN)
    return DONE


class Display:
    """A bar a phase with the time left on a terminal, a line a report elsewhere; a context."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, event: Progress | str) -> None:
        """A report, or something worth a line of its own."""
        if isinstance(event, str):
            self._say(event)
            return
        if event.phase not in self._tasks:
            self._tasks[event.phase] = self._bar.add_task(event.phase, total=event.of, note="")
        note = f"loss {event.loss:.4f}" if math.isfinite(event.loss) else ""
        self._bar.update(self._tasks[event.phase], completed=event.step, note=note)
        if event.validation or not self._console.is_terminal:
            self._say(event.line())

    def _say(self, line: str) -> None:
        self._console.print(line, **PLAIN)
        self._console.file.flush()


if __name__ == "__main__":
    commands.run(main)
