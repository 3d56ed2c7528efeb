"""Writing demonstrations: files that are whole or absent."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rsd.demos.demonstration import Demonstration, check_demonstration
from rsd.demos.hdf5 import opened
from rsd.demos.layout import IMAGES, JOINTS, OSC_POSE, TAG, demo_groups, rotated
from rsd.errors import UserError, writing
from rsd.outputs import aside


def write_demonstration(path: Path, demo: Demonstration) -> None:
    """A file of one demonstration, whole or absent: written aside and renamed.

    Raises UserError for a demonstration that `read_demonstrations` would refuse, and where the file
    cannot be written.
    """
    check_demonstration(demo, str(path))
    with _aside(path) as file:
        data = file.create_group("data")
        data.attrs.update(_task_attributes(demo))
        _write_demo(data.create_group("demo_0"), demo)
        _count(data)


def merge(parts: Sequence[Path], target: Path) -> None:
    """Add the demonstrations of `parts` to those of `target`, sorted by seed, each seed once.

    The target is replaced in one rename, and the parts are deleted after it: killed at any
    moment, nothing is lost, and what is in both is dropped by the next merge. Raises UserError
    for a file that is damaged, and where the target cannot be written.
    """
    if not parts:
        return
    seeds: dict[int, tuple[Path, str]] = {}
    for source in [*parts, *([target] if target.exists() else [])]:
        seeds |= {seed: (source, name) for name, seed in _seeds(source).items()}
    with _aside(target) as file:
        data = file.create_group("data")
        for i, seed in enumerate(sorted(seeds)):
            source, name = seeds[seed]
            with opened(source) as other:
                if not data.attrs:
                    data.attrs.update(other["data"].attrs)
                other.copy(f"data/{name}", data, name=f"demo_{i}")
        _count(data)
    for part in parts:
        part.unlink()


def stored_seeds(path: Path) -> set[int]:
    """Seeds of the demonstrations in a file; empty where there is no file.

    Raises UserError for a file that is damaged or was not written here.
    """
    return set(_seeds(path).values()) if path.exists() else set()


def _seeds(path: Path) -> dict[str, int]:
    with opened(path) as file:
        groups = demo_groups(file)
        unnamed = [name for name, group in groups.items() if "seed" not in group.attrs]
        if unnamed:
            raise UserError(
                f"{path}: {unnamed[0]} has no seed, so the file was not collected here; choose "
                "another folder for new demonstrations"
            )
        return {name: int(group.attrs["seed"]) for name, group in groups.items()}


@contextmanager
def _aside(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file that appears at `path` when it is complete and on the disk. Raises UserError
    where it cannot be written."""
    with (
        writing(path),
        aside(path) as whole,
        _Stream(whole.fileno(), "w+", closefd=False) as stream,
    ):
        try:
            with h5py.File(stream, "w") as file:
                yield file
        finally:
            stream.check()  # an error of HDF5's may only follow from it


class _Stream(io.FileIO):
    """A file that takes everything from HDF5 and tells afterwards that the disk was full: the
    library ends the process with a segmentation fault when closing a file fails."""

    _failure: OSError | None = None

    def write(self, content: Any) -> int:
        left = memoryview(content).cast("B")
        size = len(left)
        try:
            while len(left) and self._failure is None:
                left = left[super().write(left) :]
        except OSError as error:
            self._failure = error
        return size

    def check(self) -> None:
        """Raises the OSError of the first write that failed."""
        if self._failure is not None:
            raise self._failure


def _task_attributes(demo: Demonstration) -> dict[str, str]:
    """Attributes of /data under LIBERO's names."""
    task = demo.task
    content = task.bddl_path.read_text()
    named = re.search(r"\(problem (\w+)\)", content)
    problem = named.group(1) if named else "unknown"
    env_name = problem.title()  # LIBERO's class of the environment
    bddl_file = f"bddl_files/{task.suite}/{task.name}.bddl"
    height, width = demo.agentview.shape[1:3]
    env_args = {
        "type": 1,
        "env_name": env_name,
        "problem_name": problem.lower(),
        "bddl_file": bddl_file,
        "env_kwargs": {
            "robots": ["Panda"],
            "controller_configs": OSC_POSE,
            "bddl_file_name": bddl_file,
            "has_renderer": False,
            "has_offscreen_renderer": True,
            "ignore_done": True,
            "use_camera_obs": True,
            "camera_depths": False,
            "camera_names": ["robot0_eye_in_hand", "agentview"],
            "reward_shaping": True,
            "control_freq": 20,
            "camera_heights": height,
            "camera_widths": width,
            "camera_segmentations": None,
        },
    }
    problem_info = {
        "problem_name": problem.lower(),
        "domain_name": "robosuite",
        "language_instruction": demo.instruction,
    }
    return {
        "tag": TAG,
        "env_name": env_name,
        "problem_info": json.dumps(problem_info),
        "env_args": json.dumps(env_args),
        "bddl_file_name": bddl_file,
        "bddl_file_content": content,
        "macros_image_convention": "opengl",
    }


def _write_demo(group: h5py.Group, demo: Demonstration) -> None:
    steps = len(demo)
    last = np.zeros(steps, np.uint8)
    last[-1] = 1
    position, axis_angle, gripper = np.split(demo.proprio.astype(np.float64), [3, 6], axis=1)
    arrays = {
        "actions": demo.actions,
        "executed_actions": demo.executed_actions,
        **({} if demo.driven is None else {"driven": demo.driven}),
        "states": demo.states,
        "robot_states": np.hstack([gripper, position, _quaternions(axis_angle)]),
        "rewards": last,
        "dones": last,
        "obs/gripper_states": gripper,
        "obs/joint_states": demo.states[:, JOINTS],
        "obs/ee_states": np.hstack([position, axis_angle]),
        "obs/ee_pos": position,
        "obs/ee_ori": axis_angle,
        "obs/frame_steps": demo.frame_steps,
    }
    for name, array in arrays.items():  # zlib's own checksum guards the frames below
        group.create_dataset(name, data=array, chunks=array.shape, fletcher32=True)
    for field_name, name in IMAGES.items():
        frames = rotated(getattr(demo, field_name))
        chunk = (1, *frames.shape[1:])  # training reads single frames
        group.create_dataset(
            f"obs/{name}", data=frames, chunks=chunk, compression="gzip", compression_opts=1
        )
    group.attrs.update(
        num_samples=steps,
        init_state=demo.states[0],
        seed=-1 if demo.seed is None else demo.seed,
        assets=demo.assets,
        renderer=demo.renderer,
        image_spec=json.dumps(demo.images and dataclasses.asdict(demo.images)),
        settings=json.dumps(demo.settings),
        code=json.dumps(demo.code),
    )
    if demo.other_rim is not None:
        group.attrs["other_rim"] = demo.other_rim
    if demo.model_xml:
        group.attrs["model_file"] = demo.model_xml


def _count(data: h5py.Group) -> None:
    data.attrs["num_demos"] = len(data)
    data.attrs["total"] = sum(int(demo.attrs["num_samples"]) for demo in data.values())


def _quaternions(axis_angle: np.ndarray) -> np.ndarray:
    """(N, 4) xyzw of robosuite's axis-angle form, whose angle runs to 2 pi: the sign is kept."""
    angle = np.linalg.norm(axis_angle, axis=1, keepdims=True)
    axis = np.divide(axis_angle, angle, out=np.zeros_like(axis_angle), where=angle > 0)
    return np.hstack([axis * np.sin(angle / 2), np.cos(angle / 2)])
