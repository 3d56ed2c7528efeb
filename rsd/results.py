"""Published results: runs in a compact form that fits into a repository, and the tables from them.

A file holds one run, a row an episode; runs of one policy on the same assets share a table. What is
dropped against the run's own Parquet: times of single stages, names of workers, codes and hashes of
chunks. Columns that a file was kept without are null, and what follows from them is unknown.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rsd import conditions
from rsd.books import Column, Committed, committed, read_rows, read_run
from rsd.errors import UserError, unknown
from rsd.outputs import write_file
from rsd.summary.compute import Rows, first_key, one_assets, stored_episodes, summary_of
from rsd.summary.origin import decodings, origin_of, provenance
from rsd.summary.rules import AGAINST_BASELINE, MARGIN
from rsd.summary.tallies import (
    BY_LAYER,
    NONE,
    Counts,
    Majority,
    codes_by_layers,
    grouped,
    guesses_by_layer,
    how_often,
    lengths_of,
    numbers,
    tally,
    widened,
)
from rsd.summary.values import Summary

SUFFIX = ".parquet"
_STATE = "final_state_sha256"
STATE_DIGITS = 12  # hex; enough to tell 12,000 states apart
WORLD = ["suite", "task_id", "trial"]
KEY = ["arm", *WORLD]

_NAME = pa.dictionary(pa.int16(), pa.string())
_PER_LAYER = pa.list_(pa.field("item", pa.int32(), nullable=False))
_PASSES = pa.list_(pa.field("item", pa.int8(), nullable=False))
SCHEMA = pa.schema(
    [
        column.field()
        for column in (
            Column("arm", _NAME, "name", "the decoding; arms share every world"),
            Column("suite", _NAME, "name", "LIBERO suite"),
            Column("task_id", pa.int16(), "1", "task of the suite, 0-based, LIBERO's task order 0"),
            Column("trial", pa.int16(), "1", "row of LIBERO's stored initial states, 0..49"),
            Column("outcome", _NAME, "name", "success, timeout or error"),
            Column(
                "steps", pa.int16(), "control steps", "policy steps executed (20 Hz)", nullable=True
            ),
            Column("chunks", pa.int16(), "1", "decodes asked for", nullable=True),
            Column(
                "passes",
                pa.int16(),
                "1",
                "forwards of the target's backbone, all chunks; null where not recorded",
                nullable=True,
            ),
            Column("drafted", _PER_LAYER, "tokens per layer", "judged in first passes, all chunks"),
            Column("accepted", _PER_LAYER, "tokens per layer", "of those, tokens kept"),
            Column(
                "chunk_passes",
                _PASSES,
                "1",
                "forwards of each chunk, in their order",
                nullable=True,
            ),
            Column(
                "judged",
                _PER_LAYER,
                "chunks per layer",
                "chunks whose layer the first pass judged: all coarser ones were kept",
                nullable=True,
            ),
            Column(
                "whole",
                _PER_LAYER,
                "chunks per layer",
                "of those, chunks that kept every token of the layer",
                nullable=True,
            ),
            Column(
                "majority",
                _PER_LAYER,
                "tokens per layer",
                "of the drafted tokens, those that a constant guess gets right: the most frequent "
                "level of each (step, dim, layer) in all this run's chunks of the arm and suite, "
                "chosen in hindsight; null where codes were not recorded",
                nullable=True,
            ),
            Column("near_ties", pa.int16(), "1", "chunks settled by a canonical recompute"),
            Column(
                "wall_s", pa.float32(), "s", "of the whole episode on its worker", nullable=True
            ),
            Column(
                "final_state",
                _NAME,
                "hex",
                f"first {STATE_DIGITS} digits of the state's hash",
                nullable=True,
            ),
            Column(
                "source",
                _NAME,
                "name",
                "software of imported results, which leave steps, chunks, wall_s and final_state "
                "null where it does not say; null: RSD's own",
                nullable=True,
            ),
        )
    ]
)


def keep(run: str, path: Path, arms: Sequence[str] = ()) -> int:
    """Write the run in folder `run` to `path` compactly, of some `arms` if any are named; returns
    the number of episodes.

    Raises UserError for a folder without a run, an unfinished run (what solves its task ends early:
    the rate of a part is too high), a run on several assets or with several seeds, an arm that it
    has not, or a path that cannot be written.
    """
    record = read_run(run)
    parts = committed(run)
    episodes = stored_episodes(run, parts, _EPISODE_COLUMNS)
    planned = record.get("planned_episodes")
    if planned != len(episodes):
        imported = "have it finished where it was made, and import it again into another --output"
        raise UserError(
            f"{run} holds {len(episodes)} of {planned or 'an unknown number of'} planned episodes; "
            + (imported if record.get("source") else "finish it with --resume")
        )
    one_assets(run, episodes)
    if episodes["seed"].nunique() > 1:
        raise UserError(f"{run} has several seeds; the compact form holds one")
    origin = origin_of(record)
    if arms:
        origin = _with_arms(origin, arms)
        episodes = episodes[episodes["arm"].isin(arms)]
    table = _compact(episodes, parts)
    described = SCHEMA.with_metadata({"run": json.dumps(origin)})
    try:
        rows = pa.Table.from_pandas(table, described, preserve_index=False)
    except pa.ArrowInvalid as error:
        raise UserError(f"{run} holds a number that the compact form cannot: {error}") from error
    content = io.BytesIO()
    pq.write_table(
        rows,
        content,
        compression="zstd",
        compression_level=19,
    )
    write_file(path, content.getvalue(), "--folder")
    return len(table)


def _with_arms(origin: dict[str, Any], arms: Sequence[str]) -> dict[str, Any]:
    decoded = origin["config"]["arms"]
    for arm in arms:
        if arm not in decoded:
            raise unknown("arm", arm, decoded)
    kept = {arm: how for arm, how in decoded.items() if arm in arms}
    return origin | {"config": origin["config"] | {"arms": kept}}


_EPISODE_COLUMNS = (*KEY, "seed", "outcome", "steps", "wall_s", "assets", "source", _STATE)


def _compact(episodes: pd.DataFrame, parts: Committed) -> pd.DataFrame:
    """A row an episode, sorted by KEY, with SCHEMA's columns."""
    episodes = episodes.sort_values(KEY, ignore_index=True)
    sums = _by_episode(pd.MultiIndex.from_frame(episodes[KEY]), parts)
    state = episodes[_STATE].str[:STATE_DIGITS]
    return episodes.assign(final_state=state, **sums)[SCHEMA.names]


def _by_episode(keys: pd.MultiIndex, parts: Committed) -> dict[str, Any]:
    """What the chunks of each episode add up to, in the order of `keys`; lists by layer are empty
    where an episode has no chunk."""
    guesses = {
        (arm, suite): one.majority
        for arm, suites in tally([parts]).items()
        for suite, one in suites.items()
    }
    kept = set(keys.get_level_values("arm"))
    totals = {name: np.zeros((len(keys), 0), dtype=np.int64) for name in _BY_LAYER}
    depth, near_ties, lost = (np.zeros(len(keys), dtype=np.int64) for _ in range(3))
    passes = [np.zeros((0, 3), dtype=np.int64)]
    for batch in parts.chunks(_CHUNK_COLUMNS):
        for arm, suite, rows in grouped(batch):
            if arm not in kept:
                continue
            places = keys.get_indexer(pd.MultiIndex.from_frame(rows.select(KEY).to_pandas()))
            np.maximum.at(depth, places, numbers(rows["layers"]))
            np.add.at(near_ties, places, numbers(rows["canonical"]))
            known = rows["passes"].fill_null(_NOT_RECORDED).to_numpy()
            passes.append(np.stack([places, numbers(rows["chunk_index"]), known], axis=1))
            tables = _with_majority(rows, guesses[arm, suite])
            np.add.at(lost, places, tables["judged"].any(axis=1) & (lengths_of(rows["codes"]) == 0))
            for name, counts in tables.items():
                width = max(totals[name].shape[1], counts.shape[1])
                totals[name] = widened(totals[name], width)
                np.add.at(totals[name], places, widened(counts, width))
    per_chunk = _split(np.concatenate(passes), len(keys))
    lists: dict[str, list[Any]] = {
        name: [row[:layers].tolist() for row, layers in zip(table, depth, strict=True)]
        for name, table in ((n, widened(t, int(depth.max(initial=0)))) for n, t in totals.items())
    }
    for place in np.flatnonzero(lost):  # codes that a guess was judged on
        lists["majority"][place] = None
    told = [None if _NOT_RECORDED in own else own for own in per_chunk]
    return {
        "chunks": [len(own) for own in per_chunk],
        "passes": pd.array([None if own is None else sum(own) for own in told], dtype="Int16"),
        "near_ties": near_ties.astype(np.int16),
        "chunk_passes": told,
        **lists,
    }


_NOT_RECORDED = -1  # passes
_BY_LAYER = ("drafted", "accepted", "judged", "whole", "majority")
_CHUNK_COLUMNS = (
    *KEY,
    "chunk_index",
    "drafted",
    "accepted",
    "passes",
    "layers",
    "canonical",
    "codes",
)


def _with_majority(rows: pa.RecordBatch, majority: Majority) -> dict[str, np.ndarray]:
    """Of chunk rows of one arm and suite: numbers by row and layer, int64 (n, L)."""
    tables = guesses_by_layer(rows)
    right = np.zeros_like(tables["judged"])
    for places, codes in codes_by_layers(rows["codes"], numbers(rows["layers"])):
        tokens, depth = codes.shape[1:]
        same = (codes == majority.guess[:tokens, :depth]).sum(axis=1)
        right[places, :depth] = same * tables["judged"][places, :depth]
    return tables | {"majority": right}


def _split(passes: np.ndarray, episodes: int) -> list[list[int]]:
    """Rows (episode, chunk, passes) in any order -> the passes of each episode, by chunk."""
    passes = passes[np.lexsort((passes[:, 1], passes[:, 0]))]
    ends = np.cumsum(np.bincount(passes[:, 0], minlength=episodes))
    return [own.tolist() for own in np.split(passes[:, 2], ends[:-1])] if episodes else []


def read(path: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """What made a compact file, and its rows. Raises UserError for another kind of file."""
    try:
        origin: dict[str, Any] = json.loads(pq.read_schema(path).metadata[b"run"])
        rows = read_rows([str(path)], SCHEMA).to_pandas()
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path} is no file of `rsd results keep` ({error!r})") from error
    return origin, rows


# --- what may share a table -----------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """Files whose rows are one table: of one policy under the same conditions (`_conditions`)."""

    names: tuple[str, ...]
    origins: tuple[dict[str, Any], ...]  # what made each file
    rows: pd.DataFrame


def published(paths: Sequence[Path]) -> list[Published]:
    """The files of `keep`, those together whose rows may be compared.

    Raises UserError for an episode that two files of one table hold, and whatever `read` does.
    """
    groups: dict[str, list[Path]] = {}
    read_once = {path: read(path) for path in paths}
    for path, (origin, _) in read_once.items():
        groups.setdefault(_conditions(origin), []).append(path)
    return [_together({path: read_once[path] for path in group}) for group in groups.values()]


def of_trials(groups: Sequence[Published], trials: Sequence[int]) -> list[Published]:
    """What there is of some trials. Raises UserError for trials that nothing has."""
    known = sorted({int(trial) for group in groups for trial in group.rows["trial"]})
    for trial in trials:
        if trial not in known:
            raise UserError(f"--trials {trial}: there are {', '.join(map(str, known))}")
    kept = [
        dataclasses.replace(group, rows=group.rows[group.rows["trial"].isin(trials)])
        for group in groups
    ]
    return [group for group in kept if len(group.rows)]


def _conditions(origin: dict[str, Any]) -> str:
    """What must be the same for rows to be compared."""
    return json.dumps(conditions.of_rows(origin), sort_keys=True)


def _together(files: dict[Path, tuple[dict[str, Any], pd.DataFrame]]) -> Published:
    decodings({str(path): origin for path, (origin, _) in files.items()})
    names = {field.name: "str" for field in SCHEMA if pa.types.is_dictionary(field.type)}
    rows = pd.concat([rows.astype(names) for _, rows in files.values()], ignore_index=True)
    twice = rows[rows.duplicated(KEY)]
    if len(twice):
        raise UserError(
            f"{len(twice)} episodes are in two of {', '.join(map(str, files))}, such as "
            f"{first_key(twice, KEY)}; keep each once"
        )
    return Published(
        tuple(path.stem for path in files), tuple(origin for origin, _ in files.values()), rows
    )


# --- what they say -------------------------------------------------------------------------------


def summary(group: Published, margin: float = MARGIN) -> Summary:
    """As that of a run, but for times; every arm against the baseline."""
    counts: dict[str, dict[str, Counts]] = {}
    for (arm, suite), rows in group.rows.groupby(["arm", "suite"]):
        counts.setdefault(str(arm), {})[str(suite)] = _counts(rows)
    return summary_of(
        Rows(episodes(group), counts),
        group.names,
        provenance(group.origins),
        margin,
        AGAINST_BASELINE,
        decodings(dict(zip(group.names, group.origins, strict=True))),
    )


def episodes(group: Published) -> pd.DataFrame:
    """Its rows with the names of a run's; of the final state's hash the first STATE_DIGITS."""
    return group.rows.rename(columns={"final_state": "final_state_sha256"}).assign(seed=0)


def _counts(rows: pd.DataFrame) -> Counts:
    """Of the episodes of an arm and suite."""
    passes = _all_or_none(rows["chunk_passes"])
    return Counts(
        chunks=int(rows["chunks"].sum()),
        near_ties=int(rows["near_ties"].sum()),
        all_passes=None if rows["passes"].isna().any() else int(rows["passes"].sum()),
        passes=None if passes is None else how_often(np.concatenate([NONE, *passes])),
        layers={name: _sum_by_layer(rows[name]) if name in rows else None for name in BY_LAYER},
    )


def _all_or_none(lists: pd.Series) -> list[np.ndarray] | None:
    return None if any(one is None for one in lists) else list(lists)


def _sum_by_layer(lists: pd.Series) -> np.ndarray | None:
    """Over rows of different lengths, where arms decode fewer; None where a row's is unknown."""
    known = _all_or_none(lists)
    if known is None:
        return None
    table = np.zeros((len(known), max(map(len, known), default=0)), dtype=np.int64)
    for row, own in zip(table, known, strict=True):
        row[: len(own)] = own
    return table.sum(axis=0)
