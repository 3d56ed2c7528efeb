"""What a hand does in each chunk, from the executed actions: phase of the task, and path left.

Distances in the simulator are not recorded; commanded motion is. It is what the controller was
asked for, and about what it did where nothing was in the way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rsd.types import ACTION_DIM, METRES_PER_UNIT

PHASES = ("approach", "grasp", "carry", "release")
_APPROACH, _GRASP, _CARRY, _RELEASE = range(len(PHASES))
STANDS_M = 0.025  # a hand that closes on something goes no farther until the fingers hold it
UNKNOWN = -1  # phase of a chunk whose actions are not recorded

MEANING = (
    "Phases are read off the executed actions. grasp: the gripper's command turns from open to "
    "closed in the chunk, or in half of its steps the closed hand has gone no farther than "
    f"{1000 * STANDS_M:g} mm since. release: the command turns from closed to open. Else carry "
    "where the hand is closed (also where it pushes or turns something), approach where it is open."
)


@dataclass(frozen=True)
class Motion:
    """Of n chunks."""

    phase: np.ndarray  # int8 (n,): index into PHASES, or UNKNOWN
    # float64 (n,): commanded path from its first step to where the gripper's command next turns, or
    # to the episode's end
    left_m: np.ndarray


def motion(actions: np.ndarray, steps: np.ndarray, begins: np.ndarray) -> Motion:
    """Actions float32 (S, 7) of n chunks, one after the other; `steps` int (n,) of each; `begins`
    bool (n,): the chunk is its episode's first. Hands are open before it (PROTOCOL 2)."""
    if not len(steps):
        return Motion(np.zeros(0, np.int8), np.zeros(0))
    if actions.shape != (steps.sum(), ACTION_DIM):
        raise ValueError(f"actions {actions.shape} are not {steps.sum()} steps of {ACTION_DIM}")
    chunk = np.repeat(np.arange(len(steps)), steps)
    known = np.flatnonzero(steps)
    start = np.cumsum(steps) - steps  # a chunk's first step
    path = METRES_PER_UNIT * np.linalg.norm(actions[:, :3].astype(np.float64), axis=1)
    gone = np.concatenate([[0.0], np.cumsum(path)])  # before each step, and after the last
    closed = actions[:, -1] > 0
    before = np.concatenate([[False], closed[:-1]])
    first = start[begins]
    before[first[first < len(before)]] = False
    closes, opens = closed & ~before, ~closed & before
    closed_at = np.maximum.accumulate(np.where(closes, np.arange(len(closed)), 0))
    stands = closed & (gone[1:] - gone[closed_at] <= STANDS_M)

    def steps_with(what: np.ndarray) -> np.ndarray:
        return np.bincount(chunk, what, len(steps))

    phase = np.full(len(steps), UNKNOWN, np.int8)
    phase[known] = np.select(
        [
            ((steps_with(closes) > 0) | (steps_with(stands) >= steps / 2))[known],
            (steps_with(opens) > 0)[known],
            (steps_with(closed) > 0)[known],
        ],
        [_GRASP, _RELEASE, _CARRY],
        _APPROACH,
    )
    turns = np.append(np.flatnonzero(closes | opens), len(path))
    ends = np.append(start[begins][1:], len(path))[np.cumsum(begins) - 1]  # of a chunk's episode
    aim = np.minimum(turns[np.searchsorted(turns, start)], ends)
    return Motion(phase, gone[aim] - gone[start])
