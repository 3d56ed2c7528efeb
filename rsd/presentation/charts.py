"""Charts as values: what is drawn where, the same for a page and for print."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rsd.presentation.evidence import PERCENTILES, Evidence
from rsd.presentation.timeline import Timeline
from rsd.presentation.verdict import counts, plural
from rsd.summary.values import SIMULATOR_PARTS, STAGES, LayerAcceptance, Success

Kind = Literal["intervals", "lines", "bars", "stack", "points", "heat"]
Dash = Literal["solid", "dash", "dot"]


@dataclass(frozen=True)
class Series:
    """Values of one name. `low` and `high` are the ends of an interval: around x in a chart of
    intervals, around y in one of points."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: int  # place in the palette; series of one arm share it
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dash: Dash = "solid"
    step: bool = False  # a line that keeps its value until the next point
    loose: bool = False  # events: no line joins them
    told: Sequence[str] = ()  # of each point, for who points at it


@dataclass(frozen=True)
class Chart:
    """One figure.

    intervals: a dot and its interval to every row of `rows`; y counts rows. stack: bars side by
    side in every row. lines, points: y against x. bars: groups of bars on whole numbers x. heat:
    a series is a row of cells, x are their middles, y their values from 0 to 100.
    """

    name: str  # of a file, and in a page
    title: str
    told: str  # what it shows, for who cannot see it
    kind: Kind
    x_title: str
    y_title: str
    series: tuple[Series, ...]
    rows: tuple[str, ...] = ()
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    times: bool = False  # x are seconds since 1970
    marks: tuple[tuple[str, float], ...] = ()  # name, and x of a line across


def charts(evidence: Evidence) -> list[Chart]:
    """Those that have something to show."""
    found = [chart for make in MAKERS for chart in make(evidence)]
    return [chart for chart in found if any(len(series.x) for series in chart.series)]


def _percents(rates: Iterable[float | None]) -> list[float]:
    """NaN where nothing finished."""
    return [float("nan") if rate is None else 100 * rate for rate in rates]


def _beside(place: int, of: int) -> float:
    """Offset of one of several in a row, which is 1 high."""
    return 0.62 * ((place + 0.5) / of - 0.5)


def _success_chart(
    name: str, title: str, rows: Sequence[str], found: Sequence[dict[int, Success]], arms: list[str]
) -> Chart:
    """`found`: of each arm, by row."""
    series = []
    for place, (arm, own) in enumerate(zip(arms, found, strict=True)):
        rates = [one.success for one in own.values()]
        y = [row + _beside(place, len(arms)) for row in own]
        told = [f"{rows[row]}: {counts(one.success)}" for row, one in own.items()]
        series.append(
            Series(
                arm,
                x=_percents(one.rate for one in rates),
                y=y,
                low=_percents(one.low if one.finished else None for one in rates),
                high=_percents(one.high if one.finished else None for one in rates),
                color=place,
                told=told,
            )
        )
    return Chart(
        name=name,
        title=title,
        told=f"Success in percent with 95 % intervals of {', '.join(arms)}, by row: "
        f"{'; '.join(rows)}. The numbers are in the table.",
        kind="intervals",
        x_title="success, % (95 % interval)",
        y_title="",
        series=tuple(series),
        rows=tuple(rows),
        x_range=(_floor(series), 101),
    )


def _floor(series: Sequence[Series]) -> float:
    """Where an axis of percents begins, so that the intervals fill it: a multiple of ten."""
    lowest = min((low for one in series for low in one.low if low == low), default=0.0)
    return max(0.0, 10 * ((lowest - 1) // 10))


def success_by_suite(evidence: Evidence) -> Iterator[Chart]:
    """One chart of all suites."""
    suites = evidence.suites
    found: list[dict[int, Success]] = [
        {suites.index(suite.suite): suite for suite in arm.suites} for arm in evidence.summary.arms
    ]
    if found:
        yield _success_chart("success", "Success by suite", suites, found, evidence.arms)


def success_by_task(evidence: Evidence) -> Iterator[Chart]:
    """One chart a suite."""
    for suite in evidence.suites:
        tasks = sorted(task for name, task in evidence.instructions if name == suite)
        rows = [f"{task}: {evidence.instructions[suite, task]}" for task in tasks]
        found: list[dict[int, Success]] = [
            {
                tasks.index(task.task_id): task
                for own in arm.suites
                if own.suite == suite
                for task in own.tasks
            }
            for arm in evidence.summary.arms
        ]
        title = f"Success by task: {suite}"
        yield _success_chart(f"tasks_{suite}", title, rows, found, evidence.arms)


def pairs(evidence: Evidence) -> Iterator[Chart]:
    """Differences with their intervals, and the margin."""
    found = [pair for pair in evidence.summary.pairs if pair.comparison.pairs]
    rows = [f"{pair.second} minus {pair.first}" for pair in found]
    points = [pair.comparison for pair in found]
    series = Series(
        "difference",
        x=[100 * (one.difference or 0) for one in points],
        y=list(range(len(found))),
        low=[100 * one.low for one in points],
        high=[100 * one.high for one in points],
        color=0,
        told=[
            f"{row}: {100 * (one.difference or 0):+.1f} points, {one.only_second} worlds against "
            f"{one.only_first} of {one.pairs}"
            for row, one in zip(rows, points, strict=True)
        ],
    )
    margin = 100 * evidence.summary.margin
    yield Chart(
        name="pairs",
        title="Differences of arms in the same worlds",
        told="Differences of success in points with 95 % intervals: "
        + "; ".join(series.told)
        + f". Lines mark no difference and the margin of {margin:g} points.",
        kind="intervals",
        x_title="difference, points (95 % interval)",
        y_title="",
        series=(series,),
        rows=tuple(rows),
        marks=(("equal", 0.0), (f"margin {margin:g}", -margin)),
    )


def acceptance(evidence: Evidence) -> Iterator[Chart]:
    """Tokens kept, whole layers kept, and what a constant guess gets."""
    kinds: tuple[tuple[str, str, Dash], ...] = (
        ("kept", "rate", "solid"),
        ("constant guess", "majority_rate", "dash"),
        ("whole layers kept", "whole_rate", "dot"),
    )
    series = []
    for color, arm in enumerate(evidence.summary.arms):
        for name, rate, dash in kinds:
            own = [one for one in arm.acceptance if one.drafted and getattr(one, rate) is not None]
            y = [100 * getattr(layer, rate) for layer in own]
            told = [_kept(arm.arm, layer) for layer in own]
            x = [float(layer.layer) for layer in own]
            if own:
                line = Series(f"{arm.arm}: {name}", x, y, color, dash=dash, told=told)
                series.append(line)
    yield Chart(
        name="acceptance",
        title="Guesses that the target kept",
        told="Percent of guessed tokens kept, of a constant guess on the same tokens, and of whole "
        "layers kept, by layer. The numbers are in the table.",
        kind="lines",
        x_title="layer (0: coarsest)",
        y_title="%",
        series=tuple(series),
        y_range=(0, 102),
    )


def _kept(arm: str, layer: LayerAcceptance) -> str:
    whole = "" if layer.whole_rate is None else f", whole layers {100 * layer.whole_rate:.1f} %"
    guess = "" if layer.majority_rate is None else f", constant {100 * layer.majority_rate:.1f} %"
    return f"{arm}, layer {layer.layer}: kept {100 * (layer.rate or 0):.1f} %{guess}{whole}"


def passes(evidence: Evidence) -> Iterator[Chart]:
    """How many passes chunks took."""
    series = []
    for color, arm in enumerate(evidence.summary.arms):
        if arm.cost.passes:
            total = sum(arm.cost.passes.values())
            x = [float(value) for value in arm.cost.passes]
            y = [100 * count / total for count in arm.cost.passes.values()]
            told = [
                f"{arm.arm}: {value:g} passes in {of:.1f} %" for value, of in zip(x, y, strict=True)
            ]
            name = f"{arm.arm}, mean {arm.cost.passes_mean:.2f}"
            series.append(Series(name, x, y, color, told=told))
    yield Chart(
        name="passes",
        title="Passes of the target, a chunk",
        told="Percent of chunks by number of passes: "
        + "; ".join(series_.name for series_ in series),
        kind="bars",
        x_title="passes a chunk",
        y_title="% of chunks",
        series=tuple(series),
    )


def latency(evidence: Evidence) -> Iterator[Chart]:
    """Mean stages of a chunk, and the distribution of its total."""
    arms = [arm for arm in evidence.arms if arm in evidence.latencies]
    means = [evidence.latencies[arm].stages for arm in arms]
    yield _stack(
        "latency",
        "Where a chunk's time goes",
        "mean, ms",
        arms,
        {stage: [1000 * own[stage] for own in means] for stage in STAGES},
    )
    series = []
    for color, arm in enumerate(evidence.arms):
        if arm in evidence.latencies:
            times = [1000 * value for value in evidence.latencies[arm].percentiles]
            told = [
                f"{arm}: {share} % take at most {time:.1f} ms"
                for share, time in zip(PERCENTILES, times, strict=True)
            ]
            series.append(Series(arm, times, [float(p) for p in PERCENTILES], color, told=told))
    widest = max((np.interp(99, PERCENTILES, one.x) for one in series), default=1.0)
    yield Chart(
        name="latency_distribution",
        title="Latency of chunks",
        told="Share of chunks that take at most so long: "
        + "; ".join(
            f"{one.name} median {one.x[50]:.1f} ms, p95 {one.x[95]:.1f} ms" for one in series
        ),
        kind="lines",
        x_title="total, ms (to the 99th percentile)",
        y_title="% of chunks at most",
        series=tuple(series),
        x_range=(0, float(widest)),
        y_range=(0, 102),
    )


def episode_time(evidence: Evidence) -> Iterator[Chart]:
    """Mean parts of an episode's wall time."""
    arms = [arm for arm in evidence.summary.arms if arm.simulator.total is not None]
    parts = {
        part: [float(arm.simulator.parts[part] or 0) for arm in arms] for part in SIMULATOR_PARTS
    }
    parts["wait for the policy"] = [float(arm.simulator.wait or 0) for arm in arms]
    known = [sum(own) for own in zip(*parts.values(), strict=True)]
    wall = [float(arm.simulator.wall or 0) for arm in arms]
    parts["other"] = [max(0.0, all_ - own) for all_, own in zip(wall, known, strict=True)]
    names = [arm.arm for arm in arms]
    yield _stack("episode_time", "Where an episode's time goes", "mean, s", names, parts)


def _stack(
    name: str, title: str, unit: str, rows: Sequence[str], parts: dict[str, list[float]]
) -> Chart:
    series = []
    for color, (part, values) in enumerate(parts.items()):
        told = [f"{row}: {part} {value:.3g}" for row, value in zip(rows, values, strict=True)]
        y = [float(row) for row in range(len(rows))]
        series.append(Series(part, values, y, color, told=told))
    told = [text for one in series for text in one.told]
    return Chart(
        name=name,
        title=title,
        told=f"{unit}: {'; '.join(told)}",
        kind="stack",
        x_title=unit,
        y_title="",
        series=tuple(series),
        rows=tuple(rows),
    )


def pareto(evidence: Evidence) -> Iterator[Chart]:
    """Success against mean time, in the worlds that all arms finished. The mean, because a median
    says of an arm that is fast in most chunks nothing of the others."""
    series = []
    for color, arm in enumerate(evidence.arms):
        rate = evidence.shared.get(arm)
        own = evidence.latencies.get(arm)
        if own is None or rate is None or rate.rate is None:
            continue
        mean = 1000 * sum(own.stages.values())
        median, tail = (1000 * own.percentiles[p] for p in (50, 95))
        told = (
            f"{arm}: {counts(rate)}, a chunk takes {mean:.1f} ms in the mean, {median:.1f} ms "
            f"(median), {tail:.1f} ms (p95)"
        )
        one = Series(
            arm,
            [mean],
            [100 * rate.rate],
            color,
            [100 * rate.low],
            [100 * rate.high],
            told=[told],
        )
        series.append(one)
    front = _front([(one.x[0], one.y[0]) for one in series])
    line = Series("not beaten", [x for x, _ in front], [y for _, y in front], 7, dash="dot")
    worlds = max((rate.finished for rate in evidence.shared.values()), default=0)
    yield Chart(
        name="pareto",
        title=f"Success against time, {plural(worlds, 'world')} that all arms finished",
        told="; ".join(one.told[0] for one in series),
        kind="points",
        x_title="mean time of a chunk, ms",
        y_title="success, % (95 % interval)",
        series=(*series, *([line] if len(front) > 1 else [])),
        x_range=(0, 1.1 * max((one.x[0] for one in series), default=1.0)),
    )


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that no other one beats in both: less latency, more success."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or y > best[-1][1]:
            best.append((x, y))
    return best


def partings(evidence: Evidence) -> Iterator[Chart]:
    """How long two arms do the same."""
    series = []
    found = [parting.together() for parting in evidence.partings]
    longest = max(map(len, found), default=0)
    for color, (parting, own) in enumerate(zip(evidence.partings, found, strict=True)):
        y = [100 * share for share in [*own, *own[-1:] * (longest - len(own))]]
        name = f"{parting.first} and {parting.second}"
        told = [f"{name}: the same before chunk {k} in {share:.1f} %" for k, share in enumerate(y)]
        series.append(
            Series(name, [float(k) for k in range(len(y))], y, color, step=True, told=told)
        )
    yield Chart(
        name="partings",
        title="How long two arms do the same",
        told="Percent of shared worlds in which all chunks so far were the same: "
        + "; ".join(f"{one.name}: {one.y[-1]:.1f} % to the end" for one in series),
        kind="lines",
        x_title="chunk of the episode",
        y_title="% of worlds still the same",
        series=tuple(series),
        y_range=(0, 102),
    )


def cluster(evidence: Evidence) -> Iterator[Chart]:
    """Which worker was busy and which replica ready when, and how fast episodes were stored."""
    line = evidence.timeline
    if line is None:
        return
    middles = [middle.timestamp() for middle in line.middles]
    minutes = line.bins * line.seconds / 60
    yield _lanes(
        line,
        "cluster",
        "Workers: share of the time in an episode, %",
        f"{plural(len(line.lanes), 'worker')} over {minutes:.0f} minutes; their busy shares are in "
        "the table.",
        {lane.name: lane.busy for lane in line.lanes},
    )
    yield _lanes(
        line,
        "replicas",
        "Replicas: share of the time ready, %",
        f"{plural(len(line.replicas), 'replica')} over {minutes:.0f} minutes, "
        f"{plural(len(line.deaths), 'death')}; their shares are in the table.",
        {lane.replica: lane.ready for lane in line.replicas},
    )
    died = Series(
        "a replica died",
        [one.at.timestamp() for one in line.deaths],
        [0.0] * len(line.deaths),
        2,
        loose=True,
        told=[": ".join(filter(None, (one.replica, one.why))) for one in line.deaths],
    )
    again = list(line.again)
    most = max(line.per_hour)
    retried = Series(
        "tried again",
        [one.at.timestamp() for one in again],
        [0.0] * len(again),
        1,
        loose=True,
        told=[f"{one.episode}: {one.attempts} tries, {one.lane}" for one in again],
    )
    told = [f"{rate:,.0f} an hour" for rate in line.per_hour]
    yield Chart(
        name="rate",
        title="Episodes stored, an hour",
        told=f"Up to {most:,.0f} episodes an hour; tried again: {len(again):,}; deaths of "
        f"replicas: {len(line.deaths):,}.",
        kind="lines",
        x_title="UTC",
        times=True,
        y_title="episodes an hour",
        series=(
            Series("stored", middles, line.per_hour, 0, told=told),
            *([retried] if again else []),
            *([died] if line.deaths else []),
        ),
        y_range=(0, 1.08 * most),
    )


def _lanes(
    line: Timeline, name: str, title: str, told: str, shares: Mapping[str, Sequence[float]]
) -> Chart:
    """A row of cells a lane; `shares` from 0 to 1 by bin."""
    middles = [middle.timestamp() for middle in line.middles]
    named = len(line.sessions) <= MOST_NAMED
    return Chart(
        name=name,
        title=title,
        told=told,
        kind="heat",
        x_title="UTC",
        times=True,
        y_title="",
        series=tuple(
            Series(lane, middles, [100 * share for share in own], 0) for lane, own in shares.items()
        ),
        rows=tuple(shares),
        marks=tuple(
            (f"session {i + 1}" if named else "", at.timestamp())
            for i, at in enumerate(line.sessions)
        ),
    )


MAKERS: tuple[Callable[[Evidence], Iterator[Chart]], ...] = (
    success_by_suite,
    success_by_task,
    pairs,
    acceptance,
    passes,
    latency,
    pareto,
    episode_time,
    cluster,
    partings,
)
MOST_NAMED = 3  # sessions, whose names would else lie on one another


def wrapped(label: str, width: int = 44) -> list[str]:
    """A row's name in lines."""
    return textwrap.wrap(label, width) or [""]


PALETTE = (  # Okabe and Ito's, told apart by most eyes, on white and on black
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#8c6bb1",
    "#8a8a8a",
)
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down")


def color_of(series: Series) -> str:
    """Of the palette."""
    return PALETTE[series.color % len(PALETTE)]


def symbol_of(series: Series) -> int:
    """Place in SYMBOLS: another one where a color comes again."""
    rounds, place = divmod(series.color, len(PALETTE))
    return (place + rounds) % len(SYMBOLS)
