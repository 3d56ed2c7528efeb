"""What the chunk rows of a run add up to, by arm and suite, read some rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from rsd.books import Committed
from rsd.statistics import Quantiles, quantiles

STAGES = ("queue", "vision", "draft", "target", "detokenise")
LISTS = ("drafted", "accepted", "redrafted", "reaccepted")

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


def by_layer(lists: pa.ListArray) -> np.ndarray:
    """n lists of numbers of layers, layer 0 first -> int64 (n, L), zeros where a list is shorter;
    arms decode different numbers of layers."""
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    layers = int(lengths.max(initial=0))
    table = np.zeros((len(lengths), layers), dtype=np.int64)
    table[np.arange(layers) < lengths[:, None]] = lists.flatten().to_numpy(zero_copy_only=False)
    return table


def codes_by_layers(codes: pa.ListArray, layers: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Rows with codes, those of one shape together: indices (n,) and codes uint8 (n, T D, layers).

    Raises ValueError for a row whose codes are not `layers` to each of its T D tokens.
    """
    known = np.flatnonzero(codes.is_valid().to_numpy(zero_copy_only=False))
    lengths = codes.value_lengths().to_numpy(zero_copy_only=False)[known].astype(np.int64)
    values = codes.flatten().to_numpy(zero_copy_only=False)
    depths = layers[known]
    ends = np.cumsum(lengths)
    for length, depth in set(zip(lengths.tolist(), depths.tolist(), strict=True)):
        if depth < 1 or length % depth:
            raise ValueError(f"{length} codes are not those of {depth} layers")
        rows = np.flatnonzero((lengths == length) & (depths == depth))
        whole = len(rows) == len(known)  # the usual case, and no copy
        chosen = values if whole else values[(ends[rows] - length)[:, None] + np.arange(length)]
        yield known[rows], chosen.reshape(-1, length // depth, depth)


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

    def right(self) -> list[int]:
        """By layer: of the tokens that the draft was judged on, those that the guess gets right."""
        if self._judged.size == 0:
            return []
        return np.take_along_axis(self._judged, self.guess[..., None], 2).sum(axis=(0, 2)).tolist()

    def judged(self) -> list[int]:
        """By layer: tokens of known codes that the draft was judged on."""
        return self._judged.sum(axis=(0, 2)).tolist()


def _grown(table: np.ndarray, needed: tuple[int, ...]) -> np.ndarray:
    grown = np.zeros(np.maximum(table.shape, needed), dtype=np.int64)
    grown[tuple(map(slice, table.shape))] = table
    return grown


@dataclass
class Tally:
    """The chunk rows of one arm and suite."""

    chunks: int = 0
    near_ties: int = 0
    tokens: dict[str, np.ndarray] = field(default_factory=dict)  # LISTS -> int64 (L,)
    judged: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # chunks, by layer
    whole: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # of those, kept whole
    majority: Majority = field(default_factory=Majority)
    passes: list[np.ndarray] = field(default_factory=list)
    stages: dict[str, list[np.ndarray]] = field(
        default_factory=lambda: {stage: [] for stage in STAGES}
    )  # s, float64

    def add(self, rows: pa.RecordBatch) -> None:
        """Rows with COLUMNS, of this arm and suite."""
        self.chunks += len(rows)
        self.near_ties += rows["canonical"].true_count
        lists = {name: by_layer(rows[name]) for name in LISTS}
        layers = rows["layers"].to_numpy(zero_copy_only=False)
        depth = max(int(layers.max(initial=0)), *(one.shape[1] for one in lists.values()))
        for name, table in lists.items():
            self.tokens[name] = _sum(self.tokens.get(name, _NOTHING), table.sum(axis=0), depth)
        judged, whole = whole_layers(lists["drafted"], lists["accepted"])
        self.judged = _sum(self.judged, judged.sum(axis=0), depth)
        self.whole = _sum(self.whole, whole.sum(axis=0), depth)
        for places, codes in codes_by_layers(rows["codes"], layers):
            self.majority.add(codes, widened(judged[places], codes.shape[2]))
        self.passes.append(rows["passes"].to_numpy(zero_copy_only=False).copy())
        for stage, kept in self.stages.items():
            kept.append(rows[f"{stage}_s"].to_numpy(zero_copy_only=False).copy())


_NOTHING = np.zeros(0, np.int64)


def whole_layers(drafted: np.ndarray, accepted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bool (n, L): layers that the first pass judged, and those of them that it kept whole."""
    judged = drafted > 0
    return judged, judged & (accepted == drafted)


def widened(table: np.ndarray, layers: int) -> np.ndarray:
    """(n, k) -> (n, layers), with zeros or cut."""
    wide = np.zeros((len(table), layers), dtype=table.dtype)
    wide[:, : table.shape[1]] = table[:, :layers]
    return wide


def _sum(first: np.ndarray, second: np.ndarray, least: int = 0) -> np.ndarray:
    """Of two rows of numbers by layer, of different lengths."""
    total = np.zeros(max(len(first), len(second), least), dtype=np.int64)
    total[: len(first)] += first
    total[: len(second)] += second
    return total


def grouped(rows: pa.RecordBatch) -> Iterator[tuple[str, str, pa.RecordBatch]]:
    """Rows by arm and suite."""
    arms, suites = (rows[name].dictionary_encode() for name in ("arm", "suite"))
    arm, suite = (names.indices.to_numpy(zero_copy_only=False) for names in (arms, suites))
    group = arm * len(suites.dictionary) + suite
    for one in np.unique(group):
        first, second = divmod(int(one), len(suites.dictionary))
        mine = rows.filter(pa.array(group == one))
        yield arms.dictionary[first].as_py(), suites.dictionary[second].as_py(), mine


def tally(parts: Committed) -> dict[str, dict[str, Tally]]:
    """By arm, then by suite."""
    found: dict[str, dict[str, Tally]] = {}
    for batch in parts.chunks(COLUMNS):
        for arm, suite, rows in grouped(batch):
            found.setdefault(arm, {}).setdefault(suite, Tally()).add(rows)
    return found


# --- what they say -----------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerAcceptance:
    """Guesses of one layer over chunks of an arm."""

    layer: int
    drafted: int  # tokens judged against the draft's own guess, in first passes
    accepted: int
    rate: float | None  # None where nothing was drafted
    redrafted: int  # judged against a guess after a rejection, in later passes
    reaccepted: int
    later_rate: float | None  # None where nothing was redrafted
    judged: int  # chunks whose layer the first pass judged
    whole: int  # of those, layers kept whole
    whole_rate: float | None
    majority: int | None  # of the drafted tokens, those that a constant guess gets right (Majority)
    majority_rate: float | None  # None where nothing was drafted or codes were not recorded


@dataclass(frozen=True)
class ChunkCost:
    """Passes and latency of an arm's decodes; seconds of the request's batch."""

    chunks: int
    passes_mean: float | None
    passes_median: float | None
    near_ties: float | None  # share of chunks whose near ties a canonical recompute settled
    total: Quantiles  # s, sum of the stages of one chunk
    stages: dict[str, Quantiles]  # s, by stage


def acceptance(tallies: Iterable[Tally]) -> list[LayerAcceptance]:
    """By layer. The constant guess is another one in each tally."""
    tallies = list(tallies)
    tokens = {name: _total(one.tokens.get(name, _NOTHING) for one in tallies) for name in LISTS}
    judged, whole = (_total(getattr(one, name) for one in tallies) for name in ("judged", "whole"))
    right = _total(np.array(one.majority.right(), np.int64) for one in tallies)
    known = _total(np.array(one.majority.judged(), np.int64) for one in tallies)
    found = []
    for layer in range(len(judged)):
        drafted, accepted, redrafted, reaccepted = (int(tokens[name][layer]) for name in LISTS)
        complete = layer < len(known) and known[layer] == drafted
        majority = int(right[layer]) if complete else None
        found.append(
            LayerAcceptance(
                layer=layer,
                drafted=drafted,
                accepted=accepted,
                rate=share(accepted, drafted),
                redrafted=redrafted,
                reaccepted=reaccepted,
                later_rate=share(reaccepted, redrafted),
                judged=int(judged[layer]),
                whole=int(whole[layer]),
                whole_rate=share(int(whole[layer]), int(judged[layer])),
                majority=majority,
                majority_rate=None if majority is None else share(majority, drafted),
            )
        )
    return found


def share(part: int, whole: int) -> float | None:
    """None of nothing."""
    return part / whole if whole else None


def _total(rows: Iterable[np.ndarray]) -> np.ndarray:
    total = _NOTHING
    for row in rows:
        total = _sum(total, row)
    return total


def chunk_cost(tallies: Iterable[Tally]) -> ChunkCost:
    """Of all their chunks."""
    tallies = list(tallies)
    chunks = sum(one.chunks for one in tallies)
    passes = _joined(one.passes for one in tallies)
    stages = {stage: _joined(one.stages[stage] for one in tallies) for stage in STAGES}
    return ChunkCost(
        chunks=chunks,
        passes_mean=float(passes.mean()) if chunks else None,
        passes_median=quantiles(passes).median,
        near_ties=share(sum(one.near_ties for one in tallies), chunks),
        total=quantiles(sum(stages.values(), start=np.zeros(chunks))),
        stages={stage: quantiles(values) for stage, values in stages.items()},
    )


def _joined(lists: Iterable[list[np.ndarray]]) -> np.ndarray:
    arrays = [array for one in lists for array in one]
    return np.concatenate(arrays) if arrays else np.zeros(0)
