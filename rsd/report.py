"""What a run says: a summary as values, read from its Parquet, and its tables for a terminal."""

from __future__ import annotations

if __name__ == "__main__":  # `python -m rsd.report`, which is `rsd report`
    import sys

    from rsd.commands import start

    start("report", sys.argv[1:])

import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
from rich.console import Console

from rsd import conditions
from rsd.books import Committed, committed, read_run
from rsd.console import PLAIN
from rsd.errors import UserError
from rsd.statistics import (
    PairedComparison,
    Proportion,
    compare_pairs,
    holm,
    not_worse,
    proportion,
)
from rsd.tables import Grid, print_grid
from rsd.tallies import STAGES, ChunkCost, LayerAcceptance, Tally, acceptance, chunk_cost, tally

SIMULATOR_PARTS = ("physics", "render", "reset")
WORLD = ["suite", "task_id", "trial", "seed"]  # what a pair of two arms shares
KEY = ["arm", *WORLD]
COLUMNS = (
    *KEY,
    "outcome",
    "assets",
    "final_state_sha256",
    "finished_at",
    *(f"{part}_s" for part in SIMULATOR_PARTS),
)

LOOKED_AT = 10  # trials of each task, some of which the policies' development looked at
MARGIN = 0.02  # of success rate: one of a task's 50 trials


@dataclass(frozen=True)
class SimulatorCost:
    """Mean wall seconds an episode by part of the simulator; errors left out."""

    episodes: int
    parts: dict[str, float | None]  # s
    total: float | None  # s


@dataclass(frozen=True)
class SuiteSummary:
    """An arm in one suite."""

    suite: str
    success: Proportion
    unseen: Proportion  # of trials from LOOKED_AT on
    errors: int
    acceptance: list[LayerAcceptance]


@dataclass(frozen=True)
class ArmSummary:
    """One arm of a run."""

    arm: str
    success: Proportion  # of the finished episodes: successes and timeouts
    unseen: Proportion  # of trials from LOOKED_AT on
    errors: int
    acceptance: list[LayerAcceptance]
    cost: ChunkCost
    simulator: SimulatorCost
    suites: list[SuiteSummary]


@dataclass(frozen=True)
class ArmPair:
    """Two arms on the worlds that both finished. Adjusted (Holm) over all pairs of the run."""

    first: str
    second: str
    comparison: PairedComparison
    identical_final_states: int  # pairs that end in the same simulator state, bit for bit
    p_adjusted: float
    not_worse: float  # one-sided p: the second is worse by less than the run's margin
    not_worse_adjusted: float


@dataclass(frozen=True)
class Summary:
    """A run, finished or going on."""

    run_id: str
    output: str
    episodes: int
    errors: int
    assets: str
    renderer: str
    arithmetic: str
    frames: str  # what the policy saw
    processors: str
    elapsed_s: float  # sum over sessions, from the opening of the books to the last episode
    episodes_per_hour: float | None
    margin: float  # of success rate, for not_worse
    arms: list[ArmSummary]
    pairs: list[ArmPair]
    shared_draws: list[tuple[str, ...]]  # arms that sample with the same random numbers


# --- summary as values -------------------------------------------------------------------------


def summarise(output: str, margin: float = MARGIN) -> Summary:
    """Summary of the run in `output` as far as it is stored.

    Memory grows by about 50 bytes a chunk: passes and times, for exact medians. Raises UserError
    for a folder without a run, for rows on different assets (DESIGN 7: those are never pooled), and
    for an episode that is stored twice.
    """
    run = read_run(output)
    parts = committed(output)
    episodes = stored_episodes(output, parts)
    tallies = tally(parts)
    arms = sorted(set(episodes["arm"]))
    elapsed_s = _elapsed_s(run["sessions"], episodes)
    by_arm = dict(iter(episodes.groupby("arm", observed=True)))
    return Summary(
        run_id=run["run_id"],
        output=output,
        episodes=len(episodes),
        errors=int((episodes["outcome"] == "error").sum()),
        assets=one_assets(output, episodes),
        renderer=run.get("renderer") or conditions.UNKNOWN,
        arithmetic=conditions.arithmetic(run),
        frames=conditions.frames(run),
        processors=_processors(run),
        elapsed_s=elapsed_s,
        episodes_per_hour=3600 * len(episodes) / elapsed_s if elapsed_s > 0 else None,
        margin=margin,
        arms=[_arm(arm, by_arm[arm], tallies.get(arm, {})) for arm in arms],
        pairs=_pairs({arm: by_arm[arm] for arm in arms}, margin),
        shared_draws=shared_draws(run["config"].get("arms") or {}),
    )


def _processors(run: Mapping[str, Any]) -> str:
    noted = conditions.machines(run)
    return conditions.processors(noted, [] if noted else [run.get("hardware")])


def stored_episodes(
    output: str, parts: Committed, columns: Sequence[str] = COLUMNS
) -> pd.DataFrame:
    """The episodes of a run; raises UserError for one that is stored twice."""
    episodes = parts.episodes(columns).to_pandas()
    twice = episodes.duplicated(KEY)
    if twice.any():
        raise UserError(
            f"{output} holds {int(twice.sum())} episodes twice, such as "
            f"{tuple(episodes.loc[twice, KEY].iloc[0])}: two runs wrote into it at once; give each "
            "an --output of its own"
        )
    return episodes


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


def shared_draws(arms: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Of a run's arms by name, with their decoding: those that sample with the same random numbers.

    Draws are named by seed, world, chunk and what they decide, never by the arm; what is decided
    differs between modes.
    """
    by_mode: dict[str, list[str]] = {}
    for name, decoding in arms.items():
        if decoding.get("rule") == "sampling":
            by_mode.setdefault(decoding["mode"], []).append(name)
    return [tuple(names) for names in by_mode.values() if len(names) > 1]


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


def _arm(arm: str, episodes: pd.DataFrame, tallies: Mapping[str, Tally]) -> ArmSummary:
    finished = episodes[episodes["outcome"] != "error"]
    return ArmSummary(
        arm=arm,
        success=success(episodes),
        unseen=success(unseen(episodes)),
        errors=len(episodes) - len(finished),
        acceptance=acceptance(tallies.values()),
        cost=chunk_cost(tallies.values()),
        simulator=_simulator_cost(finished),
        suites=list(_suites(episodes, tallies)),
    )


def _suites(episodes: pd.DataFrame, tallies: Mapping[str, Tally]) -> Iterator[SuiteSummary]:
    for suite, rows in episodes.groupby("suite", observed=True):
        own = [tallies[str(suite)]] if suite in tallies else []
        yield SuiteSummary(
            suite=str(suite),
            success=success(rows),
            unseen=success(unseen(rows)),
            errors=int((rows["outcome"] == "error").sum()),
            acceptance=acceptance(own),
        )


def success(episodes: pd.DataFrame) -> Proportion:
    """Successes of the episodes that finished; those with an error are in neither count."""
    finished = episodes[episodes["outcome"] != "error"]
    return proportion(int((finished["outcome"] == "success").sum()), len(finished))


def unseen(episodes: pd.DataFrame) -> pd.DataFrame:
    """Those of trials that no policy's development looked at."""
    return episodes[episodes["trial"] >= LOOKED_AT]


def _simulator_cost(episodes: pd.DataFrame) -> SimulatorCost:
    columns = [f"{part}_s" for part in SIMULATOR_PARTS]
    return SimulatorCost(
        episodes=len(episodes),
        parts={part: _mean(episodes[f"{part}_s"]) for part in SIMULATOR_PARTS},
        total=_mean(episodes[columns].sum(axis="columns")),
    )


def _mean(values: pd.Series) -> float | None:
    return float(values.mean()) if len(values) else None


def _pairs(by_arm: Mapping[str, pd.DataFrame], margin: float) -> list[ArmPair]:
    finished = {
        arm: rows[rows["outcome"] != "error"].set_index(WORLD) for arm, rows in by_arm.items()
    }
    verdicts = {arm: (rows["outcome"] == "success").to_dict() for arm, rows in finished.items()}
    ends = {arm: rows["final_state_sha256"].to_dict() for arm, rows in finished.items()}
    arms = list(itertools.combinations(by_arm, 2))
    found = [compare_pairs(verdicts[first], verdicts[second]) for first, second in arms]
    worse = [not_worse(one.only_first, one.only_second, one.pairs, margin) for one in found]
    adjusted = zip(holm([one.p_value for one in found]), worse, holm(worse), strict=True)
    return [
        ArmPair(first, second, one, _same_ends(ends[first], ends[second]), *p_values)
        for (first, second), one, p_values in zip(arms, found, adjusted, strict=True)
    ]


def _same_ends(first: Mapping[Hashable, str], second: Mapping[Hashable, str]) -> int:
    return sum(first[world] == second[world] for world in first.keys() & second.keys())


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


def _success_table(summary: Summary) -> Grid:
    table = Grid(
        "Success",
        ("arm", "successes", "%", "95 % interval", f"trials\n{LOOKED_AT} on, %", "errors"),
    )
    for arm in summary.arms:
        success = arm.success
        table.add(
            arm.arm,
            f"{success.successes}/{success.finished}",
            _percent(success.rate),
            f"{_percent(success.low)} to {_percent(success.high)}",
            _percent(arm.unseen.rate),
            str(arm.errors),
        )
        if arm.errors:
            table.styles[len(table.rows) - 1, 5] = "red"
    return table


def _paired_table(summary: Summary) -> Grid:
    table = Grid(
        "Paired by world; second minus first, in points",
        (
            "first vs second",
            "pairs",
            "1st\nonly",
            "2nd\nonly",
            "diff.",
            "95 % interval",
            "p",
            "p\n(Holm)",
            "same\nfinal\nstate",
            "unpaired\n1st, 2nd",
            f"not worse,\nmargin {_points(summary.margin)}: p",
            "\n(Holm)",
        ),
    )
    for pair in summary.pairs:
        comparison = pair.comparison
        table.add(
            f"{pair.first} vs {pair.second}",
            str(comparison.pairs),
            str(comparison.only_first),
            str(comparison.only_second),
            _percent(comparison.difference),
            f"{_percent(comparison.low)} to {_percent(comparison.high)}",
            f"{comparison.p_value:.2g}",
            f"{pair.p_adjusted:.2g}",
            str(pair.identical_final_states),
            f"{comparison.first_unpaired}, {comparison.second_unpaired}",
            f"{pair.not_worse:.2g}",
            f"{pair.not_worse_adjusted:.2g}",
        )
    return table


def _points(share: float) -> str:
    return f"{100 * share:g}"


def _acceptance_table(summary: Summary) -> Grid:
    """Arms that guess; the others have nothing to keep."""
    arms = [arm for arm in summary.arms if any(layer.drafted for layer in arm.acceptance)]
    layers = max((len(arm.acceptance) for arm in arms), default=0)
    table = Grid(
        "Guesses kept, % by layer",
        ("arm", "guess", *(str(layer) for layer in range(layers))),
        names=2,
    )
    for arm in arms:
        missing = [_NOTHING] * (layers - len(arm.acceptance))
        rows = {
            "draft": [layer.rate for layer in arm.acceptance],
            "constant": [layer.majority_rate for layer in arm.acceptance],
            "draft, whole layers": [layer.whole_rate for layer in arm.acceptance],
            "redraft": [layer.later_rate for layer in arm.acceptance],
        }
        for row, (guess, rates) in enumerate(rows.items()):
            table.add("" if row else arm.arm, guess, *map(_percent, rates), *missing)
    return table


def _passes_table(summary: Summary) -> Grid:
    table = Grid(
        "Passes a chunk; near ties, % of chunks",
        ("arm", "chunks", "mean", "median", "near ties"),
    )
    for arm in summary.arms:
        table.add(
            arm.arm,
            str(arm.cost.chunks),
            _number(arm.cost.passes_mean, "{:.2f}"),
            _number(arm.cost.passes_median, "{:g}"),
            _percent(arm.cost.near_ties),
        )
    return table


def _latency_table(summary: Summary) -> Grid:
    table = Grid("Chunk latency, ms", ("arm", "", "total", *STAGES), names=2)
    for arm in summary.arms:
        cells = [arm.cost.total, *arm.cost.stages.values()]
        medians = [_milliseconds(cell.median) for cell in cells]
        tails = [_milliseconds(cell.p95) for cell in cells]
        table.add(arm.arm, "median", *medians)
        table.add("", "p95", *tails)
    return table


def _simulator_table(summary: Summary) -> Grid:
    table = Grid("Simulator, s an episode: mean", ("arm", "total", *SIMULATOR_PARTS))
    for arm in summary.arms:
        parts = [_seconds(arm.simulator.parts[part]) for part in SIMULATOR_PARTS]
        table.add(arm.arm, _seconds(arm.simulator.total), *parts)
    return table


_TABLES: tuple[Callable[[Summary], Grid], ...] = (
    _success_table,
    _paired_table,
    _acceptance_table,
    _passes_table,
    _latency_table,
    _simulator_table,
)


def print_summary(summary: Summary, console: Console) -> None:
    """Tables of the summary, and what has to be known to read them."""
    for make in _TABLES:
        table = make(summary)
        if table.rows:
            print_grid(console, table)
    rate = _number(summary.episodes_per_hour, "{:,.0f}")
    lines = [
        *notes(summary),
        f"{summary.episodes} episodes, {summary.errors} of them errors, in "
        f"{timedelta(seconds=round(summary.elapsed_s))}: {rate} episodes per hour",
        f"Renderer: {summary.renderer}; arithmetic: {summary.arithmetic}; frames: {summary.frames}",
        f"Processors: {summary.processors}",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False)
    console.print(f"Assets: {summary.assets}", **PLAIN)
    console.print(f"Parquet: {summary.output}", **PLAIN)


COVERED = (
    "Intervals of 95 % say what other worlds of these tasks would do to the rates of this "
    "checkpoint; they cover no other tasks and no other training."
)


def notes(summary: Summary) -> list[str]:
    """What the tables do not say themselves."""
    lines = []
    if summary.arms:
        lines.append(COVERED)
    if any(arm.unseen.finished for arm in summary.arms):
        lines.append(
            f"Trials {LOOKED_AT} on: without the first ones of every task, some of which were "
            "looked at while the bundled policies were developed."
        )
    if any(pair.comparison.pairs for pair in summary.pairs):
        lines.append(
            f"p: exact McNemar test; Holm: adjusted for the {len(summary.pairs)} rows of the "
            "table. Not worse: one-sided p (score test of paired proportions); below 0.025, the "
            f"second is worse than the first by less than {_points(summary.margin)} points "
            "(--margin), if at all. Unpaired: worlds that only one of the two finished."
        )
    if any(layer.drafted for arm in summary.arms for layer in arm.acceptance):
        lines.append(
            "Guesses are judged where all coarser layers were kept. Constant: the most frequent "
            "level of every (step, dim, layer) in the suite's own chunks, chosen in hindsight, on "
            "the same tokens as the draft."
        )
    lines += [
        f"{' and '.join(arms)} sample with the same random numbers: in a world their outcomes "
        "are not independent."
        for arms in summary.shared_draws
    ]
    return lines


def margin_of(points: float) -> float:
    """Percentage points -> share; raises UserError unless between 0 and 100."""
    if not 0 < points < 100:
        raise UserError(f"--margin {points:g}: give points of success rate, between 0 and 100")
    return points / 100
