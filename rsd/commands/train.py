"""Train a policy: `rsd train --help`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from rsd import commands
from rsd.cluster.address import check_cluster
from rsd.commands import DONE, as_called, called, go_on
from rsd.console import PLAIN, complain
from rsd.demos import check_files
from rsd.errors import RunStoppedError
from rsd.flags import LocalFolder, read
from rsd.provenance import cpus
from rsd.tracking import trackers
from rsd.tracking.trackers import TRACKERS
from rsd.training.config import TrainJob
from rsd.training.metrics import Progress

DESCRIPTION = """\
Train a policy from demonstrations: tokeniser, target, draft. Writes a checkpoint folder.

Examples:
  rsd train --data data/spatial --output checkpoints/spatial
  rsd train --data data/spatial --output checkpoints/spatial --resume
  rsd train --data data/spatial --output checkpoints/wide --model.target.width 256
  rsd train --data data/spatial data/dagger --start-from checkpoints/spatial \\
      --train.steps 2000 --train.learning-rate 3e-4 --output checkpoints/better    # fine-tune
  rsd train --target openvla-oft --base hf://moojink/openvla-7b-oft-finetuned-libero-spatial \\
      --data data/spatial_no_noops --output checkpoints/oft      # heads of codes for the 7B model
  ray job submit --working-dir . -- python jobs/train.py --data /mnt/spatial \\
      --output /mnt/policy --workers 8

With --target openvla-oft the backbone of --base stays as it is, and heads of residual codes and a
draft are trained on it; --oft.backbone lora changes its language model, too, all trains everything,
for a base that knows nothing yet. Collect for it with `rsd collect --image-size 256 --samples 4`:
frames as evaluation draws them. The base is named, not copied: evaluation needs it. All that it
needs beyond the rest is in requirements-openvla.txt.

Reads the HDF5 files of `rsd collect`, LIBERO's published ones and openvla-oft's *_no_noops. The
same command trains on a CPU, on a GPU and on all GPUs of a cluster. Reports go to training.parquet
and to TensorBoard (`tensorboard --logdir OUTPUT`), with --log to other trackers, too. Ctrl-C keeps
the training state: the same command with --resume goes on. Under `ray job submit` a relative
--output starts at the home folder. Exit codes: 0 done, 1 stopped (workers kept dying, the disk is
full, the cluster is lost), 2 bad request, 130 interrupted. After 1 and 130 --resume goes on.
"""

LOG_HELP = (
    f"Also log the curves (loss, validation, per head and layer) to {', '.join(TRACKERS)} "
    "(docs/exchange.md); one that fails is dropped, the training goes on"
)


@dataclass(frozen=True)
class TrainCommand(TrainJob):
    """Train a policy and its draft from demonstrations."""

    output: LocalFolder
    """Checkpoint folder to write; on a cluster, where every node finds it"""

    workers: int | None = None
    """Processes that train together; on this machine they share its CPUs, on a cluster more than
    fit now wait for nodes. None: one a GPU, or one on CPUs"""

    gpus_per_worker: float | None = None
    """None: 1 where there are GPUs; 0: CPUs"""

    restarts: int = 3
    """Times that the workers are started again after one has died"""

    log: Annotated[tuple[str, ...], tyro.conf.arg(help=LOG_HELP, metavar="[STR [STR ...]]")] = ()


def main(words: Sequence[str], console: Console) -> int:
    """Train on Ray; returns the exit code."""
    job: TrainCommand = read(
        Annotated[TrainCommand, tyro.conf.arg(name="")],
        words,
        called("train"),
        as_called(DESCRIPTION),
    )
    try:
        carry_out(job, " ".join([called("train"), *words]), console)
    except RunStoppedError as error:
        raise RunStoppedError(f"{error}; {go_on('train')}") from error
    except KeyboardInterrupt:
        complain(f"interrupted; {go_on('train')}")
        raise
    console.print(f"wrote {job.output}: `{called('evaluate')} --policy {job.output}`", **PLAIN)
    return DONE


def carry_out(job: TrainCommand, command: str, console: Console) -> None:
    """Check the request, then train on a cluster. `command` is kept with the checkpoint.

    Raises UserError for a bad request, RunStoppedError where workers keep dying.
    """
    trackers.check(job.log)
    check_files(*job.data)
    check_cluster()
    with commands.importing():  # torch and ray take seconds
        from rsd.cluster.nodes import cluster_size
        from rsd.cluster.session import connected
        from rsd.cluster.training import Placement, absolute, gpus_of_cluster, train
        from rsd.cluster.watch import Interrupts, beside
        from rsd.training.log import LoggedTraining
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
        log = LoggedTraining(job.log, work, command)

        def show(event: Progress | str) -> None:
            display.show(event)
            if not isinstance(event, str):
                log.add(event)
            for line in log.news():
                display.show(line)

        finished = False
        try:
            beside(
                lambda: train(work, command, placement, show, lambda: interrupts.finish),
                lambda: interrupts.finish,
            )
            finished = True
        finally:
            for line in log.close(over=finished, hurry=interrupts.leave):
                display.show(line)


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
