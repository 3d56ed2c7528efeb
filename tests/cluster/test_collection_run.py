"""A collection's workers are checked before their first placement, and what breaks off an attempt
is told apart from what the expert fails at."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from rsd.cluster import collect, life, pool
from rsd.cluster.collect import CollectionRun, TaskStanding
from rsd.cluster.collector import Attempt, Cost
from rsd.cluster.worker import WorkerInfo
from rsd.commands.collect import CollectConfig, _shared, prepare
from rsd.demos import Failure, Store, stored_seeds, task_file
from rsd.envs.assets import ResolvedAssets
from rsd.errors import RunStoppedError
from rsd.provenance import machine, source_sha256
from rsd.suites import Task
from rsd.types import SimTimings
from tests.made_up_demonstrations import TASK, made_up_demonstration

pytestmark = [pytest.mark.usefixtures("ray_here"), pytest.mark.timeout(240)]


def test_a_node_that_cannot_collect_stops_the_collection_before_a_placement(
    tmp_path: Path,
) -> None:
    config = CollectConfig(tmp_path, tasks=(0,), demos=1, assets="lite", workers=1)
    plan = prepare(config)
    absent = ResolvedAssets("official", Path("/nowhere/assets"), "", "")
    store = Store(tmp_path, _shared(config, plan), False)
    run = CollectionRun(replace(plan, worker=replace(plan.worker, assets=absent)), store, print)
    with pytest.raises(RunStoppedError, match=r"cannot run episodes: .*/nowhere/assets"):
        run.run(lambda: False, lambda standings: None)
    assert not run.costs
    store.close()


def toy_collector(broken: set[int], stopped: Path | None = None) -> type:
    """Workers that raise at the seeds `broken`, do not solve seed 2, find seed 3 solved, and solve
    all others; the first one stops while it starts, and says so in a file `stopped`. Local, so that
    Ray sends it by value."""
    demos = {seed: made_up_demonstration(seed) for seed in range(1, 8)}
    failures = {2: Failure(2, "not reached"), 3: Failure(3, "holds", void=True)}

    class ToyCollector:
        def __init__(self, *given: object) -> None: ...

        def info(self, suite: str) -> WorkerInfo:
            if stopped is not None and not stopped.exists():
                stopped.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGSTOP)
            return WorkerInfo(machine("worker", "none"), source_sha256(), "")

        def collect(self, task: Task, seed: int) -> Attempt:
            if seed in broken:
                raise FloatingPointError("the toy simulator has diverged")
            outcome = failures.get(seed) or demos[seed]
            return Attempt(outcome, Cost(SimTimings(), 1, 0.1, 1))

    return ToyCollector


def test_errors_are_counted_apart_kept_on_disk_and_tried_again_by_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "RETRIES", 1)

    def session(broken: set[int], resume: bool) -> tuple[TaskStanding, str]:
        monkeypatch.setattr(collect, "Collector", toy_collector(broken))
        config = CollectConfig(tmp_path, tasks=(TASK.task_id,), demos=3, assets="lite", workers=1)
        plan = prepare(config)
        store = Store(tmp_path, _shared(config, plan), resume)
        said: list[str] = []
        run = CollectionRun(plan, store, said.append)
        run.run(lambda: False, lambda standings: None)
        store.close()
        return run.standings()[TASK], "\n".join(said)

    standing, said = session({1}, resume=False)
    assert standing == TaskStanding(3, 2, done_now=2, failed_now=1, void_now=1, errors_now=1)
    assert not standing.complete
    assert said.count("seed 1: ") == 2 and "the toy simulator has diverged" in said
    assert stored_seeds(task_file(tmp_path, TASK)) == {4, 5}
    (error,) = tmp_path.glob("errors/*/*.txt")
    assert error.name == "00000001.txt" and "has diverged" in error.read_text()
    assert len(list(tmp_path.glob("failed/*/*.txt"))) == 2

    standing, _ = session(set(), resume=True)
    assert standing == TaskStanding(3, 3, done_now=1) and standing.complete
    assert stored_seeds(task_file(tmp_path, TASK)) == {1, 4, 5}
    assert not (tmp_path / "errors").exists()


def test_a_worker_that_is_stopped_for_good_while_it_starts_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody hears of it: it may as well load something for long."""
    monkeypatch.setattr(pool, "PATIENCE_S", 1.0)
    monkeypatch.setattr(life, "STOPPED_S", 1.0)
    stopped = tmp_path / "stopped"
    monkeypatch.setattr(collect, "Collector", toy_collector(set(), stopped))
    output = tmp_path / "demos"
    config = CollectConfig(output, tasks=(TASK.task_id,), demos=1, assets="lite", workers=1)
    plan = prepare(config)
    store = Store(output, _shared(config, plan), False)
    run = CollectionRun(plan, store, print)
    run.run(lambda: False, lambda standings: None)
    store.close()
    assert run.standings()[TASK].complete
    assert not psutil.pid_exists(int(stopped.read_text()))
