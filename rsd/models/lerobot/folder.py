"""What the folder of a LeRobot checkpoint says of itself, read without LeRobot.

Source: lerobot 0.6.1, `configs/policies.py`, `envs/libero.py`, `processor/env_processor.py`.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from rsd.errors import UserError, brief, reading, unknown
from rsd.foreign import MOST_BYTES, expanded, parse_json, read_bytes
from rsd.types import ACTION_DIM, PROPRIO_DIM

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PROCESSORS = ("policy_preprocessor.json", "policy_postprocessor.json")

STATE = "observation.state"
_IMAGES = "observation.images."
CAMERAS = {"agentview": f"{_IMAGES}image", "wrist": f"{_IMAGES}image2"}  # as LeRobot's LIBERO has
_EMPTY = "empty_camera"  # a feature that the policy fills in itself

# Types that hold on to what they saw at earlier steps, other than by `n_obs_steps`.
_KEEP_STATE = ("lingbot_va", "tdmpc")


@dataclass(frozen=True)
class Checkpoint:
    """A folder that fits LIBERO."""

    folder: Path
    kind: str  # act, pi0, smolvla, ...
    chunk_steps: int  # actions that are executed before it is asked again
    image: tuple[int, int]  # height, width of the frames that it was trained on
    cameras: dict[str, str]  # agentview, wrist: what their frames are called for its preprocessor


def check_installed() -> None:
    """Raises UserError where LeRobot is not."""
    if importlib.util.find_spec("lerobot") is None:
        raise UserError(
            "a checkpoint of LeRobot's needs the package 'lerobot': pip install --no-deps -r "
            "requirements-lerobot.txt"
        )


def read(spec: str) -> Checkpoint:
    """lerobot://FOLDER[?agentview=KEY&wrist=KEY]. Raises UserError for a folder that is no
    checkpoint of LeRobot's, or of a policy that LIBERO has not what it wants for."""
    place, cameras = _spec(spec)
    folder = _folder(spec, place)
    config = _json(folder / CONFIG)
    kind = config.get("type")
    if not isinstance(kind, str):
        raise UserError(
            f"{folder / CONFIG} names no `type`, so it is no checkpoint of LeRobot's; one of "
            "`rsd train` or of OpenVLA-OFT is named as the folder alone"
        )
    _refuse_memory(spec, kind, config)
    try:
        image = _image(spec, config["input_features"], _renamed(folder, cameras))
        _check_action(spec, config["output_features"])
        steps = int(config.get("n_action_steps", 1))
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder}: {CONFIG}, or {PROCESSORS[0]}, does not describe its features as LeRobot "
            f"0.6 does: {error!r}"
        ) from error
    return Checkpoint(folder, kind, steps, image, cameras)


def _spec(spec: str) -> tuple[str, dict[str, str]]:
    place, _, query = spec.partition("://")[2].partition("?")
    try:
        given = dict(parse_qsl(query, strict_parsing=bool(query)))
    except ValueError as error:
        raise UserError(f"policy {spec!r}: after ? comes agentview=KEY&wrist=KEY") from error
    for name in given:
        if name not in CAMERAS:
            raise unknown(f"setting of {spec!r}", name, CAMERAS)
    named = {
        name: key if key.startswith("observation.") else f"{_IMAGES}{key}"
        for name, key in given.items()
    }
    return place, CAMERAS | named


def _folder(spec: str, place: str) -> Path:
    folder = expanded(place)
    with reading(folder):
        there = folder.is_dir()
    if not there:
        raise UserError(
            f"policy {spec!r}: there is no folder {str(folder)!r}; one of the hub is downloaded "
            f"first: hf download {place} --local-dir FOLDER"
        )
    inner = folder / "pretrained_model"
    if not (folder / CONFIG).is_file() and (inner / CONFIG).is_file():
        raise UserError(f"policy {spec!r}: the checkpoint is the folder within: {inner}")
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"policy {spec!r}: {folder / name} is missing")
    for name in PROCESSORS:
        if not (folder / name).is_file():
            raise UserError(
                f"policy {spec!r}: {folder / name} is missing: without its processors nobody knows "
                "how it normalises. Checkpoints from before LeRobot 0.4 are converted by: python "
                f"-m lerobot.processor.migrate_policy_normalization --pretrained-path {folder}"
            )
    return folder


def _json(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_bytes(path, MOST_BYTES))
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is {brief(content)}, not a description")
    return content


def _refuse_memory(spec: str, kind: str, config: dict[str, Any]) -> None:
    """Any replica is asked for any chunk, so a policy may know nothing of the steps before."""
    why = ""
    if (config.get("n_obs_steps") or 1) != 1:
        why = f"looks at {config['n_obs_steps']} observations (n_obs_steps)"
    elif config.get("temporal_ensemble_coeff") is not None:
        why = "mixes the chunks of earlier steps (temporal_ensemble_coeff)"
    elif kind in _KEEP_STATE:
        why = "keeps what it has seen since the episode began"
    if why:
        raise UserError(
            f"policy {spec!r}: {kind} {why}; policies that hold nothing of an episode are "
            "evaluated here (ACT, pi0, pi0.5, SmolVLA, ...)"
        )


def _renamed(folder: Path, cameras: dict[str, str]) -> dict[str, str]:
    """The policy's own names of the cameras' frames: its preprocessor may rename them."""
    names = dict(cameras)
    for step in _json(folder / PROCESSORS[0]).get("steps", []):
        if step.get("registry_name") == "rename_observations_processor":
            renames = step.get("config", {}).get("rename_map") or {}
            names = {camera: renames.get(key, key) for camera, key in names.items()}
    return names


def _image(spec: str, features: dict[str, Any], cameras: dict[str, str]) -> tuple[int, int]:
    """Height and width of its frames. Raises UserError for a feature that LIBERO has not."""
    sizes = set()
    for name, feature in features.items():
        kind, shape = feature["type"], tuple(feature["shape"])
        if kind == "VISUAL" and _EMPTY in name:
            continue
        if kind == "VISUAL":
            if name not in cameras.values():
                raise UserError(
                    f"policy {spec!r} wants a frame {name!r}; LIBERO has two cameras, agentview "
                    f"(given as {cameras['agentview']!r}) and wrist ({cameras['wrist']!r}): say "
                    "which is which after ?, agentview=KEY&wrist=KEY"
                )
            sizes.add(shape[1:] if shape[0] == 3 else shape[:2])
        elif name != STATE or shape != (PROPRIO_DIM,):
            raise UserError(
                f"policy {spec!r} wants {name!r} of shape {shape}; LIBERO has {STATE!r} of shape "
                f"({PROPRIO_DIM},): eef position, axis-angle, gripper's joints"
            )
    if len(sizes) != 1:
        told = ", ".join(f"{height} x {width}" for height, width in sorted(sizes)) or "none"
        raise UserError(
            f"policy {spec!r} wants frames of these sizes: {told}; both cameras are drawn in one"
        )
    height, width = sizes.pop()
    return int(height), int(width)


def _check_action(spec: str, features: dict[str, Any]) -> None:
    shapes = {name: tuple(feature["shape"]) for name, feature in features.items()}
    if shapes != {"action": (ACTION_DIM,)}:
        raise UserError(
            f"policy {spec!r} gives {shapes}; LIBERO takes 'action' of shape ({ACTION_DIM},)"
        )


def identity(checkpoint: Checkpoint) -> str:
    """sha256 over everything in the folder that decides, and what its frames are called."""
    own = [checkpoint.folder / CONFIG, checkpoint.folder / WEIGHTS]
    processors = sorted(checkpoint.folder.glob("policy_p*processor*"))
    digest = hashlib.sha256(repr(sorted(checkpoint.cameras.items())).encode())
    for path in (*own, *processors):
        with reading(path), path.open("rb") as stream:
            digest.update(f"{path.name}\0".encode())
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
