"""Where within its episodes an arm's guesses are kept: by phase of the task, by time, by path left.

Read some parts at a time; what is kept of them are sums, so memory does not grow with the run.
Intervals take episodes as independent, and nothing inside them (`RatioSums`).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rsd.books import KEY, Committed
from rsd.errors import UserError
from rsd.summary.phases import PHASES, UNKNOWN, motion
from rsd.summary.statistics import RatioSums, ratio_interval, share_interval
from rsd.summary.tallies import (
    codes_by_layers,
    decodes,
    guesses_by_layer,
    lengths_of,
    numbers,
    widened,
)
from rsd.types import ACTION_DIM

TENTHS = 10  # of an episode's chunks
PATH_CM = (0, 5, 10, 20, 40, 80)  # commanded path left, `Motion.left_m`
PLACES = {  # what chunks are sorted by -> its labels
    "episode": ("all",),
    "phase": PHASES,
    "time": tuple(f"{10 * tenth}-{10 * tenth + 10} %" for tenth in range(TENTHS)),
    "path left": (
        *(f"{low}-{high} cm" for low, high in itertools.pairwise(PATH_CM)),
        f"{PATH_CM[-1]} cm-",
    ),
}

# uint8 (n, T D, K) -> the actions float32 (n, T, 7) that they mean
Decode = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Kept:
    """Of the chunks of some episodes, by a place's labels (P,) and layers (L,)."""

    tokens: RatioSums  # (P, L): accepted of drafted
    whole: RatioSums  # (P, L): kept whole of judged layers
    passes: RatioSums  # (P,): passes of chunks

    def __add__(self, other: Kept) -> Kept:
        """Of other episodes."""
        layers = max(self.tokens.x.shape[-1], other.tokens.x.shape[-1])
        return Kept(
            _widened(self.tokens, layers) + _widened(other.tokens, layers),
            _widened(self.whole, layers) + _widened(other.whole, layers),
            self.passes + other.passes,
        )


def _widened(sums: RatioSums, layers: int) -> RatioSums:
    return RatioSums(*(widened(term, layers) for term in vars(sums).values()))


@dataclass(frozen=True)
class Group:
    """Episodes that are counted together."""

    arm: str
    suite: str
    outcome: str


@dataclass(frozen=True)
class Within:
    """Of a run, or of several together."""

    kept: Mapping[str, Mapping[Group, Kept]]  # by PLACES
    chunks: int
    unknown: int  # of them, chunks whose executed actions are not known: in no phase, no path

    @classmethod
    def empty(cls) -> Within:
        return cls({place: {} for place in PLACES}, 0, 0)

    def __add__(self, other: Within) -> Within:
        kept = {place: dict(groups) for place, groups in self.kept.items()}
        for place, groups in other.kept.items():
            _join(kept[place], groups)
        return Within(kept, self.chunks + other.chunks, self.unknown + other.unknown)

    def table(self, place: str, outcome: str | None = None, suite: str | None = None) -> Any:
        """A row an arm, label and layer, of episodes with that outcome and suite (None: all that
        finished): `rate` of tokens and `whole_rate` of layers, each with `low` and `high`."""
        return pd.DataFrame(
            row
            for arm, kept in self._arms(place, outcome, suite).items()
            for row in _rows(arm, PLACES[place], kept)
        )

    def passes(self, place: str, outcome: str | None = None, suite: str | None = None) -> Any:
        """A row an arm and label: chunks, episodes, and the mean of passes with its interval."""
        rows = []
        for arm, kept in self._arms(place, outcome, suite).items():
            low, high = ratio_interval(kept.passes)
            for at, label in enumerate(PLACES[place]):
                if kept.passes.x[at]:
                    counts = (int(kept.passes.x[at]), int(kept.passes.clusters[at]))
                    mean = (float(kept.passes.ratio[at]), float(low[at]), float(high[at]))
                    rows.append((arm, label, *counts, *mean))
        names = ["arm", place, "chunks", "episodes", "passes", "low", "high"]
        return pd.DataFrame(rows, columns=names)

    def _arms(self, place: str, outcome: str | None, suite: str | None) -> dict[str, Kept]:
        found: dict[str, Kept] = {}
        for group, kept in self.kept[place].items():
            if outcome in (None, group.outcome) and suite in (None, group.suite):
                _join(found, {group.arm: kept})
        return found


def _rows(arm: str, labels: tuple[str, ...], kept: Kept) -> Iterator[dict[str, Any]]:
    low, high = share_interval(kept.tokens)
    whole_low, whole_high = share_interval(kept.whole)
    for at, layer in zip(*np.nonzero(kept.tokens.x), strict=True):
        yield {
            "arm": arm,
            "place": labels[at],
            "layer": int(layer),
            "episodes": int(kept.tokens.clusters[at, layer]),
            "drafted": int(kept.tokens.x[at, layer]),
            "rate": float(kept.tokens.ratio[at, layer]),
            "low": float(low[at, layer]),
            "high": float(high[at, layer]),
            "judged": int(kept.whole.x[at, layer]),
            "whole_rate": float(kept.whole.ratio[at, layer]),
            "whole_low": float(whole_low[at, layer]),
            "whole_high": float(whole_high[at, layer]),
        }


def _join(into: dict[Any, Kept], groups: Mapping[Any, Kept]) -> None:
    for name, kept in groups.items():
        into[name] = into[name] + kept if name in into else kept


# --- reading -----------------------------------------------------------------------------------

_COLUMNS = (*KEY, "chunk_index", "drafted", "accepted", "passes", "layers", "actions")
_CODES = ("passes", "layers", "codes", "action_sha256")


def within(parts: Committed, decode: Decode | None = None) -> Within:
    """Of the finished episodes of a run.

    `decode` says what codes mean, for runs from before actions were recorded: it is believed where
    its actions have the hash of the executed ones. A last chunk's are then all of it, also where
    the episode ended in it.
    """
    found = Within.empty()
    for some in parts.portions():
        found += _portion(some, decode)
    return found


def _decodes(some: Committed, columns: tuple[str, ...]) -> pa.RecordBatch:
    """Chunk rows but those of experts, in the order of the parts."""
    table = decodes(some.all_chunks(columns)).combine_chunks()
    return (table.to_batches() or [pa.RecordBatch.from_pylist([], table.schema)])[0]


def _portion(some: Committed, decode: Decode | None) -> Within:
    kept: dict[str, dict[Group, Kept]] = {place: {} for place in PLACES}
    rows = _decodes(some, _COLUMNS)
    if not len(rows):
        return Within(kept, 0, 0)
    index = numbers(rows["chunk_index"])
    begins = index == 0
    episode = np.cumsum(begins) - 1
    episodes = _episodes(some, rows.filter(pa.array(begins)))
    if not np.array_equal(index, np.arange(len(index)) - np.flatnonzero(begins)[episode]):
        raise UserError("chunks of an episode are not in their order, together: copy the run again")
    actions, steps = _executed(rows)
    if decode is not None and not steps.any():
        actions, steps = _decoded(_decodes(some, _CODES), decode)
    moved = motion(actions, steps, begins)
    length = np.bincount(episode)
    left = np.digitize(np.round(100 * moved.left_m, 6), PATH_CM[1:])
    places = {
        "episode": np.zeros(len(index), np.int64),
        "phase": moved.phase,
        "time": index * TENTHS // length[episode],
        "path left": np.where(moved.phase == UNKNOWN, UNKNOWN, left),
    }
    tables = guesses_by_layer(rows) | {"passes": numbers(rows["passes"])}
    for group, own in episodes.groupby(["arm", "suite", "outcome"]).indices.items():
        if group[2] != "error":
            mine = np.isin(episode, own)
            chosen = {name: values[mine] for name, values in tables.items()}
            cluster = np.searchsorted(own, episode[mine])
            for place, labels in PLACES.items():
                label = places[place][mine]
                kept[place][Group(*group)] = _kept(chosen, cluster, label, len(own), len(labels))
    return Within(kept, len(index), int((moved.phase == UNKNOWN).sum()))


def actions_of_episodes(
    parts: Committed, arm: str, decode: Decode | None = None
) -> Iterator[np.ndarray]:
    """Executed actions float32 (S, 7) of each episode of an arm, an expert's too, as far as they
    are known; `decode` as in `within`."""
    for some in parts.portions():
        table = some.all_chunks((*_CODES, "arm", "chunk_index", "actions"))
        table = table.filter(pc.equal(table["arm"], arm)).combine_chunks()
        for rows in table.to_batches():
            actions, steps = _executed(rows)
            if decode is not None and not steps.any():
                actions, steps = _decoded(rows, decode)
            first = np.flatnonzero(numbers(rows["chunk_index"]) == 0)
            yield from np.split(actions, (np.cumsum(steps) - steps)[first[1:]])


def _episodes(some: Committed, firsts: pa.RecordBatch) -> pd.DataFrame:
    """Arm, suite and outcome of the episodes that these first chunks are of."""
    outcomes = some.episodes([*KEY, "outcome"]).to_pandas().set_index(KEY)["outcome"]
    keys = firsts.select(KEY).to_pandas()
    outcome = outcomes.reindex(pd.MultiIndex.from_frame(keys)).to_numpy()
    return keys[["arm", "suite"]].assign(outcome=outcome)


def _executed(rows: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    """Recorded actions float32 (S, 7) of all chunks, and steps int64 (n,) of each; 0: none."""
    flat = rows["actions"].flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, ACTION_DIM), lengths_of(rows["actions"]) // ACTION_DIM


def _decoded(rows: pa.RecordBatch, decode: Decode) -> tuple[np.ndarray, np.ndarray]:
    """The same from codes, as far as their actions have the recorded hash."""
    hashes = rows["action_sha256"].to_pylist()
    chunks: list[np.ndarray] = [np.zeros((0, ACTION_DIM), np.float32)] * len(rows)
    for places, codes in codes_by_layers(rows["codes"], numbers(rows["layers"])):
        for place, chunk in zip(places.tolist(), decode(codes), strict=True):
            if hashlib.sha256(chunk.tobytes()).hexdigest() == hashes[place]:
                chunks[place] = chunk
    steps = np.array([len(chunk) for chunk in chunks], dtype=np.int64)
    return np.concatenate([np.zeros((0, ACTION_DIM), np.float32), *chunks]), steps


def _kept(
    tables: Mapping[str, np.ndarray],
    cluster: np.ndarray,
    label: np.ndarray,
    clusters: int,
    labels: int,
) -> Kept:
    """Sums over `clusters` episodes and `labels` of chunk rows (n,) or (n, L)."""
    known = label != UNKNOWN
    cell = cluster[known] * labels + label[known]

    def by_cell(rows: np.ndarray) -> np.ndarray:
        columns = np.atleast_2d(rows[known].T)
        sums = [np.bincount(cell, column, clusters * labels) for column in columns]
        shape = (clusters, labels, len(sums))
        return np.stack(sums, axis=-1).reshape(shape) if sums else np.zeros(shape)

    return Kept(
        RatioSums.of(by_cell(tables["accepted"]), by_cell(tables["drafted"])),
        RatioSums.of(by_cell(tables["whole"]), by_cell(tables["judged"])),
        RatioSums.of(by_cell(tables["passes"])[..., 0], by_cell(np.ones(len(cluster)))[..., 0]),
    )
