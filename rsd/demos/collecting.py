"""Collecting a demonstration: one episode of an expert. No ray.

A demonstration's placement is drawn from its seed and never from LIBERO's 50 stored states, which
are kept for evaluation (tests/jobs/test_collect.py compares them).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rsd.demos.demonstration import Demonstration, check_demonstration
from rsd.demos.noise import Disturbance, Driver, DriverSettings, Misses, NoiseSettings
from rsd.envs.looks import Looks
from rsd.episode import Decide
from rsd.suites import Task
from rsd.types import ACTION_DIM, ImageSpec, Observation, SimTimings

FIRST_SEED = 1  # seed 0 is the stream of evaluation's fixture poses (PROTOCOL 4)

Act = Callable[[], np.ndarray]  # the expert's action float32 (7,) for the simulator's present state


class FreshEnvironment(Protocol):
    """What collecting needs of a simulator; `LiberoEnvironment` has it."""

    instruction: str
    assets: str
    renderer: str
    timings: SimTimings

    @property
    def proprio(self) -> np.ndarray:
        """float32 (8,): what `observe` would report."""

    def reset_fresh(self, seed: int, looks: Looks | None = None) -> None: ...

    def step(self, action: np.ndarray) -> bool: ...

    def observe(self) -> Observation: ...

    def state(self) -> np.ndarray: ...

    def model_xml(self) -> str: ...


@dataclass(frozen=True)
class CollectionSettings:
    """How a demonstration is recorded."""

    max_steps: int  # an expert that needs more has failed
    frame_every: int = 2  # steps from frame to frame; step 0 always has one
    hold_steps: int = 8  # steps recorded after the goal was reached: they fill the last chunk
    noise: NoiseSettings | None = dataclasses.field(default_factory=NoiseSettings)
    looks: Looks | None = None  # how much cameras, lamps and colours vary
    driver: DriverSettings | None = None  # None: the expert drives
    misses: float | None = None  # probability that a grasp is missed on purpose (`Misses`)


@dataclass(frozen=True)
class Failure:
    """A placement that gives no demonstration, whoever tries it again."""

    seed: int
    reason: str
    void: bool = False  # solved by LIBERO's sampler: neither a success nor a failure of the expert


def collect_demonstration(
    env: FreshEnvironment,
    act: Act,
    task: Task,
    seed: int,
    images: ImageSpec,
    settings: CollectionSettings,
    decide: Decide | None = None,
) -> Demonstration | Failure:
    """Let the expert solve the placement of `seed`; the reason where it does not.

    `act` is asked once a step, before it; `decide` is the policy that `settings.driver` wants. Only
    `env.observe` renders. Exceptions propagate, and so does a ValueError for an action that is not
    float32 (7,) within [-1, 1] and the UserError of a demonstration that no file may hold.
    """
    env.reset_fresh(seed, settings.looks)
    model_xml = env.model_xml()
    disturb = Disturbance(settings.noise, seed, task.task_id) if settings.noise else None
    misses = Misses(settings.misses, seed, task.task_id) if settings.misses else None
    driver = None
    if settings.driver is not None:
        assert decide is not None, "a driver needs its policy"
        driver = Driver(settings.driver, decide, task, seed)
    labels: list[np.ndarray] = []
    executed: list[np.ndarray] = []
    driven: list[bool] = []
    proprio: list[np.ndarray] = []
    states: list[np.ndarray] = []
    frames: list[Observation] = []
    hold = None  # steps still to record, from the step that reached the goal
    while hold != 0:
        if hold is None and len(labels) == settings.max_steps:
            return Failure(seed, f"the goal was not reached in {settings.max_steps} steps")
        drawn = len(labels) % settings.frame_every == 0
        if drawn:
            frames.append(env.observe())
        states.append(env.state())
        proprio.append(env.proprio)
        labels.append(_checked(act()))
        action = None
        if hold is None and driver is not None:
            observe = (lambda: frames[-1]) if drawn else env.observe
            action = driver(len(labels) - 1, observe)
        if hold is None and misses is not None:
            missed = misses(labels[-1], driven=action is not None)
            action = missed if action is None else action
        driven.append(action is not None)
        if action is None:
            action = labels[-1] if disturb is None or hold is not None else disturb(labels[-1])
        executed.append(action)
        success = env.step(executed[-1])
        if success and len(labels) == 1:  # the sampler drops an object on its goal now and then
            return Failure(seed, "the goal holds before anything was done", void=True)
        if hold is not None:
            hold -= 1
        elif success:
            hold = settings.hold_steps
    demo = Demonstration(
        instruction=env.instruction,
        suite=task.suite,
        task_id=task.task_id,
        seed=seed,
        actions=np.stack(labels),
        executed_actions=np.stack(executed),
        proprio=np.stack(proprio),
        states=np.stack(states),
        frame_steps=np.arange(0, len(labels), settings.frame_every),
        agentview=np.stack([frame.agentview for frame in frames]),
        wrist=np.stack([frame.wrist for frame in frames]),
        assets=env.assets,
        driven=None if driver is None and misses is None else np.array(driven),
        renderer=env.renderer,
        images=images,
        settings=dataclasses.asdict(settings),
        model_xml=model_xml,
    )
    check_demonstration(demo, f"{task.name}, seed {seed}")
    return demo


def _checked(action: np.ndarray) -> np.ndarray:
    if action.shape != (ACTION_DIM,) or not np.abs(action).max() <= 1.0:
        raise ValueError(f"the expert acts out of range: {action!r}")
    return action.astype(np.float32)
