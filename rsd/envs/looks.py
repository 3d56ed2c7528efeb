"""How a scene looks, varied at random: cameras, lamps and colours of demonstrations.

Only what is drawn changes; poses, masses and contacts stay, so a placement solves the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rsd.envs.rendering import CAMERAS

if TYPE_CHECKING:
    import mujoco


@dataclass(frozen=True)
class Looks:
    """Largest changes; each number is drawn evenly from both sides."""

    camera_m: float = 0.01  # of a camera, along each axis
    camera_rad: float = 0.0175  # of a camera, about each axis: 1 degree
    lamp_m: float = 0.3  # of a lamp, along each axis
    brightness: float = 0.3  # share of a lamp's light
    colour: float = 0.2  # share of a surface's red, green and blue; textures are tinted

    def scaled(self, strength: float) -> Looks:
        """`strength` times as much."""
        return Looks(*(strength * largest for largest in dataclasses.astuple(self)))


def vary(model: mujoco.MjModel, looks: Looks, seed: int) -> Callable[[], None]:
    """Change a compiled model in place; what is seen follows from the seed. The returned function
    gives the model its own looks back."""
    import mujoco

    head = model.vis.headlight
    changed = (
        model.cam_pos,
        model.cam_quat,
        model.light_pos,
        model.light_diffuse,
        head.ambient,
        head.diffuse,
        model.mat_rgba,
        model.geom_rgba,
    )
    before = [array.copy() for array in changed]
    rng = np.random.default_rng([seed, _STREAM])
    for name in CAMERAS:
        camera = model.camera(name)
        camera.pos += _evenly(rng, looks.camera_m, 3)
        turned, turn = np.empty(4), np.empty(4)
        about = _evenly(rng, looks.camera_rad, 3)
        mujoco.mju_axisAngle2Quat(turn, _unit(about), float(np.linalg.norm(about)))
        mujoco.mju_mulQuat(turned, camera.quat.copy(), turn)
        camera.quat[:] = turned
    model.light_pos[:] += _evenly(rng, looks.lamp_m, model.light_pos.shape)
    gains = 1 + _evenly(rng, looks.brightness, (model.nlight, 1))
    model.light_diffuse[:] = np.clip(model.light_diffuse * gains, 0, 1)
    gain = 1 + _evenly(rng, looks.brightness, 1)
    head.ambient[:] = np.clip(head.ambient * gain, 0, 1)
    head.diffuse[:] = np.clip(head.diffuse * gain, 0, 1)
    # a shape with a material shows that one's colour as long as its own is MuJoCo's default
    bare = model.geom_matid < 0
    for colours, shown in ((model.mat_rgba, slice(None)), (model.geom_rgba, bare)):
        tint = 1 + _evenly(rng, looks.colour, (len(colours), 3))
        colours[shown, :3] = np.clip(colours[:, :3] * tint, 0, 1)[shown]

    def restore() -> None:
        for array, values in zip(changed, before, strict=True):
            array[:] = values

    return restore


_STREAM = 7  # apart from the noise of the same seed


def _evenly(rng: np.random.Generator, largest: float, shape: int | tuple[int, ...]) -> np.ndarray:
    return largest * rng.uniform(-1, 1, shape)


def _unit(vector: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else np.array([1.0, 0.0, 0.0])
