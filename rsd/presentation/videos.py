"""Videos of a run's episodes, where `rsd replay` puts them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from rsd.books.folder import Folder
from rsd.replay.choice import Take
from rsd.summary.compute import Run
from rsd.types import EpisodeKey

FOLDER = "videos"  # in the run's


def videos_of(runs: Sequence[Run], keys: Sequence[EpisodeKey]) -> dict[str, Path]:
    """Of episodes in one world, alone or two beside each other, by the arms that they show. None of
    a run in an object store."""
    takes = [Take((key,)) for key in keys]
    takes += [Take(pair) for pair in itertools.combinations(sorted(keys), 2)]
    folders = [folder / FOLDER for run in runs if (folder := Folder.at(run.output).local)]
    found = ((take.key.arm, folder / take.file) for take in takes for folder in folders)
    return {arm: path for arm, path in found if path.is_file()}
