"""Control steps per second: reference loop, ours, floor (`rsd benchmark rollout`)."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from rsd.envs.assets import ResolvedAssets
from rsd.envs.libero import LiberoEnvironment
from rsd.envs.reference import ReferenceLoop
from rsd.episode import sha256_of
from rsd.suites import WAIT_STEPS, get_task
from rsd.types import ImageSpec

SUBSTEPS = 25  # mj_step calls in a control step (PROTOCOL 5)


@dataclass(frozen=True)
class Workload:
    """The same episodes for every side."""

    suite: str
    task_id: int
    trials: int
    steps: int  # control steps of an episode, wait steps not counted
    chunk: int  # steps between two looks of the policy
    size: int  # pixels
    assets: ResolvedAssets
    renderer: str

    def actions(self) -> np.ndarray:
        """float64 (steps, 7), smooth and moderate, the same for every side and trial."""
        rng = np.random.default_rng(0)
        waypoints = rng.uniform(-0.6, 0.6, (self.steps // 10 + 2, 7))
        at = np.linspace(0, len(waypoints) - 1, self.steps)
        columns = [np.interp(at, np.arange(len(waypoints)), column) for column in waypoints.T]
        return np.stack(columns, axis=1)


@dataclass(frozen=True)
class Cost:
    """What one side took; medians over trials."""

    side: str
    build_s: float  # until the first trial can begin
    episode_s: float  # a trial, reset and wait steps included
    cpu_s: float  # processor time of a trial, threads that draw included
    steps_per_s: float  # control steps (wait steps too) of a trial by episode_s
    finals: tuple[str, ...]  # sha256 of the final state of each trial; empty where not comparable


def reference(work: Workload) -> Cost:
    """OffScreenRenderEnv, hard resets, both frames at every step."""
    started = time.perf_counter()
    task = get_task(work.suite, work.task_id)
    with closing(ReferenceLoop(task, work.assets, work.renderer)) as loop:
        trials = loop.trials()
        built = time.perf_counter()

        def episode() -> str:
            next(trials)
            for action in work.actions():
                loop.step(action)
            return sha256_of(loop.state())

        return _cost("reference loop", work, built - started, lambda _: episode())


def ours(work: Workload) -> Cost:
    """rsd.envs.libero: frames once a chunk, the compiled model reused."""
    started = time.perf_counter()
    with closing(_environment(work)) as env:
        for trial in range(work.trials):  # records worlds where the cache lacks them
            env.reset(trial)
        built = time.perf_counter()

        def episode(trial: int) -> str:
            env.reset(trial)
            for index, action in enumerate(work.actions()):
                if index % work.chunk == 0:
                    env.observe()
                env.step(action)
            return sha256_of(env.state())

        return _cost("rsd", work, built - started, episode)


def floor(work: Workload) -> Cost:
    """Only the physics engine and the frames that a policy reads: 25 mj_step a control step with
    constant torques. No controller, so its states mean nothing; nothing can be faster."""
    started = time.perf_counter()
    with closing(_environment(work)) as env:
        env.reset(0)
        built = time.perf_counter()
        import mujoco

        sim = env.simulator.sim

        def episode(_: int) -> str:
            for index in range(WAIT_STEPS + work.steps):
                if index >= WAIT_STEPS and (index - WAIT_STEPS) % work.chunk == 0:
                    env.observe()
                mujoco.mj_step(sim.model._model, sim.data._data, SUBSTEPS)
            return ""

        return _cost("floor (mj_step + frames)", work, built - started, episode)


def _environment(work: Workload) -> LiberoEnvironment:
    images = ImageSpec(work.size, work.size)
    return LiberoEnvironment(work.suite, work.task_id, work.assets, work.renderer, images)


SIDES: dict[str, Callable[[Workload], Cost]] = {
    "reference": reference,
    "ours": ours,
    "floor": floor,
}


def _cost(side: str, work: Workload, build_s: float, episode: Callable[[int], str]) -> Cost:
    seconds, cpu, finals = [], [], []
    for trial in range(work.trials):
        started, cpu_started = time.perf_counter(), time.process_time()
        finals.append(episode(trial))
        cpu.append(time.process_time() - cpu_started)
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    return Cost(
        side,
        build_s,
        median,
        statistics.median(cpu),
        (WAIT_STEPS + work.steps) / median,
        tuple(itertools.filterfalse(lambda final: not final, finals)),
    )
