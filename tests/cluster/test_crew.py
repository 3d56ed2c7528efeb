"""What a crew asks for while the cluster comes up; no Ray is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsd.cluster import actors, crew
from rsd.cluster.crew import Crew
from rsd.cluster.scaling import GB, ClusterSize, Footprint
from rsd.config import parse
from rsd.preflight import prepare

HEAD = ClusterSize(cpus=0, gpus=0, memory_bytes=0)
WITH_GPUS = ClusterSize(cpus=16, gpus=2, memory_bytes=64 * GB)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [([], [[], [1.0]]), (["--gpus-per-replica", "0.5"], [[0.5], [0.5]])],
)
def test_replicas_wait_for_the_first_node_unless_their_kind_was_asked_for(
    flags: list[str], expected: list[list[float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Footprint] = []
    sizes = iter([HEAD, HEAD, WITH_GPUS])  # when it is made, and in two looks
    monkeypatch.setattr(crew, "cluster_size", lambda: next(sizes))
    monkeypatch.setattr(actors, "start_replica", lambda *given: started.append(given[2]))
    monkeypatch.setattr(crew, "ask_for_nodes", lambda *_: None)
    for part in ("_grow_workers", "_ping_replicas", "_explain_silence"):
        monkeypatch.setattr(Crew, part, lambda *_: None)
    toy = ["--task-suite", "toy", "--policy", "toy", "--workers", "1", "--output", str(tmp_path)]
    seconds = iter(range(0, 1000, 100))
    made = Crew(prepare(parse([*toy, *flags])), print, clock=lambda: next(seconds))
    for gpus in expected:
        made.look(remaining=20)
        assert [footprint.gpus for footprint in started] == gpus


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
