"""How far a run is: `rsd status --help`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import tyro
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.text import Text

from rsd.cluster.display import make_display
from rsd.commands import DONE, as_called, called
from rsd.console import PLAIN, duration
from rsd.flags import Least, check_least, read
from rsd.summary.compute import open_runs
from rsd.summary.progress import Progress, progress_of
from rsd.summary.terminal import success_cells
from rsd.tables import Grid, print_grid

DESCRIPTION = """\
How far a run is, from its Parquet alone: from another shell or machine, while it goes on, after it
stopped, when it is finished. Rate and time left are those of the last 15 minutes.

  rsd status results/spatial
  rsd status results/spatial --watch        # until it is finished or stopped
"""
MOST_WORKERS = 40  # shown one by one


@dataclass(frozen=True)
class StatusConfig:
    """What is looked at."""

    output: tyro.conf.Positional[str]
    """Folder or address of a run"""

    watch: tyro.conf.FlagCreatePairsOff[bool] = False
    """Look again and again, until the run is finished or stopped"""

    every: Annotated[float, tyro.conf.arg(metavar="SECONDS")] = 5.0
    """Between two looks"""


def main(words: Sequence[str], console: Console) -> int:
    """Show; returns the exit code."""
    config: StatusConfig = read(StatusConfig, words, called("status"), as_called(DESCRIPTION))
    check_least(vars(config), {"every": Least(0.1, "every look reads the run")})
    now = look(config.output)
    if config.watch:
        with make_display(console) as display:
            while now.state in ("running", "unknown"):
                display.show(Shown(now))
                time.sleep(config.every)
                now = look(config.output)
    print_status(now, console)
    return DONE


def look(output: str) -> Progress:
    """At this moment. Raises UserError where there is no run, or none that can be read."""
    (run,) = open_runs([output])
    return progress_of(run, datetime.now(UTC))


@dataclass(frozen=True)
class Shown:
    """Progress as a display asks for it (rsd.cluster.display)."""

    progress: Progress

    @property
    def over(self) -> bool:
        """Whether every episode is recorded."""
        return self.progress.finished

    def line(self) -> str:
        """Counts, rate, arms."""
        arms = [arm for arm in self.progress.arms if arm.success.finished or arm.errors]
        told = "; ".join(
            f"{arm.arm} {arm.success.successes}/{arm.success.finished}"
            + (f", {arm.errors} errors" if arm.errors else "")
            for arm in arms
        )
        return f"{_counted(self.progress)}, {told or 'none finished'}, {_pace(self.progress)}"

    def panel(self) -> RenderableType:
        """Bar and line."""
        progress = self.progress
        bar = ProgressBar(total=max(1, progress.planned or 1), completed=progress.stored, width=60)
        return Group(bar, Text(self.line()))


def print_status(progress: Progress, console: Console) -> None:
    """A line of where it is, and tables of arms, workers, replicas and errors."""
    standing = {
        "running": "running",
        "finished": "finished",
        "stopped": "stopped; --resume goes on",
        "imported": "imported from files that do not say that they are complete",
        "unknown": "not finished; whether anything works on it cannot be told from here",
    }[progress.state]
    console.print(f"{progress.run_id}: {standing}", **PLAIN)
    console.print(f"{_counted(progress)}, {_pace(progress)}", **PLAIN)
    if progress.last_at:
        last = f"latest episode {progress.last_at:%Y-%m-%d %H:%M:%S} UTC"
        console.print(f"{last}, session {progress.sessions}", **PLAIN)
    console.print()
    for grid in (_arms(progress), _workers(progress), _replicas(progress), _errors(progress)):
        if grid.rows:
            print_grid(console, grid)
    if len(progress.workers) > MOST_WORKERS:
        console.print(f"and {len(progress.workers) - MOST_WORKERS} more workers", **PLAIN)


def _counted(progress: Progress) -> str:
    of = "" if progress.planned is None else f"/{progress.planned:,}"
    return f"{progress.stored:,}{of} episodes"


def _pace(progress: Progress) -> str:
    rate = "no episode lately" if progress.per_hour is None else f"{progress.per_hour:,.0f} an hour"
    if progress.left_s is None or progress.finished:
        return rate
    return f"{rate}, {duration(progress.left_s)} left"


def _arms(progress: Progress) -> Grid:
    grid = Grid("Success so far", ("arm", "successes", "%", "95 % interval", "errors"))
    for arm in progress.arms:
        grid.add(arm.arm, *success_cells(arm.success), str(arm.errors))
    return grid


def _workers(progress: Progress) -> Grid:
    """Those that stored something last come first."""
    grid = Grid("Workers", ("worker", "node", "episodes", "tried again", "latest, UTC"), names=2)
    latest = sorted(progress.workers, key=lambda worker: worker.last_at, reverse=True)
    for worker in latest[:MOST_WORKERS]:
        counts = (str(worker.episodes), str(worker.again))
        grid.add(worker.worker, worker.node, *counts, f"{worker.last_at:%H:%M:%S}")
    return grid


def _replicas(progress: Progress) -> Grid:
    """Of the latest session; what its driver heard last."""
    columns = ("replica", "node", "decides on", "state", "since, UTC", "deaths")
    grid = Grid("Replicas", columns, names=3)
    for one in progress.replicas:
        names = (one.replica, one.node or "–", one.processor or "–")
        grid.add(*names, one.state, f"{one.since:%H:%M:%S}", str(len(one.deaths)))
    return grid


def _errors(progress: Progress) -> Grid:
    grid = Grid("Errors", ("reason", "such as", "episodes"), names=2)
    for failure in progress.failures:
        grid.add(failure.reason, failure.example, str(failure.episodes))
    return grid
