"""Demonstrations in LIBERO's own HDF5 layout: one file a task, `<task_name>_demo.hdf5`.

The layout is that of LIBERO's `scripts/create_dataset.py`: images lie there as the simulator draws
them, upside down for a viewer and not rotated as the policy sees them; both directions are
converted here. What LIBERO's files do not have:

    demo_<i>/executed_actions   (N, 7), where noise was added: `actions` then are the labels that
                                the expert gave for the states that the noise led to
    demo_<i>/driven             (N,), where a policy or a missed grasp chose them
    demo_<i>/obs/frame_steps    (M,), the steps whose frames are stored: images have M rows
    attributes of demo_<i>      seed, assets, renderer, image_spec, settings, code

Ours lack nothing that create_dataset.py writes, once they are collected with --frame-every 1. An
environment is rebuilt as LIBERO does it: `TASK_MAPPING[problem_name](**env_kwargs)`, then
`reset_from_xml_string(model_file)` and a row of `states`. As in LIBERO's files, `bddl_file_name`
has to be made to point into an installed LIBERO (here it is relative to `libero_root()`), and the
model names its meshes and textures where they lay on the machine that collected.

LIBERO's published files pair action j with the observation *after* it (create_dataset.py steps
before it records), those that openvla-oft regenerated (`*_no_noops`: no attributes, the task is the
file's name) with the one before it; reading tells them apart and shifts, so that a Demonstration
always holds what was seen before each action. What a file says about itself (rate, controller, way
up of its frames) is compared with what is assumed here, and what its data show (gripper, pairing),
too. hdf5.py keeps damaged and hostile files from doing harm.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

import h5py
import numpy as np

from rsd.demos.hdf5 import SOURCE, child, dataset
from rsd.errors import UserError
from rsd.types import ACTION_DIM

TAG = "libero-v1"  # what LIBERO's published files call their layout
JOINTS = slice(1, 8)  # columns of a state: time, then the arm's 7 joints, then all other positions
IMAGES = {"agentview": "agentview_rgb", "wrist": "eye_in_hand_rgb"}
_DEMO = r"demo_[0-9]{1,9}"

OSC_POSE = {  # robosuite's load_controller_config(default_controller="OSC_POSE")
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
    "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
    "kp": 150,
    "damping_ratio": 1,
    "impedance_mode": "fixed",
    "kp_limits": [0, 300],
    "damping_ratio_limits": [0, 10],
    "position_limits": None,
    "orientation_limits": None,
    "uncouple_pos_ori": True,
    "control_delta": True,
    "interpolation": None,
    "ramp_ratio": 0.2,
}


def rotated(frames: np.ndarray) -> np.ndarray:
    """Frames (M, H, W, 3) turned by 180 degrees: from LIBERO's files to PROTOCOL 6 and back."""
    return np.ascontiguousarray(frames[:, ::-1, ::-1])


def demo_groups(file: h5py.File) -> dict[str, h5py.Group]:
    """Demonstrations by name, in the order of their numbers, which may have gaps."""
    where = str(file.filename)
    data = child(file, "data", where)
    names = [n for n in data if re.fullmatch(_DEMO, n)] if isinstance(data, h5py.Group) else []
    if not names:
        there = ", ".join(itertools.islice(file, 8)) or "nothing"
        raise UserError(
            f"{where} has no /data/demo_<i>: not LIBERO's layout (it holds {there}); give a file "
            "of LIBERO's data sets or of `rsd collect`"
        )
    groups = {name: child(data, name, where) for name in sorted(names, key=lambda n: int(n[5:]))}
    for name, group in groups.items():
        if not isinstance(group, h5py.Group):
            raise UserError(f"{where}: {name} is no group: not LIBERO's layout; {SOURCE}")
    return groups


_MOST_STEPS = 100_000  # of a demonstration: 83 minutes
_MOST_PIXELS = 4096  # of a side of a frame


def check_layout(group: h5py.Group, where: str) -> None:
    """Raises UserError for datasets that are missing or cannot be LIBERO's, by their headers."""
    steps = _rows(group, "actions", where)
    if steps > _MOST_STEPS:
        raise UserError(f"{where}: {steps} actions are no demonstration; split the file")
    if steps == 0:
        raise UserError(f"{where}: it has no actions at all; take it out of the file")
    stamps = dataset(group, "obs/frame_steps", (None,), "iu", where)
    frames = steps if stamps is None else stamps.shape[0]
    ours = "seed" in group.attrs
    wanted: dict[str, tuple[tuple[int | None, ...], str]] = {
        "actions": ((steps, ACTION_DIM), "fiu"),
        "states": ((steps, None), "f"),
        "obs/ee_pos": ((steps, 3), "f"),
        "obs/ee_ori": ((steps, 3), "f"),
        "obs/gripper_states": ((steps, 2), "f"),
        **({} if ours else {"obs/joint_states": ((steps, 7), "f")}),
        **{f"obs/{stored}": ((frames, None, None, 3), "fiu") for stored in IMAGES.values()},
    }
    optional: dict[str, tuple[tuple[int | None, ...], str]] = {
        "executed_actions": ((steps, ACTION_DIM), "fiu"),
        "driven": ((steps,), "biu"),
    }
    there: dict[str, h5py.Dataset] = {}
    for name, (shape, kinds) in (wanted | optional).items():
        found = dataset(group, name, shape, kinds, where)
        if found is not None:
            there[name] = found
    missing = [name for name in wanted if name not in there]
    if missing:
        raise UserError(f"{where} is {_other_layout(group, missing, where)}")
    if not ours and there["states"].shape[1] < JOINTS.stop:
        raise UserError(f"{where}: states of {there['states'].shape} lack the arm's joints")
    _check_frames(
        {name: there[f"obs/{stored}"].shape[1:3] for name, stored in IMAGES.items()}, where
    )


def _check_frames(sizes: Mapping[str, tuple[int, int]], where: str) -> None:
    for name, size in sizes.items():
        if not all(1 <= pixels <= _MOST_PIXELS for pixels in size):
            raise UserError(f"{where}: {name} has frames of {size[0]} x {size[1]} pixels")
    if len(set(sizes.values())) > 1:
        (one, a), (other, b) = sizes.items()
        raise UserError(
            f"{where}: {one} has frames of {a[0]} x {a[1]} pixels, {other} of {b[0]} x {b[1]}; "
            "scale one to the other's size"
        )


def _rows(group: h5py.Group, name: str, where: str) -> int:
    """First size of a dataset that must be there."""
    found = child(group, name, where)
    if not isinstance(found, h5py.Dataset):
        raise UserError(f"{where} is {_other_layout(group, [name], where)}")
    return int(found.shape[0]) if found.shape else 0


def _other_layout(group: h5py.Group, missing: Sequence[str], where: str) -> str:
    """For a message: what a demonstration is that lacks some datasets."""
    obs = child(group, "obs", where)
    seen = list(obs) if isinstance(obs, h5py.Group) else []
    if any(name.startswith("robot0_") or name.endswith("_image") for name in seen):
        return (
            "of robomimic's layout, not LIBERO's (its observations are called "
            f"{', '.join(seen[:4])}...); convert it, or give LIBERO's own files"
        )
    if not seen:
        return (
            "without observations, such as robosuite records before they are drawn; draw them "
            "with LIBERO's scripts/create_dataset.py"
        )
    return (
        f"damaged or no LIBERO file: it lacks {', '.join(missing)} (obs holds "
        f"{', '.join(seen[:12])}); {SOURCE}"
    )
