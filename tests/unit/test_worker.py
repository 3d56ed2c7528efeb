from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rsd.arms import read_arm
from rsd.cluster.worker import (
    EnvWorker,
    EpisodeTimeLimitError,
    NoReplicaError,
    WorkerSettings,
    error_result,
)
from rsd.envs.assets import ResolvedAssets
from rsd.envs.toy import ToyEnvironment
from rsd.models.toy import ToyPolicy
from rsd.types import Chunk, ChunkRequest, EpisodeKey

PARALLEL = read_arm("parallel")
SETTINGS = WorkerSettings(
    ResolvedAssets("none", Path(), "", ""), "none", ToyPolicy.images, time_limit_s=60
)


def key(suite: str = "toy", task: int = 0, trial: int = 0) -> EpisodeKey:
    return EpisodeKey("parallel", suite, task, trial)


def decide(request: ChunkRequest) -> Chunk:
    return ToyPolicy().act([request])[0]


class CountedEnvironment(ToyEnvironment):
    made = 0
    closed = 0

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        CountedEnvironment.made += 1

    def close(self) -> None:
        CountedEnvironment.closed += 1


@pytest.fixture()
def worker() -> EnvWorker:
    CountedEnvironment.made = CountedEnvironment.closed = 0
    return EnvWorker(SETTINGS, make=CountedEnvironment)


def test_a_simulator_is_made_when_it_is_needed_and_kept_for_its_task(worker: EnvWorker) -> None:
    assert CountedEnvironment.made == 0
    for trial in range(3):
        worker.run(key(trial=trial), PARALLEL, decide)
    assert (CountedEnvironment.made, CountedEnvironment.closed) == (1, 0)
    worker.run(key(task=1), PARALLEL, decide)
    assert (CountedEnvironment.made, CountedEnvironment.closed) == (2, 1)


def test_a_world_depends_on_its_trial_and_not_on_what_came_before(worker: EnvWorker) -> None:
    alone = worker.run(key(trial=7), PARALLEL, decide)
    for trial in (3, 5, 7):
        last = worker.run(key(trial=trial), PARALLEL, decide)
    assert last.final_state_sha256 == alone.final_state_sha256


def test_an_exception_is_an_error_with_its_traceback_and_costs_the_simulator(
    worker: EnvWorker,
) -> None:
    result = worker.run(key("toy_faults", task=0, trial=1), PARALLEL, decide)
    assert result.outcome == "error"
    assert "FloatingPointError: the toy simulator has diverged" in result.error
    assert "in _raise" in result.error
    assert (result.assets, result.renderer) == ("none", "none")
    assert CountedEnvironment.closed == 1
    assert worker.run(key("toy_faults", 0, 0), PARALLEL, decide).outcome != "error"


def test_a_hang_raises_where_it_hangs() -> None:
    worker = EnvWorker(replace(SETTINGS, time_limit_s=1))
    started = time.perf_counter()
    with pytest.raises(EpisodeTimeLimitError, match=r"time limit of 1 s") as error:
        worker.run(key("toy_faults", task=1, trial=1), PARALLEL, decide)
    assert time.perf_counter() - started < 30
    assert error.traceback[-2].name == "_hang"


def test_an_episode_is_not_to_blame_for_missing_replicas(worker: EnvWorker) -> None:
    def nobody(request: ChunkRequest) -> Chunk:
        raise NoReplicaError

    with pytest.raises(NoReplicaError):
        worker.run(key(), PARALLEL, nobody)


def test_a_worker_that_died_leaves_a_record_that_names_assets_and_renderer() -> None:
    settings = replace(SETTINGS, renderer="osmesa")
    result = error_result(key(), PARALLEL, "died", settings)
    assert (result.assets, result.renderer, result.steps) == ("none", "osmesa", 0)


def test_neither_a_worker_nor_the_driver_imports_torch() -> None:
    code = (
        "import sys, rsd.cluster.evaluate, rsd.cluster.forecast;"
        "sys.exit('torch' in sys.modules or 'mujoco' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=200).returncode == 0
