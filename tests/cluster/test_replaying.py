"""Recorded episodes, simulated again on Ray."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_recordings import episodes, without_actions, write

from rsd.commands import call

pytestmark = pytest.mark.timeout(180)


@pytest.mark.usefixtures("no_ray")
def test_on_ray_the_same_videos_come_out_and_what_cannot_be_simulated_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = episodes()[6:10]  # of two tasks
    recorded[1] = without_actions(recorded[1])
    run = write(tmp_path / "run", recorded)
    here, there = tmp_path / "here", tmp_path / "there"
    assert call("replay", [run, "--all", "--output", str(here)]) == 1
    assert call("replay", [run, "--all", "--output", str(there), "--workers", "2"]) == 1
    out = capsys.readouterr().out
    assert out.count("could not be simulated") == 2 and "starting 2 worker(s)" in out
    made = {path.name: path.read_bytes() for path in here.iterdir()}
    assert made == {path.name: path.read_bytes() for path in there.iterdir()}
    assert len(made) == len(recorded) - 1
