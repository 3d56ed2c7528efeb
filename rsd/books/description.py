"""run.json: what made a run, session by session."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from rsd.books.folder import Folder
from rsd.books.schema import SCHEMA_VERSION
from rsd.conditions import differences, of_run, require_same
from rsd.errors import UserError
from rsd.foreign import parse_json
from rsd.provenance import Machine, ReplicaEvent

RUN_FILE = "run.json"
_BOOKKEEPING = ("run_id", "sessions")  # the books' own; never compared


class Description:
    """run.json as a session is going to write it."""

    def __init__(self, content: dict[str, Any], changes: dict[str, str]) -> None:
        """`changes`: what this session does otherwise than the file said before, by name."""
        self._content = content
        self._changes = changes

    @classmethod
    def new(cls, folder: Folder, run: Mapping[str, Any]) -> Description:
        """Raises UserError for a folder that is not empty."""
        with folder.opening():
            there = folder.content()
        if there:
            raise UserError(
                f"output {folder.shown} is not empty (it holds {', '.join(there[:3])}"
                f"{', ...' if len(there) > 3 else ''}); use --resume to go on with that run, or "
                "another --output"
            )
        return cls({**run, "schema_version": SCHEMA_VERSION}, {})

    @classmethod
    def resumed(cls, folder: Folder, run: Mapping[str, Any]) -> Description:
        """That of the run in the folder. Raises UserError where there is none or another."""
        stored = read(folder)
        run = {**run, "schema_version": SCHEMA_VERSION}
        require_same(
            of_run(stored),
            of_run(run),
            f"{folder.shown} was recorded with other settings; resume with the same ones or choose "
            "another --output",
        )
        changed = differences(_without_bookkeeping(stored), _without_bookkeeping(run))
        return cls(stored, {each.name: each.as_json() for each in changed})

    @property
    def run_id(self) -> str:
        run_id: str = self._content["run_id"]
        return run_id

    def begin_session(self, started_at: str) -> None:
        session = {
            "started_at": started_at,
            "changes": self._changes,
            "machines": [],
            "replicas": [],
        }
        self._content["sessions"] = [*self._content.get("sessions", []), session]

    def note_machine(self, machine: Machine) -> bool:
        """Keep what this session runs on; False where it is noted already."""
        noted: list[dict[str, Any]] = self._content["sessions"][-1]["machines"]
        entry = json.loads(json.dumps(dataclasses.asdict(machine)))  # as JSON has it
        new = entry not in noted
        if new:
            noted.append(entry)
        return new

    def note_replica(self, at: str, event: ReplicaEvent) -> None:
        """Keep what was heard of a replica, and when; what is not known is left out."""
        known = {name: value for name, value in dataclasses.asdict(event).items() if value}
        self._content["sessions"][-1]["replicas"].append({"at": at, **known})

    def as_file(self) -> bytes:
        return json.dumps(self._content, indent=2).encode()


def _without_bookkeeping(run: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in run.items() if name not in _BOOKKEEPING}


def holds_a_run(output: str) -> bool:
    """Whether a run was started in `output`; raises UserError for one that cannot be opened."""
    folder = Folder.at(output)
    try:
        return folder.holds(RUN_FILE)
    except OSError as error:
        raise UserError(f"cannot open output {output!r}: {error}") from error


def read_run(output: str) -> dict[str, Any]:
    """The run.json of a run; raises UserError where there is none or its schema is another."""
    return read(Folder.at(output))


def read(folder: Folder) -> dict[str, Any]:
    """The same of an open folder."""
    shown = folder.shown
    try:
        run = parse_json(folder.read(RUN_FILE))
    except FileNotFoundError:
        raise UserError(
            f"{shown} holds no run: there is no {RUN_FILE} (start one without --resume, or give "
            "the folder of a run)"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {RUN_FILE} in {shown}: {error}") from error
    except ValueError as error:
        raise UserError(f"{RUN_FILE} in {shown} is no JSON of a run: {error}") from error
    version = run.get("schema_version") if isinstance(run, dict) else None
    if version is None:
        raise UserError(f"{RUN_FILE} in {shown} describes no run: it names no schema version")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{shown} was written with schema version {version!r}, this code has "
            f"{SCHEMA_VERSION!r}; use the code version of that run ({run.get('code')})"
        )
    return run
