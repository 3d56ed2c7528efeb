"""Tables as values, and as Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from rsd.presentation.evidence import Evidence
from rsd.summary.rules import LOOKED_AT
from rsd.summary.statistics import Proportion
from rsd.summary.values import SIMULATOR_PARTS, STAGES, Success

NOTHING = "–"


@dataclass(frozen=True)
class Cell:
    """What is shown, and what a column is sorted by."""

    text: str
    order: float | str | None = None  # None: the text


@dataclass(frozen=True)
class Table:
    """The first `names` columns name a row."""

    name: str  # of a file, and in a page
    caption: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]] = field(default_factory=list)
    names: int = 1

    def add(self, *cells: Cell | str) -> None:
        """A row; raises ValueError where it has not a cell a column."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} cells in a table of {len(self.columns)} columns")
        self.rows.append(tuple(Cell(cell) if isinstance(cell, str) else cell for cell in cells))


def as_markdown(table: Table) -> str:
    """Caption and a table of GitHub's kind."""

    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    align = [":--" if i < table.names else "--:" for i in range(len(table.columns))]
    rows = [row([cell.text for cell in cells]) for cells in table.rows]
    return "\n".join([table.caption, "", row(table.columns), row(align), *rows, ""])


def as_latex(table: Table) -> str:
    """A table environment with booktabs' rules; \\label{tab:NAME}."""
    texts = [[_latex_dashes(cell.text) for cell in cells] for cells in table.rows]
    frame = pd.DataFrame(texts, columns=list(table.columns))
    style = frame.style.format(escape="latex").format_index(escape="latex", axis=1)
    numbers = len(table.columns) - table.names
    made: str = style.hide(axis="index").to_latex(
        caption=_escaped(table.caption),
        label=f"tab:{table.name}",
        column_format="l" * table.names + "r" * numbers,
        hrules=True,
        position="tb",
        position_float="centering",
    )
    return "% \\usepackage{booktabs}\n" + made


def _latex_dashes(text: str) -> str:
    return text.replace(NOTHING, "--")


def _escaped(text: str) -> str:
    """For LaTeX, as pandas does it in cells."""
    styled = pd.DataFrame([[text]]).style.hide(axis="index").hide(axis="columns")
    body: str = styled.format(escape="latex").to_latex()
    return body.split("\n")[1].removesuffix(" \\\\")


# --- cells ---------------------------------------------------------------------------------------


def _number(value: float | None, template: str = "{:g}") -> Cell:
    return Cell(NOTHING, -1.0) if value is None else Cell(template.format(value), float(value))


def _percent(share: float | None) -> Cell:
    return _number(None if share is None else 100 * share, "{:.1f}")


def _milliseconds(seconds: float | None) -> Cell:
    return _number(None if seconds is None else 1000 * seconds, "{:.1f}")


def _count(value: int) -> Cell:
    return Cell(f"{value:,}", float(value))


def _interval(rate: Proportion) -> Cell:
    if rate.rate is None:
        return Cell(NOTHING, -1.0)
    return Cell(f"{100 * rate.low:.1f} to {100 * rate.high:.1f}", rate.low)


def _solved(rate: Proportion) -> Cell:
    return Cell(f"{rate.successes:,}/{rate.finished:,}", rate.rate if rate.finished else -1.0)


def _points(difference: float | None) -> Cell:
    return _number(None if difference is None else 100 * difference, "{:+.1f}")


def _p(value: float) -> Cell:
    return Cell(f"{value:.2g}", value)


# --- tables --------------------------------------------------------------------------------------

_SUCCESS = ("solved", "%", "95 % interval")


def _success(found: Success) -> tuple[Cell, ...]:
    return _solved(found.success), _percent(found.success.rate), _interval(found.success)


def success_by_suite(evidence: Evidence) -> Table:
    """A row an arm and suite, and one of all."""
    columns = ("arm", "suite", *_SUCCESS, f"trials {LOOKED_AT} on, %", "errors")
    table = Table("success", "Success by suite and arm, Wilson's 95 % interval.", columns, names=2)
    for arm in evidence.summary.arms:
        parts = [(suite.suite, suite) for suite in arm.suites]
        for name, found in [*parts, *([("all", arm)] if len(parts) > 1 else [])]:
            unseen = _percent(found.unseen.rate)
            table.add(arm.arm, name, *_success(found), unseen, _count(found.errors))
    return table


def success_by_task(evidence: Evidence) -> Table:
    """A row a suite, task and arm."""
    columns = ("suite", "task", "instruction", "arm", *_SUCCESS, "errors")
    table = Table("tasks", "Success by task and arm, Wilson's 95 % interval.", columns, names=4)
    rows = [
        (suite.suite, task.task_id, arm.arm, task)
        for arm in evidence.summary.arms
        for suite in arm.suites
        for task in suite.tasks
    ]
    for suite, task, arm_name, found in sorted(rows, key=lambda row: row[:2]):
        told = evidence.instructions.get((suite, task), "")
        table.add(suite, _count(task), told, arm_name, *_success(found), _count(found.errors))
    return table


def pairs(evidence: Evidence) -> Table:
    """A row a pair of arms that share a world."""
    margin = f"{100 * evidence.summary.margin:g}"
    columns = (
        "first",
        "second",
        "pairs",
        "first only",
        "second only",
        "points",
        "95 % interval",
        "p",
        "p (Holm)",
        f"not worse by {margin}: p",
        "p (Holm) of it",
        "same final state",
    )
    caption = (
        "Paired by world, second minus first: exact McNemar test, and the one-sided score test of "
        f"being worse by {margin} points or more."
    )
    table = Table("pairs", caption, columns, names=2)
    for pair in evidence.summary.pairs:
        found = pair.comparison
        if not found.pairs:
            continue
        table.add(
            pair.first,
            pair.second,
            *map(_count, (found.pairs, found.only_first, found.only_second)),
            _points(found.difference),
            Cell(f"{100 * found.low:+.1f} to {100 * found.high:+.1f}", found.low),
            _p(found.p_value),
            _p(pair.p_adjusted),
            _p(pair.not_worse),
            _p(pair.not_worse_adjusted),
            _count(pair.identical_final_states),
        )
    return table


def acceptance(evidence: Evidence) -> Table:
    """A row an arm and layer that a draft guessed."""
    columns = (
        "arm",
        "layer",
        "tokens judged",
        "kept, %",
        "constant guess, %",
        "layers judged",
        "kept whole, %",
        "redrafts kept, %",
    )
    caption = "Guesses that the target kept, by layer (0 is the coarsest)."
    table = Table("acceptance", caption, columns, names=2)
    for arm in evidence.summary.arms:
        for layer in arm.acceptance:
            if not layer.drafted:
                continue
            table.add(
                arm.arm,
                _count(layer.layer),
                _count(layer.drafted),
                _percent(layer.rate),
                _percent(layer.majority_rate),
                _number(layer.judged, "{:,}"),
                _percent(layer.whole_rate),
                _percent(layer.later_rate),
            )
    return table


def passes(evidence: Evidence) -> Table:
    """A row an arm that decoded."""
    columns = ("arm", "chunks", "mean", "median", "drafted, unjudged, %", "near ties, %")
    table = Table("passes", "Passes of the target's backbone, a chunk.", columns)
    for arm in evidence.summary.arms:
        cost = arm.cost
        if cost.chunks:
            mean = _number(cost.passes_mean, "{:.2f}")
            shares = (_percent(cost.unjudged), _percent(cost.near_ties))
            table.add(arm.arm, _count(cost.chunks), mean, _number(cost.passes_median), *shares)
    return table


def latency(evidence: Evidence) -> Table:
    """Three rows an arm that decoded."""
    caption = "Latency of a chunk by stage, ms; the total is the chunk's own, not the stages' sum."
    table = Table("latency", caption, ("arm", "", "total", *STAGES), names=2)
    for arm in evidence.summary.arms:
        if arm.arm not in evidence.latencies:
            continue
        cells = [arm.cost.total, *arm.cost.stages.values()]
        for name in ("mean", "median", "p95"):
            table.add(arm.arm, name, *(_milliseconds(getattr(cell, name)) for cell in cells))
    return table


def episode_time(evidence: Evidence) -> Table:
    """A row an arm."""
    caption = "Wall time of a finished episode on its worker, mean, s."
    columns = ("arm", "episodes", "all", *SIMULATOR_PARTS, "wait for the policy")
    table = Table("episode_time", caption, columns)
    for arm in evidence.summary.arms:
        own = arm.simulator
        parts = (own.wall, *(own.parts[part] for part in SIMULATOR_PARTS), own.wait)
        table.add(arm.arm, _count(own.episodes), *(_number(part, "{:.2f}") for part in parts))
    return table


def partings(evidence: Evidence) -> Table:
    """A row a pair of arms with chunks."""
    columns = ("first", "second", "worlds", "part", "of these, median chunk")
    caption = "Worlds in which two arms ever do something else, and the first chunk that differs."
    table = Table("partings", caption, columns, names=2)
    for parting in evidence.partings:
        chunks = sorted(parting.chunk.values())
        middle = chunks[len(chunks) // 2] if chunks else None
        counted = (_count(parting.worlds), _count(len(chunks)), _number(middle))
        table.add(parting.first, parting.second, *counted)
    return table


def workers(evidence: Evidence) -> Table:
    """A row a worker."""
    columns = ("worker", "node", "episodes", "tried again", "errors", "busy, %")
    caption = "Environment workers; busy: share of the whole time in episodes that were stored."
    table = Table("workers", caption, columns, names=2)
    for lane in evidence.timeline.lanes if evidence.timeline else []:
        counted = map(_count, (lane.episodes, lane.again, lane.errors))
        table.add(lane.worker, lane.node, *counted, _percent(sum(lane.busy) / len(lane.busy)))
    return table


def replicas(evidence: Evidence) -> Table:
    """A row a replica."""
    columns = ("replica", "node", "decides on", "ready after, s", "ready, %", "deaths", "end")
    caption = (
        "Replicas, as the driver heard of them; ready: share of the whole time. Of several "
        "sessions the last one's node and start."
    )
    table = Table("replicas", caption, columns, names=3)
    for lane in evidence.timeline.replicas if evidence.timeline else []:
        table.add(
            lane.replica,
            lane.node or NOTHING,
            lane.processor or NOTHING,
            _number(lane.to_ready_s, "{:.1f}"),
            _percent(sum(lane.ready) / len(lane.ready)),
            _count(lane.deaths),
            "dead for good" if lane.dead else NOTHING,
        )
    return table


def failures(evidence: Evidence) -> Table:
    """A row a reason."""
    table = Table("errors", "Episodes without a verdict.", ("reason", "episodes", "such as"))
    for failure in evidence.failures:
        table.add(failure.reason, _count(failure.episodes), failure.example)
    return table


def runs(evidence: Evidence) -> Table:
    """A row a run."""
    columns = ("run", "folder", "episodes", "planned", "sessions", "began", "last episode")
    table = Table("runs", "Runs of this page.", columns, names=2)
    for stored, run in zip(evidence.runs, evidence.progress, strict=True):
        began = stored.description["sessions"][0]
        last = f"{run.last_at:%Y-%m-%d %H:%M:%S} UTC" if run.last_at else NOTHING
        table.add(
            run.run_id,
            run.output,
            _count(run.stored),
            _number(run.planned, "{:,}"),
            _count(run.sessions),
            began["started_at"][:19].replace("T", " ") + " UTC",
            last,
        )
    return table


# For print; a page has them where they belong.
PAPER: tuple[Callable[[Evidence], Table], ...] = (
    success_by_suite,
    success_by_task,
    pairs,
    acceptance,
    passes,
    latency,
    episode_time,
    partings,
)
