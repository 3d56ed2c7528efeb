"""run.json: what made a run, and what a resume may change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rsd.books.folder import Folder, visible, writable
from rsd.books.schema import SCHEMA_VERSION
from rsd.conditions import deciding
from rsd.errors import UserError
from rsd.foreign import parse_json
from rsd.provenance import flat

RUN_FILE = "run.json"

# Rows on both sides of a resume land in one table, so whatever decides a row must be equal. Code
# version and hardware may differ: a run is resumed after a fix, and on other machines; each
# session's own are kept in run.json.
_PINNED = ("config", "schema_version", "assets")


def _decisive(run: Mapping[str, object]) -> dict[str, object]:
    return {name: run.get(name) for name in _PINNED} | deciding(run)


def _changes(before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, str]:
    """Dotted name -> "old -> new" for every leaf that differs or exists on one side only."""
    old, new = flat(before), flat(after)

    def shown(leaves: Mapping[str, object], name: str) -> str:
        return json.dumps(leaves[name]) if name in leaves else "(absent)"

    return {
        name: f"{shown(old, name)} -> {shown(new, name)}"
        for name in sorted(old.keys() | new.keys())
        if name not in old or name not in new or old[name] != new[name]
    }


_BOOKKEEPING = ("run_id", "sessions")  # the books' own; never compared


def _without_bookkeeping(run: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in run.items() if name not in _BOOKKEEPING}


def agreed(
    output: str, run: Mapping[str, object], resume: bool
) -> tuple[Folder, dict[str, Any], dict[str, str]]:
    """(folder, the run as its run.json is to say it, changes against what that said before).

    Raises UserError for a folder that is not empty or, on resume, lacks a run or holds another.
    """
    folder = Folder.at(output)
    run = json.loads(json.dumps({**run, "schema_version": SCHEMA_VERSION}))  # as JSON has it
    if not resume:
        refuse_content(folder)
        return folder, dict(run), {}
    stored = read_run(output)
    changes = _changes(_without_bookkeeping(stored), _without_bookkeeping(run))
    _refuse_changes(output, stored, run)
    return folder, stored, changes


def _refuse_changes(output: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Raises UserError that lists every change which would mix two experiments in one table."""
    refused = _changes(_decisive(before), _decisive(after))
    if refused:
        lines = [f"  {name.removeprefix('config.')}: {refused[name]}" for name in refused]
        raise UserError(
            f"{output} was recorded with other settings; resume with the same ones or choose "
            "another --output:\n" + "\n".join(lines)
        )


def refuse_content(folder: Folder) -> None:
    with writable(folder):
        content = visible(folder.names())
    if content:
        raise UserError(
            f"output {folder.shown} is not empty (it holds {', '.join(content[:3])}"
            f"{', ...' if len(content) > 3 else ''}); use --resume to go on with that run, or "
            "another --output"
        )


def holds_a_run(output: str) -> bool:
    """Whether a run was started in `output`; raises UserError for one that cannot be opened."""
    folder = Folder.at(output)
    try:
        return folder.files.get_file_info(folder.path(RUN_FILE)).is_file
    except OSError as error:
        raise UserError(f"cannot open output {output!r}: {error}") from error


def read_run(output: str) -> dict[str, Any]:
    """The run.json of a run; raises UserError where there is none or its schema is another."""
    folder = Folder.at(output)
    try:
        run = parse_json(folder.read(RUN_FILE))
    except FileNotFoundError:
        raise UserError(
            f"{output} holds no run: there is no {RUN_FILE} (start one without --resume, or give "
            "the folder of a run)"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {RUN_FILE} in {output}: {error}") from error
    except ValueError as error:
        raise UserError(f"{RUN_FILE} in {output} is no JSON of a run: {error}") from error
    version = run.get("schema_version") if isinstance(run, dict) else None
    if version is None:
        raise UserError(f"{RUN_FILE} in {output} describes no run: it names no schema version")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{output} was written with schema version {version!r}, this code has "
            f"{SCHEMA_VERSION!r}; use the code version of that run ({run.get('code')})"
        )
    return run
