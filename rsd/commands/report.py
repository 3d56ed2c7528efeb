"""What runs say: `rsd report --help`."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from rsd.commands import DONE, as_called, called, importing
from rsd.console import PLAIN
from rsd.errors import UserError, unknown
from rsd.flags import LocalFolder, read
from rsd.outputs import prove_writable, write_file
from rsd.summary.compute import summarise, tables_of
from rsd.summary.rules import EVERY_TWO, MARGIN, Comparisons, against, margin_of
from rsd.summary.terminal import print_summary, print_unpaired
from rsd.summary.unpaired import compare_runs
from rsd.summary.values import Summary, Unpaired

DESCRIPTION = """\
What runs say, finished or going on, from their Parquet alone: tables on the terminal, a page for a
browser, figures and tables for a paper. Several runs are one table, where their rows may be.

  rsd report results/spatial                              # tables
  rsd report results/spatial --html spatial.html          # one file: figures, failures, provenance
  rsd report results/goal results/expert --html both.html # paired world by world
  rsd report results/many --against autoregressive        # not every two of its arms
  rsd report results/spatial --paper figures              # PDF, SVG, LaTeX, Markdown

Videos that `rsd replay` put beside a run are linked from its page.
"""


@dataclass(frozen=True)
class ReportConfig:
    """What is shown."""

    runs: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="RUN [RUN ...]")]]
    """Folders or addresses of runs, such as results/<run_id>; an imported one
    (`results import`) keeps tables of its own, and is compared with the others unpaired"""

    margin: Annotated[float, tyro.conf.arg(metavar="POINTS")] = 100 * MARGIN
    """Points of success rate by which an arm may be worse and still count as not worse"""

    against: Annotated[str | None, tyro.conf.arg(metavar="ARM")] = None
    """Compare the other arms with this one only, and adjust p-values for so many comparisons.
    None: every two arms"""

    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the values, not the tables"""

    html: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write a page: one file, for any browser, without a network"""

    paper: LocalFolder | None = None
    """Write figures, each with its data as Parquet, and tables for a paper into this folder"""


def main(words: Sequence[str], console: Console) -> int:
    """Summarise and print, or write; returns the exit code."""
    config: ReportConfig = read(ReportConfig, words, called("report"), as_called(DESCRIPTION))
    margin = margin_of(config.margin)
    if not config.runs:
        raise UserError(f"name a run, such as `{called('report')} results/<run_id>`")
    comparisons = EVERY_TWO if config.against is None else against(config.against)
    if config.html or config.paper:
        _write(config, margin, comparisons, console)
        return DONE
    tables = tables_of(config.runs)
    summaries = [summarise(*runs, margin=margin, comparisons=comparisons) for runs in tables]
    _check_against(config.against, summaries)
    found = compare_runs(itertools.combinations(summaries, 2))
    if config.json:
        console.print(json.dumps(_as_json(summaries, found), indent=2), **PLAIN)
        return DONE
    for summary in summaries:
        print_summary(summary, console)
    if len(summaries) > 1:
        print_unpaired(found, console)
    return DONE


def _check_against(first: str | None, summaries: Sequence[Summary]) -> None:
    arms = [arm.arm for summary in summaries for arm in summary.arms]
    if first is not None and first not in arms:
        raise unknown("arm", first, arms)


def _as_json(summaries: Sequence[Summary], found: Sequence[Unpaired]) -> dict[str, Any]:
    """Of one table its summary; of several all of them, and how they compare."""
    tables = [dataclasses.asdict(summary) for summary in summaries]
    if len(tables) == 1:
        return tables[0]
    return {"runs": tables, "unpaired": [dataclasses.asdict(one) for one in found]}


def _write(config: ReportConfig, margin: float, comparisons: Comparisons, console: Console) -> None:
    """A page, figures, or both; and what they say in a sentence."""
    with importing():
        from rsd.presentation import verdict
        from rsd.presentation.evidence import read_evidence

    if config.json:
        raise UserError("--json prints values; leave it out, or --html and --paper")
    if len(tables := tables_of(config.runs)) > 1:
        raise UserError(
            "a page and figures hold one table, of results of one software: leave --html and "
            f"--paper out, which compares {tables[-1][0]} with the others, or report it apart"
        )
    if config.html:
        prove_writable(config.html, "--html")
    if config.paper:
        prove_writable(config.paper / ".writable", "--paper")
    evidence = read_evidence(config.runs, margin, datetime.now(UTC), comparisons)
    _check_against(config.against, [evidence.summary])
    console.print(verdict.headline(evidence), **PLAIN)
    if config.html:
        with importing():
            from rsd.presentation.page import page

        chosen = [] if config.against is None else ["--against", config.against]
        html = ["--html", str(config.html)]
        again = shlex.join([*called("report").split(), *config.runs, *chosen, *html])
        write_file(config.html, page(evidence, config.html, again), "--html")
        console.print(f"wrote {config.html}", **PLAIN)
    if config.paper:
        with importing():
            from rsd.presentation import paper

        made = paper.write(evidence, config.paper)
        console.print(f"wrote {len(made)} files to {config.paper}", **PLAIN)
