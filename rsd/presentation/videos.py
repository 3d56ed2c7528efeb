"""Videos of a run's episodes, as `rsd replay` makes them: RUN/videos/*.mp4, each named by suite,
task, trial and arm (or arms, where they are shown side by side)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from rsd.books.folder import Folder
from rsd.summary.compute import Run

FOLDER = "videos"
SUFFIX = ".mp4"


def videos_of(run: Run, suites: Iterable[str]) -> dict[tuple[str, int, int], dict[str, Path]]:
    """By suite, task and trial, then by the rest of the name; none of a run in an object store."""
    folder = Folder.at(run.output).local
    known = "|".join(sorted(map(re.escape, suites), key=len, reverse=True))
    name = re.compile(rf"({known})[-_]+(?:task)?[-_]?(\d+)[-_]+(?:trial)?[-_]?(\d+)[-_]+(.+)")
    found: dict[tuple[str, int, int], dict[str, Path]] = {}
    for path in sorted((folder / FOLDER).glob(f"*{SUFFIX}")) if folder else []:
        parts = name.fullmatch(path.stem)
        if parts:
            suite, task, trial, arm = parts.groups()
            found.setdefault((suite, int(task), int(trial)), {})[arm] = path
    return found
