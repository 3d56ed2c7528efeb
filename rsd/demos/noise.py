"""What leads a collection off the expert's path: noise, missed grasps, a policy that drives."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rsd.episode import Decide, check_actions
from rsd.suites import Task
from rsd.types import ChunkRequest, Decoding, EpisodeKey, Observation, draws_of


@dataclass(frozen=True)
class NoiseSettings:
    """Disturbances that lead the robot off the expert's path, so that the labels show how to come
    back (DART, arXiv:1703.09327, but in bursts: single steps of noise average out at 20 Hz)."""

    sigma: float = 0.2  # of the xyz offset that a burst adds to every action, in action units
    burst_probability: float = 0.05  # that a burst starts at a step outside of one
    burst_steps: tuple[int, int] = (4, 10)  # length of a burst, both ends included
    slip_probability: float = 0.002  # that the gripper starts to do the opposite
    slip_steps: int = 4


@dataclass(frozen=True)
class DriverSettings:
    """A policy that drives part of the way while the expert labels, so that the demonstrations
    hold the states that it leads to (DAgger, arXiv:1011.0686). The expert ends the episode."""

    checkpoint_sha256: str
    chunk_steps: int  # T
    share: float  # probability that the policy drives the next chunk
    steps: int  # of an episode, from which on the expert drives alone
    expert_chunks: int = 2  # that the expert drives in a row where the policy does not


class Disturbance:
    """The noise of one episode, from a generator of its own."""

    def __init__(self, settings: NoiseSettings, seed: int, task_id: int) -> None:
        self._settings = settings
        self._rng = np.random.default_rng([seed, task_id])
        self._offset = np.zeros(3)
        self._burst_left = 0
        self._slip_left = 0

    def __call__(self, label: np.ndarray) -> np.ndarray:
        """The action float32 (7,) to execute in place of the label."""
        settings = self._settings
        if self._burst_left == 0 and self._rng.random() < settings.burst_probability:
            self._burst_left = int(self._rng.integers(*settings.burst_steps, endpoint=True))
            self._offset = self._rng.normal(0.0, settings.sigma, 3)
        if self._slip_left == 0 and self._rng.random() < settings.slip_probability:
            self._slip_left = settings.slip_steps
        action = label.astype(np.float64)
        if self._burst_left:
            self._burst_left -= 1
            action[:3] += self._offset
        if self._slip_left:
            self._slip_left -= 1
            action[6] = -action[6]
        return np.clip(action, -1.0, 1.0).astype(np.float32)


class Misses:
    """Grasps that fail on purpose, of one episode, from a generator of its own: where the expert
    begins to close its fingers the hand rises instead, closes them on nothing and drifts on, as a
    policy does that has not noticed. Nothing is pushed over; then the expert goes back for it."""

    RISE_STEPS = (4, 7)  # with open fingers; both ends included, as below
    DRIFT_STEPS = (6, 24)  # with closed ones
    RISE, DRIFT = 0.7, 0.4  # position actions
    MOST = 3  # of an episode: the expert needs its turn

    def __init__(self, probability: float, seed: int, task_id: int) -> None:
        self._probability = probability
        self._rng = np.random.default_rng([seed, task_id, _MISSES_STREAM])
        self._closed = False
        self._planned: deque[np.ndarray] = deque()
        self._left = self.MOST

    def __call__(self, label: np.ndarray, driven: bool = False) -> np.ndarray | None:
        """The action float32 (7,) to execute in place of the label, or None: the label. While
        somebody else drives (`driven`) nothing is missed."""
        begins = label[6] > 0 and not self._closed
        self._closed = bool(label[6] > 0)
        if driven:
            self._planned.clear()
            return None
        due = begins and self._left > 0 and not self._planned
        if due and self._rng.random() < self._probability:
            self._left -= 1
            self._plan()
        return self._planned.popleft() if self._planned else None

    def _plan(self) -> None:
        heading, level = self._rng.uniform(-np.pi, np.pi), self._rng.uniform(-0.3, 0.3)
        aside = np.array([np.cos(heading), np.sin(heading), level])
        rise = np.array([0.3 * aside[0], 0.3 * aside[1], self.RISE, 0, 0, 0, -1], np.float32)
        drift = np.array([*(self.DRIFT * aside), 0, 0, 0, 1], np.float32)
        for action, steps in ((rise, self.RISE_STEPS), (drift, self.DRIFT_STEPS)):
            self._planned.extend([action] * int(self._rng.integers(*steps, endpoint=True)))


class Driver:
    """Whose actions are executed, the expert's labels or a policy's, decided chunk by chunk from a
    generator of its own. Only what follows a frame by the expert's own hand becomes an example
    (rsd/training/data.py), so the expert drives for more than a chunk at a time."""

    def __init__(self, settings: DriverSettings, decide: Decide, task: Task, seed: int) -> None:
        self._settings, self._decide = settings, decide
        self._key = EpisodeKey("driver", task.suite, task.task_id, seed)
        self._rng = np.random.default_rng([seed, task.task_id, DRIVERS_STREAM])
        self._planned: deque[np.ndarray | None] = deque()  # None: as the label says
        self._chunks = 0

    def __call__(self, step: int, observe: Callable[[], Observation]) -> np.ndarray | None:
        """The policy's action float32 (7,) for a step, or None where the expert drives; `observe`
        is asked where the policy decides."""
        settings = self._settings
        if step >= settings.steps:
            return None
        if not self._planned:
            if self._rng.random() < settings.share:
                self._planned.extend(self._ask(observe()))
            else:
                self._planned.extend([None] * settings.chunk_steps * settings.expert_chunks)
        return self._planned.popleft()

    def _ask(self, observation: Observation) -> list[np.ndarray]:
        draws = draws_of(self._key, self._chunks)
        request = ChunkRequest(observation, _DRIVERS_DECODING, draws, self._chunks)
        self._chunks += 1
        actions = self._decide(request).actions
        check_actions(actions)
        return list(actions)


DRIVERS_STREAM, _MISSES_STREAM = 11, 13  # apart from the noise of the same seed and task
_DRIVERS_DECODING = Decoding("autoregressive")
