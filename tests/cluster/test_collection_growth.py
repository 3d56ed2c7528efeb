"""How a collection grows with its cluster and when it gives a task up; no Ray is started."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from rsd.cluster import actors, collect, crew
from rsd.cluster.collect import CollectionRun, TaskStanding
from rsd.cluster.crew import LOOK_S, PATIENCE_S
from rsd.cluster.scaling import GB, ClusterSize
from rsd.commands.collect import CollectConfig, _shared, prepare
from rsd.demos import Store

HEAD = ClusterSize(cpus=0, gpus=0, memory_bytes=4 * GB)
GROWN = ClusterSize(cpus=16, gpus=0, memory_bytes=64 * GB)


def test_a_collection_grows_when_nodes_join_and_says_what_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CollectConfig(tmp_path, tasks=(0, 1), demos=30, assets="lite")
    plan = prepare(config)
    store = Store(tmp_path, _shared(config, plan), False)
    size, now = HEAD, 0.0
    started: list[object] = []
    asked: list[int] = []
    said: list[str] = []

    def start(*given: object) -> SimpleNamespace:
        started.append(given[1])
        return SimpleNamespace(info=SimpleNamespace(remote=lambda suite: object()))

    for module in (collect, crew):
        monkeypatch.setattr(module, "cluster_size", lambda: size)
    monkeypatch.setattr(crew, "request_resources", lambda bundles: asked.append(len(bundles)))
    monkeypatch.setattr(actors, "start_actor", start)
    run = CollectionRun(plan, store, said.append, clock=lambda: now)
    run._look()
    assert len(started) == 1 and asked == [6]  # one for ten of 60 demonstrations
    now += LOOK_S / 2
    size = GROWN
    run._look()
    assert len(started) == 1
    size = HEAD
    now += PATIENCE_S
    run._look()
    assert len(started) == 1 and len(said) == 2
    assert said[1].startswith("waiting for a worker: it asks for 1 CPUs, 0 GPUs and 2.0 GB")
    now += LOOK_S
    size = GROWN
    run._look()
    assert len(started) == 16 and asked == [6, 6, 6]
    assert "starting 15 worker(s): CPUs for 16" in said[2] and len(said) == 3
    store.close()


@pytest.mark.parametrize(
    ("standing", "why"),
    [
        (TaskStanding(5, 3, done_now=3, failed_now=9, void_now=9, errors_now=9), ""),
        (TaskStanding(5, 3, done_now=3, failed_now=10), "10 placements were not solved; 3 were"),
        (TaskStanding(50, 3, done_now=3, failed_now=49), ""),
        (TaskStanding(50, 50, done_now=50, failed_now=50), ""),
        (TaskStanding(5, 0, void_now=10), "10 placements were solved before anything was done"),
        (TaskStanding(50, 3, done_now=3, errors_now=10), "10 placements ended in errors, which"),
        (TaskStanding(50, 20, done_now=20, errors_now=10), ""),
    ],
)
def test_a_task_is_given_up_for_a_reason_and_errors_are_none_of_the_experts(
    standing: TaskStanding, why: str
) -> None:
    assert standing.given_up.startswith(why) and bool(standing.given_up) == bool(why)
