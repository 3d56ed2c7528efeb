"""What the chunk rows of a run add up to, by arm and suite, read some rows at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsd.books import Committed
from rsd.summary.statistics import quantiles
from rsd.summary.values import STAGES, ChunkCost, LayerAcceptance

LISTS = ("drafted", "accepted", "redrafted", "reaccepted")  # of the books, by layer

COLUMNS = (
    "arm",
    "suite",
    *LISTS,
    "passes",
    "layers",
    "canonical",
    *(f"{stage}_s" for stage in STAGES),
    "codes",
)


NONE = np.zeros(0, np.int64)


# --- chunk rows as arrays ----------------------------------------------------------------------


def numbers(column: pa.Array) -> np.ndarray:
    """A column of numbers or truth values; 0 where a policy of numbers has none."""
    filled = column.fill_null(False if pa.types.is_boolean(column.type) else 0)
    return filled.to_numpy(zero_copy_only=False)


def lengths_of(lists: pa.ListArray) -> np.ndarray:
    """int64 (n,): values of each list; 0 where it is null."""
    return numbers(lists.value_lengths()).astype(np.int64)


def by_layer(lists: pa.ListArray) -> np.ndarray:
    """n lists of numbers of layers, layer 0 first -> int64 (n, L), zeros where a list is shorter;
    arms decode different numbers of layers, and some none."""
    lengths = lengths_of(lists)
    layers = int(lengths.max(initial=0))
    table = np.zeros((len(lengths), layers), dtype=np.int64)
    table[np.arange(layers) < lengths[:, None]] = lists.flatten().to_numpy(zero_copy_only=False)
    return table


def codes_by_layers(codes: pa.ListArray, layers: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Rows with codes, those of one shape together: indices (n,) and codes uint8 (n, T D, layers).

    Raises ValueError for a row whose codes are not `layers` to each of its T D tokens.
    """
    lengths = lengths_of(codes)
    known = np.flatnonzero(lengths)
    lengths, depths = lengths[known], layers[known]
    values = codes.flatten().to_numpy(zero_copy_only=False)
    ends = np.cumsum(lengths)
    for length, depth in set(zip(lengths.tolist(), depths.tolist(), strict=True)):
        if depth < 1 or length % depth:
            raise ValueError(f"{length} codes are not those of {depth} layers")
        rows = np.flatnonzero((lengths == length) & (depths == depth))
        whole = len(rows) == len(known)  # the usual case, and no copy
        chosen = values if whole else values[(ends[rows] - length)[:, None] + np.arange(length)]
        yield known[rows], chosen.reshape(-1, length // depth, depth)


def guesses_by_layer(rows: pa.RecordBatch) -> dict[str, np.ndarray]:
    """LISTS, `judged` (the first pass judged the layer, all coarser ones were kept) and `whole`
    (it kept every token of it): int64 (n, L), L the most layers that a row has decoded."""
    layers = numbers(rows["layers"])
    lists = {name: by_layer(rows[name]) for name in LISTS if name in rows.schema.names}
    depth = max(int(layers.max(initial=0)), *(one.shape[1] for one in lists.values()))
    tables = {name: widened(table, depth) for name, table in lists.items()}
    judged = tables["drafted"] > 0
    whole = judged & (tables["accepted"] == tables["drafted"])
    return tables | {"judged": judged.astype(np.int64), "whole": whole.astype(np.int64)}


def widened(table: np.ndarray, layers: int) -> np.ndarray:
    """(..., k) -> (..., layers), with zeros or cut."""
    wide = np.zeros((*table.shape[:-1], layers), dtype=table.dtype)
    wide[..., : table.shape[-1]] = table[..., :layers]
    return wide


_Rows = TypeVar("_Rows", pa.RecordBatch, pa.Table)


def decodes(rows: _Rows) -> _Rows:
    """Rows without an expert's, which are none. The arm `draft` decodes layers in no pass."""
    some = (pc.not_equal(rows[name], 0) for name in ("passes", "layers"))
    return rows.filter(pc.fill_null(pc.or_(*some), True))


def grouped(rows: pa.RecordBatch) -> Iterator[tuple[str, str, pa.RecordBatch]]:
    """Decodes by arm and suite."""
    rows = decodes(rows)
    arms, suites = (rows[name].dictionary_encode() for name in ("arm", "suite"))
    arm, suite = (names.indices.to_numpy(zero_copy_only=False) for names in (arms, suites))
    group = arm * len(suites.dictionary) + suite
    for one in np.unique(group):
        first, second = divmod(int(one), len(suites.dictionary))
        mine = rows.filter(pa.array(group == one))
        yield arms.dictionary[first].as_py(), suites.dictionary[second].as_py(), mine


class Majority:
    """How often each level was taken by each token (step, dim, layer), in all chunks of an arm and
    suite, and in those whose layer the first pass judged.

    `guess` is the constant guess in hindsight: for every token its most frequent level in all those
    chunks. It knows their answers and nothing else; a draft has to beat it.
    """

    def __init__(self) -> None:
        self._all = np.zeros((0, 0, 0), dtype=np.int64)  # (T D, L, V)
        self._judged = self._all

    def add(self, codes: np.ndarray, judged: np.ndarray) -> None:
        """Codes (n, T D, L); judged bool (n, L), whether the first pass judged that layer."""
        needed = (*codes.shape[1:], int(codes.max(initial=0)) + 1)
        if any(have < need for have, need in zip(self._all.shape, needed, strict=True)):
            self._all, self._judged = _grown(self._all, needed), _grown(self._judged, needed)
        tokens, layers = codes.shape[1:]
        _, row, levels = shape = self._all.shape
        index = codes + levels * (np.arange(tokens)[:, None] * row + np.arange(layers))
        size = self._all.size
        self._all += np.bincount(index.ravel(), minlength=size).reshape(shape)
        if judged.any():
            chosen = index[np.broadcast_to(judged[:, None, :], index.shape)]
            self._judged += np.bincount(chosen, minlength=size).reshape(shape)

    @property
    def guess(self) -> np.ndarray:
        """Int (T D, L)."""
        empty = self._all.size == 0
        return np.zeros(self._all.shape[:2], int) if empty else self._all.argmax(axis=2)

    def right(self) -> np.ndarray:
        """int64 (L,): of the tokens that the draft was judged on, those that it gets right."""
        if self._judged.size == 0:
            return NONE
        return np.take_along_axis(self._judged, self.guess[..., None], 2).sum(axis=(0, 2))

    def judged(self) -> np.ndarray:
        """int64 (L,): tokens of known codes that the draft was judged on."""
        return self._judged.sum(axis=(0, 2))


def _grown(table: np.ndarray, needed: tuple[int, ...]) -> np.ndarray:
    grown = np.zeros(np.maximum(table.shape, needed), dtype=np.int64)
    grown[tuple(map(slice, table.shape))] = table
    return grown


# --- counts of an arm and suite ----------------------------------------------------------------

BY_LAYER = (*LISTS, "judged", "whole", "majority")


@dataclass(frozen=True)
class Counts:
    """What chunks of an arm and suite add up to. None: of some of them it was not recorded."""

    chunks: int = 0
    near_ties: int = 0
    all_passes: int | None = 0
    passes: Counter[int] | None = field(default_factory=Counter)  # number of passes -> chunks
    layers: Mapping[str, np.ndarray | None] = field(  # BY_LAYER -> int64 (L,)
        default_factory=lambda: dict.fromkeys(BY_LAYER, NONE)
    )
    stages: Mapping[str, list[np.ndarray]] = field(  # STAGES -> s; together float64 (chunks,)
        default_factory=lambda: {stage: [] for stage in STAGES}
    )

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.chunks + other.chunks,
            self.near_ties + other.near_ties,
            _known_sum(self.all_passes, other.all_passes),
            _known_sum(self.passes, other.passes),
            {name: _padded_sum(self.layers[name], other.layers[name]) for name in BY_LAYER},
            {stage: self.stages[stage] + other.stages[stage] for stage in STAGES},
        )


def _known_sum(first: Any, second: Any) -> Any:
    return None if first is None or second is None else first + second


def _padded_sum(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    """Of numbers by layer; arms decode different numbers of layers."""
    if first is None or second is None:
        return None
    depth = max(len(first), len(second))
    return widened(first, depth) + widened(second, depth)


class Tally:
    """The chunk rows of one arm and suite, as they come."""

    def __init__(self) -> None:
        self.majority = Majority()
        self._counts = Counts()

    def add(self, rows: pa.RecordBatch) -> None:
        """Rows with COLUMNS, of this arm and suite."""
        tables = guesses_by_layer(rows)
        for places, codes in codes_by_layers(rows["codes"], numbers(rows["layers"])):
            judged = tables["judged"][places].astype(bool)
            self.majority.add(codes, widened(judged, codes.shape[2]))
        passes = None if rows["passes"].null_count else rows["passes"].to_numpy()
        self._counts += Counts(
            chunks=len(rows),
            near_ties=int(numbers(rows["canonical"]).sum()),
            all_passes=None if passes is None else int(passes.sum()),
            passes=None if passes is None else how_often(passes),
            layers={name: table.sum(axis=0) for name, table in tables.items()} | {"majority": NONE},
            stages={stage: [numbers(rows[f"{stage}_s"]).copy()] for stage in STAGES},
        )

    def counts(self) -> Counts:
        """So far. The constant guess is unknown where it was judged on other tokens than the draft:
        some chunks have no codes."""
        drafted = self._counts.layers["drafted"]
        complete = drafted is not None and np.array_equal(self.majority.judged(), drafted)
        majority = self.majority.right() if complete else None
        return replace(self._counts, layers={**self._counts.layers, "majority": majority})


def how_often(values: np.ndarray) -> Counter[int]:
    """Value -> how often it is there."""
    found, counts = np.unique(values, return_counts=True)
    return Counter(dict(zip(found.tolist(), counts.tolist(), strict=True)))


def tally(runs: Iterable[Committed]) -> dict[str, dict[str, Tally]]:
    """By arm, then by suite."""
    found: dict[str, dict[str, Tally]] = {}
    for parts in runs:
        for batch in parts.chunks(COLUMNS):
            for arm, suite, rows in grouped(batch):
                found.setdefault(arm, {}).setdefault(suite, Tally()).add(rows)
    return found


# --- what they say -----------------------------------------------------------------------------


def acceptance(counts: Counts) -> list[LayerAcceptance]:
    """By layer. The constant guess is another one in each suite."""
    return [
        _layer(layer, {name: _at(row, layer) for name, row in counts.layers.items()})
        for layer in range(max(len(row) for row in counts.layers.values() if row is not None))
    ]


def _at(row: np.ndarray | None, layer: int) -> int | None:
    return None if row is None else int(row[layer]) if layer < len(row) else 0


def _layer(layer: int, of: Mapping[str, int | None]) -> LayerAcceptance:
    return LayerAcceptance(
        layer=layer,
        **of,
        rate=share(of["accepted"], of["drafted"]),
        later_rate=share(of["reaccepted"], of["redrafted"]),
        whole_rate=share(of["whole"], of["judged"]),
        majority_rate=share(of["majority"], of["drafted"]),
    )


def share(part: int | None, whole: int | None) -> float | None:
    """None of nothing, and of what is unknown."""
    return part / whole if part is not None and whole else None


def chunk_cost(counts: Counts) -> ChunkCost:
    """Of all their chunks."""
    stages = {stage: np.concatenate([NONE, *parts]) for stage, parts in counts.stages.items()}
    passes = counts.passes or Counter()
    values = np.repeat(np.array(list(passes), np.int64), np.array(list(passes.values()), np.int64))
    return ChunkCost(
        chunks=counts.chunks,
        passes_mean=share(counts.all_passes, counts.chunks),
        passes_median=quantiles(values).median,
        passes=dict(sorted(passes.items())),
        unjudged=share(passes[0], passes.total()),
        near_ties=share(counts.near_ties, counts.chunks),
        total=quantiles(sum(stages.values(), start=np.zeros(()))),
        stages={stage: quantiles(values) for stage, values in stages.items()},
    )
