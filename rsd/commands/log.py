"""A run or a training that is there already, in experiment trackers: `rsd log --help`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from rsd.commands import DONE, STOPPED, as_called, called
from rsd.console import PLAIN
from rsd.errors import UserError
from rsd.flags import read
from rsd.summary.compute import summarise
from rsd.tracking import trackers
from rsd.tracking.log import replay
from rsd.training import log as training

DESCRIPTION = """\
Log a run to experiment trackers as `rsd evaluate --log` would have: its curves over the episodes in
the order in which they ended, its summary, and run.json; or a training as `rsd train --log` would
have. Once: a second time a tracker shows the curves twice.

  rsd log results/spatial --to tensorboard        # -> results/spatial/log/tensorboard
  WANDB_MODE=offline rsd log results/spatial --to wandb mlflow
  rsd log checkpoints/spatial --to mlflow         # a training

Exit codes: 0 done, 1 a tracker failed, 2 bad request.
"""


@dataclass(frozen=True)
class LogConfig:
    """What is logged where."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder or address of a run, or --output of a training"""

    to: Annotated[tuple[str, ...], tyro.conf.arg(metavar="STR [STR ...]")]
    """wandb, tensorboard, mlflow"""


def main(words: Sequence[str], console: Console) -> int:
    """Log; returns the exit code."""
    config: LogConfig = read(LogConfig, words, called("log"), as_called(DESCRIPTION))
    if not config.to:
        raise UserError(f"--to needs a tracker: {', '.join(trackers.TRACKERS)}")
    trackers.check(config.to)
    if training.holds_a_training(config.run):
        news = training.replay(Path(config.run).expanduser(), config.to)
    else:
        news = replay(config.run, config.to, summarise(config.run))
    for line in news:
        console.print(line, **PLAIN)
    return STOPPED if news else DONE
