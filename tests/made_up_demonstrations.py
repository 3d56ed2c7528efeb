"""Small demonstration files with made-up contents, and the sizes of a model that is small, too."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rsd.demos import Demonstration, merge, task_file, write_demonstration
from rsd.suites import get_task
from rsd.types import ImageSpec

TASK = get_task("libero_spatial", 3)
LIBEROS = {  # attributes of its published files
    "bddl_file_name": f"chiliocosm/bddl_files/{TASK.suite}/{TASK.name}.bddl",
    "macros_image_convention": "opengl",
    "env_args": json.dumps({"type": 1, "env_kwargs": {"control_freq": 20, "robots": ["Panda"]}}),
}
PIXELS = 48
SMALL = [
    *("--model.target.width", "32", "--model.target.depth", "1", "--model.target.heads", "2"),
    *("--model.draft.width", "32", "--model.channels", "8", "16", "16"),
    *("--model.keypoints", "4", "--model.word-buckets", "64", "--model.tokeniser.layers", "3"),
]


def made_up_demonstration(
    seed: int, steps: int = 20, images: ImageSpec | None = None, assets: str = "lite"
) -> Demonstration:
    """Noise as frames, smooth motion as actions; the gripper closes half-way."""
    rng = np.random.default_rng(seed)
    images = images or ImageSpec(PIXELS, PIXELS, 0, False)
    frame_steps = np.arange(0, steps, 2)
    shape = (2, len(frame_steps), images.height, images.width, 3)
    frames = rng.integers(0, 256, shape, dtype=np.uint8)
    actions = np.sin(np.linspace(0, 3, steps))[:, None] * rng.uniform(-1, 1, 7)
    actions[:, 6] = np.where(np.arange(steps) < steps // 2, -1, 1)
    actions = actions.astype(np.float32)
    return Demonstration(
        instruction=TASK.instruction,
        suite=TASK.suite,
        task_id=TASK.task_id,
        seed=seed,
        actions=actions,
        executed_actions=actions,
        proprio=rng.normal(size=(steps, 8)).astype(np.float32),
        states=np.cumsum(rng.normal(size=(steps, 80)), axis=0),
        frame_steps=frame_steps,
        agentview=frames[0],
        wrist=frames[1],
        assets=assets,
        renderer="osmesa",
        images=images,
    )


def published(
    path: Path,
    *,
    steps: int = 40,
    size: int = 16,
    names: Sequence[str] = ("demo_0", "demo_1"),
    after: bool = True,
    attributes: Mapping[str, object] | None = LIBEROS,
    edit: Callable[[h5py.Group], object] = lambda group: None,
    **frames: Any,
) -> Path:
    """A file of somebody else's. The defaults are LIBERO's: each row's observation was seen `after`
    its action, and `attributes` replace those of LIBERO (None: there are none, as in files that
    openvla-oft regenerated, whose observations come before). What was seen before action i counts
    i: position x is i mm, the first pixel of a frame is i, and so is the action's x in thousandths.
    `edit` changes each demonstration, `frames` are keywords of h5py for its frames."""
    rng = np.random.default_rng(0)
    count = np.arange(steps)
    seen = count + 1 if after else count
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs.update({} if attributes is None else {**LIBEROS, **attributes})
        for name in names:
            group = data.create_group(name)
            actions = rng.uniform(-0.5, 0.5, (steps, 7))
            actions[:, 0] = count / 1000
            actions[:, 6] = np.where(count < steps // 2, -1, 1)
            states = np.cumsum(rng.normal(size=(steps + 1, 80)), axis=0)
            group["actions"], group["states"] = actions, states[:-1]
            group["obs/joint_states"] = states[seen, 1:8]
            positions = np.zeros((steps, 3))
            positions[:, 0] = seen / 1000
            group["obs/ee_pos"], group["obs/ee_ori"] = positions, rng.normal(size=(steps, 3))
            open_ = np.where(seen < steps // 2 + 3, 0.04, 0.01)[:, None]
            group["obs/gripper_states"] = open_ * [1, -1]
            for camera in ("agentview_rgb", "eye_in_hand_rgb"):
                pictures = rng.integers(0, 256, (steps, size, size, 3), dtype=np.uint8)
                pictures[:, -1, -1] = seen[:, None]  # rotated by 180 degrees the first
                group["obs"].create_dataset(camera, data=pictures, **frames)
            edit(group)
    return path


def made_up_folder(folder: Path, demonstrations: list[Demonstration]) -> Path:
    """A folder with one task's file."""
    parts = []
    for demonstration in demonstrations:
        parts.append(folder / f"{demonstration.seed}.part.hdf5")
        write_demonstration(parts[-1], demonstration)
    merge(parts, task_file(folder, demonstrations[0].task))
    return folder
