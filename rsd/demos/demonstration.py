"""One demonstration, and what makes it one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rsd.episode import ACTION_LIMIT, ACTION_SLACK
from rsd.errors import UserError
from rsd.suites import Task, get_task
from rsd.types import ACTION_DIM, ImageSpec


@dataclass(frozen=True)
class Demonstration:
    """One solved episode. Row i of every array is what was before action i; N steps, M frames."""

    instruction: str
    suite: str
    task_id: int
    seed: int | None  # of the fresh placement; None in LIBERO's published files
    actions: np.ndarray  # float32 (N, 7): the expert's labels; gripper -1 opens, +1 closes
    executed_actions: np.ndarray  # float32 (N, 7): what the robot did; differs where noise was
    proprio: np.ndarray  # float32 (N, 8): eef position (m), axis-angle (rad), gripper qpos (m)
    states: np.ndarray  # float64 (N, 1 + nq + nv): [time, qpos, qvel]
    frame_steps: np.ndarray  # int64 (M,), ascending: the step that each frame was seen before
    agentview: np.ndarray  # uint8 (M, H, W, 3), rotated by 180 degrees (PROTOCOL 6)
    wrist: np.ndarray  # uint8 (M, H, W, 3), likewise
    assets: str  # official | lite | sha256 of a local tree
    other_rim: bool | None = None  # by which of two rims; None: its own, nothing was drawn
    driven: np.ndarray | None = None  # bool (N,): not the expert executed; None: nowhere
    renderer: str = ""  # osmesa | egl; empty where the file does not say
    images: ImageSpec | None = None  # how the frames were drawn; None where the file does not say
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the collection: noise, hold...
    code: Mapping[str, Any] = field(default_factory=dict)  # version that collected it
    model_xml: str = ""  # the simulator's model, with the fixtures' poses, which `states` lacks

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def task(self) -> Task:
        return get_task(self.suite, self.task_id)


def check_demonstration(demo: Demonstration, where: str) -> None:
    """Raises UserError where arrays do not fit together or hold what no training should see."""
    steps, frames = len(demo.actions), len(demo.frame_steps)
    shapes = {
        "actions": (steps, ACTION_DIM),
        "executed_actions": (steps, ACTION_DIM),
        "proprio": (steps, 8),
        "states": (steps, *demo.states.shape[1:]),
        "agentview": (frames, *demo.agentview.shape[1:3], 3),
        "wrist": demo.agentview.shape,
    }
    if demo.driven is not None:
        shapes["driven"] = (steps,)
    for name, shape in shapes.items():
        array = getattr(demo, name)
        if array.shape != shape or steps == 0:
            raise UserError(
                f"{where}: {name} has shape {array.shape}, expected {shape} with at least a row; "
                "the file is incomplete, get it again"
            )
    for name in ("agentview", "wrist"):
        if getattr(demo, name).dtype != np.uint8:
            raise UserError(
                f"{where}: {name} is {getattr(demo, name).dtype}, expected uint8 in 0..255; "
                "convert the frames"
            )
    drawn = demo.images
    if drawn and demo.agentview.shape[1:3] != (drawn.height, drawn.width):
        raise UserError(
            f"{where}: frames of {demo.agentview.shape[1:3]} pixels, image_spec says "
            f"{(drawn.height, drawn.width)}; collect it again"
        )
    for name in ("proprio", "states"):
        check_finite(getattr(demo, name), name, where)
    for name in ("actions", "executed_actions"):
        check_actions(getattr(demo, name), name, where)
    bounded = np.concatenate([[-1], demo.frame_steps, [steps]])
    if (np.diff(bounded) <= 0).any():
        raise UserError(f"{where}: frame_steps must ascend within 0..{steps - 1}")


def check_finite(array: np.ndarray, name: str, where: str) -> None:
    if not np.isfinite(array).all():
        raise UserError(f"{where}: {name} holds NaN or infinity; remove this demonstration")


def check_actions(actions: np.ndarray, name: str, where: str) -> None:
    """Raises UserError for actions that are no numbers, out of range, or of another convention for
    the gripper: LIBERO's is -1 or +1, so what lies around 0 belongs to one of 0..1."""
    check_finite(actions, name, where)
    worst = float(np.abs(actions).max())
    if worst > ACTION_LIMIT + ACTION_SLACK:
        raise UserError(
            f"{where}: {name} reaches {worst:.3f}, outside [-1, 1]; scale them as robosuite's "
            "OSC_POSE takes them, or remove this demonstration"
        )
    gripper = actions[:, 6]
    between = int((np.abs(gripper) < 0.5).sum())
    if between > (gripper <= -0.5).sum():
        raise UserError(
            f"{where}: the gripper in {name} is 0 or 1 ({between} of {len(gripper)} steps lie "
            "around 0); LIBERO's convention is -1 opens, +1 closes: convert the file (in some "
            "data sets 1 opens, in others it closes)"
        )
