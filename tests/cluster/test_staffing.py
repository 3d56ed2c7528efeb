"""Whom a run starts while its cluster comes up, and what it says meanwhile; no Ray is started."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from rsd.cluster import staffing
from rsd.cluster.pool import PATIENCE_S
from rsd.cluster.scaling import GB, ClusterSize, Footprint, Wishes
from rsd.cluster.staffing import PERIOD_S, Staffing

HEAD = ClusterSize(cpus=0, gpus=0, memory_bytes=4 * GB)
GROWN = ClusterSize(cpus=16, gpus=0, memory_bytes=64 * GB)
WITH_GPUS = ClusterSize(cpus=16, gpus=2, memory_bytes=64 * GB)
COLLECTING = Wishes(None, 0, 0.0, worker_memory_gb=2.0, max_batch_size=1)
EVALUATING = Wishes(None, None, None, worker_memory_gb=2.0, max_batch_size=16)


@dataclass
class FakePool:
    members: list[Footprint] = field(default_factory=list)
    up: set[str] = field(default_factory=set)

    def start(self, count: int, footprint: Footprint) -> None:
        self.members += [footprint] * count

    def wind_down(self) -> None: ...

    def end(self) -> None:
        self.members.clear()


@dataclass
class FakeReplicas:
    started: list[Footprint] = field(default_factory=list)
    dead: int = 0
    ready: bool = False

    @property
    def footprint(self) -> Footprint | None:
        return self.started[-1] if self.started else None

    def __len__(self) -> int:
        return len(self.started)

    def start(self, count: int, footprint: Footprint) -> None:
        self.started += [footprint] * count

    def end(self) -> None:
        self.started.clear()


class Stage:
    """A cluster and a clock in one's hands."""

    def __init__(self, wishes: Wishes, monkeypatch: pytest.MonkeyPatch) -> None:
        self.size, self.now = HEAD, 0.0
        self.said: list[str] = []
        self.asked: list[int] = []  # workers that the autoscaler is to make room for
        self.pool, self.replicas = FakePool(), FakeReplicas()
        monkeypatch.setattr(staffing, "cluster_size", lambda: self.size)
        monkeypatch.setattr(
            staffing, "request_resources", lambda bundles: self.asked.append(len(bundles))
        )
        self.staffing = Staffing(
            wishes,
            self.pool,  # type: ignore[arg-type]
            None if wishes.replicas == 0 else self.replicas,  # type: ignore[arg-type]
            self.said.append,
            lambda: self.now,
        )


def test_it_grows_when_nodes_join_and_says_what_it_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(COLLECTING, monkeypatch)
    stage.staffing.tend(60)
    assert len(stage.pool.members) == 1 and stage.asked == [6]  # one for ten of 60 demonstrations
    stage.now += PERIOD_S / 2
    stage.size = GROWN
    stage.staffing.tend(60)
    assert len(stage.pool.members) == 1
    stage.size = HEAD
    stage.now += PATIENCE_S
    stage.staffing.tend(60)
    assert len(stage.pool.members) == 1 and len(stage.said) == 2
    assert stage.said[1] == (
        "waiting for a worker: it asks for 1 CPUs, 0 GPUs and 2.0 GB; the cluster has "
        "0 CPUs, 0 GPUs, 4 GB of memory"
    )
    stage.now += PERIOD_S
    stage.size = GROWN
    stage.staffing.tend(60)
    assert len(stage.pool.members) == 16 and stage.asked == [6, 6, 6]
    assert "starting 15 worker(s): CPUs for 16" in stage.said[2] and len(stage.said) == 3


def test_replicas_are_started_with_the_first_node_and_are_of_its_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(EVALUATING, monkeypatch)
    for size, gpus in ((HEAD, []), (WITH_GPUS, [1.0])):
        stage.size = size
        stage.staffing.tend(20)
        assert [footprint.gpus for footprint in stage.replicas.started] == gpus
        stage.now += PERIOD_S


def test_a_run_in_its_middle_is_given_time_before_it_is_said_to_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(EVALUATING, monkeypatch)
    stage.size = GROWN

    def tend(after_s: float) -> None:
        stage.now += after_s
        stage.staffing.tend(20)

    tend(0)
    stage.pool.up, stage.replicas.ready = {"worker-0"}, True
    tend(2 * PATIENCE_S)
    before = len(stage.said)
    stage.pool.up = set()  # it is being replaced
    tend(PATIENCE_S - 1)
    assert len(stage.said) == before
    tend(PERIOD_S)
    assert stage.said[before].startswith("waiting for a worker: it asks for 1 CPUs")
    tend(PATIENCE_S)
    assert len(stage.said) == before + 1


def test_workers_that_are_up_wait_for_a_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(EVALUATING, monkeypatch)
    stage.size, stage.pool.up = WITH_GPUS, {"worker-0"}
    stage.staffing.tend(20)
    stage.now += PATIENCE_S + 1
    stage.staffing.tend(20)
    assert stage.said[-1].startswith("waiting for a replica: it asks for 1 CPUs, 1 GPUs")


def test_after_a_ctrl_c_nobody_is_started_and_no_node_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(EVALUATING, monkeypatch)
    stage.size = GROWN
    for _ in range(2):
        stage.staffing.wind_down()
        stage.staffing.tend(20)
        stage.now += PERIOD_S
    assert stage.asked == [0] and not stage.pool.members and not stage.replicas.started


def test_whatever_ends_a_run_everybody_is_ended_and_no_node_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(EVALUATING, monkeypatch)
    stage.size = GROWN
    with pytest.raises(ZeroDivisionError), stage.staffing:
        stage.staffing.tend(20)
        assert stage.pool.members and stage.replicas.started
        raise ZeroDivisionError
    assert not stage.pool.members and not stage.replicas.started and stage.asked == [2, 0]
