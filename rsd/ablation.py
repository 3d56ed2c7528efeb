"""What a study says, from the books of its cells: a curve a factor, and every episode with its
levels in one Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from rsd import across
from rsd.books import EPISODE_SCHEMA, KEY, committed
from rsd.books.schema import parquet
from rsd.delay import STAGES
from rsd.preflight import output_of
from rsd.study import FACTORS, Cell, Point, Value
from rsd.summary.compute import paired
from rsd.summary.markdown import head, row
from rsd.summary.rules import COVERED, MARGIN
from rsd.summary.statistics import Proportion
from rsd.summary.values import ArmPair, ArmSummary


@dataclass(frozen=True)
class Level:
    """One point of a curve."""

    value: Value  # of the factor; None: the policy does not say
    is_base: bool
    cell: str
    arm: ArmSummary
    against: ArmPair | None  # second minus first: the level against the base; None of the base
    # itself, and where the worlds of the two are not known to be the same


@dataclass(frozen=True)
class Curve:
    """A factor with all of its levels, the base's among them: by number where it has an order, else
    the base first."""

    factor: str
    number: bool
    levels: list[Level]


def curves(cells: Sequence[Cell], margin: float = MARGIN) -> list[Curve]:
    """Of a study whose every cell has rows. p-values are adjusted (Holm) over all levels of the
    study. Raises UserError for a cell that cannot be read."""
    sources = {cell.name: across.read(output_of(cell.run)) for cell in cells}
    points = [(cell, point) for cell in cells for point in cell.points]
    against = _against_base(points, sources, margin)

    def level(cell: Cell, point: Point, factor: str) -> Level:
        arms = sources[cell.name].summary.arms
        arm = next(each for each in arms if each.arm == point.arm)
        pair = against.get(_label(cell, point))
        return Level(cell.values(point)[factor], not point.factor, cell.name, arm, pair)

    found = []
    for factor in dict.fromkeys(point.factor for _, point in points if point.factor):
        levels = [level(*each, factor) for each in points if each[1].factor in ("", factor)]
        number = FACTORS[factor].number
        if number:
            levels.sort(key=lambda each: _order(each.value))
        found.append(Curve(factor, number, levels))
    return found


def _against_base(
    points: Sequence[tuple[Cell, Point]], sources: Mapping[str, across.Source], margin: float
) -> dict[str, ArmPair]:
    """Of the levels in the base's worlds, by label."""
    base, *levels = points
    episodes = {
        _label(cell, point): own[own["arm"] == point.arm]
        for cell, point in points
        for own in [sources[cell.name].episodes]
    }
    chosen = [
        (_label(*base), _label(cell, point))
        for cell, point in levels
        if cell is base[0] or across.same_worlds(sources[base[0].name], sources[cell.name])
    ]
    return {pair.second: pair for pair in paired(episodes, chosen, margin)}


def _label(cell: Cell, point: Point) -> str:
    return f"{cell.name}: {point.arm}"


def _order(value: Value) -> float:
    """Unknown: last."""
    return float(value) if isinstance(value, int) else float("inf")


# --- one Parquet ---------------------------------------------------------------------------------

_LEVELS = {name: pa.int32() if factor.number else pa.string() for name, factor in FACTORS.items()}
_SUMS = {"passes": pa.int64(), "decode_s": pa.float64()}  # of an episode's chunks


def study_parquet(cells: Sequence[Cell]) -> bytes:
    """Every episode of the study once: its row of the books, `cell`, the `factor` and `level` that
    it was run for (null: the base), `factor_NAME` of all factors, and of its chunks the sums of
    passes and of seconds decoding (null where there are none)."""
    return parquet(pa.concat_tables([table for cell in cells for table in _tables(cell)]))


def _tables(cell: Cell) -> Iterator[pa.Table]:
    """One a point."""
    parts = committed(output_of(cell.run))
    episodes = parts.episodes(EPISODE_SCHEMA.names).replace_schema_metadata(None)
    sums = _sums(parts.all_chunks([*KEY, "passes", *STAGES]), episodes)
    for name, column in sums.items():
        episodes = episodes.append_column(name, column)
    for point in cell.points:
        table = episodes.filter(pc.field("arm") == point.arm)
        told = {
            "cell": (cell.name, pa.string()),
            "factor": (point.factor or None, pa.string()),
            "level": (point.level or None, pa.string()),
            **{f"factor_{name}": (it, _LEVELS[name]) for name, it in cell.values(point).items()},
        }
        for name, (value, kind) in told.items():
            table = table.append_column(name, pa.array([value] * len(table), kind))
        yield table


def _sums(chunks: pa.Table, episodes: pa.Table) -> dict[str, pa.Array]:
    """Of each episode's chunks, in the episodes' order."""
    frame = chunks.to_pandas()
    frame["decode_s"] = frame[list(STAGES)].sum(axis=1)
    by_episode = frame.groupby(KEY)[list(_SUMS)].sum()
    ordered = episodes.select(KEY).to_pandas().merge(by_episode, on=KEY, how="left")
    return {name: pa.array(ordered[name], kind, from_pandas=True) for name, kind in _SUMS.items()}


# --- Markdown ------------------------------------------------------------------------------------

_COLUMNS = (
    "success, % (95 % interval)",
    "against the base, points (95 % interval)",
    "pairs",
    "p, Holm",
    "passes a chunk",
    "ms a chunk",
    "episodes",
    "errors",
    "cell",
)


def page(found: Sequence[Curve], formats: Sequence[str] = ()) -> str:
    """A table a factor, under its picture where there is one of the first of `formats`."""
    lines = ["# Ablations", ""]
    for curve in found:
        lines += [f"## {curve.factor}", "", f"{FACTORS[curve.factor].what}", ""]
        if formats:
            lines += [f"![{curve.factor}]({curve.factor}.{formats[0]})", ""]
        lines += [*table(curve), ""]
    return "\n".join([*lines, *(f"- {note}" for note in NOTES), ""])


NOTES = (
    COVERED,
    "Against the base: this level minus the base on the worlds that both finished, - where the "
    "worlds of the two are not known to be the same. p: exact McNemar test, adjusted (Holm) over "
    "all levels of the study.",
    "ms a chunk: median over the chunks, of the batch that each was decoded in; only cells with "
    "--max-batch-size 1 show a chunk alone.",
)


def table(curve: Curve) -> list[str]:
    """Lines of Markdown; the base's row is in bold."""
    return [
        *head([curve.factor, *_COLUMNS]),
        *(row(_cells(level)) for level in curve.levels),
    ]


def _cells(level: Level) -> list[str]:
    name = "-" if level.value is None else str(level.value)
    arm, pair = level.arm, level.against
    median = arm.cost.total.median
    difference = "-"
    if pair is not None and pair.comparison.difference is not None:
        one = pair.comparison
        difference = _with_interval(pair.comparison.difference, one.low, one.high, "+.1f")
    return [
        f"**{name}**" if level.is_base else name,
        _success(arm.success),
        "base" if level.is_base else difference,
        "" if pair is None else str(pair.comparison.pairs),
        "" if pair is None else f"{pair.p_adjusted:.3g}",
        "-" if arm.cost.passes_mean is None else f"{arm.cost.passes_mean:.2f}",
        "-" if median is None else f"{1000 * median:.1f}",
        str(arm.success.finished + arm.errors),
        str(arm.errors),
        f"`{level.cell}`",
    ]


def _success(rate: Proportion) -> str:
    if rate.rate is None:
        return "-"
    return _with_interval(rate.rate, rate.low, rate.high, ".1f")


def _with_interval(share: float, low: float, high: float, form: str) -> str:
    value, lowest, highest = (format(100 * each, form) for each in (share, low, high))
    return f"{value} ({lowest} to {highest})"
