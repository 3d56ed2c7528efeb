"""The life of replicas; no Ray is started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError, RayError

from rsd.cluster import actors, life, replicas
from rsd.cluster.life import Life
from rsd.cluster.pool import PATIENCE_S
from rsd.cluster.replica import ReplicaInfo
from rsd.cluster.replicas import Replicas
from rsd.cluster.scaling import Footprint
from rsd.config import parse
from rsd.errors import RunStoppedError
from rsd.preflight import RunPlan, prepare
from rsd.provenance import Machine, ReplicaEvent, source_sha256


class Replica:
    """An actor whose methods return it in place of a reference."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.expect = self.info = SimpleNamespace(remote=lambda *_: self)


@pytest.fixture()
def run(tmp_path: Path) -> RunPlan:
    return prepare(parse(["--task-suite", "toy", "--policy", "toy", "--output", str(tmp_path)]))


@pytest.fixture()
def started(monkeypatch: pytest.MonkeyPatch) -> list[Replica]:
    made: list[Replica] = []

    def start(name: str, *_: object) -> Replica:
        made.append(Replica(name))
        return made[-1]

    monkeypatch.setattr(actors, "start_replica", start)
    return made


def answer(monkeypatch: pytest.MonkeyPatch, get: Callable[[Replica], object]) -> None:
    """One ping at a time comes back, with what `get` returns or raises."""
    ray = SimpleNamespace(wait=lambda refs, **_: (refs[:1], refs[1:]), get=get)
    monkeypatch.setattr(replicas, "ray", ray)


@pytest.mark.parametrize("error", [ActorDiedError(), OutOfMemoryError("killed")])
def test_replicas_that_are_dead_for_good_are_given_up_one_by_one(
    error: RayError,
    run: RunPlan,
    started: list[Replica],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They die one after the other, as constructors do that fail at different moments."""
    now = 0.0
    said: list[str] = []

    def die(replica: Replica) -> None:
        raise error

    answer(monkeypatch, die)
    monkeypatch.setattr(life, "life_of", lambda _: Life())
    made = Replicas(run, True, said.append, clock=lambda: now)
    made.start(3, Footprint(1.0))
    assert len(made) == 3 and made.footprint == Footprint(1.0)
    with pytest.raises(RunStoppedError, match="every replica of the policy is dead"):
        for _ in range(100):
            made.tend(workers=4)
            now += 10
    assert made.dead == 3 and not made.ready
    assert [replica.name for replica in started] == ["replica-0", "replica-1", "replica-2"]
    assert [line.partition(":")[0] for line in said] == [
        "a replica is dead for good, 2 left",
        "a replica is dead for good, 1 left",
    ]


def test_what_happens_to_a_replica_is_noted_in_order(
    run: RunPlan, started: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies before a ping, between two pings, stands still, and is dead for good."""
    now = 0.0
    noted: list[ReplicaEvent] = []
    machine = Machine("replica", "node-0", "cuda", "EPYC", 16, ("NVIDIA H100",), "x86-64-v3")

    def of(process: str) -> ReplicaInfo:
        return ReplicaInfo(run.policy.sha256, source_sha256(), machine, process)

    answers: list[ReplicaInfo | RayError] = [
        *(of("a"), of("a"), RayActorError(), of("b"), of("c")),
    ]

    def get(_: Replica) -> ReplicaInfo:
        answer = answers.pop(0)
        if isinstance(answer, RayError):
            raise answer
        return answer

    answer(monkeypatch, get)
    monkeypatch.setattr(life, "life_of", lambda _: Life())
    monkeypatch.setattr(life, "restart", lambda _: None)
    made = Replicas(run, True, print, note=noted.append, clock=lambda: now)
    made.start(1, Footprint(1.0))
    while answers:
        made.tend(workers=1)
        now += 10
    monkeypatch.setattr(replicas, "ray", SimpleNamespace(wait=lambda refs, **_: ([], refs)))
    made.tend(workers=1)
    now += 1000
    made.tend(workers=1)
    answers.append(ActorDiedError())
    answer(monkeypatch, get)
    with pytest.raises(RunStoppedError):
        made.tend(workers=1)
        made.tend(workers=1)
    assert [event.what for event in noted] == [
        *("started", "ready", "died", "ready", "died", "ready", "died", "lost"),
    ]
    ready = ReplicaEvent("replica-0", "ready", "node-0", "cuda (NVIDIA H100)")
    assert [event for event in noted if event.what == "ready"] == [ready] * 3
    assert [event.why for event in noted[-4:]][2] == "it did not answer and was killed"
    assert noted[2].why and noted[-1].why


def test_one_that_does_not_come_up_is_looked_after_and_one_that_keeps_dying_is_given_up(
    run: RunPlan, started: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, restarts = 0.0, 0
    looked_after: list[float] = []
    monkeypatch.setattr(replicas, "ray", SimpleNamespace(wait=lambda refs, **_: ([], refs)))
    monkeypatch.setattr(life, "life_of", lambda _: Life(restarts, "it ran away"))
    monkeypatch.setattr(life, "end_if_stopped", lambda _: looked_after.append(now))
    monkeypatch.setattr(life, "stop", lambda _: None)
    made = Replicas(run, True, print, clock=lambda: now)
    made.start(1, Footprint(1.0))
    while now < 3 * PATIENCE_S:
        made.tend(workers=4)
        now += 1
    assert looked_after == pytest.approx([PATIENCE_S, 2 * PATIENCE_S], abs=5)
    restarts = 5
    with pytest.raises(RunStoppedError, match="it ran away, 5 times in a row before it answered"):
        made.tend(workers=4)


def test_workers_ask_their_own_replica_first(
    run: RunPlan, started: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Replicas(run, True, print)
    assert made.actors(home=5) == []
    made.start(3, Footprint(0.0))
    names = [[replica.name[-1] for replica in made.actors(home)] for home in (0, 1, 5)]
    assert names == [["0", "1", "2"], ["1", "2", "0"], ["2", "0", "1"]]


def test_where_nobody_asks_one_none_is_waited_for(run: RunPlan) -> None:
    assert Replicas(run, False, print).ready and not Replicas(run, True, print).ready
