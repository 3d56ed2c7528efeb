"""Reports of a running training: rows of training.parquet and curves in TensorBoard."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rsd.books import Column
from rsd.errors import UserError, writing
from rsd.outputs import write_file

FILE = "training.parquet"
CURVES = "tensorboard"  # folder of event files
PHASES = ("target", "teach", "draft")  # in this order


@dataclass(frozen=True)
class Validation:
    """Held-out figures. Accuracies are shares of tokens, layer 0 first."""

    loss: float  # nats per token
    accuracy: tuple[float, ...]  # target: against the labels; draft: agreement with the target
    majority: tuple[float, ...]  # of saying each token's most frequent training label, always
    parallel_loss: float = math.nan  # nats per token, of the independent heads
    regression_loss: float = math.nan  # mean L1 of latents, of the regression head
    survival: tuple[float, ...] = ()  # draft: shares of examples, all of whose tokens agree


@dataclass(frozen=True)
class Progress:
    """One report of a running training."""

    phase: str  # target | teach | draft
    step: int
    of: int
    loss: float  # nats per token, mean since the last report, all workers
    learning_rate: float = math.nan
    examples_per_s: float = math.nan  # since the last report, all workers together
    validation: Validation | None = None  # None between validations

    def line(self) -> str:
        """For a log."""
        parts = [f"{self.phase} {self.step}/{self.of}"]
        if math.isfinite(self.loss):  # the teacher has none
            parts.append(f"loss {self.loss:.4f}")
        if self.validation:
            names = {"target": "right", "draft": "agrees"}
            parts.append(f"held-out loss {self.validation.loss:.4f}")
            parts.append(f"{names[self.phase]} {_percent(self.validation.accuracy)} %")
            if self.validation.survival:
                parts.append(f"whole layers {_percent(self.validation.survival)} %")
            parts.append(f"majority {_percent(self.validation.majority)} %")
        return ", ".join(parts)


Report = Callable[[Progress], None]


def _percent(shares: tuple[float, ...]) -> str:
    return " ".join(f"{100 * share:.1f}" for share in shares)


_NUMBER, _COUNT, _TEXT = pa.float64(), pa.int64(), pa.string()
_PER_LAYER = pa.list_(pa.field("item", pa.float64(), nullable=False))
SCHEMA = pa.schema(
    [
        column.field()
        for column in (
            Column("time", _NUMBER, "s", "of the report, since 1970-01-01 UTC"),
            Column("phase", _TEXT, "name", "target or draft"),
            Column("step", _COUNT, "optimiser steps", "done of this phase"),
            Column("steps", _COUNT, "optimiser steps", "that this phase takes"),
            Column(
                "loss",
                _NUMBER,
                "nats per token",
                "cross-entropy of the phase's own heads, mean since the last report, all workers",
            ),
            Column("learning_rate", _NUMBER, "1", "of the last step"),
            Column("examples_per_s", _NUMBER, "1/s", "since the last report, all workers"),
            Column(
                "validation_loss",
                _NUMBER,
                "nats per token",
                "on held-out demonstrations; NaN where none was measured",
            ),
            Column(
                "parallel_loss",
                _NUMBER,
                "nats per token",
                "likewise, of the independent heads; NaN in the draft's phase",
            ),
            Column(
                "regression_loss",
                _NUMBER,
                "latent units",
                "likewise, mean absolute error of the regression head; NaN where there is none",
            ),
            Column(
                "accuracy",
                _PER_LAYER,
                "share of tokens",
                "target: held-out labels that its argmax meets given the coarser ones; draft: its "
                "agreement with the target's choices; layer 0 first, empty where not measured",
            ),
            Column(
                "majority",
                _PER_LAYER,
                "share of tokens",
                "what accuracy would be by always saying the most frequent label that each (step, "
                "dim, layer) has in training; layer 0 first",
            ),
            Column(
                "survival",
                _PER_LAYER,
                "share of examples",
                "of the draft: those all of whose tokens of a layer are the target's choices given "
                "its coarser ones; layer 0 first, null in older files",
                nullable=True,
            ),
        )
    ],
    metadata={"schema_version": "3"},
)


_CURVES = (
    "loss",
    "learning_rate",
    "examples_per_s",
    "validation_loss",
    "parallel_loss",
    "regression_loss",
)


def row_of(progress: Progress) -> dict[str, Any] | None:
    """A report as training.parquet has it; None of what the teacher sees, which is no training."""
    if progress.phase == "teach":
        return None
    seen = progress.validation
    return {
        "time": time.time(),
        "phase": progress.phase,
        "step": progress.step,
        "steps": progress.of,
        "loss": progress.loss,
        "learning_rate": progress.learning_rate,
        "examples_per_s": progress.examples_per_s,
        "validation_loss": seen.loss if seen else math.nan,
        "parallel_loss": seen.parallel_loss if seen else math.nan,
        "regression_loss": seen.regression_loss if seen else math.nan,
        "accuracy": list(seen.accuracy) if seen else [],
        "majority": list(seen.majority) if seen else [],
        "survival": list(seen.survival) if seen else [],
    }


def curves(row: Mapping[str, Any]) -> dict[str, float]:
    """What a report adds to curves, by their names: what is known of it."""
    phase = row["phase"]
    values = {f"{phase}/{name}": row[name] for name in _CURVES if math.isfinite(row[name])}
    for name in ("accuracy", "majority", "survival"):
        for layer, share in enumerate(row[name] or ()):
            values[f"{phase}_{name}/layer_{layer}"] = share
    return values


def read_reports(output: Path) -> list[dict[str, Any]]:
    """The reports of a training, in their order; none where it has written none.

    Raises UserError for a training.parquet that is damaged or another program's.
    """
    path = output / FILE
    try:
        table = pq.read_table(path, schema=SCHEMA) if path.exists() else SCHEMA.empty_table()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read ({error}); move it away and go on") from error
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


class Axis:
    """Steps as curves have them: through both phases, one behind the other."""

    def __init__(self) -> None:
        self._target = 0

    def step(self, row: Mapping[str, Any]) -> int:
        """Of a report; to be asked of all of them, in their order."""
        step: int = row["step"]
        if row["phase"] == "target":
            self._target = step
            return step
        return self._target + step


class TrainingLog:
    """training.parquet, whole after every report, and TensorBoard's events, in one folder."""

    def __init__(self, output: Path, phase: str, step: int) -> None:
        """Keeps the reports up to `step` of `phase`: what was trained behind them is lost.

        Raises UserError for a training.parquet that is damaged or another program's.
        """
        from torch.utils.tensorboard import SummaryWriter  # takes a second

        self._file = output / FILE
        known = (PHASES.index(phase), step)
        rows = read_reports(output)
        self._rows = [row for row in rows if (PHASES.index(row["phase"]), row["step"]) <= known]
        self._axis = Axis()
        last = max(map(self._axis.step, self._rows), default=0)
        self._folder = output / CURVES
        with writing(self._folder):  # what lies behind a resumed state is hidden
            self._curves: Any = SummaryWriter(self._folder, purge_step=last + 1)

    def add(self, progress: Progress) -> None:
        """Write one report."""
        row = row_of(progress)
        if row is None:
            return
        self._rows.append(row)
        whole = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(self._rows, SCHEMA), whole)
        write_file(self._file, whole.getvalue())
        with writing(self._folder):
            self._draw(row)

    def _draw(self, row: dict[str, Any]) -> None:
        step = self._axis.step(row)
        for name, value in curves(row).items():
            self._curves.add_scalar(name, value, step)
        self._curves.flush()

    def close(self) -> None:
        """The files are complete without it, too."""
        with writing(self._folder):
            self._curves.close()
