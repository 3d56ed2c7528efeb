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
too. rsd/hdf5.py keeps damaged and hostile files from doing harm.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rsd.errors import UserError, brief, reading, writing
from rsd.foreign import expanded, from_json, parse_json
from rsd.hdf5 import SOURCE, check_kind, child, dataset, opened, text, understood
from rsd.outputs import aside
from rsd.provenance import flat
from rsd.suites import SUITES, Task, get_task
from rsd.types import ACTION_DIM, ImageSpec

SUFFIX = "_demo.hdf5"
TAG = "libero-v1"  # what LIBERO's published files call their layout
_JOINTS = slice(1, 8)  # columns of a state: time, then the arm's 7 joints, then all other positions
_ACTION_SLACK = 1e-6  # float32 rounding of an action at the limit
_IMAGES = {"agentview": "agentview_rgb", "wrist": "eye_in_hand_rgb"}

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


def task_file(folder: Path, task: Task) -> Path:
    """Where a task's demonstrations lie in a folder, by LIBERO's own naming."""
    return folder / f"{task.name}{SUFFIX}"


# --- writing ---------------------------------------------------------------------------------


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
        groups = _demo_groups(file)
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
        "obs/joint_states": demo.states[:, _JOINTS],
        "obs/ee_states": np.hstack([position, axis_angle]),
        "obs/ee_pos": position,
        "obs/ee_ori": axis_angle,
        "obs/frame_steps": demo.frame_steps,
    }
    for name, array in arrays.items():  # zlib's own checksum guards the frames below
        group.create_dataset(name, data=array, chunks=array.shape, fletcher32=True)
    for field_name, name in _IMAGES.items():
        frames = _rotated(getattr(demo, field_name))
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


def _rotated(frames: np.ndarray) -> np.ndarray:
    """Frames (M, H, W, 3) turned by 180 degrees: from LIBERO's files to PROTOCOL 6 and back."""
    return np.ascontiguousarray(frames[:, ::-1, ::-1])


# --- reading ---------------------------------------------------------------------------------


def read_demonstrations(*paths: str | Path) -> Iterator[Demonstration]:
    """The demonstrations of files, and of every `*_demo.hdf5` in folders, one at a time.

    Raises UserError, naming file and fix, for files that are missing, locked, damaged, of another
    layout or convention, of an interrupted collection, or hold NaN or actions outside [-1, 1].
    """
    for _, demo in named_demonstrations(*paths):
        yield demo


def named_demonstrations(*paths: str | Path) -> Iterator[tuple[str, Demonstration]]:
    """The same, each with its file and its name there."""
    for file in _files(paths):
        with opened(file) as hdf5:
            examined = _examine(hdf5, file)
            for name, group in examined.groups.items():
                yield f"{file}: {name}", _read(group, examined, f"{file}: {name}")


def check_files(*paths: str | Path) -> None:
    """Raises UserError for whatever `read_demonstrations` refuses, as far as it can be known
    without reading frames."""
    for file in _files(paths):
        with opened(file) as hdf5:
            _examine(hdf5, file)


def _files(paths: Sequence[str | Path]) -> list[Path]:
    if not paths:
        raise UserError("no demonstrations are named; give at least one file or folder")
    files: list[Path] = []
    for path in map(expanded, paths):
        files += _files_of(path)
    if len({file.resolve() for file in files}) < len(files):
        raise UserError("the same demonstrations are given twice; name every file or folder once")
    return files


def _files_of(path: Path) -> list[Path]:
    """A file itself, or those in a folder; each can be opened as HDF5."""
    with reading(path):
        if not path.exists() and not path.is_symlink():
            raise UserError(_no_demonstrations(path))
        names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else None
    if names is None:
        check_kind(path)
        return [path]
    unmerged = part_files(path)
    if unmerged:
        raise UserError(
            f"{path} holds {len(unmerged)} demonstration(s) of an interrupted or running "
            "collection that are not in its tasks' files yet; the same jobs/collect.py command "
            "with --resume goes on"
        )
    found = [path / name for name in names if name.endswith(SUFFIX) and not name.startswith(".")]
    if not found:
        with reading(path):
            raise UserError(_no_demonstrations(path) + _what_is_there(path, names))
    for file in found:
        check_kind(file)
    return found


def _no_demonstrations(path: Path) -> str:
    return (
        f"no demonstrations at {path}: expected a file or a folder of *{SUFFIX}; "
        "`python jobs/collect.py` makes them"
    )


def _what_is_there(folder: Path, names: Sequence[str]) -> str:
    """For a message: what a folder without demonstrations holds instead."""

    def ending(*suffixes: str) -> list[str]:
        return [name for name in names if name.lower().endswith(suffixes)]

    if ending(".parquet") or (folder / "meta" / "info.json").exists():
        return ". It holds a LeRobot data set (Parquet); give the HDF5 files it was made of"
    if ending(".tfrecord") or "features.json" in names or any(".tfrecord-" in n for n in names):
        return ". It holds an RLDS data set (TFRecord); give the HDF5 files it was made of"
    if packed := ending(".zip", ".tar", ".gz", ".tgz"):
        return f". It holds {packed[0]}: unpack that first"
    if others := ending(".hdf5", ".h5"):
        return f". It holds {others[0]}: to have such files read, name them themselves"
    below = [name for name in names[:200] if any((folder / name).glob(f"*{SUFFIX}"))]
    if below:
        return f". Folders in it do: give {', '.join(str(folder / name) for name in below[:5])}"
    return ""


def part_files(folder: Path, task_name: str = "*") -> list[Path]:
    """Files of single demonstrations in a folder that is being collected, of a task or of all."""
    found = folder.glob(f"parts/{task_name}/[0-9]*.hdf5")
    return sorted(path for path in found if path.stem.isascii() and path.stem.isdigit())


@dataclass(frozen=True)
class _Examined:
    """What is known of an open file before frames are read."""

    groups: dict[str, h5py.Group]
    task: Task
    upright: bool  # frames are stored as a viewer sees them (OpenCV), not as OpenGL draws them
    late: frozenset[str]  # demonstrations that pair each action with what was seen after it


def _examine(hdf5: h5py.File, file: Path) -> _Examined:
    groups = _demo_groups(hdf5)
    attributes = hdf5["data"].attrs
    for name, group in groups.items():
        with understood(f"{file}: {name}"):
            _check_layout(group, f"{file}: {name}")
    task = _task_of(attributes, file)
    _check_declared(attributes, str(file))
    upright = _upright(attributes, str(file))
    for name, group in groups.items():
        with understood(f"{file}: {name}"):
            _check_actions(_float32(group["actions"][()]), "actions", f"{file}: {name}")
    return _Examined(groups, task, upright, _late(groups, str(file)))


def _demo_groups(file: h5py.File) -> dict[str, h5py.Group]:
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


_DEMO = r"demo_[0-9]{1,9}"
_MOST_STEPS = 100_000  # of a demonstration: 83 minutes
_MOST_PIXELS = 4096  # of a side of a frame


def _check_layout(group: h5py.Group, where: str) -> None:
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
        **{f"obs/{stored}": ((frames, None, None, 3), "fiu") for stored in _IMAGES.values()},
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
    if not ours and there["states"].shape[1] < _JOINTS.stop:
        raise UserError(f"{where}: states of {there['states'].shape} lack the arm's joints")
    _check_frames(
        {name: there[f"obs/{stored}"].shape[1:3] for name, stored in _IMAGES.items()}, where
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


def _task_of(attributes: Mapping[str, Any], path: Path) -> Task:
    """The LIBERO task that a file belongs to: by the BDDL file that it names, or where it names
    none (openvla-oft's regenerated files), by its own name. Names are unique over all suites."""
    named = text(attributes, "bddl_file_name", str(path))
    name = Path(named.replace("\\", "/")).stem if named else path.stem.removesuffix("_demo")
    task = _tasks_by_name().get(name)
    if task is None and named:
        raise UserError(
            f"{path} names no LIBERO task (bddl_file_name {brief(named)}); expected "
            "<suite>/<task>.bddl as in LIBERO's data sets"
        )
    if task is None:
        raise UserError(
            f"{path} names no LIBERO task: it has no bddl_file_name, and is not called "
            f"<task>{SUFFIX} either; rename it, as in {next(iter(_tasks_by_name()))}{SUFFIX}"
        )
    return task


@cache
def _tasks_by_name() -> dict[str, Task]:
    every = (get_task(s.name, task_id) for s in SUITES.values() for task_id in range(s.num_tasks))
    return {task.name: task for task in every}


_DECLARED: dict[str, tuple[object, str]] = {  # env_args' entries: what is assumed, and what follows
    "control_freq": (20, "policies here act at 20 Hz; record or resample it at 20 Hz"),
    "controller_configs.type": (OSC_POSE["type"], "its actions mean something else; convert them"),
    "controller_configs.control_delta": (True, "its actions are positions, not motions"),
    **{
        f"controller_configs.{name}": (OSC_POSE[name], "its actions have other units; scale them")
        for name in ("input_max", "input_min", "output_max", "output_min")
    },
}


def _check_declared(attributes: Mapping[str, Any], where: str) -> None:
    """Raises UserError for a file that says of itself that it was recorded otherwise than a policy
    here acts. What it does not say is taken to be LIBERO's."""
    stored = text(attributes, "env_args", where)
    if not stored:
        return
    try:
        env_args = parse_json(stored)
    except ValueError as error:
        raise UserError(f"{where}: attribute env_args is no JSON ({error}); {SOURCE}") from error
    if not isinstance(env_args, dict):
        raise UserError(f"{where}: attribute env_args is {brief(env_args)}, expected settings")
    kwargs = env_args.get("env_kwargs") or {}
    if not isinstance(kwargs, dict):
        raise UserError(f"{where}: env_args.env_kwargs is {brief(kwargs)}, expected settings")
    configs = kwargs.get("controller_configs")
    if isinstance(configs, list) and len(configs) == 1:  # one a robot
        kwargs = {**kwargs, "controller_configs": configs[0]}
    said = {**flat(env_args, "env_args"), **flat(kwargs, "env_args.env_kwargs")}
    for name, value in said.items():
        short = name.removeprefix("env_args.").removeprefix("env_kwargs.")
        assumed, why = _DECLARED.get(short, (value, ""))
        if (type(value) is bool and type(assumed) is not bool) or not _same(value, assumed):
            raise UserError(f"{where}: {name} is {brief(value)}, assumed is {assumed!r}: {why}")
    robots = kwargs.get("robots", ["Panda"])
    if "Panda" not in str(robots):
        raise UserError(f"{where}: env_args names robots {brief(robots)}, assumed is a Panda")


def _same(value: object, assumed: object) -> bool:
    """A number stands for as many equal ones, as robosuite takes them."""
    if isinstance(assumed, list) and not isinstance(value, list):
        value = [value] * len(assumed)
    if isinstance(value, list) and not isinstance(assumed, list):
        assumed = [assumed] * len(value)
    return value == assumed or (value is assumed)


def _upright(attributes: Mapping[str, Any], where: str) -> bool:
    convention = text(attributes, "macros_image_convention", where, "opengl")
    if convention not in ("opengl", "opencv"):
        raise UserError(
            f"{where}: macros_image_convention is {brief(convention)}; known are opengl (frames "
            "lie upside down) and opencv (upright): set it to what the frames are"
        )
    return convention == "opencv"


def _read(group: h5py.Group, examined: _Examined, where: str) -> Demonstration:
    with understood(where):
        demo = _parse(group, examined, where)
        check_demonstration(demo, where)
        if "seed" not in group.attrs:
            _check_fingers(demo, where)
        return _shifted(demo) if Path(group.name).name in examined.late else demo


def _parse(group: h5py.Group, examined: _Examined, where: str) -> Demonstration:
    obs, attributes, task = group["obs"], group.attrs, examined.task
    actions = _float32(group["actions"][()])
    executed, steps = group.get("executed_actions"), obs.get("frame_steps")
    driven = group.get("driven")
    proprio = np.hstack([obs[name][()] for name in ("ee_pos", "ee_ori", "gripper_states")])
    images = {name: _seen(obs[stored][()], examined) for name, stored in _IMAGES.items()}
    spec = parse_json(text(attributes, "image_spec", where, "null"))
    seed = int(attributes.get("seed", -1))
    return Demonstration(
        instruction=task.instruction,
        suite=task.suite,
        task_id=task.task_id,
        seed=None if seed < 0 else seed,
        actions=actions,
        executed_actions=actions if executed is None else _float32(executed[()]),
        proprio=_float32(proprio),
        states=group["states"][()].astype(np.float64),
        frame_steps=np.arange(len(actions)) if steps is None else steps[()].astype(np.int64),
        **images,
        assets=text(attributes, "assets", where, "official"),
        driven=None if driven is None else driven[()].astype(bool),
        renderer=text(attributes, "renderer", where),
        images=None if spec is None else from_json(ImageSpec, spec),
        settings=parse_json(text(attributes, "settings", where, "{}")),
        code=parse_json(text(attributes, "code", where, "{}")),
        model_xml=text(attributes, "model_file", where),
    )


def _float32(numbers: np.ndarray) -> np.ndarray:
    """What is too large becomes infinity, which is refused."""
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32)


def _seen(frames: np.ndarray, examined: _Examined) -> np.ndarray:
    """Stored frames as the policy sees them."""
    return _rotated(frames[:, ::-1] if examined.upright else frames)


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
        _check_finite(getattr(demo, name), name, where)
    for name in ("actions", "executed_actions"):
        _check_actions(getattr(demo, name), name, where)
    bounded = np.concatenate([[-1], demo.frame_steps, [steps]])
    if (np.diff(bounded) <= 0).any():
        raise UserError(f"{where}: frame_steps must ascend within 0..{steps - 1}")


def _check_finite(array: np.ndarray, name: str, where: str) -> None:
    if not np.isfinite(array).all():
        raise UserError(f"{where}: {name} holds NaN or infinity; remove this demonstration")


def _check_actions(actions: np.ndarray, name: str, where: str) -> None:
    """Raises UserError for actions that are no numbers, out of range, or of another convention for
    the gripper: LIBERO's is -1 or +1, so what lies around 0 belongs to one of 0..1."""
    _check_finite(actions, name, where)
    worst = float(np.abs(actions).max())
    if worst > 1 + _ACTION_SLACK:
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


_SETTLED = 10  # steps of the same command after which fingers stand still
_FINGERS_APART = 0.03  # m: no object makes closed fingers that much further apart than open ones


def _check_fingers(demo: Demonstration, where: str) -> None:
    """Raises UserError where the fingers stand apart when the gripper is told to close: its sign is
    the other way round."""
    closing = demo.actions[:, 6] > 0
    changes = np.concatenate([[True], closing[1:] != closing[:-1]])
    since = np.arange(len(closing)) - np.maximum.accumulate(
        np.where(changes, np.arange(len(closing)), 0)
    )
    apart = np.abs(demo.proprio[:, 6] - demo.proprio[:, 7])
    closed, open_ = ((since >= _SETTLED) & (closing == told) for told in (True, False))
    if min(closed.sum(), open_.sum()) < _SETTLED:
        return
    difference = float(apart[closed].mean() - apart[open_].mean())
    if difference > _FINGERS_APART:
        raise UserError(
            f"{where}: the fingers are {1000 * difference:.0f} mm further apart where the gripper "
            "is told to close (+1) than where it is told to open (-1): its sign is the other way "
            "round; convert the file"
        )


def _late(groups: Mapping[str, h5py.Group], where: str) -> frozenset[str]:
    """Demonstrations whose observation j shows state j + 1, as in LIBERO's published files; in
    those of jobs/collect.py and of openvla-oft it shows state j.

    The arm's joints are in both, so the data itself tells which (the module's docstring): the file
    as a whole, since an arm may stand still in a demonstration. State 0 tells nothing: openvla-oft
    took it before the scene had settled. Raises UserError where neither fits.
    """
    distances = {
        name: _distances(group) for name, group in groups.items() if "seed" not in group.attrs
    }
    if not distances:
        return frozenset()
    told: dict[bool, str] = {}  # and the first demonstration that says so
    for name, distance in distances.items():
        late = _closer_after(distance)
        if late is not None:
            told.setdefault(late, name)
    if len(told) > 1:
        raise UserError(
            f"{where}: {told[False]} was observed before its actions, {told[True]} after them; put "
            "them into files of their own"
        )
    late = next(iter(told), _closer_after(np.sum(list(distances.values()), axis=0)))
    if late is None:
        raise UserError(
            f"{where}: whether observations were taken before or after their actions cannot be "
            "told: obs/joint_states agree with neither of states (columns 1 to 7); give the file "
            "with the states that it was recorded with"
        )
    return frozenset(distances if late else ())


def _distances(group: h5py.Group) -> np.ndarray:
    """float64 (2,): sums over the steps, from the joints seen to those of the state of the same row
    and of the next."""
    seen, states = group["obs/joint_states"][()], group["states"][:, _JOINTS]
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


def _shifted(demo: Demonstration) -> Demonstration:
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
