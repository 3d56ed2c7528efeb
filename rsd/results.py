"""Published results: runs in a compact form that fits into a repository, and the tables from them.

A file holds one run, a row an episode; runs of one policy on the same assets share a table. What is
dropped against the run's own Parquet: times of single stages, names of workers, codes and hashes of
chunks. Columns that a file was kept without are null, and what follows from them is unknown.
"""

from __future__ import annotations

import io
import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rsd import conditions
from rsd.books import Column, Committed, committed, read_run
from rsd.errors import UserError
from rsd.outputs import write_atomically
from rsd.report import (
    COVERED,
    LOOKED_AT,
    MARGIN,
    one_assets,
    shared_draws,
    stored_episodes,
    success,
    unseen,
)
from rsd.statistics import Proportion, compare_pairs, holm, not_worse
from rsd.tallies import Majority, by_layer, codes_by_layers, grouped, tally, whole_layers, widened

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
            Column("steps", pa.int16(), "control steps", "policy steps executed (20 Hz)"),
            Column("chunks", pa.int16(), "1", "decodes asked for"),
            Column("passes", pa.int16(), "1", "forwards of the target's backbone, all chunks"),
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
            Column("wall_s", pa.float32(), "s", "of the whole episode on its worker"),
            Column("final_state", _NAME, "hex", f"first {STATE_DIGITS} digits of the state's hash"),
        )
    ]
)

_KEPT = (
    "run_id",
    "config",
    "checkpoint_sha256",
    "assets",
    "assets_fingerprint",
    "renderer",
    "arithmetic",
    "images",
    "simulator",
    "code",
    "packages",
    "hardware",
)


def keep(run: str, path: Path) -> int:
    """Write the run in folder `run` to `path` compactly; returns the number of episodes.

    Raises UserError for a folder without a run, an unfinished run (what solves its task ends early:
    the rate of a part is too high), a run on several assets or with several seeds, or a path that
    cannot be written.
    """
    record = read_run(run)
    parts = committed(run)
    episodes = stored_episodes(run, parts, _EPISODE_COLUMNS)
    planned = record.get("planned_episodes")
    if planned != len(episodes):
        raise UserError(
            f"{run} holds {len(episodes)} of {planned or 'an unknown number of'} planned episodes; "
            "finish it with --resume"
        )
    one_assets(run, episodes)
    if episodes["seed"].nunique() > 1:
        raise UserError(f"{run} has several seeds; the compact form holds one")
    table = _compact(episodes, parts)
    origin = {name: record.get(name) for name in _KEPT}
    origin["changes"] = [session["changes"] for session in record["sessions"]]
    origin["machines"] = conditions.machines(record)
    described = SCHEMA.with_metadata({"run": json.dumps(origin)})
    content = io.BytesIO()
    pq.write_table(
        pa.Table.from_pandas(table, described, preserve_index=False),
        content,
        compression="zstd",
        compression_level=19,
    )
    try:
        write_atomically(path, content.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from error
    return len(table)


_EPISODE_COLUMNS = (*KEY, "seed", "outcome", "steps", "chunks", "wall_s", "assets", _STATE)


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
        for arm, suites in tally(parts).items()
        for suite, one in suites.items()
    }
    totals: dict[str, np.ndarray] = {
        name: np.zeros((len(keys), 0), dtype=np.int64)
        for name in ("drafted", "accepted", "judged", "whole", "majority")
    }
    depth, near_ties, codes = (np.zeros(len(keys), dtype=np.int64) for _ in range(3))
    passes: list[np.ndarray] = []
    for batch in parts.chunks(_CHUNK_COLUMNS):
        for arm, suite, rows in grouped(batch):
            places = keys.get_indexer(pd.MultiIndex.from_frame(rows.select(KEY).to_pandas()))
            layers = _column(rows, "layers")
            np.maximum.at(depth, places, layers)
            np.add.at(near_ties, places, _column(rows, "canonical"))
            np.add.at(codes, places, rows["codes"].is_valid().to_numpy(zero_copy_only=False))
            passes.append(
                np.stack([places, _column(rows, "chunk_index"), _column(rows, "passes")], axis=1)
            )
            for name, counts in _counts_by_layer(rows, layers, guesses[arm, suite]).items():
                width = max(totals[name].shape[1], counts.shape[1])
                totals[name] = widened(totals[name], width)
                np.add.at(totals[name], places, widened(counts, width))
    per_chunk = _split(np.concatenate(passes) if passes else np.zeros((0, 3), int), len(keys))
    lists = {
        name: [row[:layers].tolist() for row, layers in zip(table, depth, strict=True)]
        for name, table in ((n, widened(t, int(depth.max(initial=0)))) for n, t in totals.items())
    }
    known = codes == [len(own) for own in per_chunk]
    majority = [
        own if all_known else None for own, all_known in zip(lists["majority"], known, strict=True)
    ]
    return {
        "passes": np.array([sum(own) for own in per_chunk], dtype=np.int16),
        "near_ties": near_ties.astype(np.int16),
        "chunk_passes": per_chunk,
        **lists,
        "majority": majority,
    }


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


def _column(rows: pa.RecordBatch, name: str) -> np.ndarray:
    return rows[name].to_numpy(zero_copy_only=False)


def _counts_by_layer(
    rows: pa.RecordBatch, layers: np.ndarray, majority: Majority
) -> dict[str, np.ndarray]:
    """Of chunk rows of one arm and suite: numbers by row and layer, int64 (n, L)."""
    drafted, accepted = by_layer(rows["drafted"]), by_layer(rows["accepted"])
    judged, whole = whole_layers(drafted, accepted)
    right = np.zeros((len(rows), int(layers.max(initial=0))), dtype=np.int64)
    for places, codes in codes_by_layers(rows["codes"], layers):
        tokens, depth = codes.shape[1:]
        same = (codes == majority.guess[:tokens, :depth]).sum(axis=1)
        right[places, :depth] = same * widened(judged[places], depth)
    return {
        "drafted": drafted,
        "accepted": accepted,
        "judged": judged.astype(np.int64),
        "whole": whole.astype(np.int64),
        "majority": right,
    }


def _split(passes: np.ndarray, episodes: int) -> list[list[int]]:
    """Rows (episode, chunk, passes) in any order -> the passes of each episode, by chunk."""
    passes = passes[np.lexsort((passes[:, 1], passes[:, 0]))]
    ends = np.cumsum(np.bincount(passes[:, 0], minlength=episodes))
    return [own.tolist() for own in np.split(passes[:, 2], ends[:-1])] if episodes else []


def read(path: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """What made a compact file, and its rows. Raises UserError for another kind of file."""
    try:
        table = pq.read_table(path)
        origin: dict[str, Any] = json.loads(table.schema.metadata[b"run"])
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path} is no file of `jobs/results.py keep` ({error!r})") from error
    missing = [field for field in SCHEMA if field.name not in table.schema.names and field.nullable]
    for field in missing:
        table = table.append_column(field, pa.nulls(len(table), field.type))
    return origin, table.to_pandas()


def sum_by_layer(tokens: pd.Series) -> list[int] | None:
    """Numbers of each layer over all rows, which may be ragged, where arms decode fewer; None where
    a row's are unknown."""
    if any(row is None for row in tokens):
        return None
    sums = np.zeros(max(map(len, tokens), default=0), dtype=np.int64)
    for row in tokens:
        sums[: len(row)] += row
    return sums.tolist()


# --- tables --------------------------------------------------------------------------------------


def success_table(rows: pd.DataFrame) -> list[str]:
    """Markdown: a row a suite, a column an arm; success in percent with its 95 % interval. Below it
    the same of the trials that no policy's development looked at, where there are others."""
    arms = _arms(rows)
    lines = _head(["suite", *arms])
    suites = {str(name): part for name, part in rows.groupby("suite", observed=True, sort=False)}
    if len(suites) > 1:
        suites["all"] = rows
    for name, whole in suites.items():
        lines.append(_success_row(name, whole, arms))
        later = unseen(whole)
        if 0 < len(later) < len(whole):
            trials = f"trials {LOOKED_AT} to {later['trial'].max()}"
            lines.append(_success_row(f"{name}, {trials}", later, arms))
    return lines


def _success_row(name: str, rows: pd.DataFrame, arms: Sequence[str]) -> str:
    return _row([name, *(_percent(success(rows[rows["arm"] == arm])) for arm in arms)])


def task_table(rows: pd.DataFrame) -> list[str]:
    """Markdown: a row a suite and arm, a column a task; successes of finished episodes, errors
    apart, nothing where nothing ran."""
    tasks = sorted(set(rows["task_id"]))
    lines = _head(["suite", "arm", *(str(task) for task in tasks)])
    for suite, of_suite in rows.groupby("suite", observed=True, sort=False):
        for arm in _arms(of_suite):
            of_arm = of_suite[of_suite["arm"] == arm]
            cells = [_counts(of_arm[of_arm["task_id"] == task]) for task in tasks]
            lines.append(_row([str(suite), arm, *cells]))
    return lines


def decoding_table(rows: pd.DataFrame) -> list[str]:
    """Markdown: what speculation did; a row a suite that has both exact arms."""
    lines = _head(
        [
            "suite",
            "passes a chunk",
            "draft kept by layer, %",
            "constant guess, %",
            "whole layers kept, %",
            "same final state",
        ]
    )
    for suite, of_suite in rows.groupby("suite", observed=True, sort=False):
        fast, slow = (of_suite[of_suite["arm"] == arm] for arm in _EXACT)
        if not fast["chunks"].sum() or not slow["chunks"].sum():
            continue
        means = [f"{_per_chunk(arm):.2f}" for arm in (fast, slow)]
        same, pairs = _same_states(fast, slow)
        cells = [
            f"{means[0]} (median {_median_passes(fast)}) instead of {means[1]}",
            _shares(fast, "accepted", "drafted"),
            _shares(fast, "majority", "drafted"),
            _shares(fast, "whole", "judged"),
            f"{same} of {pairs}",
        ]
        lines.append(_row([str(suite), *cells]))
    return lines


_EXACT = ("speculative", "autoregressive")
_BASELINE = "autoregressive"


def paired_table(rows: pd.DataFrame, margin: float = MARGIN) -> list[str]:
    """Markdown: every other arm against the baseline, over all worlds that both have finished; a
    row an arm, none where the baseline did not run. P-values are adjusted over its rows."""
    columns = [
        "pairs",
        "it alone",
        f"{_BASELINE} alone",
        "points (95 % interval)",
        "p",
        "p (Holm)",
        f"not worse, margin {100 * margin:g}: p (Holm)",
        "worlds finished by one only: it, other",
    ]
    verdicts = {arm: _verdicts(rows[rows["arm"] == arm]) for arm in _arms(rows)}
    baseline = verdicts.pop(_BASELINE, {})
    pairs = {arm: compare_pairs(baseline, own) for arm, own in verdicts.items()}
    pairs = {arm: pair for arm, pair in pairs.items() if pair.pairs}
    adjusted = holm([pair.p_value for pair in pairs.values()])
    worse = holm(
        [
            not_worse(pair.only_first, pair.only_second, pair.pairs, margin)
            for pair in pairs.values()
        ]
    )
    lines = _head([f"against {_BASELINE}", *columns])
    for (arm, pair), *p_values in zip(pairs.items(), adjusted, worse, strict=True):
        counts = [str(count) for count in (pair.pairs, pair.only_second, pair.only_first)]
        points, low, high = (
            f"{100 * (value or 0):+.1f}" for value in (pair.difference, pair.low, pair.high)
        )
        lines.append(
            _row(
                [
                    arm,
                    *counts,
                    f"{points} ({low} to {high})",
                    *(f"{p_value:.2g}" for p_value in (pair.p_value, *p_values)),
                    f"{pair.second_unpaired}, {pair.first_unpaired}",
                ]
            )
        )
    return lines


def notes(groups: Sequence[Published], margin: float = MARGIN) -> list[str]:
    """Markdown: what the tables of all groups do not say themselves."""
    points = f"{100 * margin:g}"
    lines = [
        COVERED,
        "p: exact McNemar test; Holm: adjusted for the rows of its table. Not worse: one-sided p "
        "of the score test of paired proportions, adjusted likewise; below 0.025, the arm is "
        f"worse by less than {points} points (one of a task's 50 trials is 2), if at all.",
        "Layers are judged where all coarser ones were kept. Constant guess: the most frequent "
        "level of every (step, dim, layer) in the suite's own chunks, chosen in hindsight, on the "
        "same tokens as the draft. Whole layers: judged ones of which every token was kept.",
        f"Of the first {LOOKED_AT} trials of a task some were looked at in the policies' "
        "development, of the others none; the expert's looked at all of libero_spatial 4.",
    ]
    for group in groups:
        arms: dict[str, Any] = {}
        for origin in group.origins:
            arms |= origin["config"]["arms"]
        lines += [
            f"{' and '.join(f'`{arm}`' for arm in together)} sample with the same random numbers: "
            "in a world their outcomes are not independent."
            for together in shared_draws(arms)
        ]
    return lines


def _verdicts(rows: pd.DataFrame) -> dict[Hashable, bool]:
    """Of finished episodes, by world."""
    finished = rows[rows["outcome"] != "error"].set_index(WORLD)
    return (finished["outcome"] == "success").to_dict()


def _arms(rows: pd.DataFrame) -> list[str]:
    """The baselines first, then by name."""
    first = ["expert", "autoregressive", "speculative", "parallel", "regression"]
    present = sorted(set(rows["arm"]))
    return [arm for arm in first if arm in present] + [arm for arm in present if arm not in first]


def _counts(rows: pd.DataFrame) -> str:
    rate, errors = success(rows), int((rows["outcome"] == "error").sum())
    parts = [f"{rate.successes}/{rate.finished}" if rate.finished else ""]
    parts += [f"{errors} error{'s' * (errors > 1)}"] if errors else []
    return ", ".join(filter(None, parts))


def _percent(rate: Proportion) -> str:
    if rate.rate is None:
        return ""
    return (
        f"{rate.successes}/{rate.finished} = {100 * rate.rate:.1f} "
        f"({100 * rate.low:.1f} to {100 * rate.high:.1f})"
    )


def _per_chunk(rows: pd.DataFrame) -> float:
    return float(rows["passes"].sum() / rows["chunks"].sum())


def _median_passes(rows: pd.DataFrame) -> str:
    passes = [own for own in rows["chunk_passes"] if own is not None]
    if len(passes) < len(rows):
        return conditions.UNKNOWN
    return f"{np.median(np.concatenate(passes)):g}"


def _shares(rows: pd.DataFrame, part: str, whole: str) -> str:
    """By layer in percent, of the layers that were drafted."""
    parts, wholes = sum_by_layer(rows[part]), sum_by_layer(rows[whole])
    if parts is None or wholes is None:
        return conditions.UNKNOWN
    shares = (100 * k / n for k, n in zip(parts, wholes, strict=True) if n)
    return " ".join(f"{share:.1f}" for share in shares)


def _same_states(first: pd.DataFrame, second: pd.DataFrame) -> tuple[int, int]:
    """Pairs that end in the same state, and pairs without an error."""
    pairs = first.merge(second, on=WORLD)
    pairs = pairs[(pairs["outcome_x"] != "error") & (pairs["outcome_y"] != "error")]
    same = pairs["final_state_x"].astype(str) == pairs["final_state_y"].astype(str)
    return int(same.sum()), len(pairs)


def _head(cells: Sequence[str]) -> list[str]:
    return [_row(cells), "|" + "---|" * len(cells)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


# --- into a page ---------------------------------------------------------------------------------


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


def _conditions(origin: dict[str, Any]) -> str:
    """What must be the same for rows to be compared."""
    same = conditions.deciding(origin) | {"deterministic": origin["config"]["deterministic"]}
    return json.dumps(same, sort_keys=True)


def _together(files: dict[Path, tuple[dict[str, Any], pd.DataFrame]]) -> Published:
    decodings: dict[str, Any] = {}
    for path, (origin, _) in files.items():
        for arm, decoding in origin["config"]["arms"].items():
            if decodings.setdefault(arm, decoding) != decoding:
                raise UserError(
                    f"arm {arm} of {path} decodes by {decoding}, elsewhere by {decodings[arm]}; "
                    "keep one of them"
                )
    names = {field.name: "str" for field in SCHEMA if pa.types.is_dictionary(field.type)}
    rows = pd.concat([rows.astype(names) for _, rows in files.values()], ignore_index=True)
    twice = rows[rows.duplicated(KEY)]
    if len(twice):
        raise UserError(
            f"{len(twice)} episodes are in two of {', '.join(map(str, files))}, such as "
            f"{tuple(twice.iloc[0][KEY])}; keep each once"
        )
    return Published(
        tuple(path.stem for path in files), tuple(origin for origin, _ in files.values()), rows
    )


def section(group: Published, margin: float = MARGIN) -> list[str]:
    """Tables with what they were measured on."""
    rows, origin = group.rows, group.origins[0]
    files = ", ".join(f"`{name}`" for name in group.names)
    versions = ", ".join(dict.fromkeys(chain.from_iterable(map(_versions, group.origins))))
    parts = [
        f"{files}: assets {origin['assets'][:12]}, checkpoint "
        f"{str(origin['checkpoint_sha256'])[:12]}, {versions}, "
        f"renderer {origin['renderer']}, arithmetic {conditions.arithmetic(origin)}, frames "
        f"{conditions.frames(origin)}, processors {_processors(group.origins)}; {len(rows):,} "
        f"episodes, {int((rows['outcome'] == 'error').sum())} errors. Success in percent (95 % "
        "interval):",
        "",
        *success_table(rows),
    ]
    for table in (paired_table(rows, margin), decoding_table(rows)):
        if len(table) > len(_head([])):
            parts += ["", *table]
    return parts


def _processors(origins: Sequence[Mapping[str, Any]]) -> str:
    """Of all files; of a file that noted none, its driver's."""
    noted = [machine for origin in origins for machine in origin.get("machines") or []]
    drivers = [origin.get("hardware") for origin in origins if not origin.get("machines")]
    return conditions.processors(noted, drivers)


def _versions(origin: dict[str, Any]) -> Iterator[str]:
    """Of the code: the first session's, and those of sessions that went on with another."""
    yield _version(origin["code"])
    for changes in origin["changes"]:
        new = {
            name.removeprefix("code."): json.loads(change.partition(" -> ")[2])
            for name, change in changes.items()
            if name.startswith("code.")
        }
        if new:
            yield _version(origin["code"] | new)


def _version(code: dict[str, Any]) -> str:
    commit = f"commit {code['git_commit'][:12]}" if code["git_commit"] else ""
    if commit and not code["git_dirty"]:
        return commit
    return f"{commit} with sources {code['source_sha256'][:12]}".strip()


def begin(topic: str) -> str:
    """The line of a page behind which its tables are written anew."""
    return f"<!-- {topic}: made by `python jobs/results.py table --write` -->"


def end(topic: str) -> str:
    """The line before which they end."""
    return f"<!-- end of {topic} -->"


def replaced(page: str, topic: str, lines: Sequence[str]) -> str:
    """A page with the text between the lines of `topic` replaced; raises UserError without them."""
    head, opened, rest = page.partition(begin(topic))
    _, closed, tail = rest.partition(end(topic))
    if not opened or not closed:
        raise UserError(f"the page lacks the lines {begin(topic)!r} and {end(topic)!r}")
    return "".join([head, opened, "\n\n", "\n".join(lines), "\n\n", closed, tail])
