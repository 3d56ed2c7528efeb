"""What a crew asks for while the cluster comes up; no Ray is started."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError

from rsd.cluster import actors, crew
from rsd.cluster.actors import WorkerInfo
from rsd.cluster.crew import MOMENT_S, Crew, Deaths, check_worker
from rsd.cluster.scaling import GB, ClusterSize, Footprint
from rsd.config import parse
from rsd.errors import RunStoppedError
from rsd.preflight import prepare
from rsd.provenance import machine

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

    monkeypatch.setenv("RAY_ADDRESS", "head:6379")  # nodes may join
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


def test_a_node_with_another_arithmetic_stops_the_run() -> None:
    """Its states would differ from the driver's in the last bits."""
    here = machine("worker", "osmesa")
    check_worker(WorkerInfo(here, "sources", ""), "sources")
    other = dataclasses.replace(here, node="odd", arithmetic="other-12345678")
    with pytest.raises(RunStoppedError, match=r"node odd .* other-12345678 instead of"):
        check_worker(WorkerInfo(other, "sources", ""), "sources")


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


def test_episodes_that_are_killed_for_memory_again_and_again_stop_the_run_and_become_no_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(crew, "cluster_size", lambda: SMALL)
    run = prepare(parse(["--task-suite", "toy", "--policy", "toy", "--output", str(tmp_path)]))
    made = Crew(run, print, clock=lambda: now)
    member = SimpleNamespace(name="worker-0", lease=object(), deadline=0.0, episodes=0)
    killed = OutOfMemoryError("a node running low on memory")

    def come_back(outcome: object) -> None:
        def get(_: object) -> object:
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        monkeypatch.setattr(crew, "ray", SimpleNamespace(get=get))
        made._report(object(), member)  # type: ignore[arg-type]

    charged = []
    for outcome in (*[killed] * 4, "a result", *[killed] * 4, ActorDiedError()):
        come_back(outcome)
        if outcome is killed:
            charged.append(not made.is_short_of_memory(killed))
        now += 10
    assert charged == [True, False, False, False] * 2  # the first may be its episode's fault
    assert not made.is_short_of_memory(ActorDiedError()) and not made.is_short_of_memory(None)
    assert made._stopped is None
    come_back(killed)
    with pytest.raises(RunStoppedError, match="workers were killed for memory 5 times in a row"):
        made.look(remaining=20)


def test_after_a_ctrl_c_nobody_is_hired_and_no_node_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    hired: list[object] = []
    monkeypatch.setattr(crew, "cluster_size", lambda: SMALL)
    monkeypatch.setattr(crew, "request_resources", lambda bundles: asked.append(len(bundles)))
    monkeypatch.setattr(actors, "start_worker", lambda *given: hired.append(given))
    monkeypatch.setattr(actors, "start_replica", lambda *given: hired.append(given))
    monkeypatch.setattr(actors, "stop", lambda actor: None)
    run = prepare(parse(["--task-suite", "toy", "--policy", "toy", "--output", str(tmp_path)]))
    now = 0.0
    made = Crew(run, print, clock=lambda: now)
    member = crew.Member("worker-0", SimpleNamespace(), 0)  # type: ignore[arg-type]
    made.members.append(member)
    for _ in range(2):
        made.wind_down()
        made.look(remaining=20)
        now += crew.LOOK_S
    made.replace(member)
    assert asked == [0] and not hired and not made.members


def test_a_crew_in_mid_run_is_given_time_before_it_is_said_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "cluster_size", lambda: SMALL)
    run = prepare(parse(["--arms", "expert", "--assets", "lite", "--output", str(tmp_path)]))
    now, said = 0.0, list[str]()
    made = Crew(run, said.append, clock=lambda: now)
    member = crew.Member("worker-0", SimpleNamespace(), 0, node="node")  # type: ignore[arg-type]
    made.members.append(member)
    now += 2 * crew.PATIENCE_S
    made._explain_silence()
    member.node = ""  # it is being replaced
    now += crew.PATIENCE_S - 1
    made._explain_silence()
    assert not said
    now += 2
    made._explain_silence()
    assert said[0].startswith("waiting for a worker: it asks for 1 CPUs") and len(said) == 1
