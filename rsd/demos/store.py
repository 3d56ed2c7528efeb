"""The folder that a collection fills."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsd.conditions import LATER, of_collection, require_same
from rsd.demos.collecting import Failure
from rsd.demos.demonstration import Demonstration
from rsd.demos.files import SUFFIX, part_files, task_file
from rsd.demos.quota import Quota
from rsd.demos.writing import merge, stored_seeds, write_demonstration
from rsd.errors import UserError, writing
from rsd.foreign import MOST_BYTES, parse_json, read_bytes
from rsd.locking import claim, let_go_on_failure
from rsd.outputs import sweep, write_file
from rsd.suites import Task


class Store:
    """A folder that demonstrations are collected into; one writer at a time.

    `<task>_demo.hdf5` per task (files.py); until a task is complete, `parts/` holds a file
    per demonstration. `failed/` holds a text per placement that gives none, for good, and
    `errors/` one per placement that something else than the expert broke off, until a later session
    has it decided. `collection.json` holds what all of them share. A kill at any moment loses the
    episodes that were running and nothing else.

    Every method raises UserError where a file is damaged or cannot be written.
    """

    def __init__(self, folder: Path, shared: Mapping[str, Any], resume: bool) -> None:
        """`shared`: settings that a resumed collection must not change. Raises UserError also where
        the folder is in use, holds something and `resume` is not asked for, or holds demonstrations
        with other or unknown settings."""
        self.folder = folder
        self._lock = claim(folder, resume)
        with let_go_on_failure(self._lock):
            self._agree(shared)
            with writing(folder):
                sweep(folder, below=True)

    def _agree(self, shared: Mapping[str, Any]) -> None:
        path = self.folder / "collection.json"
        if not path.exists():
            self._refuse_unknown()
            write_file(path, json.dumps(shared, indent=2))
            return
        try:
            stored = parse_json(read_bytes(path, MOST_BYTES))
            if not isinstance(stored, dict):
                raise ValueError("it holds no settings")
        except ValueError as error:
            raise UserError(
                f"{path} is damaged ({error}), so nobody knows how the demonstrations beside it "
                "were made; put a copy back or choose another --output"
            ) from error
        require_same(
            of_collection(stored),
            of_collection(shared),
            f"{self.folder} was collected with other settings; resume with the same ones or choose "
            "another --output",
            later=LATER,
        )

    def _refuse_unknown(self) -> None:
        made = [*self.folder.glob(f"*{SUFFIX}"), *part_files(self.folder)]
        if made:
            raise UserError(
                f"{self.folder} holds demonstrations ({made[0].name}) but no collection.json, so "
                "nobody knows how they were made; choose another --output"
            )

    def quota(self, task: Task, wanted: int, first_seed: int) -> Quota:
        """What there is of a task already, and how many more are wanted."""
        done = stored_seeds(task_file(self.folder, task)) | {
            int(part.stem) for part in part_files(self.folder, task.name)
        }
        noted = self.folder.glob(f"failed/{task.name}/[0-9]*.txt")
        failed = {int(path.stem) for path in noted if path.stem.isdecimal()}
        return Quota(wanted, first_seed, done, failed)

    def add(self, demo: Demonstration) -> None:
        """Keep a demonstration; it is safe when this returns."""
        name = f"{demo.seed:08d}.hdf5"
        write_demonstration(self.folder / "parts" / demo.task.name / name, demo)
        self._clear_error(demo.task, demo.seed)

    def note_failure(self, task: Task, failure: Failure) -> None:
        """Remember that a placement gives no demonstration, so that no resume tries it again."""
        write_file(self._text("failed", task, failure.seed), failure.reason + "\n")
        self._clear_error(task, failure.seed)

    def note_error(self, task: Task, seed: int, reason: str) -> None:
        """Keep why a placement was skipped; a resume tries it again."""
        write_file(self._text("errors", task, seed), reason)

    def _clear_error(self, task: Task, seed: int | None) -> None:
        if seed is not None:
            path = self._text("errors", task, seed)
            with writing(path):
                path.unlink(missing_ok=True)
            _remove_empty(path.parent)

    def _text(self, folder: str, task: Task, seed: int) -> Path:
        return self.folder / folder / task.name / f"{seed:08d}.txt"

    def merge(self, task: Task) -> None:
        """Move a task's parts into its file."""
        self._merge(task.name)

    def merge_all(self) -> None:
        """Move all parts into their tasks' files."""
        for name in sorted({part.parent.name for part in part_files(self.folder)}):
            self._merge(name)

    def _merge(self, task_name: str) -> None:
        merge(part_files(self.folder, task_name), self.folder / f"{task_name}{SUFFIX}")
        _remove_empty(self.folder / "parts" / task_name)

    def close(self) -> None:
        """Let another process write."""
        if self._lock is not None:
            self._lock.close()


def _remove_empty(folder: Path) -> None:
    """With the folder that it is in; what is absent or holds something stays as it is."""
    for each in (folder, folder.parent):
        with contextlib.suppress(OSError):
            each.rmdir()
