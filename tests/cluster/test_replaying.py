"""Recorded episodes, simulated again on Ray."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_up_recordings import episode, episodes, without_actions, write

from rsd.cluster.leases import Leases
from rsd.cluster.pool import Member, Report
from rsd.cluster.replayer import Replayed
from rsd.cluster.replaying import Job, _ReplayRun
from rsd.commands import call
from rsd.replay.choice import Take
from rsd.types import EpisodeKey

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


class OneWorker:
    """A pool of one, whose job comes back when it is looked for the second time."""

    up = frozenset({"worker-0"})

    def __init__(self) -> None:
        actor: Any = SimpleNamespace(replay=SimpleNamespace(remote=lambda recorded: None))
        self.member: Member[Job] = Member("worker-0", actor, 0)
        self._looks = 0

    @property
    def idle(self) -> list[Member[Job]]:
        return [] if self.member.busy else [self.member]

    def assign(self, member: Member[Job], job: Job, answer: object) -> None:
        member.job, member.busy = job, True

    def reports(self, wait_s: float) -> list[Report[Job, Replayed]]:
        self._looks += 1
        if self._looks < 2:
            return []
        job, self.member.busy = self.member.job, False
        assert job is not None
        return [Report(self.member, job, Replayed(("",)), None)]


class Told:
    """A staffing that notes what it is told."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __enter__(self) -> None:
        self.calls.append("begin")

    def __exit__(self, *_: object) -> None:
        self.calls.append("end")

    def tend(self, remaining: int) -> None:
        self.calls.append(f"tend {remaining}")

    def wind_down(self) -> None:
        self.calls.append("wind down")


def test_after_ctrl_c_nobody_is_started_and_what_is_begun_is_ended() -> None:
    takes = [Take((EpisodeKey("speculative", "toy", 0, trial),)) for trial in range(3)]
    pool: Any = OneWorker()
    staffing: Any = Told()
    came: list[Take] = []
    leases = Leases((take.key for take in takes), 1, lambda suite: 40)
    run = _ReplayRun(
        takes,
        lambda take: [episode()],
        leases,
        pool,
        lambda take, replayed, why: came.append(take),
        print,
    )
    run.run(staffing, stop=lambda: pool.member.busy or bool(came))  # while the first is on its way
    assert came == takes[:1]
    assert staffing.calls == ["begin", "tend 3", "wind down", "tend 1", "end"]
