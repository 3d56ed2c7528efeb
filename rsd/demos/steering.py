"""Who moves the robot while the expert labels: it itself, a policy, a missed grasp, noise; and by
which rim it takes a vessel."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rsd.demos.settings import (
    DRIVERS_DECODING,
    CollectionSettings,
    NoiseSettings,
    NoviceSettings,
)
from rsd.episode import Decide, check_actions
from rsd.suites import Task
from rsd.types import (
    ChunkRequest,
    EpisodeKey,
    Observation,
    Past,
    draws_of,
    past_after,
)

# apart from the noise of the same seed and task
_NOVICES_STREAM, _MISSES_STREAM, _RIMS_STREAM = 11, 13, 17


@dataclass(frozen=True)
class Move:
    """What is executed at a step."""

    action: np.ndarray  # float32 (7,)
    driven: bool = False  # a policy or a missed grasp chose it


class Steering:
    """Decides on every move of one episode until its goal is reached."""

    def __init__(
        self, settings: CollectionSettings, task: Task, seed: int, decide: Decide | None
    ) -> None:
        """`decide`: the policy that `settings.driver` wants."""
        self._turns: Novice | None = None
        if settings.driver is not None:
            assert decide is not None, "a driver needs its policy"
            self._turns = Novice(settings.driver, decide, task, seed)
        self._misses = Misses(settings.misses, seed, task.task_id) if settings.misses else None
        self._noise = Disturbance(settings.noise, seed, task.task_id) if settings.noise else None

    @property
    def drives(self) -> bool:
        """Whether any move may be `driven`."""
        return self._turns is not None or self._misses is not None

    def __call__(self, step: int, label: np.ndarray, observe: Callable[[], Observation]) -> Move:
        """The move in place of the expert's label float32 (7,); `observe` is asked where a policy
        decides."""
        action = self._turns(step, observe) if self._turns else None
        if self._misses is not None:
            missed = self._misses(label, driven=action is not None)
            action = missed if action is None else action
        if action is not None:
            return Move(action, driven=True)
        return Move(label if self._noise is None else self._noise(label))


def takes_other_rim(seed: int, task_id: int) -> bool:
    """Whether a demonstration takes the vessel by its other rim: a coin a pair of seeds, 2k and
    2k + 1, which take one each, so that halves are halves."""
    coin = np.random.default_rng([seed // 2, task_id, _RIMS_STREAM]).random() < 0.5
    return bool(coin) ^ bool(seed % 2)


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


class Novice:
    """Whose turn it is, the expert's or a policy's, decided chunk by chunk from a generator of its
    own. Only what follows a frame by the expert's own hand becomes an example of a target
    (rsd/training/data.py), so the expert drives for more than a chunk at a time."""

    def __init__(self, settings: NoviceSettings, decide: Decide, task: Task, seed: int) -> None:
        self._settings, self._decide = settings, decide
        self._decoding = settings.decoding or DRIVERS_DECODING
        self._past = Past()  # of the policy's own chunk right before, if it was one
        self._key = EpisodeKey("driver", task.suite, task.task_id, seed)
        self._rng = np.random.default_rng([seed, task.task_id, _NOVICES_STREAM])
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
                self._past = Past()
        return self._planned.popleft()

    def _ask(self, observation: Observation) -> list[np.ndarray]:
        draws = draws_of(self._key, self._chunks)
        request = ChunkRequest(observation, self._decoding, draws, self._chunks, self._past)
        self._chunks += 1
        chunk = self._decide(request)
        check_actions(chunk.actions)
        self._past = past_after(request, chunk)
        return list(chunk.actions)
