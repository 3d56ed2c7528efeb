"""What a crew asks for while the cluster comes up; no Ray is started."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError

from rsd.cluster import actors, crew
from rsd.cluster.crew import MOMENT_S, Crew, Deaths, RunStoppedError
from rsd.cluster.scaling import GB, ClusterSize, Footprint
from rsd.config import parse
from rsd.preflight import prepare

HEAD = ClusterSize(cpus=0, gpus=0, memory_bytes=0)
SMALL = ClusterSize(cpus=8, gpus=0, memory_bytes=32 * GB)
LARGE = ClusterSize(cpus=64, gpus=0, memory_bytes=256 * GB)
WITH_GPUS = ClusterSize(cpus=16, gpus=2, memory_bytes=64 * GB)


def test_replicas_on_cpus_grow_with_a_cluster_that_began_with_a_small_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, started = _crew([SMALL, SMALL, LARGE], ["--output", str(tmp_path)], monkeypatch)
    made.look(remaining=1000)
    assert [footprint.cpus for footprint in started] == [0]
    made.look(remaining=1000)
    assert [footprint.cpus for footprint in started] == [0, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [([], [[], [1.0]]), (["--gpus-per-replica", "0.5"], [[0.5], [0.5]])],
)
def test_replicas_wait_for_the_first_node_unless_their_kind_was_asked_for(
    flags: list[str], expected: list[list[float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--workers", "1", "--output", str(tmp_path), *flags]
    made, started = _crew([HEAD, HEAD, WITH_GPUS], flags, monkeypatch)
    for gpus in expected:
        made.look(remaining=20)
        assert [footprint.gpus for footprint in started] == gpus


def _crew(
    sizes: list[ClusterSize], flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[Crew, list[Footprint]]:
    """With the cluster's sizes when it is made and in each look, and what its replicas ask for."""
    started: list[Footprint] = []
    size = iter(sizes)
    monkeypatch.setattr(crew, "cluster_size", lambda: next(size))
    monkeypatch.setattr(actors, "start_replica", lambda *given: started.append(given[2]))
    monkeypatch.setattr(crew, "ask_for_nodes", lambda *_: None)
    for part in ("_grow_workers", "_ping_replicas", "_explain_silence"):
        monkeypatch.setattr(Crew, part, lambda *_: None)
    seconds = iter(range(0, 1000, 100))
    run = prepare(parse(["--task-suite", "toy", "--policy", "toy", *flags]))
    return Crew(run, print, clock=lambda: next(seconds)), started


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


@pytest.mark.parametrize("error", [ActorDiedError(), OutOfMemoryError("killed")])
def test_replicas_that_never_load_are_not_started_for_ever(
    error: RayError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They die one after the other, as constructors do that fail at different moments."""
    started: list[Replica] = []
    now = 0.0

    class Replica:
        def __init__(self, name: str) -> None:
            self.name = name
            self.expect = self.info = SimpleNamespace(remote=lambda *_: self)

    def start(name: str, *_: object) -> Replica:
        started.append(Replica(name))
        return started[-1]

    def wait(refs: list[Replica], **_: object) -> tuple[list[Replica], list[Replica]]:
        return refs[:1], refs[1:]

    def get(ref: Replica) -> None:
        raise error

    monkeypatch.setattr(crew, "cluster_size", lambda: WITH_GPUS)
    monkeypatch.setattr(actors, "start_replica", start)
    monkeypatch.setattr(actors, "life_of", lambda _: actors.Life(0, ""))
    monkeypatch.setattr(crew, "ask_for_nodes", lambda *_: None)
    monkeypatch.setattr(crew, "ray", SimpleNamespace(wait=wait, get=get))
    monkeypatch.setattr(Crew, "_grow_workers", lambda *_: None)
    run = ["--task-suite", "toy", "--policy", "toy", "--replicas", "3", "--output", str(tmp_path)]
    said: list[str] = []
    made = Crew(prepare(parse(run)), said.append, clock=lambda: now)
    with pytest.raises(RunStoppedError, match="every replica of the policy is dead"):
        for _ in range(100):
            made.look(remaining=20)
            now += 10
    assert [replica.name for replica in started] == ["replica-0", "replica-1", "replica-2"]
    assert [line.partition(":")[0] for line in said[1:]] == [
        "a replica is dead for good, 2 left",
        "a replica is dead for good, 1 left",
    ]


def test_experts_alone_need_no_replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(crew, "cluster_size", lambda: WITH_GPUS)
    monkeypatch.setattr(actors, "start_replica", lambda *given: started.append(given))
    monkeypatch.setattr(crew, "ask_for_nodes", lambda *_: None)
    monkeypatch.setattr(Crew, "_grow_workers", lambda *_: None)
    run = ["--arms", "expert", "--assets", "lite", "--output", str(tmp_path)]
    made = Crew(prepare(parse(run)), print)
    made.look(remaining=20)
    assert made.can_decide and not started
