"""Small demonstration files with made-up contents, and the sizes of a model that is small, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rsd.demonstrations import Demonstration, merge, task_file, write_demonstration
from rsd.suites import get_task
from rsd.types import ImageSpec

TASK = get_task("libero_spatial", 3)
PIXELS = 48
SMALL = [
    *("--model.target.width", "32", "--model.target.depth", "1", "--model.target.heads", "2"),
    *("--model.draft.width", "32", "--model.channels", "8", "16", "16"),
    *("--model.keypoints", "4", "--model.word-buckets", "64", "--model.tokeniser.layers", "3"),
]


def made_up_demonstration(
    seed: int, steps: int = 20, images: ImageSpec | None = None, assets: str = "lite"
) -> Demonstration:
    """Noise as frames, smooth motion as actions."""
    rng = np.random.default_rng(seed)
    images = images or ImageSpec(PIXELS, PIXELS, 0, False)
    frame_steps = np.arange(0, steps, 2)
    shape = (2, len(frame_steps), images.height, images.width, 3)
    frames = rng.integers(0, 256, shape, dtype=np.uint8)
    actions = np.sin(np.linspace(0, 3, steps))[:, None] * rng.uniform(-1, 1, 7)
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


def made_up_folder(folder: Path, demonstrations: list[Demonstration]) -> Path:
    """A folder with one task's file."""
    parts = []
    for demonstration in demonstrations:
        parts.append(folder / f"{demonstration.seed}.part.hdf5")
        write_demonstration(parts[-1], demonstration)
    merge(parts, task_file(folder, demonstrations[0].task))
    return folder
