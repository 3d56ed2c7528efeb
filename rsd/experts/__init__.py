"""Scripted experts: they solve LIBERO tasks from privileged state, to be imitated from images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from rsd.experts.spatial import SpatialExpert, spatial_settings
from rsd.experts.state import PrivilegedState, read_state

__all__ = ["EXPERTS", "Expert", "PrivilegedState", "make_expert", "read_state"]


class Expert(Protocol):
    """One episode's demonstrator. Make a new one per episode."""

    def act(self, state: PrivilegedState) -> np.ndarray:
        """Action float32 (7,): OSC_POSE deltas in [-1, 1], gripper -1 opens, +1 closes.

        Call it once per control step, with the state the action starts from, also when another
        policy drives (DAgger): the answer is what the expert would do from here.
        """
        ...


def _spatial(task: int | str, azimuth: float | None) -> Expert:
    return SpatialExpert(spatial_settings(task, azimuth))


EXPERTS: dict[str, Callable[[int | str, float | None], Expert]] = {"libero_spatial": _spatial}


def make_expert(suite: str, task: int | str, azimuth: float | None = None) -> Expert:
    """A fresh expert for one episode of `task` (index in the official order, name or instruction).

    `azimuth` (radians) asks for another rim than the task's own. Raises ValueError when no expert
    is known.
    """
    if suite not in EXPERTS:
        raise ValueError(f"no expert for suite {suite!r}; there are: {', '.join(EXPERTS)}")
    return EXPERTS[suite](task, azimuth)
