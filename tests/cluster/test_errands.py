"""What workers are asked once an episode ends as a user asks for it."""

from __future__ import annotations

from typing import Any

from rsd.cluster.errands import Errand, ErrandRun
from rsd.cluster.leases import Lease
from rsd.cluster.pool import Member, Report
from rsd.types import EpisodeKey


class OneWorker:
    """A pool of one, whose job comes back when it is looked for the second time."""

    up = frozenset({"worker-0"})

    def __init__(self) -> None:
        actor: Any = None
        self.member: Member[Lease] = Member("worker-0", actor, 0)
        self._looks = 0

    @property
    def idle(self) -> list[Member[Lease]]:
        return [] if self.member.busy else [self.member]

    def assign(self, member: Member[Lease], job: Lease, answer: object) -> None:
        member.job, member.busy = job, True

    def reports(self, wait_s: float) -> list[Report[Lease, str]]:
        self._looks += 1
        if self._looks < 2:
            return []
        job, self.member.busy = self.member.job, False
        assert job is not None
        return [Report(self.member, job, "done", None)]


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
    keys = [EpisodeKey("speculative", "toy", 0, trial) for trial in range(3)]
    pool: Any = OneWorker()
    staffing: Any = Told()
    came: list[tuple[EpisodeKey, str | None]] = []
    errand = Errand[str](
        keys,
        max_steps=lambda suite: 40,
        make=lambda footprint: None,  # type: ignore[arg-type, return-value]
        ask=lambda worker, key: None,
        came=lambda key, answer, why: came.append((key, answer)),
        named=str,
        time_limit_s=1.0,
        workers=1,
    )
    run = ErrandRun(errand, pool, print)
    run.run(staffing, stop=lambda: pool.member.busy or bool(came))  # while the first is on its way
    assert came == [(keys[0], "done")] and run.left == 2
    assert staffing.calls == ["begin", "tend 3", "wind down", "tend 1", "end"]
