"""What a run says: a summary as values, read from its Parquet, and its tables for a terminal.

python -m rsd.report results/<run> [--json]
"""

from __future__ import annotations

from rsd import commands

if __name__ == "__main__":
    commands.leave_on_interrupt()

import argparse
import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsd.console import PLAIN, complain, make_console
from rsd.errors import UserError
from rsd.records import read_chunks, read_episodes, read_run
from rsd.statistics import (
    PairedComparison,
    Proportion,
    Quantiles,
    compare_pairs,
    proportion,
    quantiles,
)

STAGES = ("queue", "vision", "draft", "target", "detokenise")
SIMULATOR_PARTS = ("physics", "render", "reset")
WORLD = ["suite", "task_id", "trial", "seed"]  # what a pair of two arms shares
KEY = ["run_id", "arm", *WORLD]


@dataclass(frozen=True)
class LayerAcceptance:
    """Tokens of one layer over all chunks of an arm."""

    layer: int
    drafted: int  # judged against the draft's own guess, in first passes
    accepted: int
    rate: float | None  # None where nothing was drafted
    redrafted: int  # judged against a guess after a rejection, in later passes
    reaccepted: int
    later_rate: float | None  # None where nothing was redrafted


@dataclass(frozen=True)
class ChunkCost:
    """Passes and latency of an arm's decodes; seconds of the request's batch."""

    chunks: int
    passes_mean: float | None
    passes_median: float | None
    near_ties: float | None  # share of chunks whose near ties a canonical recompute settled
    total: Quantiles  # s, sum of the stages of one chunk
    stages: dict[str, Quantiles]  # s, by stage


@dataclass(frozen=True)
class SimulatorCost:
    """Mean wall seconds an episode by part of the simulator; errors left out."""

    episodes: int
    parts: dict[str, float | None]  # s
    total: float | None  # s


@dataclass(frozen=True)
class ArmSummary:
    """One arm of a run."""

    arm: str
    success: Proportion  # of the finished episodes: successes and timeouts
    errors: int
    acceptance: list[LayerAcceptance]
    cost: ChunkCost
    simulator: SimulatorCost


@dataclass(frozen=True)
class ArmPair:
    """Two arms on the worlds that both finished."""

    first: str
    second: str
    comparison: PairedComparison
    identical_final_states: int  # pairs that end in the same simulator state, bit for bit


@dataclass(frozen=True)
class Summary:
    """A run, finished or going on."""

    run_id: str
    output: str
    episodes: int
    errors: int
    assets: str
    elapsed_s: float  # sum over sessions, from the opening of the books to the last episode
    episodes_per_hour: float | None
    arms: list[ArmSummary]
    pairs: list[ArmPair]


# --- summary as values -------------------------------------------------------------------------


def summarise(output: str) -> Summary:
    """Summary of the run in `output` as far as it is stored.

    Raises UserError for a folder without a run, and for rows on different assets (DESIGN 7:
    those are never pooled).
    """
    run = read_run(output)
    # episodes before chunks: a part that is committed in between shows up as chunks to be dropped
    episodes = read_episodes(output).to_pandas()
    chunks = read_chunks(output).to_pandas().merge(episodes[KEY], on=KEY)
    arms = list(dict.fromkeys(sorted(episodes["arm"])))
    elapsed_s = _elapsed_s(run["sessions"], episodes)
    return Summary(
        run_id=run["run_id"],
        output=output,
        episodes=len(episodes),
        errors=int((episodes["outcome"] == "error").sum()),
        assets=one_assets(output, episodes),
        elapsed_s=elapsed_s,
        episodes_per_hour=3600 * len(episodes) / elapsed_s if elapsed_s > 0 else None,
        arms=[
            _arm(arm, episodes[episodes["arm"] == arm], chunks[chunks["arm"] == arm])
            for arm in arms
        ],
        pairs=[_pair(episodes, first, second) for first, second in itertools.combinations(arms, 2)],
    )


def one_assets(output: str, episodes: pd.DataFrame) -> str:
    """What all rows ran on; raises UserError for several. An error row may name none: its
    environment never came to be."""
    found = sorted(set(episodes["assets"]) - {""})
    if len(found) > 1:
        raise UserError(
            f"{output} holds episodes on different assets ({', '.join(found)}); they cannot be "
            "pooled: run each on its own --output"
        )
    return found[0] if found else "none"


def _elapsed_s(sessions: Sequence[dict[str, Any]], episodes: pd.DataFrame) -> float:
    """Time the run was being worked on: from each session's start to its last stored episode."""
    starts = [datetime.fromisoformat(session["started_at"]) for session in sessions]
    finished = episodes["finished_at"]
    elapsed = timedelta()
    for start, end in itertools.zip_longest(starts, starts[1:]):
        inside = finished[(finished >= start) & (finished < end if end else True)]
        if len(inside):
            elapsed += inside.max() - start
    return elapsed.total_seconds()


def _arm(arm: str, episodes: pd.DataFrame, chunks: pd.DataFrame) -> ArmSummary:
    finished = episodes[episodes["outcome"] != "error"]
    return ArmSummary(
        arm=arm,
        success=success(episodes),
        errors=len(episodes) - len(finished),
        acceptance=layer_acceptance(chunks),
        cost=_chunk_cost(chunks),
        simulator=_simulator_cost(finished),
    )


def success(episodes: pd.DataFrame) -> Proportion:
    """Successes of the episodes that finished; those with an error are in neither count."""
    finished = episodes[episodes["outcome"] != "error"]
    return proportion(int((finished["outcome"] == "success").sum()), len(finished))


def layer_acceptance(chunks: pd.DataFrame) -> list[LayerAcceptance]:
    """Accepted and drafted tokens by layer, summed over chunk rows."""
    names = ("drafted", "accepted", "redrafted", "reaccepted")
    layers = int(chunks["layers"].max()) if len(chunks) else 0
    sums = zip(*(sum_by_layer(chunks[name], layers) for name in names), strict=True)
    return [
        LayerAcceptance(layer, n, k, k / n if n else None, m, j, j / m if m else None)
        for layer, (n, k, m, j) in enumerate(sums)
    ]


def sum_by_layer(tokens: pd.Series, layers: int) -> list[int]:
    """Tokens of each of `layers` layers; rows may be ragged, where arms decode fewer."""
    sums = np.zeros(layers, dtype=np.int64)
    for row in tokens:
        sums[: len(row)] += row
    return sums.tolist()


def _mean(values: pd.Series) -> float | None:
    return float(values.mean()) if len(values) else None


def _chunk_cost(chunks: pd.DataFrame) -> ChunkCost:
    return ChunkCost(
        chunks=len(chunks),
        passes_mean=_mean(chunks["passes"]),
        passes_median=quantiles(chunks["passes"].to_numpy()).median,
        near_ties=_mean(chunks["canonical"]),
        total=quantiles(chunk_latency_s(chunks).to_numpy()),
        stages={stage: quantiles(chunks[f"{stage}_s"].to_numpy()) for stage in STAGES},
    )


def chunk_latency_s(chunks: pd.DataFrame) -> pd.Series:
    """Seconds from a request's arrival at a replica to its actions, by chunk row."""
    return chunks[[f"{stage}_s" for stage in STAGES]].sum(axis="columns")


def _simulator_cost(episodes: pd.DataFrame) -> SimulatorCost:
    columns = [f"{part}_s" for part in SIMULATOR_PARTS]
    return SimulatorCost(
        episodes=len(episodes),
        parts={part: _mean(episodes[f"{part}_s"]) for part in SIMULATOR_PARTS},
        total=_mean(episodes[columns].sum(axis="columns")),
    )


def _pair(episodes: pd.DataFrame, first: str, second: str) -> ArmPair:
    finished = episodes[episodes["outcome"] != "error"].set_index(WORLD)
    one, two = (finished[finished["arm"] == arm] for arm in (first, second))
    one_end, two_end = one["final_state_sha256"].align(two["final_state_sha256"], join="inner")
    return ArmPair(
        first=first,
        second=second,
        comparison=compare_pairs(
            (one["outcome"] == "success").to_dict(), (two["outcome"] == "success").to_dict()
        ),
        identical_final_states=int((one_end == two_end).sum()),
    )


# --- tables ------------------------------------------------------------------------------------

_NOTHING = "–"


def _number(value: float | None, template: str) -> str:
    return _NOTHING if value is None else template.format(value)


def _percent(value: float | None) -> str:
    return _number(None if value is None else 100 * value, "{:.1f}")


def _milliseconds(value: float | None) -> str:
    return _number(None if value is None else 1000 * value, "{:.1f}")


def _seconds(value: float | None) -> str:
    return _number(value, "{:.2f}")


def _table(summary: Summary, title: str, *columns: str) -> Table:
    """First column names the row, never broken inside an arm's name; the others hold numbers."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    longest = max((len(arm.arm) for arm in summary.arms), default=0)
    table.add_column(columns[0], min_width=longest, vertical="bottom")
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True, vertical="bottom")
    return table


def _success_table(summary: Summary) -> Table:
    table = _table(summary, "Success", "arm", "successes", "%", "95 % interval", "errors")
    for arm in summary.arms:
        success = arm.success
        table.add_row(
            arm.arm,
            f"{success.successes}/{success.finished}",
            _percent(success.rate),
            f"{_percent(success.low)} to {_percent(success.high)}",
            Text(str(arm.errors), style="red") if arm.errors else "0",
        )
    return table


def _paired_table(summary: Summary) -> Table:
    table = _table(
        summary,
        "Paired by world; second minus first, in points",
        "first vs second",
        "pairs",
        "1st\nonly",
        "2nd\nonly",
        "diff.",
        "95 % interval",
        "p",
        "same\nend",
    )
    for pair in summary.pairs:
        comparison = pair.comparison
        table.add_row(
            f"{pair.first} vs {pair.second}",
            str(comparison.pairs),
            str(comparison.only_first),
            str(comparison.only_second),
            _percent(comparison.difference),
            f"{_percent(comparison.low)} to {_percent(comparison.high)}",
            f"{comparison.p_value:.2g}",
            str(pair.identical_final_states),
        )
    return table


def _acceptance_table(summary: Summary) -> Table:
    """Arms that guess; the others have nothing to keep."""
    arms = [arm for arm in summary.arms if any(layer.drafted for layer in arm.acceptance)]
    layers = max((len(arm.acceptance) for arm in arms), default=0)
    table = _table(
        summary,
        "Guesses kept, % by layer",
        "arm",
        "guess",
        *(str(layer) for layer in range(layers)),
    )
    for arm in arms:
        missing = [_NOTHING] * (layers - len(arm.acceptance))
        drafts = [_percent(layer.rate) for layer in arm.acceptance]
        later = [_percent(layer.later_rate) for layer in arm.acceptance]
        table.add_row(arm.arm, "draft", *drafts, *missing)
        table.add_row("", "redraft", *later, *missing)
    return table


def _passes_table(summary: Summary) -> Table:
    table = _table(
        summary,
        "Passes a chunk; near ties, % of chunks",
        "arm",
        "chunks",
        "mean",
        "median",
        "near ties",
    )
    for arm in summary.arms:
        table.add_row(
            arm.arm,
            str(arm.cost.chunks),
            _number(arm.cost.passes_mean, "{:.2f}"),
            _number(arm.cost.passes_median, "{:g}"),
            _percent(arm.cost.near_ties),
        )
    return table


def _latency_table(summary: Summary) -> Table:
    table = _table(summary, "Chunk latency, ms", "arm", "", "total", *STAGES)
    for arm in summary.arms:
        cells = [arm.cost.total, *arm.cost.stages.values()]
        medians = [_milliseconds(cell.median) for cell in cells]
        tails = [_milliseconds(cell.p95) for cell in cells]
        table.add_row(arm.arm, "median", *medians)
        table.add_row("", "p95", *tails)
    return table


def _simulator_table(summary: Summary) -> Table:
    table = _table(summary, "Simulator, s an episode: mean", "arm", "total", *SIMULATOR_PARTS)
    for arm in summary.arms:
        parts = [_seconds(arm.simulator.parts[part]) for part in SIMULATOR_PARTS]
        table.add_row(arm.arm, _seconds(arm.simulator.total), *parts)
    return table


_TABLES: tuple[Callable[[Summary], Table], ...] = (
    _success_table,
    _paired_table,
    _acceptance_table,
    _passes_table,
    _latency_table,
    _simulator_table,
)


def print_summary(summary: Summary, console: Console) -> None:
    """Tables of the summary; 80 columns are enough for the arms by their plain names."""
    for make in _TABLES:
        table = make(summary)
        if table.row_count:
            console.print(table, "")
    rate = _number(summary.episodes_per_hour, "{:,.0f}")
    console.print(
        f"{summary.episodes} episodes, {summary.errors} of them errors, in "
        f"{timedelta(seconds=round(summary.elapsed_s))}: {rate} episodes per hour"
    )
    console.print(f"Assets: {summary.assets}", **PLAIN)
    console.print(f"Parquet: {summary.output}", **PLAIN)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m rsd.report`; 2 where the user has to mend something."""
    parser = argparse.ArgumentParser(
        prog="python -m rsd.report", description="Tables of a run, finished or going on."
    )
    parser.add_argument("run", help="folder or URI of a run, such as results/<run_id>")
    parser.add_argument("--json", action="store_true", help="print the values, not the tables")
    options = parser.parse_args(arguments)
    try:
        summary = summarise(options.run)
    except UserError as error:
        complain(f"error: {error}")
        return 2
    console = make_console()
    if options.json:
        console.print(json.dumps(dataclasses.asdict(summary), indent=2), **PLAIN)
    else:
        print_summary(summary, console)
    return 0


if __name__ == "__main__":
    commands.run(main)
