"""What a study says, from the books of its cells: a curve a factor, and every episode with its
levels in one Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from rsd import across
from rsd.books import CHUNK_SCHEMA, EPISODE_SCHEMA, KEY, committed
from rsd.books.schema import parquet
from rsd.delay import STAGES
from rsd.preflight import output_of
from rsd.study import FACTORS, Cell, Point, Value
from rsd.summary.compute import paired
from rsd.summary.rules import COVERED, MARGIN
from rsd.summary.statistics import Proportion
from rsd.summary.values import ArmPair, ArmSummary


@dataclass(frozen=True)
class Level:
    """One point of a curve."""

    value: Value  # of the factor; None: the policy does not say
    cell: str
    arm: ArmSummary
    against: ArmPair | None  # second minus first: this level against the base, on the worlds that
    # both finished; None of the base itself, and where the worlds are not known to be the same

    @property
    def is_base(self) -> bool:
        return self.point.factor == ""

    point: Point


@dataclass(frozen=True)
class Curve:
    """A factor with all of its levels, the base's among them: by number where it has an order, else
    the base first."""

    factor: str
    number: bool
    levels: list[Level]


def curves(cells: Sequence[Cell], margin: float = MARGIN) -> list[Curve]:
    """Of a study whose every cell has begun. p-values are adjusted (Holm) over all levels of the
    study. Raises UserError for a cell that cannot be read."""
    sources = {cell.name: across.read(output_of(cell.run)) for cell in cells}
    base = cells[0]
    arms = {(cell.name, point.arm): (cell, point) for cell in cells for point in cell.points}
    episodes = {
        _label(name, arm): source.episodes[source.episodes["arm"] == arm]
        for name, source in sources.items()
        for arm in [point.arm for cell, point in arms.values() if cell.name == name]
    }
    first = _label(base.name, base.points[0].arm)
    chosen = [
        (first, _label(cell.name, point.arm))
        for cell, point in arms.values()
        if point.factor and across.same_worlds(sources[base.name], sources[cell.name])
    ]
    against = {pair.second: pair for pair in paired(episodes, chosen, margin)}

    def level(cell: Cell, point: Point, factor: str) -> Level:
        summary = sources[cell.name].summary
        arm = next(each for each in summary.arms if each.arm == point.arm)
        pair = against.get(_label(cell.name, point.arm))
        return Level(cell.values(point)[factor], cell.name, arm, pair, point)

    found = []
    for factor in dict.fromkeys(point.factor for _, point in arms.values() if point.factor):
        levels = [
            level(cell, point, factor)
            for cell, point in arms.values()
            if point.factor in ("", factor)
        ]
        number = FACTORS[factor].number
        if number:
            levels.sort(key=lambda each: _order(each.value))
        found.append(Curve(factor, number, levels))
    return found


def _label(cell: str, arm: str) -> str:
    return f"{cell}: {arm}"


def _order(value: Value) -> float:
    """Unknown: last."""
    return float(value) if isinstance(value, int) else float("inf")


# --- one Parquet ---------------------------------------------------------------------------------

_LEVELS = {name: pa.int32() if factor.number else pa.string() for name, factor in FACTORS.items()}
_SUMS = {"passes": pa.int64(), "decode_s": pa.float64()}  # of an episode's chunks


def study_table(cells: Sequence[Cell]) -> pa.Table:
    """Every episode of the study once: its row of the books, `cell`, the `factor` and `level` that
    it was run for (null: the base), `factor_NAME` of all factors, and of its chunks the sums of
    passes and of seconds decoding."""
    return pa.concat_tables([_rows(cell, point) for cell in cells for point in cell.points])


def study_parquet(cells: Sequence[Cell]) -> bytes:
    """The same as a file."""
    return parquet(study_table(cells))


def _rows(cell: Cell, point: Point) -> pa.Table:
    parts = committed(output_of(cell.run))
    mine = pa.compute.field("arm") == point.arm
    episodes = parts.episodes(EPISODE_SCHEMA.names).filter(mine)
    chunks = parts.all_chunks([*KEY, "passes", *STAGES]).filter(mine)
    told = {
        "cell": (cell.name, pa.string()),
        "factor": (point.factor or None, pa.string()),
        "level": (point.level or None, pa.string()),
        **{f"factor_{name}": (value, _LEVELS[name]) for name, value in cell.values(point).items()},
    }
    table = episodes
    for name, (value, kind) in told.items():
        table = table.append_column(name, pa.array([value] * len(table), kind))
    sums = _sums(chunks)
    keys = [tuple(row.values()) for row in table.select(KEY).to_pylist()]
    for name, kind in _SUMS.items():
        table = table.append_column(name, pa.array([sums[name].get(key) for key in keys], kind))
    return table.replace_schema_metadata(None)


def _sums(chunks: pa.Table) -> dict[str, Mapping[tuple[object, ...], float]]:
    """By KEY."""
    frame = chunks.to_pandas()
    frame["decode_s"] = frame[list(STAGES)].sum(axis=1)
    grouped = frame.groupby(KEY, observed=True)[list(_SUMS)].sum()
    return {name: grouped[name].to_dict() for name in _SUMS}


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
    head = [curve.factor, *_COLUMNS]
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(_cells(level))} |" for level in curve.levels),
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
