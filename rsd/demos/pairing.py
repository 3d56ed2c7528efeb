"""Whether an observation was taken before or after its action, told from the data itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import h5py
import numpy as np

from rsd.demos.demonstration import Demonstration
from rsd.demos.layout import JOINTS
from rsd.errors import UserError


def late(groups: Mapping[str, h5py.Group], where: str) -> frozenset[str]:
    """Demonstrations whose observation j shows state j + 1, as in LIBERO's published files; in
    those of `rsd collect` and of openvla-oft it shows state j.

    The arm's joints are in both, so the data itself tells which (layout.py): the file as a whole,
    since an arm may stand still in a demonstration. State 0 tells nothing: openvla-oft took it
    before the scene had come to rest. Raises UserError where neither fits.
    """
    distances = {
        name: _distances(group) for name, group in groups.items() if "seed" not in group.attrs
    }
    if not distances:
        return frozenset()
    told: dict[bool, str] = {}  # and the first demonstration that says so
    for name, distance in distances.items():
        after = _closer_after(distance)
        if after is not None:
            told.setdefault(after, name)
    if len(told) > 1:
        raise UserError(
            f"{where}: {told[False]} was observed before its actions, {told[True]} after them; put "
            "them into files of their own"
        )
    after = next(iter(told), _closer_after(np.sum(list(distances.values()), axis=0)))
    if after is None:
        raise UserError(
            f"{where}: whether observations were taken before or after their actions cannot be "
            "told: obs/joint_states agree with neither of states (columns 1 to 7); give the file "
            "with the states that it was recorded with"
        )
    return frozenset(distances if after else ())


def _distances(group: h5py.Group) -> np.ndarray:
    """float64 (2,): sums over the steps, from the joints seen to those of the state of the same row
    and of the next."""
    seen, states = group["obs/joint_states"][()], group["states"][:, JOINTS]
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array(
            [np.abs(seen[1:-1] - states[1:-1]).sum(), np.abs(seen[1:-1] - states[2:]).sum()]
        )


def _closer_after(distances: np.ndarray) -> bool | None:
    """Whether the next row is clearly closer; None where neither is."""
    same, after = distances
    if not np.isfinite(distances).all() or max(same, after) <= 2 * min(same, after):
        return None
    return bool(after < same)


def shifted(demo: Demonstration) -> Demonstration:
    """Pair each action with the observation of the step before it; the first action has none."""
    if len(demo.frame_steps) < len(demo):
        raise ValueError("frame_steps beside observations that were taken after their actions")
    return dataclasses.replace(
        demo,
        actions=demo.actions[1:],
        executed_actions=demo.executed_actions[1:],
        driven=None if demo.driven is None else demo.driven[1:],
        states=demo.states[1:],
        proprio=demo.proprio[:-1],
        frame_steps=demo.frame_steps[:-1],
        agentview=demo.agentview[:-1],
        wrist=demo.wrist[:-1],
    )
