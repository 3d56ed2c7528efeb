"""The world goes on while the policy thinks: which action is next, when a chunk is asked for.

After arXiv 2605.08168: a chunk that is asked for at step t arrives d control steps later; meanwhile
the robot goes on with the rest of the chunk before, or stands still. docs/delay.md has the rules.
Pure: steps are counted here, time is measured by others.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from rsd.suites import CONTROL_HZ, WAIT_ACTION
from rsd.types import Chunk, Delay

MEASURED = "measured"  # a delay that is what decoding took
STAGES = ("vision_s", "draft_s", "target_s", "detokenise_s")  # columns: DecodeTrace.decode_s
MOST_STEPS = 20  # of a delay that is asked for: a second
_ROUNDING_S = 1e-9  # of seconds that are a whole number of steps


def steps_of(seconds: float) -> int:
    """Control steps that are over when an answer after `seconds` can be used."""
    return math.ceil(max(0.0, seconds - _ROUNDING_S) * CONTROL_HZ)


class Move(NamedTuple):
    """One control step of a plan."""

    action: np.ndarray  # float32 (7,)
    chunk: int  # that it belongs to; of standing still, the one that is waited for
    still: bool  # no motion, the gripper as it was told last


class Schedule:
    """The plan of one episode: `asks`, then `asked`, else `move`, until the episode is over.

    A chunk is asked for when `replan_steps` of the one before are executed or all of it is; with
    "continue" already when what is left of it lasts for the delay and no longer. One at a time is
    waited for. When it arrives it leaves out as many of its first actions as the robot has executed
    since it was asked for: those are of steps that are past. Standing still leaves out none.
    """

    def __init__(self, delay: Delay | None = None, replan_steps: int | None = None) -> None:
        self._delay = delay or Delay(0)
        self._replan_steps = replan_steps
        self._expected = self._delay.steps or 0  # of a measured one: as long as the last
        self._actions = np.zeros((0, len(WAIT_ACTION)), np.float32)  # of the chunk that is executed
        self._next = 0  # of these
        self._chunk = -1  # its number
        self._coming: np.ndarray | None = None  # actions of the chunk that is waited for
        self._left = 0  # steps until it arrives
        self._moved = 0  # actions executed since it was asked for
        self._still = np.array(WAIT_ACTION, np.float32)

    @property
    def asks(self) -> bool:
        """Whether a chunk has to be asked for before the next move."""
        if self._coming is not None:
            return False
        left = len(self._actions) - self._next
        if left == 0 or (self._replan_steps is not None and self._next >= self._replan_steps):
            return True
        return self._delay.waiting == "continue" and left <= self._expected

    def asked(self, chunk: Chunk) -> int:
        """Take the answer, which is not known before its delay is over; returns that, in steps."""
        steps = self._delay.steps
        if steps is None:
            steps = self._expected = self._measured(chunk)
        self._coming, self._left, self._moved = chunk.actions, steps, 0
        if steps == 0:
            self._arrive(chunk.actions)
        return steps

    def _measured(self, chunk: Chunk) -> int:
        """What decoding it took; of an episode that is repeated what it took then. One that has
        more chunks now has parted from it before: for those the last counts."""
        recorded = self._delay.recorded
        if not recorded:
            return steps_of(chunk.trace.decode_s)
        return recorded[min(self._chunk + 1, len(recorded) - 1)]

    def move(self) -> Move:
        """The next control step."""
        coming = self._coming
        rests = self._delay.waiting == "hold" or self._next == len(self._actions)
        if coming is not None and rests:
            move = Move(self._still.copy(), self._chunk + 1, still=True)
        else:
            move = Move(self._actions[self._next], self._chunk, still=False)
            self._still[-1] = move.action[-1]
            self._next += 1
            self._moved += 1
        self._left -= 1
        if coming is not None and self._left == 0:
            self._arrive(coming)
        return move

    def _arrive(self, actions: np.ndarray) -> None:
        self._actions, self._next, self._coming = actions, min(self._moved, len(actions)), None
        self._chunk += 1
