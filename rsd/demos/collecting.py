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
from rsd.demos.settings import CollectionSettings
from rsd.demos.steering import Move, Steering
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
    other_rim: bool | None = None,
) -> Demonstration | Failure:
    """Let the expert solve the placement of `seed`; the reason where it does not.

    `act` is asked once a step, before it; `decide` is the policy that `settings.driver` wants;
    `other_rim` goes to the records: which rim `act` takes. Only `env.observe` renders. Exceptions
    propagate, and so does a ValueError for an action that is not float32 (7,) within [-1, 1] and
    the UserError of a demonstration that no file may hold.
    """
    env.reset_fresh(seed, settings.looks)
    model_xml = env.model_xml()
    steer = Steering(settings, task, seed, decide)
    moves: list[Move] = []
    labels: list[np.ndarray] = []
    proprio: list[np.ndarray] = []
    states: list[np.ndarray] = []
    frames: list[Observation] = []
    hold = None  # steps still to record, from the step that reached the goal
    while hold != 0:
        step = len(moves)
        if hold is None and step == settings.max_steps:
            return Failure(seed, f"the goal was not reached in {settings.max_steps} steps")
        drawn = step % settings.frame_every == 0
        if drawn:
            frames.append(env.observe())
        states.append(env.state())
        proprio.append(env.proprio)
        labels.append(_checked(act()))
        if hold is None:
            moves.append(steer(step, labels[-1], (lambda: frames[-1]) if drawn else env.observe))
        else:
            moves.append(Move(labels[-1]))
        success = env.step(moves[-1].action)
        if success and step == 0:  # the sampler drops an object on its goal now and then
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
        executed_actions=np.stack([move.action for move in moves]),
        proprio=np.stack(proprio),
        states=np.stack(states),
        frame_steps=np.arange(0, len(moves), settings.frame_every),
        agentview=np.stack([frame.agentview for frame in frames]),
        wrist=np.stack([frame.wrist for frame in frames]),
        assets=env.assets,
        other_rim=other_rim,
        driven=np.array([move.driven for move in moves]) if steer.drives else None,
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
