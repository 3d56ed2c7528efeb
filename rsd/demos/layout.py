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
from pathlib import Path

import h5py
import numpy as np

from rsd.demos.hdf5 import SOURCE, child
from rsd.errors import UserError
from rsd.suites import Task

SUFFIX = "_demo.hdf5"
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


def task_file(folder: Path, task: Task) -> Path:
    """Where a task's demonstrations lie in a folder, by LIBERO's own naming."""
    return folder / f"{task.name}{SUFFIX}"


def part_files(folder: Path, task_name: str = "*") -> list[Path]:
    """Files of single demonstrations in a folder that is being collected, of a task or of all."""
    found = folder.glob(f"parts/{task_name}/[0-9]*.hdf5")
    return sorted(path for path in found if path.stem.isascii() and path.stem.isdigit())


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
            "of LIBERO's data sets or of jobs/collect.py"
        )
    groups = {name: child(data, name, where) for name in sorted(names, key=lambda n: int(n[5:]))}
    for name, group in groups.items():
        if not isinstance(group, h5py.Group):
            raise UserError(f"{where}: {name} is no group: not LIBERO's layout; {SOURCE}")
    return groups
