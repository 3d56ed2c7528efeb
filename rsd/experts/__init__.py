"""Scripted experts: they solve LIBERO tasks from privileged state, to be imitated from images."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np

from rsd.experts.engine import Move, PlanExpert, Push, Rim
from rsd.experts.plans import PLANS, find_plan
from rsd.experts.state import PrivilegedState, read_state

__all__ = [
    "EXPERTS",
    "Expert",
    "PrivilegedState",
    "has_other_rim",
    "make_expert",
    "read_state",
]

EXPERTS = tuple(PLANS)
"""Suites that have an expert"""


class Expert(Protocol):
    """One episode's demonstrator. Make a new one per episode."""

    def act(self, state: PrivilegedState) -> np.ndarray:
        """Action float32 (7,): OSC_POSE deltas in [-1, 1], gripper -1 opens, +1 closes.

        Call it once per control step, with the state the action starts from, also when another
        policy drives (DAgger): the answer is what the expert would do from here.
        """
        ...


def make_expert(suite: str, task: int | str, other_rim: bool = False) -> Expert:
    """A fresh expert for one episode of `task` (index in the official order, name or instruction).

    With `other_rim` it takes vessels by their second rim. Raises ValueError when no expert is
    known, and where the plan knows no second rim.
    """
    plan = find_plan(suite, task)
    if not other_rim:
        return PlanExpert(plan)
    if not has_other_rim(suite, task):
        raise ValueError(f"{suite} task {task!r}: nothing in it is taken by either of two rims")
    return PlanExpert(tuple(_by_the_other_rim(step) for step in plan))


def has_other_rim(suite: str, task: int | str) -> bool:
    """Whether a task can be solved in two ways. Raises ValueError when no expert is known."""
    plan = find_plan(suite, task)
    return any(_by_the_other_rim(step) is not step for step in plan)


def _by_the_other_rim(step: Move | Push) -> Move | Push:
    if isinstance(step, Move) and isinstance(step.grasp, Rim) and step.grasp.other is not None:
        own, other = step.grasp.azimuth, step.grasp.other
        return replace(step, grasp=replace(step.grasp, azimuth=other, other=own))
    return step
