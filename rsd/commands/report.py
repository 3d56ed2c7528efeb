"""The tables of a run: `rsd report --help`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich.console import Console

from rsd.commands import DONE, called
from rsd.console import PLAIN
from rsd.errors import UserError
from rsd.flags import read
from rsd.summary.compute import summarise
from rsd.summary.rules import MARGIN, margin_of
from rsd.summary.terminal import print_summary, print_unpaired
from rsd.summary.unpaired import compare_runs
from rsd.summary.values import Summary, Unpaired


@dataclass(frozen=True)
class ReportConfig:
    """What is shown."""

    run: tyro.conf.Positional[tuple[str, ...]]
    """Folder or address of a run, such as results/<run_id>; of several, imported ones
    (`results import`) among them, also how their arms compare, unpaired"""

    margin: Annotated[float, tyro.conf.arg(metavar="POINTS")] = 100 * MARGIN
    """Points of success rate by which an arm may be worse and still count as not worse"""

    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the values, not the tables"""


def main(words: Sequence[str], console: Console) -> int:
    """Summarise and print; returns the exit code."""
    description = "Tables of a run, finished or going on; of several, also how they compare."
    config: ReportConfig = read(ReportConfig, words, called("report"), description)
    if not config.run:
        raise UserError("name the folder of a run, such as results/<run_id>")
    margin = margin_of(config.margin)
    summaries = [summarise(run, margin) for run in config.run]
    found = compare_runs(summaries)
    if config.json:
        console.print(json.dumps(_as_json(summaries, found), indent=2), **PLAIN)
        return DONE
    for summary in summaries:
        print_summary(summary, console)
    if len(summaries) > 1:
        print_unpaired(found, console)
    return DONE


def _as_json(summaries: Sequence[Summary], found: Sequence[Unpaired]) -> dict[str, Any]:
    """Of one run its summary; of several all of them, and how they compare."""
    runs = [dataclasses.asdict(summary) for summary in summaries]
    if len(runs) == 1:
        return runs[0]
    return {"runs": runs, "unpaired": [dataclasses.asdict(one) for one in found]}
