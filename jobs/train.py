"""Train a policy from demonstrations: tokeniser, target, draft. Writes a checkpoint folder.

Examples:
  python jobs/train.py --data data/spatial --output checkpoints/spatial
  python jobs/train.py --data data/spatial --output checkpoints/spatial --resume
  python jobs/train.py --data data/spatial --output checkpoints/wide --model.target.width 256

Reads the HDF5 files of jobs/collect.py and LIBERO's published ones. Ctrl-C keeps the training
state: the same command with --resume goes on. Exit codes: 0 done, 2 bad request, 130 interrupted.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from rsd.architecture import SmallVLAConfig
from rsd.errors import UserError
from rsd.models import checkpoint, policy
from rsd.models.small_vla import SmallVLA
from rsd.provenance import provenance
from rsd.training.data import Examples, load_examples
from rsd.training.policy import (
    DraftTraining,
    Progress,
    TargetTraining,
    TrainConfig,
    TrainingState,
)
from rsd.training.tokeniser import TruncationRow, train_tokeniser, truncation_table

STATE_FILE = "training.pt"
LOG_FILE = "training.jsonl"


@dataclass(frozen=True)
class TrainJob:
    """Train SmallVLA and its draft from demonstrations."""

    data: Path
    """HDF5 file or folder of demonstrations"""

    output: Path
    """Checkpoint folder to write"""

    resume: bool = False
    """Go on with an interrupted training in --output"""

    draft_only: bool = False
    """Keep the checkpoint's target, train the draft again"""

    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    threads: int | None = None
    """CPU threads; None: all cores"""

    tokeniser_steps: int = 2000
    """Steps of the tokeniser's encoder, where it has one"""

    train: TrainConfig = field(default_factory=TrainConfig)
    model: SmallVLAConfig = field(default_factory=SmallVLAConfig)


def main(job: TrainJob, console: Console) -> None:
    """Run the phases that are still to do. Raises UserError for a bad request."""
    started = time.time()
    _check_output(job)
    if job.threads:
        torch.set_num_threads(job.threads)
    torch.manual_seed(job.train.seed)
    examples = load_examples(job.data, job.model.word_buckets, job.model.tokeniser.steps)
    console.print(f"{len(examples)} examples: {examples.origin}")
    model = SmallVLA(job.model, examples.spec.height)
    log = Log(job.output, console)
    earlier: dict[str, object] = {}
    if job.draft_only:
        earlier = {"target": checkpoint.inspect(str(job.output)).origin}
        model = policy.load(str(job.output), deterministic=False, device="cpu").model
    else:
        table = _fit_tokeniser(job, model, examples)
        console.print(_render(table))
        _train_target(job, model, examples, log)
        policy.round_to_storage(model)
    DraftTraining(model, examples, job.train, job.device).run(log.report)
    log.close()
    origin = {
        **earlier,
        "data": examples.origin,
        "code": provenance()["code"],
        "training": dataclasses.asdict(job.train),
        "command": " ".join(["python", *sys.argv]),
        "seconds": round(time.time() - started),
        "threads": torch.get_num_threads(),
    }
    policy.save(model.cpu(), job.output, examples.spec, origin)
    (job.output / STATE_FILE).unlink(missing_ok=True)
    console.print(f"wrote {job.output}: `python jobs/evaluate.py --policy {job.output}`")


def _check_output(job: TrainJob) -> None:
    there = job.output.is_dir() and any(job.output.iterdir())
    if there and not (job.resume or job.draft_only):
        raise UserError(f"{job.output} is not empty; use --resume or another --output")
    if job.resume and (job.output / checkpoint.WEIGHTS_FILE).exists():
        raise UserError(f"{job.output} holds a finished checkpoint; give another --output")
    job.output.mkdir(parents=True, exist_ok=True)


def _fit_tokeniser(job: TrainJob, model: SmallVLA, examples: Examples) -> list[TruncationRow]:
    tokeniser = train_tokeniser(
        job.model.tokeniser,
        examples.actions,
        steps=job.tokeniser_steps,
        batch_size=256,
        seed=job.train.seed,
    )
    model.tokeniser.load_state_dict(tokeniser.state_dict())
    model.tokeniser.requires_grad_(False)
    table = truncation_table(tokeniser, examples.actions[:: max(1, len(examples) // 4000)])
    content = [dataclasses.asdict(row) for row in table]
    (job.output / "tokeniser.json").write_text(json.dumps(content, indent=2) + "\n")
    return table


def _train_target(job: TrainJob, model: SmallVLA, examples: Examples, log: Log) -> None:
    training = TargetTraining(model, examples, job.train, job.device)
    state_file = job.output / STATE_FILE
    if job.resume and state_file.exists():
        training.load(TrainingState(**torch.load(state_file, weights_only=True)))
    for step in training.run(log.report):
        if step % 500 == 0 or step == job.train.steps:
            aside = state_file.with_suffix(".part")
            torch.save(dataclasses.asdict(training.state()), aside)
            aside.replace(state_file)


def _render(rows: list[TruncationRow]) -> Table:
    table = Table(title="Truncation: what the first K layers reconstruct")
    for name in ("K", "position mm", "p99 mm", "rotation deg", "gripper wrong", "levels used"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            str(row.layers),
            f"{row.position_mm:.3f}",
            f"{row.position_p99_mm:.3f}",
            f"{row.rotation_degrees:.3f}",
            f"{row.gripper_errors:.2%}",
            f"{row.used_levels:.1f}",
        )
    return table


class Log:
    """Progress for people and training.jsonl for programs."""

    def __init__(self, output: Path, console: Console) -> None:
        self._file = (output / LOG_FILE).open("a")
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
        self._bar.start()
        self._tasks: dict[str, int] = {}

    def report(self, progress: Progress) -> None:
        """A line in the file, a bar on the terminal; without one, a line a report."""
        if progress.phase not in self._tasks:
            self._tasks[progress.phase] = self._bar.add_task(
                progress.phase, total=progress.of, note=""
            )
        note = f"loss {progress.loss:.4f}"
        task = self._tasks[progress.phase]
        self._bar.update(task, completed=progress.step, note=note)  # type: ignore[arg-type]
        if progress.phase == "teach":
            return
        self._file.write(json.dumps({"time": time.time(), **dataclasses.asdict(progress)}) + "\n")
        self._file.flush()
        if progress.validation or not self._console.is_terminal:
            held_out = " ".join(f"{k} {v:.3f}" for k, v in progress.validation.items())
            self._console.print(
                f"{progress.phase} {progress.step}/{progress.of} {note} {held_out}",
                highlight=False,
                soft_wrap=True,
            )
            self._console.file.flush()

    def close(self) -> None:
        self._bar.stop()
        self._file.close()


if __name__ == "__main__":
    console = Console()
    try:
        main(tyro.cli(Annotated[TrainJob, tyro.conf.arg(name="")], description=__doc__), console)
    except UserError as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("interrupted; the same command with --resume goes on")
        sys.exit(130)
