"""The folder of a calibration's rollouts: what is kept is read again, and others' is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsd.calibration import FEATURES, Observed
from rsd.errors import CannotWriteError, UserError
from rsd.rollouts import Rollouts
from rsd.types import EpisodeKey
from tests.full_disk import full_disk

KEY = EpisodeKey("calibration", "libero_goal", 3, 500_001)
FACTS: dict[str, Any] = {"placements": "fresh", "checkpoint_sha256": "a" * 64, "code": "mine"}


def observed(chunks: int = 7) -> Observed:
    rng = np.random.default_rng(chunks)
    return Observed(
        names=tuple(FEATURES),
        features=rng.normal(size=(chunks, len(FEATURES))),
        apart_mm=rng.random(chunks),
        apart_degrees=rng.random(chunks),
        gripper=rng.random(chunks) < 0.5,
        placement=np.zeros(chunks, np.int64),
    )


@pytest.fixture()
def folder(tmp_path: Path) -> Iterator[Path]:
    """Holds one rollout."""
    with closing(Rollouts(tmp_path / "seen", FACTS, resume=False)) as rollouts:
        rollouts.add(KEY, observed())
    yield tmp_path / "seen"


def resumed(folder: Path, **facts: Any) -> closing[Rollouts]:
    return closing(Rollouts(folder, FACTS | facts, resume=True))


def test_a_rollout_is_read_again_to_the_bit(folder: Path) -> None:
    with resumed(folder, code="newer") as rollouts:
        again = rollouts.get(KEY)
        assert again is not None
        for field in dataclasses.fields(Observed):
            assert np.array_equal(getattr(again, field.name), getattr(observed(), field.name))
        assert rollouts.get(dataclasses.replace(KEY, trial=500_002)) is None


def test_a_folder_that_holds_something_is_gone_on_with_only_where_that_is_asked_for(
    folder: Path,
) -> None:
    with pytest.raises(UserError, match="is not empty; --resume goes on"):
        Rollouts(folder, FACTS, resume=False)
    with resumed(folder), pytest.raises(UserError, match="another process is writing"):
        Rollouts(folder, FACTS, resume=True)


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"placements": "stored"}, 'placements: "fresh" -> "stored"'),
        ({"checkpoint_sha256": "b" * 64}, "checkpoint_sha256"),
        ({"features": ["entropy"]}, "features"),
        ({"packages": {"mujoco": "9"}}, "packages.mujoco"),
    ],
)
def test_what_was_seen_in_another_way_is_refused(
    facts: dict[str, Any], told: str, folder: Path
) -> None:
    with resumed(folder, **facts) as rollouts:
        with pytest.raises(UserError, match="seen in another way; name another --seen") as error:
            rollouts.get(KEY)
        assert told in str(error.value)


def test_a_damaged_file_is_refused_by_its_name(folder: Path) -> None:
    (file,) = folder.glob("*.parquet")
    file.write_bytes(file.read_bytes()[:-20])
    with resumed(folder) as rollouts, pytest.raises(UserError, match=rf"{file.name} holds no roll"):
        rollouts.get(KEY)


def test_a_full_disk_costs_the_rollout_that_came_and_none_before(folder: Path) -> None:
    other = dataclasses.replace(KEY, trial=500_002)
    with resumed(folder) as rollouts:
        with full_disk(100), pytest.raises(CannotWriteError, match=r"another --seen"):
            rollouts.add(other, observed())
        assert rollouts.get(KEY) is not None and rollouts.get(other) is None
    assert len([path for path in folder.iterdir() if not path.name.startswith(".lock")]) == 1
