"""A simulator of a point that reaches for a target: for testing the cluster, never for results.

It costs microseconds and its worlds depend on (suite, task, trial) alone, as LIBERO's do. A fifth
of the targets lies behind the wall, so that runs end in timeouts as well. The suites:

`toy`         as fast as it can
`toy_slow`    5 ms a step, so that a run lasts long enough to kill something in it
`toy_faults`  a simulator that breaks: the task picks the fault (FAULTS), odd trials have it
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np

from rsd.protocols import OFT, Protocol
from rsd.suites import Suite
from rsd.types import ImageSpec, Observation, SimTimings

STEP_S = {"toy": 0.0, "toy_slow": 0.005, "toy_faults": 0.0}  # wall seconds of a control step
SPEED = 0.05  # m that an action of 1 moves the point in a control step
WALL = 1.0  # m from the origin
REACH = 0.03  # m at which the target counts as reached
FAULT_STEP = 3


def _raise() -> None:
    raise FloatingPointError("the toy simulator has diverged")


def _hang() -> None:
    while True:
        time.sleep(0.01)


def _exit() -> None:
    os._exit(139)  # what a segmentation fault looks like from outside


FAULTS: dict[str, Callable[[], None]] = {"raise": _raise, "hang": _hang, "exit": _exit}

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("toy", 40, 10),
        Suite("toy_slow", 40, 10),
        Suite("toy_faults", 40, len(FAULTS)),
    )
}


def _no_fault() -> None:
    """A simulator that works."""


class ToyEnvironment:
    """Implements `types.Environment`. Actions move the point; only their first two values count."""

    assets = "none"
    renderer = "none"

    def __init__(
        self,
        suite: str,
        task_id: int,
        assets: object,
        renderer: str,
        images: ImageSpec,
        protocol: Protocol = OFT,
    ) -> None:
        """`protocol` decides nothing here: nothing settles, and worlds are drawn by trial."""
        self.instruction = f"reach target {task_id}"
        self.timings = SimTimings()
        self._suite = suite
        self._task_id = task_id
        self._images = images
        self._fault = _no_fault
        self._trial = 0
        self._steps = 0
        self._at = np.zeros(2)
        self._target = np.zeros(2)

    def reset(self, trial: int) -> None:
        started = time.perf_counter()
        rng = np.random.default_rng([self._task_id, trial])
        self._at = rng.uniform(-0.7, 0.7, 2)
        self._target = rng.uniform(-0.7, 0.7, 2) + (2 * WALL if rng.random() < 0.2 else 0.0)
        self._trial = trial
        self._steps = 0
        faulty = self._suite == "toy_faults" and trial % 2 == 1
        self._fault = list(FAULTS.values())[self._task_id] if faulty else _no_fault
        self.timings = SimTimings(reset_s=time.perf_counter() - started)

    def step(self, action: np.ndarray) -> bool:
        started = time.perf_counter()
        self._steps += 1
        if self._steps == FAULT_STEP:
            self._fault()
        if STEP_S[self._suite]:
            time.sleep(STEP_S[self._suite])
        self._at = np.clip(self._at + SPEED * action[:2].astype(np.float64), -WALL, WALL)
        self.timings.physics_s += time.perf_counter() - started
        return bool(np.abs(self._at - self._target).max() < REACH)

    def observe(self) -> Observation:
        """Frames are grey with one white pixel where the point is; proprio holds the target too,
        at [3:5], because the toy policy cannot see, and the trial, at [5], in which its faulty
        variants fail."""
        started = time.perf_counter()
        shape = (self._images.height, self._images.width, 3)
        frame = np.full(shape, 127, np.uint8)
        row, column = ((self._at + WALL) / (2 * WALL) * (np.array(shape[:2]) - 1)).astype(int)
        frame[row, column] = 255
        proprio = np.array([*self._at, 0.0, *self._target, self._trial, 0.0, 0.0], np.float32)
        self.timings.render_s += time.perf_counter() - started
        return Observation(frame, frame[::-1], proprio, self.instruction)

    def state(self) -> np.ndarray:
        return np.array([self._steps * 0.05, *self._at, *self._target])

    def close(self) -> None: ...
