"""Where two arms part: the first chunk in which they do something else in the same world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rsd.books import KEY
from rsd.summary.compute import WORLD, Run
from rsd.summary.tallies import decodes, numbers
from rsd.types import ACTION_DIM, EpisodeKey

World = tuple[str, int, int, int]  # suite, task_id, trial, seed


@dataclass(frozen=True)
class Parting:
    """Two arms over the worlds in which both recorded chunks."""

    first: str
    second: str
    worlds: int
    chunk: Mapping[World, int]  # the first one that differs, from 0; absent: none does

    def together(self) -> list[float]:
        """Share of worlds in which every chunk before the k-th was the same, k from 0."""
        counts = np.bincount(list(self.chunk.values()), minlength=1)
        before = np.concatenate([[0], np.cumsum(counts)])
        return (1 - before / self.worlds).tolist() if self.worlds else []


@dataclass(frozen=True)
class Difference:
    """What differs in the first chunk that does, as far as it was recorded."""

    step: int | None  # control steps that both had executed alike; None: no actions recorded
    layer: int | None  # the coarsest layer with another code; None: none, or no codes recorded
    tokens: int | None  # tokens of that layer with another code
    of_tokens: int | None
    action: float | None  # largest difference of two actions' values, controller input, -1 to 1


class Chunks:
    """What each arm did in each world, chunk by chunk, as hashes: 8 bytes a chunk and arm."""

    def __init__(self, runs: Sequence[Run], episodes: pd.DataFrame) -> None:
        keys = pd.MultiIndex.from_frame(episodes[KEY])
        world, self._worlds = pd.MultiIndex.from_frame(episodes[WORLD]).factorize()
        arm, self._arms = pd.factorize(episodes["arm"])
        most = max(1, int(episodes["chunks"].fillna(0).max())) if len(episodes) else 1
        shape = (len(self._arms), len(self._worlds), most)
        self._actions = np.zeros(shape, np.uint64)  # 0: no chunk
        for run in runs:
            for rows in map(decodes, run.parts.chunks(_COLUMNS)):
                place = keys.get_indexer(pd.MultiIndex.from_frame(rows.select(KEY).to_pandas()))
                names = rows["action_sha256"].to_numpy(zero_copy_only=False).astype(object)
                action = pd.util.hash_array(names, categorize=False)
                self._actions[arm[place], world[place], numbers(rows["chunk_index"])] = action
        lost = (episodes["outcome"] == "error").to_numpy()
        self._actions[arm[lost], world[lost]] = 0

    def parting(self, first: str, second: str) -> Parting:
        """Of two arms. Where one episode goes on behind the other's end they part there: another
        end is another verdict or another state."""
        one, other = (self._actions[self._arms.get_loc(arm)] for arm in (first, second))
        shared = (one[:, 0] != 0) & (other[:, 0] != 0)
        differs = one != other
        apart = np.flatnonzero(shared & differs.any(axis=1))
        chunk = {self._worlds[world]: int(differs[world].argmax()) for world in apart}
        return Parting(first, second, int(shared.sum()), chunk)


_COLUMNS = (*KEY, "chunk_index", "action_sha256", "passes", "layers")


def differences(
    runs: Sequence[Run], wanted: Mapping[tuple[EpisodeKey, EpisodeKey], int]
) -> dict[tuple[EpisodeKey, EpisodeKey], Difference]:
    """Of pairs of episodes in one world, with the chunk in which they part."""
    last: dict[EpisodeKey, int] = {}
    for pair, chunk in wanted.items():
        for key in pair:
            last[key] = max(chunk, last.get(key, 0))
    found: dict[tuple[EpisodeKey, int], _Said] = {}
    columns = [*KEY, "chunk_index", "layers", "codes", "actions"]
    homes = {key: home for run in runs for key, home in run.parts.homes().items() if key in last}
    for home in {id(home): home for home in homes.values()}.values():
        table = home.all_chunks(columns)
        keys = map(EpisodeKey, *(table[name].to_pylist() for name in KEY))
        places = enumerate(zip(keys, table["chunk_index"].to_pylist(), strict=True))
        for place, (key, index) in places:
            if index <= last.get(key, -1):
                said = (table[name][place].as_py() for name in ("codes", "layers", "actions"))
                found[key, index] = _Said.of(*said)
    return {pair: _difference(found, pair, chunk) for pair, chunk in wanted.items()}


@dataclass(frozen=True)
class _Said:
    """A chunk, as far as it was recorded."""

    codes: np.ndarray | None = None  # (T D, L)
    actions: np.ndarray | None = None  # (n, 7)

    @classmethod
    def of(cls, codes: list[int] | None, layers: int, actions: list[float] | None) -> _Said:
        return cls(
            None if not codes else np.array(codes).reshape(-1, layers),
            None if actions is None else np.array(actions).reshape(-1, ACTION_DIM),
        )


def _difference(
    found: Mapping[tuple[EpisodeKey, int], _Said],
    pair: tuple[EpisodeKey, EpisodeKey],
    chunk: int,
) -> Difference:
    first, second = (found.get((key, chunk), _Said()) for key in pair)
    before = [found.get((pair[0], index), _Said()).actions for index in range(chunk)]
    known = [actions for actions in before if actions is not None]
    step = sum(map(len, known)) if len(known) == chunk and first.actions is not None else None
    action = None
    if first.actions is not None and second.actions is not None:
        steps = min(len(first.actions), len(second.actions))
        apart = np.abs(first.actions[:steps] - second.actions[:steps])
        action = float(apart.max(initial=0))
        if step is not None and apart.any():
            step += int(np.argmax(apart.any(axis=1)))
    layer, tokens, of_tokens = _first_codes(first.codes, second.codes)
    return Difference(step, layer, tokens, of_tokens, action)


def _first_codes(
    first: np.ndarray | None, second: np.ndarray | None
) -> tuple[int | None, int | None, int | None]:
    """The coarsest layer with another code, in how many tokens, of how many."""
    if first is None or second is None or len(first) != len(second):
        return None, None, None
    depth = min(first.shape[1], second.shape[1])
    other = (first[:, :depth] != second[:, :depth]).sum(axis=0)
    if not other.any():
        return None, None, None
    layer = int(np.argmax(other > 0))
    return layer, int(other[layer]), len(first)
