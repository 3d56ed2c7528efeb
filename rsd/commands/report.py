"""The tables of a run: `rsd report --help`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console

from rsd.commands import DONE, called
from rsd.console import PLAIN
from rsd.flags import read
from rsd.summary.compute import summarise
from rsd.summary.rules import MARGIN, margin_of
from rsd.summary.terminal import print_summary


@dataclass(frozen=True)
class ReportConfig:
    """What is shown."""

    run: tyro.conf.Positional[str]
    """Folder or address of a run, such as results/<run_id>"""

    margin: Annotated[float, tyro.conf.arg(metavar="POINTS")] = 100 * MARGIN
    """Points of success rate by which an arm may be worse and still count as not worse"""

    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the values, not the tables"""


def main(words: Sequence[str], console: Console) -> int:
    """Summarise and print; returns the exit code."""
    description = "Tables of a run, finished or going on."
    config: ReportConfig = read(ReportConfig, words, called("report"), description)
    summary = summarise(config.run, margin_of(config.margin))
    if config.json:
        console.print(json.dumps(dataclasses.asdict(summary), indent=2), **PLAIN)
    else:
        print_summary(summary, console)
    return DONE
