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
before it records); reading notices and shifts, so that a Demonstration always holds what was seen
before each action.
"""

from __future__ import annotations

import dataclasses
import io
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

from rsd.errors import UserError, writing
from rsd.outputs import aside
from rsd.suites import SUITES, Task, get_suite, get_task
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
            with _opened(source) as other:
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
    with _opened(path) as file:
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

    Raises UserError, naming file and fix, for files that are missing, damaged, of another layout,
    of an interrupted collection, or hold NaN or actions outside [-1, 1].
    """
    for file in _files(paths):
        with _opened(file) as opened:
            groups = _demo_groups(opened)
            task = _task_of(opened["data"].attrs, file)
            for name, group in groups.items():
                yield _read(group, task, f"{file}: {name}")


def check_files(*paths: str | Path) -> None:
    """Raises UserError where there are no demonstrations, their collection is not finished, or a
    file is damaged or foreign: what can be known without reading them."""
    for file in _files(paths):
        with _opened(file) as opened:
            _demo_groups(opened)
            _task_of(opened["data"].attrs, file)


def _files(paths: Sequence[str | Path]) -> list[Path]:
    if not paths:
        raise UserError("no demonstrations are named; give at least one file or folder")
    files: list[Path] = []
    for path in (Path(path).expanduser() for path in paths):
        unmerged = part_files(path)
        if unmerged:
            raise UserError(
                f"{path} holds {len(unmerged)} demonstration(s) of an interrupted or running "
                "collection that are not in its tasks' files yet; the same jobs/collect.py command "
                "with --resume goes on"
            )
        found = [path] if path.is_file() else sorted(path.glob(f"*{SUFFIX}"))
        if not found:
            raise UserError(
                f"no demonstrations at {path}: expected a file or a folder of *{SUFFIX}; "
                "`python jobs/collect.py` makes them"
            )
        files += found
    if len({file.resolve() for file in files}) < len(files):
        raise UserError("the same demonstrations are given twice; name every file or folder once")
    return files


def part_files(folder: Path, task_name: str = "*") -> list[Path]:
    """Files of single demonstrations in a folder that is being collected, of a task or of all."""
    return sorted(folder.glob(f"parts/{task_name}/[0-9]*.hdf5"))


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """A file to read. Raises UserError for whatever h5py makes of a damaged one."""
    with _reading(str(path)), h5py.File(path, "r") as file:
        yield file


@contextmanager
def _reading(where: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (OSError, LookupError, RuntimeError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{where} is damaged or no LIBERO file: {error}; delete the file and collect or "
            "download it again"
        ) from error


def _demo_groups(file: h5py.File) -> dict[str, h5py.Group]:
    """Demonstrations by name, in the order of their numbers."""
    names: list[str] = []
    if "data" in file:  # `file.get` would take a damaged one for none
        names = [name for name in file["data"] if re.fullmatch(r"demo_\d+", name)]
    if not names:
        raise UserError(
            f"{file.filename} has no /data/demo_<i>: not LIBERO's layout; give a file of "
            "LIBERO's data sets or of jobs/collect.py"
        )
    return {name: file["data"][name] for name in sorted(names, key=lambda name: int(name[5:]))}


def _task_of(attributes: Mapping[str, Any], path: Path) -> Task:
    """The LIBERO task that a file belongs to, by the BDDL file that it names."""
    bddl = Path(str(attributes.get("bddl_file_name", "")))
    tasks = _tasks_by_name(bddl.parent.name) if bddl.parent.name in SUITES else {}
    if bddl.stem not in tasks:
        raise UserError(
            f"{path} names no LIBERO task (bddl_file_name {str(bddl)!r}); expected "
            "<suite>/<task>.bddl as in LIBERO's data sets"
        )
    return tasks[bddl.stem]


@cache
def _tasks_by_name(suite: str) -> dict[str, Task]:
    tasks = (get_task(suite, task_id) for task_id in range(get_suite(suite).num_tasks))
    return {task.name: task for task in tasks}


def _read(group: h5py.Group, task: Task, where: str) -> Demonstration:
    with _reading(where):
        demo = _parse(group, task)
        check_demonstration(demo, where)
        return demo if _observed_before_acting(group) else _shifted(demo)


def _parse(group: h5py.Group, task: Task) -> Demonstration:
    obs, attributes = group["obs"], group.attrs
    actions = group["actions"][()].astype(np.float32)
    executed, steps = group.get("executed_actions"), obs.get("frame_steps")
    driven = group.get("driven")
    proprio = np.hstack([obs[name][()] for name in ("ee_pos", "ee_ori", "gripper_states")])
    images = {name: _rotated(obs[stored][()]) for name, stored in _IMAGES.items()}
    spec = json.loads(attributes.get("image_spec", "null"))
    seed = int(attributes.get("seed", -1))
    return Demonstration(
        instruction=task.instruction,
        suite=task.suite,
        task_id=task.task_id,
        seed=None if seed < 0 else seed,
        actions=actions,
        executed_actions=actions if executed is None else executed[()].astype(np.float32),
        proprio=proprio.astype(np.float32),
        states=group["states"][()],
        frame_steps=np.arange(len(actions)) if steps is None else steps[()],
        **images,
        assets=attributes.get("assets", "official"),
        driven=None if driven is None else driven[()].astype(bool),
        renderer=attributes.get("renderer", ""),
        images=None if spec is None else ImageSpec(**spec),
        settings=json.loads(attributes.get("settings", "{}")),
        code=json.loads(attributes.get("code", "{}")),
        model_xml=attributes.get("model_file", ""),
    )


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
    for name in ("actions", "executed_actions", "proprio", "states"):
        if not np.isfinite(getattr(demo, name)).all():
            raise UserError(f"{where}: {name} holds NaN or infinity; remove this demonstration")
    for name in ("actions", "executed_actions"):
        worst = float(np.abs(getattr(demo, name)).max())
        if worst > 1 + _ACTION_SLACK:
            raise UserError(f"{where}: {name} reaches {worst:.3f}, outside [-1, 1]; remove it")
        if set(np.unique(getattr(demo, name)[:, 6])) == {0.0, 1.0}:
            raise UserError(
                f"{where}: the gripper in {name} is 0 or 1; LIBERO's convention is -1 opens, "
                "+1 closes: convert the file"
            )
    bounded = np.concatenate([[-1], demo.frame_steps, [steps]])
    if (np.diff(bounded) <= 0).any():
        raise UserError(f"{where}: frame_steps must ascend within 0..{steps - 1}")


def _observed_before_acting(group: h5py.Group) -> bool:
    """Whether observation j shows state j; in LIBERO's published files it shows state j + 1.

    The arm's joints are in both, so the data itself tells which (the modules's docstring).
    """
    if "seed" in group.attrs or len(group["actions"]) < 2:
        return True
    seen, states = group["obs/joint_states"][()], group["states"][:, _JOINTS]
    same = np.abs(seen[:-1] - states[:-1]).mean()
    after = np.abs(seen[:-1] - states[1:]).mean()
    return bool(same <= after)


def _shifted(demo: Demonstration) -> Demonstration:
    """Pair each action with the observation of the step before it; the first action has none."""
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
