"""What files of others say of themselves and show: task, controller, way up of frames, gripper,
and whether an observation was taken before or after its action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rsd.demos.demonstration import Demonstration
from rsd.demos.hdf5 import SOURCE, child, text
from rsd.demos.layout import JOINTS, OSC_POSE, SUFFIX
from rsd.errors import UserError, brief
from rsd.foreign import parse_json
from rsd.provenance import flat
from rsd.suites import SUITES, Task, get_task


def task_of(attributes: Mapping[str, Any], path: Path) -> Task:
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


def check_declared(attributes: Mapping[str, Any], where: str) -> None:
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


def upright(attributes: Mapping[str, Any], where: str) -> bool:
    convention = text(attributes, "macros_image_convention", where, "opengl")
    if convention not in ("opengl", "opencv"):
        raise UserError(
            f"{where}: macros_image_convention is {brief(convention)}; known are opengl (frames "
            "lie upside down) and opencv (upright): set it to what the frames are"
        )
    return convention == "opencv"


_SETTLED = 10  # steps of the same command after which fingers stand still
_FINGERS_APART = 0.03  # m: no object makes closed fingers that much further apart than open ones


def check_fingers(demo: Demonstration, where: str) -> None:
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


def late(groups: Mapping[str, h5py.Group], where: str) -> frozenset[str]:
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
    seen, states = group["obs/joint_states"][()], group["states"][:, JOINTS]
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


def other_layout(group: h5py.Group, missing: Sequence[str], where: str) -> str:
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


def what_is_there(folder: Path, names: Sequence[str]) -> str:
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
