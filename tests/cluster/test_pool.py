"""What a pool does with its workers, whatever they are asked; no Ray is started."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError

from rsd.cluster import life, pool
from rsd.cluster.deaths import MOMENT_S, Deaths
from rsd.cluster.nodes import check_worker
from rsd.cluster.pool import PATIENCE_S, Member, WorkerPool
from rsd.cluster.scaling import Footprint
from rsd.cluster.worker import KILL_GRACE_S, NoReplicaError, WorkerInfo
from rsd.errors import RunStoppedError
from rsd.provenance import machine, source_sha256

LIMIT_S = 60.0


class Fakes:
    """Ray's answers by hand: `back` holds what came back, by the reference it came to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.back: dict[object, object] = {}
        self.started: list[SimpleNamespace] = []
        self.stopped: list[object] = []
        self.looked_after: list[object] = []
        monkeypatch.setattr(pool, "ray", SimpleNamespace(wait=self._wait, get=self._get))
        monkeypatch.setattr(pool, "time", SimpleNamespace(sleep=lambda _: 0, perf_counter=float))
        monkeypatch.setattr(life, "stop", self.stopped.append)
        monkeypatch.setattr(life, "end_if_stopped", self.looked_after.append)

    def make(self, footprint: Footprint) -> SimpleNamespace:
        ref = f"info-{len(self.started)}"
        actor = SimpleNamespace(info=SimpleNamespace(remote=lambda suite: ref))
        self.started.append(actor)
        return actor

    def _wait(self, refs: list[object], **_: object) -> tuple[list[object], list[object]]:
        return [ref for ref in refs if ref in self.back], []

    def _get(self, ref: object) -> object:
        came = self.back[ref]
        if isinstance(came, Exception):
            raise came
        return came


@pytest.fixture()
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    return Fakes(monkeypatch)


INFO = WorkerInfo(machine("worker", "none"), source_sha256(), "")
MakePool = Callable[[int], WorkerPool[str, str]]


@pytest.fixture()
def make_pool(fakes: Fakes) -> MakePool:
    def make(workers: int) -> WorkerPool[str, str]:
        """With so many workers, up."""
        made = WorkerPool[str, str](fakes.make, "toy", LIMIT_S, 3, clock=lambda: fakes.now)
        made.start(workers, Footprint(1.0))
        fakes.back = {f"info-{number}": INFO for number in range(workers)}
        assert list(made.reports(0)) == [] and len(made.idle) == workers
        return made

    return make


def names(members: list[Member[str]]) -> list[str]:
    return [member.name for member in members]


def test_answers_come_before_failures_and_who_failed_is_replaced(
    fakes: Fakes, make_pool: MakePool
) -> None:
    made = make_pool(3)
    for member in made.idle:
        made.assign(member, f"job of {member.name}", f"ref of {member.name}")  # type: ignore[arg-type]
    assert made.idle == []
    fakes.back = {"ref of worker-0": ActorDiedError(), "ref of worker-2": "done"}
    first, second = made.reports(0)
    assert (first.job, first.answer, first.error) == ("job of worker-2", "done", None)
    assert second.job == "job of worker-0" and isinstance(second.error, ActorDiedError)
    assert names(made.members) == ["worker-1", "worker-2", "worker-3"]
    assert names(made.idle) == ["worker-2"] and made.up == {"worker-1", "worker-2"}
    assert fakes.stopped == fakes.started[:1]


def test_a_worker_is_replaced_when_it_has_done_its_share_and_kept_where_no_replica_answered(
    fakes: Fakes, make_pool: MakePool
) -> None:
    made = make_pool(1)
    for turn, came in enumerate((NoReplicaError(), "done", "done")):
        (member,) = made.idle
        made.assign(member, "job", f"ref {turn}")  # type: ignore[arg-type]
        fakes.back = {f"ref {turn}": came}
        assert len(list(made.reports(0))) == 1
    assert names(made.members) == ["worker-1"] and not made.idle


def test_a_job_that_hangs_past_its_limit_comes_back_as_an_error(
    fakes: Fakes, make_pool: MakePool
) -> None:
    made = make_pool(1)
    made.assign(made.idle[0], "job", "ref")  # type: ignore[arg-type]
    fakes.now += LIMIT_S + KILL_GRACE_S
    assert list(made.reports(0)) == []
    fakes.now += 1
    (report,) = made.reports(0)
    assert report.job == "job" and "exceeded its time limit of 60 s" in str(report.error)
    assert fakes.stopped == fakes.started[:1] and len(fakes.started) == 2
    fakes.back = {"ref": "too late"}
    assert list(made.reports(0)) == []


def test_when_it_winds_down_nobody_is_replaced(fakes: Fakes, make_pool: MakePool) -> None:
    made = make_pool(1)
    made.assign(made.idle[0], "job", "ref")  # type: ignore[arg-type]
    made.wind_down()
    fakes.back = {"ref": ActorDiedError()}
    assert len(list(made.reports(0))) == 1
    assert not made.members and len(fakes.started) == 1


def test_a_worker_that_does_not_come_up_is_looked_after(fakes: Fakes) -> None:
    made = WorkerPool[str, str](fakes.make, "toy", LIMIT_S, 3, clock=lambda: fakes.now)
    made.start(1, Footprint(1.0))
    for _ in range(5):
        assert list(made.reports(0)) == []
        fakes.now += PATIENCE_S / 2
    assert fakes.looked_after == fakes.started[:1]
    fakes.now += PATIENCE_S
    list(made.reports(0))
    assert len(fakes.looked_after) == 2


def test_workers_that_keep_dying_while_they_start_stop_the_run(fakes: Fakes) -> None:
    made = WorkerPool[str, str](fakes.make, "toy", LIMIT_S, 3, clock=lambda: fakes.now)
    made.start(1, Footprint(1.0))
    with pytest.raises(RunStoppedError, match="workers died 5 times in a row"):
        for number in range(9):
            fakes.back = {f"info-{number}": ActorDiedError()}
            list(made.reports(0))
            fakes.now += MOMENT_S
    assert len(fakes.started) == 5


def test_workers_of_a_lost_node_die_once_and_five_deaths_in_a_row_stop_the_run() -> None:
    now = 0.0
    deaths = Deaths(lambda: now)
    for _ in range(16):
        deaths.add(ActorDiedError())
        now += 0.1
    for _ in range(3):
        now += MOMENT_S
        deaths.add(ActorDiedError())
    deaths.end_row()
    for _ in range(4):
        now += MOMENT_S
        deaths.add(ActorDiedError())
    now += MOMENT_S
    with pytest.raises(RunStoppedError, match="workers died 5 times in a row"):
        deaths.add(ActorDiedError())


def test_a_node_with_another_arithmetic_or_other_code_stops_the_run() -> None:
    """Its states would differ from the driver's in the last bits."""
    check_worker(INFO, INFO.source_sha256)
    with pytest.raises(RunStoppedError, match="runs other code than the driver"):
        check_worker(INFO, "0" * 64)
    odd = dataclasses.replace(INFO.machine, node="odd", arithmetic="other-12345678")
    with pytest.raises(RunStoppedError, match=r"node odd .* other-12345678 instead of"):
        check_worker(dataclasses.replace(INFO, machine=odd), INFO.source_sha256)
