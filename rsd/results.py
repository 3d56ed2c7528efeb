"""Published results: runs in a compact form that fits into a repository, and the tables from them.

A file holds one run, a row an episode; runs of one policy on the same assets share a table. What is
dropped against the run's own Parquet: times of single stages, names of workers, hashes of chunks.
"""

from __future__ import annotations

import io
import json
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rsd.errors import UserError
from rsd.outputs import write_atomically
from rsd.records import PINNED_PACKAGES, Column, read_chunks, read_episodes, read_run
from rsd.report import one_assets, success, sum_by_layer
from rsd.statistics import Proportion, compare_pairs

SUFFIX = ".parquet"
STATE_DIGITS = 12  # hex; enough to tell 12,000 states apart
WORLD = ["suite", "task_id", "trial"]
KEY = ["arm", *WORLD]

_NAME = pa.dictionary(pa.int16(), pa.string())
_PER_LAYER = pa.list_(pa.field("item", pa.int32(), nullable=False))
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
    episodes = read_episodes(run).to_pandas()
    planned = record.get("planned_episodes")
    if planned != len(episodes):
        raise UserError(
            f"{run} holds {len(episodes)} of {planned or 'an unknown number of'} planned episodes; "
            "finish it with --resume"
        )
    one_assets(run, episodes)
    if episodes["seed"].nunique() > 1:
        raise UserError(f"{run} has several seeds; the compact form holds one")
    chunks = read_chunks(run).to_pandas()
    table = _compact(episodes, chunks)
    origin = {name: record.get(name) for name in _KEPT}
    origin["changes"] = [session["changes"] for session in record["sessions"]]
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


def _compact(episodes: pd.DataFrame, chunks: pd.DataFrame) -> pd.DataFrame:
    episodes = episodes.sort_values(KEY).reset_index(drop=True)
    by_episode = chunks.groupby(KEY, sort=False)
    sums = by_episode.agg(
        passes=("passes", "sum"),
        near_ties=("canonical", "sum"),
        drafted=("drafted", _tokens),
        accepted=("accepted", _tokens),
    )
    joined = episodes.join(sums, on=KEY)
    for name in ("passes", "near_ties"):
        joined[name] = joined[name].fillna(0)
    for name in ("drafted", "accepted"):
        joined[name] = [value if isinstance(value, list) else [] for value in joined[name]]
    joined["final_state"] = joined["final_state_sha256"].str[:STATE_DIGITS]
    return joined[SCHEMA.names].astype({"passes": "int16", "near_ties": "int16"})


def _tokens(rows: pd.Series) -> list[int]:
    return sum_by_layer(rows, max(map(len, rows), default=0))


def read(path: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """What made a compact file, and its rows. Raises UserError for another kind of file."""
    try:
        table = pq.read_table(path)
        origin: dict[str, Any] = json.loads(table.schema.metadata[b"run"])
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path} is no file of `jobs/results.py keep` ({error!r})") from error
    return origin, table.to_pandas()


# --- tables --------------------------------------------------------------------------------------


def success_table(rows: pd.DataFrame) -> list[str]:
    """Markdown: a row a suite, a column an arm; success in percent with its 95 % interval."""
    arms = _arms(rows)
    lines = _head(["suite", *arms])
    for suite, of_suite in rows.groupby("suite", observed=True, sort=False):
        rates = [success(of_suite[of_suite["arm"] == arm]) for arm in arms]
        lines.append(_row([str(suite), *map(_percent, rates)]))
    return lines


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
    lines = _head(["suite", "passes a chunk", "draft kept by layer, %", "same final state"])
    for suite, of_suite in rows.groupby("suite", observed=True, sort=False):
        fast, slow = (of_suite[of_suite["arm"] == arm] for arm in _EXACT)
        if fast.empty or slow.empty:
            continue
        passes = [f"{_per_chunk(arm):.2f}" for arm in (fast, slow)]
        same, pairs = _same_states(fast, slow)
        cells = [f"{passes[0]} instead of {passes[1]}", _kept(fast), f"{same} of {pairs}"]
        lines.append(_row([str(suite), *cells]))
    return lines


_EXACT = ("speculative", "autoregressive")
_BASELINE = "autoregressive"


def paired_table(rows: pd.DataFrame) -> list[str]:
    """Markdown: every other arm against the baseline, over all worlds that both have finished; a
    row an arm, none where the baseline did not run."""
    columns = ["pairs", "it alone", f"{_BASELINE} alone", "points (95 % interval)", "p"]
    lines = _head([f"against {_BASELINE}", *columns])
    verdicts = {arm: _verdicts(rows[rows["arm"] == arm]) for arm in _arms(rows)}
    baseline = verdicts.pop(_BASELINE, {})
    for arm, own in verdicts.items():
        pair = compare_pairs(baseline, own)
        if pair.difference is None:
            continue
        points = [f"{100 * value:+.1f}" for value in (pair.difference, pair.low, pair.high)]
        counts = [str(count) for count in (pair.pairs, pair.only_second, pair.only_first)]
        interval = f"{points[0]} ({points[1]} to {points[2]})"
        lines.append(_row([arm, *counts, interval, f"{pair.p_value:.2g}"]))
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


def _kept(rows: pd.DataFrame) -> str:
    kept, drafted = _tokens(rows["accepted"]), _tokens(rows["drafted"])
    shares = (100 * k / n for k, n in zip(kept, drafted, strict=True) if n)
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
    """What must be the same for rows to be compared; records.py has the same list for a resume."""
    same = {name: origin[name] for name in ("checkpoint_sha256", "assets_fingerprint", "renderer")}
    same["packages"] = {name: origin["packages"].get(name) for name in PINNED_PACKAGES}
    same["deterministic"] = origin["config"]["deterministic"]
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


def section(group: Published) -> list[str]:
    """Tables with what they were measured on."""
    rows, origin = group.rows, group.origins[0]
    files = ", ".join(f"`{name}`" for name in group.names)
    versions = ", ".join(dict.fromkeys(chain.from_iterable(map(_versions, group.origins))))
    parts = [
        f"{files}: assets {origin['assets'][:12]}, checkpoint "
        f"{str(origin['checkpoint_sha256'])[:12]}, {versions}, "
        f"renderer {origin['renderer']}, {len(rows):,} episodes, "
        f"{int((rows['outcome'] == 'error').sum())} errors. Success in percent (95 % interval):",
        "",
        *success_table(rows),
    ]
    for table in (paired_table(rows), decoding_table(rows)):
        if len(table) > len(_head([])):
            parts += ["", *table]
    return parts


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
