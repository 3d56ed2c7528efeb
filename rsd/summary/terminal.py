"""A summary on a terminal: tables that fit its width, and the notes that they need."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console

from rsd.console import PLAIN, duration
from rsd.summary import unpaired
from rsd.summary.rules import LOOKED_AT, notes
from rsd.summary.statistics import PairedComparison, Proportion, UnpairedComparison
from rsd.summary.values import SIMULATOR_PARTS, STAGES, Summary, Unpaired
from rsd.tables import Grid, print_grid

_NOTHING = "–"


def _number(value: float | None, template: str) -> str:
    return _NOTHING if value is None else template.format(value)


def _percent(value: float | None) -> str:
    return _number(None if value is None else 100 * value, "{:.1f}")


def _milliseconds(value: float | None) -> str:
    return _number(None if value is None else 1000 * value, "{:.1f}")


def _seconds(value: float | None) -> str:
    return _number(value, "{:.2f}")


def _interval(of: Proportion | PairedComparison | UnpairedComparison) -> str:
    """In percent; of nothing there is none."""
    value = of.rate if isinstance(of, Proportion) else of.difference
    return _NOTHING if value is None else f"{_percent(of.low)} to {_percent(of.high)}"


def success_cells(rate: Proportion) -> tuple[str, str, str]:
    """Successes of finished ones, the rate in percent and its interval."""
    return f"{rate.successes}/{rate.finished}", _percent(rate.rate), _interval(rate)


def _success_table(summary: Summary) -> Grid:
    table = Grid(
        "Success",
        ("arm", "successes", "%", "95 % interval", f"trials\n{LOOKED_AT} on, %", "errors"),
    )
    for arm in summary.arms:
        unseen = _percent(arm.unseen.rate)
        table.add(arm.arm, *success_cells(arm.success), unseen, str(arm.errors))
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
            f"not worse,\nmargin {100 * summary.margin:g}: p",
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
            _interval(comparison),
            f"{comparison.p_value:.2g}",
            f"{pair.p_adjusted:.2g}",
            str(pair.identical_final_states),
            f"{comparison.first_unpaired}, {comparison.second_unpaired}",
            f"{pair.not_worse:.2g}",
            f"{pair.not_worse_adjusted:.2g}",
        )
    return table


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
    """Arms that decoded, as far as their rows say."""
    table = Grid(
        "Passes a chunk; drafted chunks executed unjudged (fast) and near ties, % of chunks",
        ("arm", "chunks", "mean", "median", "fast", "near ties"),
    )
    for arm in summary.arms:
        if not arm.cost.chunks:
            continue
        table.add(
            arm.arm,
            str(arm.cost.chunks),
            _number(arm.cost.passes_mean, "{:.2f}"),
            _number(arm.cost.passes_median, "{:g}"),
            _percent(arm.cost.unjudged),
            _percent(arm.cost.near_ties),
        )
    return table


def _latency_table(summary: Summary) -> Grid:
    """The same arms."""
    table = Grid("Chunk latency, ms", ("arm", "", "total", *STAGES), names=2)
    for arm in summary.arms:
        if not arm.cost.chunks:
            continue
        cells = [arm.cost.total, *arm.cost.stages.values()]
        for row, name in enumerate(("mean", "median", "p95")):
            values = (_milliseconds(getattr(cell, name)) for cell in cells)
            table.add("" if row else arm.arm, name, *values)
    return table


def _simulator_table(summary: Summary) -> Grid:
    """Arms whose episodes say it: not those of other software."""
    table = Grid("Simulator, s an episode: mean", ("arm", "total", *SIMULATOR_PARTS))
    for arm in summary.arms:
        parts = [arm.simulator.parts[part] for part in SIMULATOR_PARTS]
        if any(part is not None for part in parts):
            table.add(arm.arm, *map(_seconds, (arm.simulator.total, *parts)))
    return table


def _unpaired_table(found: Sequence[Unpaired]) -> Grid:
    table = Grid(
        "Unpaired, on the tasks that both did; second minus first, in points",
        (
            "first vs second",
            "suite",
            "tasks",
            "first",
            "second",
            "diff.",
            "95 % interval",
            "p",
        ),
        names=2,
    )
    for one in found:
        rates = (one.comparison.first, one.comparison.second)
        table.add(
            f"{one.first} of {one.first_run} vs {one.second} of {one.second_run}",
            one.suite,
            f"{one.tasks}{'' if one.even else '*'}",
            *(f"{rate.successes}/{rate.finished}" for rate in rates),
            _percent(one.comparison.difference),
            _interval(one.comparison),
            f"{one.comparison.p_value:.2g}",
        )
    return table


TABLES: tuple[Callable[[Summary], Grid], ...] = (
    _success_table,
    _paired_table,
    _acceptance_table,
    _passes_table,
    _latency_table,
    _simulator_table,
)


def print_unpaired(found: Sequence[Unpaired], console: Console) -> None:
    """Arms of several runs beside each other, and how to read that."""
    if not found:
        console.print("No two runs have a task in common, so nothing is compared.", **PLAIN)
        return
    print_grid(console, _unpaired_table(found))
    for line in unpaired.notes(found):
        console.print(line, markup=False, highlight=False)


def _pace(summary: Summary) -> str:
    if summary.elapsed_s is None:
        return ""
    elapsed = duration(summary.elapsed_s)
    rate = _number(summary.episodes_per_hour, "{:,.0f}")
    return f", in {elapsed}: {rate} episodes per hour"


def print_summary(summary: Summary, console: Console) -> None:
    """Tables of the summary, and what has to be known to read them."""
    for make in TABLES:
        table = make(summary)
        if table.rows:
            print_grid(console, table)
    made_by = summary.provenance
    lines = [
        *notes(summary),
        f"{summary.episodes} episodes, {summary.errors} of them errors{_pace(summary)}",
        f"Protocol: {made_by.protocol}; renderer: {made_by.renderer}; arithmetic: "
        f"{made_by.arithmetic}; frames: {made_by.frames}",
        f"Processors: {made_by.processors}",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False)
    console.print(f"Assets: {made_by.assets}", **PLAIN)
    console.print(f"Parquet: {summary.output}", **PLAIN)
