"""Files of other software into the books of a run of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsd import conditions
from rsd.books import Books, committed, holds_a_run, read_run
from rsd.errors import UserError, brief, reading
from rsd.exchange import lerobot, vla_eval
from rsd.exchange.results import Episode, Results
from rsd.foreign import expanded, parse_json, read_bytes
from rsd.outputs import check_name
from rsd.types import EpisodeKey

_MOST_BYTES = 2**28  # of JSON; 10,000 episodes have 5 MB
_SQLITE = b"SQLite format 3\0"
KINDS = (
    "vla-eval's recording-<eval_id>.sqlite, <benchmark>_aggregate.json or folder of episodes' "
    ".jsonl, or LeRobot's eval_info.json"
)
# What a folder is searched for, the best first.
_PATTERNS = ("recording-*.sqlite", "*_aggregate.json", "eval_info.json")


@dataclass(frozen=True)
class File:
    """A file, or a folder of episodes' steps, and what it holds."""

    name: str
    sha256: str  # of its bytes; of a folder over names and bytes
    results: Results


@dataclass(frozen=True)
class Imported:
    """What has been done."""

    output: str
    new: int  # episodes that were not in it
    results: Results


# --- reading -------------------------------------------------------------------------------------


def read_files(paths: Sequence[Path]) -> list[File]:
    """Recognise and read; raises UserError for what cannot be imported."""
    if not paths:
        raise UserError(f"there is nothing to import; give {KINDS}")
    files = [file for path in paths for file in _read(expanded(path))]
    for file in files:
        if not file.results.episodes:
            raise UserError(f"{file.name} holds no episode: there is nothing to import")
    return files


def _read(path: Path) -> list[File]:
    if not path.exists():
        raise UserError(f"there is no file {path}; give {KINDS}")
    if not path.is_dir():
        return [_read_file(path)]
    for pattern in _PATTERNS:
        if found := sorted(path.glob(pattern)):
            return [_read_file(file) for file in found]
    if steps := sorted(path.rglob("*.jsonl")):
        return [File(path.name, _digest(steps, path), vla_eval.read_steps(steps, str(path)))]
    raise UserError(f"{path} holds nothing that can be imported; give {KINDS}")


def _read_file(path: Path) -> File:
    with reading(path), path.open("rb") as stream:
        start = stream.read(len(_SQLITE))
    if start == _SQLITE:
        return _read_recording(path)
    if path.suffix == ".jsonl":
        return File(path.name, _digest([path], path.parent), vla_eval.read_steps([path], str(path)))
    content = read_bytes(path, _MOST_BYTES)
    return File(path.name, hashlib.sha256(content).hexdigest(), _read_json(content, str(path)))


def _read_recording(path: Path) -> File:
    """Hashed before and after: closing a file that SQLite has locked would let the lock go."""
    before = _digest([path], path.parent)
    results = vla_eval.read_recording(path)
    if _digest([path], path.parent) != before:
        raise UserError(f"{path} was written while it was read; wait for vla-eval to end")
    return File(path.name, before, results)


def _digest(files: Sequence[Path], root: Path) -> str:
    """sha256 of one file's bytes; of several, over their names and hashes."""
    hashes = []
    for file in files:
        with reading(file), file.open("rb") as stream:
            hashes.append(hashlib.file_digest(stream, "sha256").hexdigest())
    if len(files) == 1:
        return hashes[0]
    named = [f"{file.relative_to(root)} {own}\n" for file, own in zip(files, hashes, strict=True)]
    return hashlib.sha256("".join(named).encode()).hexdigest()


def _read_json(content: bytes, shown: str) -> Results:
    try:
        body = parse_json(content)
    except ValueError as error:
        raise UserError(
            f"{shown} is neither a database of SQLite nor whole JSON: {error}; give {KINDS}"
        ) from error
    if vla_eval.looks_like(body):
        return vla_eval.read_aggregate(body, shown)
    if lerobot.looks_like(body):
        return lerobot.read(body, shown)
    raise UserError(f"{shown} is {_likeness(body)}; give {KINDS}")


# What JSON of something else has, and what it is then.
_LIKENESSES: dict[frozenset[str], str] = {
    frozenset({"run_id", "schema_version"}): "run.json of a run of RSD: `rsd report` reads its "
    "folder",
    frozenset({"codebase_version", "fps"}): "the description of a LeRobot dataset, not of results",
    frozenset(
        {"provenance", "arms"}
    ): "a summary of `rsd report --json`: import what it is made of",
    frozenset({"model_type"}): "the configuration of a model, not of results",
    frozenset({"task", "episodes"}): "one task of vla-eval's results: import the whole file",
}


def _likeness(body: Any) -> str:
    if not isinstance(body, dict):
        return f"JSON of something else: {brief(body)}"
    for names, what in _LIKENESSES.items():
        if names <= set(body):
            return what
    return f"JSON of something else, with the fields {brief(sorted(map(str, body)))}"


# --- writing -------------------------------------------------------------------------------------


def import_files(
    paths: Sequence[Path],
    output: str | None,
    arm: str | None,
    version: str | None,
) -> Imported:
    """Put the episodes of files into the run at `output`; a second time it adds nothing.

    All is read and checked before anything is written; what a kill leaves is completed by the same
    call. Raises UserError for what cannot be imported, and an output that holds anything else.
    """
    files = read_files(paths)
    results = _merged(files, version)
    name = arm or results.software
    check_name(name, "run's arm")
    run = _record(files, results, name)
    output = output or f"results/{run['run_id']}"
    resume = holds_a_run(output)
    if resume:
        _check_same(output, run)
    rows = {_key(name, episode): _row(episode, results) for episode in results.episodes}
    missing = rows.keys() - (committed(output).keys() if resume else set())
    if missing:
        with Books.open(output, run, resume=resume, flush_every=len(rows)) as books:
            for key in sorted(missing, key=repr):
                books.add_imported(key, rows[key])
    return Imported(output, len(missing), results)


def _key(arm: str, episode: Episode) -> EpisodeKey:
    return EpisodeKey(arm, episode.suite, episode.task_id, episode.number, seed=None)


def _row(episode: Episode, results: Results) -> dict[str, Any]:
    """The columns of the books that other software says."""
    return {
        "instruction": episode.instruction,
        "outcome": episode.outcome,
        "steps": episode.steps,
        "wall_s": episode.wall_s,
        "error": episode.error,
        "source": results.source,
    }


def _merged(files: Sequence[File], version: str | None) -> Results:
    """Of several files of one software; raises UserError for files of two, and for an episode that
    two hold."""
    first = files[0].results
    owners: dict[tuple[str, int, int], str] = {}
    for file in files:
        own = file.results
        if own.software != first.software or own.version != first.version:
            raise UserError(
                f"{files[0].name} is of {first.source}, {file.name} of {own.source}: import each "
                "into an --output of its own"
            )
        for episode in own.episodes:
            if episode.name in owners:
                suite, task, number = episode.name
                raise UserError(
                    f"episode {number} of {suite}, task {task}, is there twice, in "
                    f"{owners[episode.name]} and {file.name}: give each once, and evaluations of "
                    "one suite under different settings apart"
                )
            owners[episode.name] = file.name
    if version and first.version and version != first.version:
        raise UserError(
            f"--software-version {version}: {files[0].name} says {first.version}; leave the "
            "flag out"
        )
    return Results(
        first.software,
        version or first.version,
        tuple(episode for file in files for episode in file.results.episodes),
        all(file.results.complete for file in files),
        {file.name: file.results.says for file in files},
    )


def _record(files: Sequence[File], results: Results, arm: str) -> dict[str, Any]:
    """run.json: what is known, and null for what decides otherwise and is not."""
    digest = hashlib.sha256("".join(sorted(file.sha256 for file in files)).encode()).hexdigest()
    suites: dict[str, set[int]] = {}
    for episode in results.episodes:
        suites.setdefault(episode.suite, set()).add(episode.task_id)
    return {
        "run_id": f"{results.software}-{digest[:8]}",
        "config": {
            "arms": {arm: {"mode": "native"}},
            "suites": {suite: sorted(tasks) for suite, tasks in sorted(suites.items())},
        },
        "planned_episodes": len(results.episodes) if results.complete else None,
        "source": {
            "software": results.software,
            "version": results.version,
            "files": [{"name": file.name, "sha256": file.sha256} for file in files],
        },
        "says": results.says,
        "protocol": {"name": conditions.UNKNOWN},
        **dict.fromkeys(("checkpoint_sha256", "assets", "renderer", "code", "hardware")),
    }


def _check_same(output: str, run: Mapping[str, Any]) -> None:
    """Raises UserError where `output` holds another run."""
    there = read_run(output)
    same = all(there.get(name) == run[name] for name in ("source", "config"))
    if not same:
        held = there.get("source")
        what = (
            f"what was imported from {', '.join(file['name'] for file in held['files'])}"
            if held
            else f"the run {there['run_id']}"
        )
        raise UserError(
            f"{output} holds {what}, of other files or under another name; choose another --output"
        )
