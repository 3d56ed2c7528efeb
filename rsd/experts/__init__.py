"""Scripted experts: they solve LIBERO tasks from privileged state, to be imitated from images."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np

from rsd.experts.engine import Move, PlanExpert, Rim
from rsd.experts.plans import PLANS, find_plan
from rsd.experts.state import PrivilegedState, read_state

__all__ = ["EXPERTS", "Expert", "PrivilegedState", "make_expert", "read_state"]

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


def make_expert(suite: str, task: int | str, azimuth: float | None = None) -> Expert:
    """A fresh expert for one episode of `task` (index in the official order, name or instruction).

    `azimuth` (radians) asks for another rim than the task's own, where one is gripped. Raises
    ValueError when no expert is known.
    """
    plan = find_plan(suite, task)
    if azimuth is not None:
        plan = tuple(
            replace(step, grasp=replace(step.grasp, azimuth=azimuth))
            if isinstance(step, Move) and isinstance(step.grasp, Rim)
            else step
            for step in plan
        )
    return PlanExpert(plan)
