"""Reading demonstrations: files of any origin, checked before they are believed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from rsd.demos.demonstration import Demonstration, check_actions, check_demonstration
from rsd.demos.foreign import (
    check_declared,
    check_fingers,
    late,
    other_layout,
    task_of,
    upright,
    what_is_there,
)
from rsd.demos.hdf5 import check_kind, child, dataset, opened, text, understood
from rsd.demos.layout import IMAGES, JOINTS, SUFFIX, demo_groups, part_files, rotated
from rsd.errors import UserError, reading
from rsd.foreign import expanded, from_json, parse_json
from rsd.suites import Task
from rsd.types import ACTION_DIM, ImageSpec


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
            raise UserError(no_demonstrations(path))
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
            raise UserError(no_demonstrations(path) + what_is_there(path, names))
    for file in found:
        check_kind(file)
    return found


def no_demonstrations(path: Path) -> str:
    return (
        f"no demonstrations at {path}: expected a file or a folder of *{SUFFIX}; "
        "`python jobs/collect.py` makes them"
    )


@dataclass(frozen=True)
class _Examined:
    """What is known of an open file before frames are read."""

    groups: dict[str, h5py.Group]
    task: Task
    upright: bool  # frames are stored as a viewer sees them (OpenCV), not as OpenGL draws them
    late: frozenset[str]  # demonstrations that pair each action with what was seen after it


def _examine(hdf5: h5py.File, file: Path) -> _Examined:
    groups = demo_groups(hdf5)
    attributes = hdf5["data"].attrs
    for name, group in groups.items():
        with understood(f"{file}: {name}"):
            _check_layout(group, f"{file}: {name}")
    task = task_of(attributes, file)
    check_declared(attributes, str(file))
    drawn_upright = upright(attributes, str(file))
    for name, group in groups.items():
        with understood(f"{file}: {name}"):
            check_actions(float32(group["actions"][()]), "actions", f"{file}: {name}")
    return _Examined(groups, task, drawn_upright, late(groups, str(file)))


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
        raise UserError(f"{where} is {other_layout(group, missing, where)}")
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
        raise UserError(f"{where} is {other_layout(group, [name], where)}")
    return int(found.shape[0]) if found.shape else 0


def _read(group: h5py.Group, examined: _Examined, where: str) -> Demonstration:
    with understood(where):
        demo = _parse(group, examined, where)
        check_demonstration(demo, where)
        if "seed" not in group.attrs:
            check_fingers(demo, where)
        return _shifted(demo) if Path(group.name).name in examined.late else demo


def _parse(group: h5py.Group, examined: _Examined, where: str) -> Demonstration:
    obs, attributes, task = group["obs"], group.attrs, examined.task
    actions = float32(group["actions"][()])
    executed, steps = group.get("executed_actions"), obs.get("frame_steps")
    driven = group.get("driven")
    proprio = np.hstack([obs[name][()] for name in ("ee_pos", "ee_ori", "gripper_states")])
    images = {name: _seen(obs[stored][()], examined) for name, stored in IMAGES.items()}
    spec = parse_json(text(attributes, "image_spec", where, "null"))
    seed = int(attributes.get("seed", -1))
    return Demonstration(
        instruction=task.instruction,
        suite=task.suite,
        task_id=task.task_id,
        seed=None if seed < 0 else seed,
        actions=actions,
        executed_actions=actions if executed is None else float32(executed[()]),
        proprio=float32(proprio),
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


def float32(numbers: np.ndarray) -> np.ndarray:
    """What is too large becomes infinity, which is refused."""
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32)


def _seen(frames: np.ndarray, examined: _Examined) -> np.ndarray:
    """Stored frames as the policy sees them."""
    return rotated(frames[:, ::-1] if examined.upright else frames)


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
