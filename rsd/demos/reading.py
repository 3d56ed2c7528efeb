"""Reading demonstrations: files of any origin, checked before they are believed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from rsd.demos.conventions import check_declared, check_fingers, task_of, upright
from rsd.demos.demonstration import Demonstration, check_actions, check_demonstration
from rsd.demos.files import files_of
from rsd.demos.hdf5 import opened, text, understood
from rsd.demos.layout import IMAGES, check_layout, demo_groups, rotated
from rsd.demos.pairing import late, shifted
from rsd.foreign import from_json, parse_json
from rsd.suites import Task
from rsd.types import ImageSpec


def read_demonstrations(*paths: str | Path) -> Iterator[Demonstration]:
    """The demonstrations of files, and of every `*_demo.hdf5` in folders, one at a time.

    Raises UserError, naming file and fix, for files that are missing, locked, damaged, of another
    layout or convention, of an interrupted collection, or hold NaN or actions outside [-1, 1].
    """
    for _, demo in named_demonstrations(*paths):
        yield demo


def named_demonstrations(*paths: str | Path) -> Iterator[tuple[str, Demonstration]]:
    """The same, each with its file and its name there."""
    for file in files_of(paths):
        with opened(file) as hdf5:
            examined = _examine(hdf5, file)
            for name, group in examined.groups.items():
                yield f"{file}: {name}", _read(group, examined, f"{file}: {name}")


def check_files(*paths: str | Path) -> None:
    """Raises UserError for whatever `read_demonstrations` refuses, as far as it can be known
    without reading frames."""
    for file in files_of(paths):
        with opened(file) as hdf5:
            _examine(hdf5, file)


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
            check_layout(group, f"{file}: {name}")
    task = task_of(attributes, file)
    check_declared(attributes, str(file))
    drawn_upright = upright(attributes, str(file))
    for name, group in groups.items():
        with understood(f"{file}: {name}"):
            check_actions(float32(group["actions"][()]), "actions", f"{file}: {name}")
    return _Examined(groups, task, drawn_upright, late(groups, str(file)))


def _read(group: h5py.Group, examined: _Examined, where: str) -> Demonstration:
    with understood(where):
        demo = _parse(group, examined, where)
        check_demonstration(demo, where)
        if "seed" not in group.attrs:
            check_fingers(demo, where)
        return shifted(demo) if Path(group.name).name in examined.late else demo


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
        other_rim=bool(attributes["other_rim"]) if "other_rim" in attributes else None,
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
