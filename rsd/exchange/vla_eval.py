"""vla-eval's results, read and written (vla-eval 0.8.0: `recording.py`, `results/export.py`).

- `recording-<eval_id>.sqlite`: a work queue and a row an attempt. Of the attempts at one episode
  the last committed one counts.
- `<benchmark>_aggregate.json`: what `vla-eval export` makes of it, a file a benchmark.
- `<benchmark>/task0003_ep0007_success.jsonl`: the steps of an episode; its verdict is in its name.

An episode that ended in an error is a failure there, in every rate; here it is an error, and the
rate that vla-eval gives stays in what it `says`.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rsd import __version__, conditions
from rsd.books import KEY, read_episodes, read_run
from rsd.errors import LONGEST, UserError, brief
from rsd.exchange.results import (
    Episode,
    Results,
    count,
    member,
    seconds,
    suite_name,
    task_called,
)
from rsd.foreign import parse_json, read_bytes
from rsd.suites import SUITES
from rsd.types import Outcome

SOFTWARE = "vla-eval"
WAIT_S = 5.0  # for a lock on a recording
_MOST_BYTES = 2**28  # of an episode's steps
_BENCHMARK = "LIBEROBenchmark"  # theirs that runs LIBERO itself

# What is read of a recording, by table.
_COLUMNS = {
    "eval_metadata": {"eval_id", "safe_name", "metadata"},
    "episode_results": {
        "eval_id",
        "task_name",
        "episode_id",
        "metrics",
        "steps",
        "elapsed_sec",
        "context",
        "failure_reason",
        "failure_detail",
    },
    "work_queue": {"eval_id", "done"},
    "eval_shards": {"eval_id", "num_shards", "complete"},
}


# --- a recording ---------------------------------------------------------------------------------


def read_recording(path: Path) -> Results:
    """Raises UserError for a database that is locked, damaged, or no recording that is known."""
    try:
        with closing(_open(path)) as connection:
            connection.execute("BEGIN")
            _check_tables(connection, path)
            found = [
                _benchmark_of(connection, row, str(path))
                for row in connection.execute(
                    "SELECT eval_id, safe_name, metadata FROM eval_metadata"
                )
            ]
            return _together(found, str(path))
    except sqlite3.OperationalError as error:
        raise UserError(
            f"{path} cannot be read: {error}; where vla-eval writes it, or has left a journal "
            "beside it, wait until it has ended, or import a copy"
        ) from error
    except sqlite3.DatabaseError as error:
        raise UserError(f"{path} is damaged: {error}; copy it again, whole") from error


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=WAIT_S, isolation_level=None
    )
    connection.row_factory = sqlite3.Row
    return connection


def _check_tables(connection: sqlite3.Connection, path: Path) -> None:
    tables = [
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    ]
    if not set(_COLUMNS) & set(tables):
        raise UserError(
            f"{path} is an SQLite database, but no recording of vla-eval's: it holds the tables "
            f"{brief(sorted(tables))}"
        )
    for table, needed in _COLUMNS.items():
        there = {row["name"] for row in connection.execute(f"PRAGMA table_info({table})")}
        if missing := sorted(needed - there):
            raise UserError(
                f"{path} is a recording of another version of vla-eval than 0.8: its table {table} "
                f"lacks {', '.join(missing)}; `vla-eval export` of that version makes an "
                "*_aggregate.json of it, which can be imported"
            )


_LAST_ATTEMPTS = """
SELECT * FROM episode_results WHERE rowid IN (
    SELECT MAX(rowid) FROM episode_results WHERE eval_id = ?
    GROUP BY task_name, episode_id, json_extract(context, '$.task_idx'),
             CASE WHEN json_extract(context, '$.task_idx') IS NULL THEN rowid END
) ORDER BY task_name, episode_id
"""  # of results/export.py: older rows without a task's index remain distinct


def _benchmark_of(connection: sqlite3.Connection, row: sqlite3.Row, shown: str) -> dict[str, Any]:
    """As the aggregate of `vla-eval export` has it, as far as it is read here."""
    eval_id = row["eval_id"]
    tasks: dict[str, list[dict[str, Any]]] = {}
    for found in connection.execute(_LAST_ATTEMPTS, (eval_id,)):
        said = {
            "episode_id": found["episode_id"],
            "metrics": _json(found["metrics"], shown),
            "steps": found["steps"],
            "elapsed_sec": found["elapsed_sec"],
            **_json(found["context"], shown),
        }
        reasons = {name: found[name] for name in _REASONS if found[name]}
        tasks.setdefault(str(found["task_name"]), []).append(said | reasons)
    return {
        **_json(row["metadata"], shown),
        "tasks": [{"task": name, "episodes": own} for name, own in tasks.items()],
        "partial": _is_partial(connection, eval_id),
    }


_REASONS = ("failure_reason", "failure_detail")


def _is_partial(connection: sqlite3.Connection, eval_id: str) -> bool:
    """Whether episodes are missing: of the queue that shards share, or of a shard that did not say
    that it is through."""
    done, planned = connection.execute(
        "SELECT COALESCE(SUM(done), 0), COUNT(*) FROM work_queue WHERE eval_id = ?", (eval_id,)
    ).fetchone()
    if planned:
        return bool(done < planned)
    shards = connection.execute(
        "SELECT num_shards, complete FROM eval_shards WHERE eval_id = ?", (eval_id,)
    ).fetchall()
    expected = max((shard["num_shards"] for shard in shards), default=1)
    return len(shards) < expected or not all(shard["complete"] for shard in shards)


def _json(text: str | None, shown: str) -> dict[str, Any]:
    try:
        value = parse_json(text) if text else {}
    except (ValueError, TypeError) as error:
        raise UserError(f"{shown} holds a text that is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{shown} holds {brief(value)} where a mapping was expected")
    return value


# --- aggregates ----------------------------------------------------------------------------------


def looks_like(body: Any) -> bool:
    """Whether JSON is an aggregate."""
    return isinstance(body, dict) and {"benchmark", "harness_version", "tasks"} <= set(body)


def read_aggregate(body: Mapping[str, Any], shown: str) -> Results:
    """Raises UserError for one that lacks something, or contradicts itself."""
    results = _together([body], shown)
    said = body.get("num_episodes_total", len(results.episodes))
    if said != len(results.episodes):
        raise UserError(
            f"{shown} says {brief(said)} episodes and holds {len(results.episodes)}: it was "
            "edited; import what vla-eval wrote"
        )
    return results


_KEPT = ("mode", "config", "server_info", "render", "created_at", "num_errors", "mean_success")


def _together(benchmarks: Sequence[Mapping[str, Any]], shown: str) -> Results:
    """The benchmarks of one file."""
    versions = {str(body["harness_version"]) for body in benchmarks if body.get("harness_version")}
    return Results(
        SOFTWARE,
        ", ".join(sorted(versions)) or None,
        tuple(episode for body in benchmarks for episode in _episodes(body, shown)),
        complete=not any(body.get("partial") for body in benchmarks),
        says={
            str(body.get("benchmark")): {name: body[name] for name in _KEPT if name in body}
            for body in benchmarks
        },
    )


def _episodes(body: Mapping[str, Any], shown: str) -> Iterator[Episode]:
    """Of one benchmark."""
    name = str(body.get("benchmark"))
    config = _mapping(body, "config")
    is_libero = str(config.get("benchmark") or name).rpartition(":")[2].startswith(_BENCHMARK)
    usual = _text(_mapping(config, "params"), "suite") or name
    for task in member(body, "tasks", list, shown):
        called = member(task, "task", str, f"{shown}: a task of {name}")
        for said in member(task, "episodes", list, f"{shown}: task {called!r}"):
            what = f"{shown}: an episode of {called!r}"
            metrics = member(said, "metrics", dict, what)
            verdict = metrics.get("success")
            if not isinstance(verdict, bool | int | float) or verdict not in (0, 1):
                raise UserError(
                    f"{what} has no metric 'success' that is true or false (it has "
                    f"{brief(metrics)}): this benchmark counts something else"
                )
            suite = _text(said, "suite") or usual
            task_id = _task_id(said, suite, called, what)
            failed = said.get("failure_reason")
            yield Episode(
                suite_name(SOFTWARE, suite, task_id + 1, is_libero),
                task_id,
                count(said.get("episode_id"), f"{what}: episode_id"),
                "error" if failed else "success" if verdict else "timeout",
                instruction=called,
                steps=None if failed else count(said.get("steps"), f"{what}: steps"),
                wall_s=None if failed else seconds(said.get("elapsed_sec"), f"{what}: elapsed_sec"),
                error=_error(said) if failed else "",
            )


def _mapping(holder: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What was configured, as far as it is said in the usual way."""
    value = holder.get(name)
    return value if isinstance(value, dict) else {}


def _text(holder: Mapping[str, Any], name: str) -> str:
    value = holder.get(name)
    return value if isinstance(value, str) else ""


def _task_id(said: Mapping[str, Any], suite: str, called: str, what: str) -> int:
    """Results that were not exported from a recording name no task but by its instruction."""
    found = said.get("task_id")
    if found is None:
        found = task_called(suite, called)
    if found is None:
        found = said.get("task_idx")
    if found is None:
        raise UserError(
            f"{what} does not say which task of {suite} it is; import the recording "
            "(recording-<eval_id>.sqlite) instead"
        )
    return count(found, f"{what}: task_id")


def _error(said: Mapping[str, Any]) -> str:
    told = (said["failure_reason"], said.get("failure_detail"))
    return ": ".join(str(each) for each in told if each)[:LONGEST]


# --- steps of episodes ---------------------------------------------------------------------------

_STEM = re.compile(r"task(\d{4,})_ep(\d{4,})_(success|fail|error)")  # DEFAULT_FILENAME_STEM
_OUTCOMES: dict[str, Outcome] = {"success": "success", "fail": "timeout", "error": "error"}


def read_steps(files: Sequence[Path], shown: str) -> Results:
    """One episode a file, `<benchmark>/task0003_ep0007_success.jsonl`.

    Episodes without a recorded step have no file, so nobody knows whether one is missing. Raises
    UserError for files of another kind, and for two attempts at one episode: which one counts,
    only the recording says.
    """
    episodes = []
    for file in files:
        found = _STEM.fullmatch(file.stem)
        if not found:
            raise UserError(
                f"{file} is no file of an episode's steps: those are called such as "
                "task0003_ep0007_success.jsonl"
            )
        benchmark = file.parent.name
        suite = next((name for name in SUITES if benchmark.endswith(name)), benchmark)
        is_libero = benchmark.startswith(_BENCHMARK)
        task, number, status = int(found[1]), int(found[2]), found[3]
        failed = status == "error"
        episodes.append(
            Episode(
                suite_name(SOFTWARE, suite, task + 1, is_libero),
                task,
                number,
                _OUTCOMES[status],
                steps=None if failed else _steps(file),
                error="its steps do not say which" if failed else "",
            )
        )
    attempts = Counter(episode.name for episode in episodes)
    if twice := [name for name, times in attempts.items() if times > 1]:
        raise UserError(
            f"{shown} holds {len(twice)} episodes that were tried again, such as {twice[0]}; which "
            "attempt counts, only the recording says: import recording-<eval_id>.sqlite"
        )
    return Results(SOFTWARE, None, tuple(episodes), complete=False, says={})


def _steps(file: Path) -> int:
    """Raises UserError where a line is no step."""
    lines = read_bytes(file, _MOST_BYTES).splitlines()
    for number, line in enumerate(lines):
        try:
            step = parse_json(line)["step"]
        except (ValueError, KeyError, TypeError):
            step = None
        if step != number:
            raise UserError(
                f"{file}, line {number + 1}: {brief(line.decode(errors='replace'))} is not step "
                f"{number} of an episode; copy it again, whole"
            )
    return len(lines)


# --- written -------------------------------------------------------------------------------------


def aggregates_of(output: str) -> dict[str, dict[str, Any]]:
    """Aggregates of a run by file name, one an arm and suite, with the fields that `vla-eval
    export` writes and its rule: an episode that ended in an error counts as a failure.

    `harness_version` says that it was RSD. Raises UserError for a run that was imported.
    """
    run = read_run(output)
    conditions.require_own(run, output, "it has the file")
    rows = read_episodes(output, _EXPORTED).sort_by([(name, "ascending") for name in KEY])
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows.to_pylist():
        groups.setdefault((row["arm"], row["suite"]), []).append(row)
    partial = run.get("planned_episodes") != rows.num_rows
    return {
        f"{body['benchmark']}_aggregate.json": body
        for (arm, suite), own in groups.items()
        for body in [_aggregate(run, arm, suite, own, partial)]
    }


_EXPORTED = (
    *KEY,
    "instruction",
    "outcome",
    "steps",
    "wall_s",
    "error",
    "finished_at",
)
_UNSAFE = re.compile(r"[^\w\-.]")  # orchestrator.py, _SAFE_NAME_RE


def _aggregate(
    run: Mapping[str, Any], arm: str, suite: str, rows: Sequence[Mapping[str, Any]], partial: bool
) -> dict[str, Any]:
    """results/export.py, `_build_aggregate`."""
    name = _UNSAFE.sub("_", f"{_BENCHMARK}_{suite}_{arm}")
    by_task: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_task.setdefault(row["instruction"], []).append(row)
    return {
        "benchmark": name,
        "mode": "sync",
        "harness_version": f"rsd {__version__}",
        "created_at": max(row["finished_at"] for row in rows).isoformat(),
        "tasks": [
            {
                "task": task,
                "episodes": [_exported(run, row) for row in own],
                "num_episodes": len(own),
                "avg_steps": sum(row["steps"] for row in own) / len(own),
                **({"num_errors": _errors(own)} if _errors(own) else {}),
                "mean_success": _mean_success(own),
            }
            for task, own in sorted(by_task.items())
        ],
        "config": {
            "benchmark": f"rsd:{_BENCHMARK}",
            "mode": "sync",
            "subname": f"{suite}_{arm}",
            "params": {"suite": suite},
        },
        "eval_id": f"{run['run_id']}-{name}",
        "server_info": {
            "model_server": run["config"].get("policy"),
            "arm": run["config"]["arms"].get(arm),
            "checkpoint_sha256": run.get("checkpoint_sha256"),
        },
        **({"partial": True} if partial else {}),
        "metric_keys": {"success": "mean"},
        "mean_success": _mean_success(rows),
        "num_episodes_total": len(rows),
        "num_errors": _errors(rows),
    }


def _exported(run: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    failed = row["outcome"] == "error"
    return {
        "sid": run["run_id"],
        "eid": "-".join(str(row[name]) for name in KEY),
        "episode_id": row["trial"],
        "metrics": {"success": row["outcome"] == "success"},
        "steps": row["steps"],
        "elapsed_sec": round(row["wall_s"], 3),
        "name": row["instruction"],
        "suite": row["suite"],
        "task_id": row["task_id"],
        "episode_idx": row["trial"],
        "task_idx": row["task_id"],
        **({"failure_reason": "exception", "failure_detail": row["error"]} if failed else {}),
    }


def _mean_success(rows: Sequence[Mapping[str, Any]]) -> float:
    return round(sum(row["outcome"] == "success" for row in rows) / len(rows), 4)


def _errors(rows: Sequence[Mapping[str, Any]]) -> int:
    return sum(row["outcome"] == "error" for row in rows)
