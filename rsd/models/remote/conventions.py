"""What a protocol does not say: how a server's model wants its observations, and means its actions.

A dialect has the conventions of the real servers that speak it; a spec changes single ones
(`?replan=4&gripper=one-opens`), and what a server says of itself fills in or contradicts them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from rsd.episode import ACTION_LIMIT
from rsd.errors import UserError, unknown
from rsd.types import ACTION_DIM, ImageSpec, Observation


@dataclass(frozen=True)
class Conventions:
    """Decides what a run's rows hold, so it is part of the policy's identity."""

    chunk: int | None = None  # actions of an answer; None: as many as the server sends
    replan: int | None = None  # of these, executed before it is asked again; None: all
    images: ImageSpec = field(default_factory=ImageSpec)  # how frames are drawn (`rsd serve` tells)
    image: int | None = 224  # px, height and width of the frames that it gets; None: as drawn
    rotated: bool = True  # frames turned by 180 degrees, as the protocol's; else as MuJoCo draws
    wrist: bool = True  # it gets the wrist camera's frame, too
    state: str = "axis-angle"  # a name of STATES
    gripper: str = "minus-opens"  # a name of GRIPPERS
    range: str = "clip"  # actions beyond [-1, 1]: clip (robosuite would, and it is counted), refuse
    unnorm_key: str = ""  # the statistics that it un-normalises with; empty: its default


def _without_flip(proprio: np.ndarray) -> np.ndarray:
    return proprio


def _antipodal(proprio: np.ndarray) -> np.ndarray:
    """The rotation the short way round: robosuite's goes up to 2 pi (PROTOCOL 8)."""
    turned = proprio.copy()
    angle = float(np.linalg.norm(turned[3:6]))
    if angle > np.pi:
        turned[3:6] *= (angle - 2 * np.pi) / angle
    return turned


# What a server gets of the proprioception (eef position, axis-angle, gripper qpos).
STATES: dict[str, Callable[[np.ndarray], np.ndarray | None]] = {
    "axis-angle": _without_flip,  # as robosuite gives it: OpenVLA-OFT, openpi
    "axis-angle-antipodal": _antipodal,  # vla-eval, unless its server asks for the other
    "none": lambda proprio: None,
}

# The gripper's column of actions to -1 open, +1 closed.
GRIPPERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "minus-opens": lambda column: column,  # robosuite's own: openpi, vla-eval
    "plus-opens": lambda column: -column,
    "one-opens": lambda column: -np.sign(2 * column - 1),  # RLDS, 0 closes: OpenVLA, OFT, GR00T
    "one-closes": lambda column: np.sign(2 * column - 1),
}
RANGES = ("clip", "refuse")


@dataclass(frozen=True)
class View:
    """An observation as a server gets it."""

    agentview: np.ndarray  # uint8 (image, image, 3)
    wrist: np.ndarray | None
    state: np.ndarray | None  # float32
    instruction: str


@dataclass(frozen=True)
class Actions:
    """An answer as it is executed."""

    values: np.ndarray  # float32 (n, 7)
    clipped: int  # of them, values that left [-1, 1]


def view(conventions: Conventions, observation: Observation) -> View:
    def frame(pixels: np.ndarray) -> np.ndarray:
        turned = pixels if conventions.rotated else pixels[::-1, ::-1]
        size = (conventions.image,) * 2 if conventions.image else turned.shape[:2]
        return resized(turned, *size)

    return View(
        frame(observation.agentview),
        frame(observation.wrist) if conventions.wrist else None,
        STATES[conventions.state](observation.proprio),
        observation.instruction,
    )


def resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """A frame uint8 (H, W, 3) in another size, bit for bit as openpi-client's `resize_with_pad`:
    bilinear, black bars where the proportions differ."""
    if pixels.shape[:2] == (height, width):
        return np.ascontiguousarray(pixels)
    ratio = max(pixels.shape[1] / width, pixels.shape[0] / height)
    size = int(pixels.shape[1] / ratio), int(pixels.shape[0] / ratio)
    small = Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BILINEAR)
    canvas = Image.new(small.mode, (width, height), 0)
    canvas.paste(small, ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(canvas)


def actions(conventions: Conventions, answer: object) -> Actions:
    """What of an answer is executed. Raises ValueError for one that holds no actions."""
    try:
        values = np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"its answer holds no numbers: {error}") from error
    if values.ndim == 1:
        values = values[None]  # a single step
    if values.ndim != 2 or len(values) == 0 or values.shape[1] != ACTION_DIM:
        raise ValueError(
            f"its answer has shape {values.shape}; actions are (n, {ACTION_DIM}), a row a step"
        )
    if conventions.chunk is not None and len(values) != conventions.chunk:
        raise ValueError(
            f"its answer has {len(values)} actions where {conventions.chunk} were said: mend "
            "`chunk`, or leave it out where the server varies"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"its answer holds {int((~np.isfinite(values)).sum())} NaN or infinity")
    values = values[: conventions.replan].astype(np.float32)
    values[:, -1] = GRIPPERS[conventions.gripper](values[:, -1])
    beyond = np.abs(values) > ACTION_LIMIT
    if conventions.range == "refuse" and beyond.any():
        raise ValueError(
            f"its answer holds an action of {float(np.abs(values).max()):.4f}, outside [-1, 1]; "
            "`range=clip` clips and counts instead"
        )
    return Actions(np.clip(values, -ACTION_LIMIT, ACTION_LIMIT), int(beyond.sum()))


def read(given: Mapping[str, str], where: str) -> dict[str, Any]:
    """Conventions out of words, by field. Raises UserError for what is none."""
    return {name: _read(name, word, where) for name, word in given.items()}


def _read(name: str, word: str, where: str) -> Any:
    choices: dict[str, Collection[str]] = {"state": STATES, "gripper": GRIPPERS, "range": RANGES}
    if name in choices:
        if word not in choices[name]:
            raise unknown(f"{name} of {where}", word, choices[name])
        return word
    if name in ("rotated", "wrist"):
        if word not in ("true", "false"):
            raise UserError(f"{where}: {name} is true or false, not {word!r}")
        return word == "true"
    if name == "unnorm_key":
        return word
    most = 4096 if name == "image" else 1000
    if not (word.isascii() and word.isdecimal() and 1 <= int(word[:9]) <= most):
        raise UserError(f"{where}: {name} is a number from 1 to {most}, not {word!r}")
    return int(word)


def settle(usual: Conventions, given: Mapping[str, Any], said: Mapping[str, Any]) -> Conventions:
    """The conventions of a server: those of its dialect, what it says of itself, what the user
    gives. Raises UserError where the latter two contradict each other."""
    for name, value in said.items():
        if name in given and given[name] != value:
            raise UserError(
                f"the server says of itself that its {name} is {value!r}; {name}={given[name]} "
                "contradicts that: leave it out"
            )
    made = dataclasses.replace(usual, **{**said, **given})
    if made.chunk is not None and made.replan is not None and made.replan > made.chunk:
        if "replan" in given:
            raise UserError(
                f"replan={made.replan}, but its chunks have {made.chunk} actions: lower it"
            )
        made = dataclasses.replace(made, replan=None)
    return made
