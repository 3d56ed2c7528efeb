"""HDF5 files in LIBERO's layout: what goes in comes out, and what is wrong is named."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from rsd.demos import (
    OSC_POSE,
    Demonstration,
    check_files,
    merge,
    read_demonstrations,
    stored_seeds,
    task_file,
    write_demonstration,
)
from rsd.errors import UserError
from rsd.suites import get_task
from rsd.types import ImageSpec
from tests.full_disk import full_disk

TASK = get_task("libero_spatial", 3)
STEPS, STATE = 7, 80


def made_up(seed: int = 5, steps: int = STEPS) -> Demonstration:
    rng = np.random.default_rng(seed)
    frame_steps = np.arange(0, steps, 2)
    frames = rng.integers(0, 256, (2, len(frame_steps), 8, 6, 3), dtype=np.uint8)
    actions = rng.uniform(-1, 1, (2, steps, 7)).astype(np.float32)
    actions[..., 6] = np.where(actions[..., 6] < 0, -1, 1)
    return Demonstration(
        instruction=TASK.instruction,
        suite=TASK.suite,
        task_id=TASK.task_id,
        seed=seed,
        actions=actions[0],
        executed_actions=actions[1],
        proprio=rng.normal(size=(steps, 8)).astype(np.float32),
        states=np.cumsum(rng.normal(size=(steps, STATE)), axis=0),
        frame_steps=frame_steps,
        agentview=frames[0],
        wrist=frames[1],
        assets="lite",
        renderer="osmesa",
        images=ImageSpec(8, 6, 0, False),
        settings={"noise": {"sigma": 0.2}},
        code={"git_commit": None},
        model_xml="<mujoco/>" * 10_000,  # more than the 64 KB of an attribute of fixed length
    )


def assert_equal(one: Demonstration, other: Demonstration) -> None:
    for field in dataclasses.fields(Demonstration):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a, b, err_msg=field.name)
        else:
            assert a == b, field.name


def write_as_libero_publishes(path: Path, demo: Demonstration) -> None:
    """The file that `scripts/create_dataset.py` makes: every frame, and each observation seen
    after its action."""
    steps = len(demo)
    frames = np.arange(steps, dtype=np.uint8)[:, None, None, None] + np.zeros(
        (1, 8, 8, 3), np.uint8
    )
    after = np.vstack([demo.states[1:], demo.states[-1:] + 0.1])
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["bddl_file_name"] = f"chiliocosm/bddl_files/{TASK.suite}/{TASK.name}.bddl"
        data.attrs["problem_info"] = json.dumps({"language_instruction": TASK.instruction})
        data.attrs["num_demos"] = 1
        group = data.create_group("demo_0")
        group["actions"] = demo.actions.astype(np.float64)
        group["states"] = demo.states
        group["obs/ee_pos"] = demo.proprio[:, :3].astype(np.float64)
        group["obs/ee_ori"] = demo.proprio[:, 3:6].astype(np.float64)
        group["obs/gripper_states"] = demo.proprio[:, 6:].astype(np.float64)
        group["obs/joint_states"] = after[:, 1:8]
        group["obs/agentview_rgb"] = frames
        group["obs/eye_in_hand_rgb"] = frames


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "part.hdf5"
    write_demonstration(path, made_up())
    (read,) = read_demonstrations(path)
    assert_equal(read, made_up())
    driven = dataclasses.replace(made_up(), driven=np.arange(STEPS) % 3 == 0)
    write_demonstration(path, driven)
    assert_equal(next(iter(read_demonstrations(path))), driven)
    assert [file.name for file in tmp_path.iterdir()] == ["part.hdf5"]


def test_files_from_before_models_were_stored_are_read(tmp_path: Path) -> None:
    path = tmp_path / "part.hdf5"
    write_demonstration(path, dataclasses.replace(made_up(), model_xml=""))
    with h5py.File(path) as file:
        assert "model_file" not in file["data/demo_0"].attrs
    assert next(read_demonstrations(path)).model_xml == ""


def test_files_hold_what_liberos_own_do(tmp_path: Path) -> None:
    path, demo = tmp_path / "part.hdf5", made_up()
    write_demonstration(path, demo)
    with h5py.File(path) as file:
        data = file["data"]
        group = data["demo_0"]
        assert data.attrs["num_demos"] == 1 and data.attrs["total"] == STEPS
        assert json.loads(data.attrs["problem_info"])["problem_name"] == (
            "libero_tabletop_manipulation"
        )
        env_args = json.loads(data.attrs["env_args"])
        assert env_args["env_name"] == "Libero_Tabletop_Manipulation"
        assert env_args["env_kwargs"]["controller_configs"] == OSC_POSE
        assert group.attrs["model_file"] == demo.model_xml
        shapes = {name: group[name].shape for name in ("actions", "states", "robot_states")}
        assert shapes == {
            "actions": (STEPS, 7),
            "states": (STEPS, STATE),
            "robot_states": (STEPS, 9),
        }
        obs = {name: dataset.shape[1:] for name, dataset in group["obs"].items()}
        assert obs == {
            "agentview_rgb": (8, 6, 3),
            "eye_in_hand_rgb": (8, 6, 3),
            "ee_ori": (3,),
            "ee_pos": (3,),
            "ee_states": (6,),
            "frame_steps": (),
            "gripper_states": (2,),
            "joint_states": (7,),
        }
        assert group.attrs["num_samples"] == STEPS
        assert group["dones"][()].tolist() == group["rewards"][()].tolist() == [0] * 6 + [1]
        np.testing.assert_allclose(np.linalg.norm(group["robot_states"][:, 5:], axis=1), 1)


def test_images_lie_in_the_file_as_libero_draws_them(tmp_path: Path) -> None:
    path, demo = tmp_path / "part.hdf5", made_up()
    write_demonstration(path, demo)
    with h5py.File(path) as file:
        stored = file["data/demo_0/obs/agentview_rgb"][()]
    np.testing.assert_array_equal(stored[:, ::-1, ::-1], demo.agentview)
    assert not np.array_equal(stored, demo.agentview)


def test_published_files_read_equally_with_observations_before_actions(tmp_path: Path) -> None:
    path, demo = task_file(tmp_path, TASK), made_up()
    write_as_libero_publishes(path, demo)
    (read,) = read_demonstrations(tmp_path)
    assert (read.suite, read.task_id, read.seed) == (TASK.suite, TASK.task_id, None)
    assert (read.instruction, read.assets) == (TASK.instruction, "official")
    np.testing.assert_array_equal(read.actions, demo.actions[1:])
    np.testing.assert_array_equal(read.executed_actions, demo.actions[1:])
    np.testing.assert_array_equal(read.proprio, demo.proprio[:-1])
    np.testing.assert_array_equal(read.frame_steps, np.arange(STEPS - 1))
    np.testing.assert_array_equal(read.agentview[:, 0, 0, 0], np.arange(STEPS - 1))


@pytest.mark.parametrize("name", ["actions", "executed_actions", "proprio", "states"])
def test_nan_is_neither_written_nor_read(tmp_path: Path, name: str) -> None:
    path, demo = tmp_path / "part.hdf5", made_up()
    write_demonstration(path, demo)
    array = getattr(demo, name).copy()
    array[2, 1] = np.nan
    with pytest.raises(UserError, match=f"{name} holds NaN"):
        write_demonstration(tmp_path / "bad.hdf5", dataclasses.replace(demo, **{name: array}))
    stored = "obs/ee_pos" if name == "proprio" else name
    with h5py.File(path, "r+") as file:
        file[f"data/demo_0/{stored}"][2, 1] = np.nan
    with pytest.raises(UserError, match=rf"part.hdf5: demo_0: {name} holds NaN"):
        list(read_demonstrations(path))


def test_an_action_out_of_range_is_refused(tmp_path: Path) -> None:
    demo = dataclasses.replace(made_up(), actions=made_up().actions * 3)
    with pytest.raises(UserError, match=r"outside \[-1, 1\]"):
        write_demonstration(tmp_path / "part.hdf5", demo)


def test_another_gripper_convention_is_refused(tmp_path: Path) -> None:
    actions = made_up().actions.copy()
    actions[:, 6] = np.arange(STEPS) % 2
    with pytest.raises(UserError, match=r"gripper in actions is 0 or 1.*-1 opens"):
        write_demonstration(tmp_path / "part.hdf5", dataclasses.replace(made_up(), actions=actions))


def test_other_frames_than_the_file_says_are_refused(tmp_path: Path) -> None:
    path, demo = tmp_path / "part.hdf5", made_up()
    larger = dataclasses.replace(demo, images=ImageSpec(16, 12, 0, False))
    with pytest.raises(UserError, match=r"frames of \(8, 6\) pixels, image_spec says \(16, 12\)"):
        write_demonstration(path, larger)
    scaled = dataclasses.replace(demo, wrist=demo.wrist / np.float32(255))
    with pytest.raises(UserError, match="wrist is float32, expected uint8"):
        write_demonstration(path, scaled)
    write_demonstration(path, demo)
    for unreadable in ('{"height": 8, "zoom": 2}', "{"):
        with h5py.File(path, "r+") as file:
            file["data/demo_0"].attrs["image_spec"] = unreadable
        with pytest.raises(UserError, match="demo_0 is damaged or no LIBERO file"):
            list(read_demonstrations(path))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_truncated_file_is_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "part.hdf5"
    write_demonstration(path, made_up(steps=60))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"part\.hdf5 is damaged"):
        list(read_demonstrations(path))


def blank(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(16))


@pytest.mark.parametrize("of", ["data", "data/demo_0", "data/demo_0/obs", "data/demo_0/actions"])
def test_a_file_that_is_damaged_in_the_middle_is_named(tmp_path: Path, of: str) -> None:
    """The header of one of its objects is zeroed."""
    path = tmp_path / "part.hdf5"
    write_demonstration(path, made_up())
    with h5py.File(path) as file:
        header = h5py.h5o.get_info(file[of].id).addr
    blank(path, header)
    readers: list[Callable[[], object]] = [lambda: list(read_demonstrations(path))]
    if of in ("data", "data/demo_0"):  # what these read, too
        readers += [lambda: check_files(path), lambda: stored_seeds(path)]
        readers += [lambda: merge([path], tmp_path / "target.hdf5")]
    for read in readers:
        with pytest.raises(UserError, match=r"part\.hdf5.* is damaged or no LIBERO file"):
            read()
    assert [file.name for file in tmp_path.iterdir()] == ["part.hdf5"]


@pytest.mark.parametrize("of", ["actions", "states", "obs/ee_pos", "obs/agentview_rgb"])
def test_numbers_that_have_changed_on_the_disk_are_noticed(tmp_path: Path, of: str) -> None:
    path = tmp_path / "part.hdf5"
    write_demonstration(path, made_up())
    with h5py.File(path) as file:
        chunk = file[f"data/demo_0/{of}"].id.get_chunk_info(0)
    blank(path, chunk.byte_offset + chunk.size // 2)
    with pytest.raises(UserError, match=r"part\.hdf5: demo_0 is damaged"):
        list(read_demonstrations(path))


@pytest.mark.parametrize("room", [100, 3_000, 20_000, 60_000])
def test_a_full_disk_is_told_and_leaves_nothing_half_written(tmp_path: Path, room: int) -> None:
    """HDF5 itself ends the process with a segmentation fault where it cannot close a file."""
    part, target = tmp_path / "5.hdf5", tmp_path / "target.hdf5"
    with full_disk(room), pytest.raises(UserError, match=r"cannot write .*5\.hdf5.*make room"):
        write_demonstration(part, made_up())
    assert list(tmp_path.iterdir()) == []
    write_demonstration(part, made_up())
    with full_disk(room), pytest.raises(UserError, match=r"cannot write .*target\.hdf5.*make room"):
        merge([part], target)
    assert list(tmp_path.iterdir()) == [part]
    merge([part], target)
    assert_equal(next(read_demonstrations(target)), made_up())


def test_a_file_is_on_the_disk_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    replace = Path.replace

    def renamed(self: Path, target: Path) -> Path:
        steps.append(f"rename to {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", lambda descriptor: steps.append("sync"))
    monkeypatch.setattr(Path, "replace", renamed)
    write_demonstration(tmp_path / "1.hdf5", made_up(1))
    merge([tmp_path / "1.hdf5"], tmp_path / "all.hdf5")
    assert steps == ["sync", "rename to 1.hdf5", "sync", "rename to all.hdf5"]


def test_a_collection_that_is_not_finished_is_not_read_as_one_that_is(tmp_path: Path) -> None:
    parts = tmp_path / "parts" / TASK.name
    for seed in (1, 2):
        write_demonstration(parts / f"{seed:08d}.hdf5", made_up(seed))
    for merged in (False, True):
        if merged:
            merge([parts / "00000001.hdf5"], task_file(tmp_path, TASK))
        for read in (lambda: list(read_demonstrations(tmp_path)), lambda: check_files(tmp_path)):
            with pytest.raises(UserError, match=rf"{2 - merged} demonstration.*--resume goes on"):
                read()
    merge([parts / "00000002.hdf5"], task_file(tmp_path, TASK))
    assert len(list(read_demonstrations(tmp_path))) == 2


def test_a_missing_dataset_and_a_foreign_layout_are_named(tmp_path: Path) -> None:
    path = tmp_path / "part.hdf5"
    write_demonstration(path, made_up())
    with h5py.File(path, "r+") as file:
        del file["data/demo_0/obs/ee_ori"]
    with pytest.raises(UserError, match=r"demo_0 is damaged or no LIBERO file.*ee_ori"):
        list(read_demonstrations(path))
    foreign = tmp_path / "foreign.hdf5"
    with h5py.File(foreign, "w") as file:
        file["episode_0/action"] = np.zeros(3)
    with pytest.raises(UserError, match="not LIBERO's layout"):
        list(read_demonstrations(foreign))
    with pytest.raises(UserError, match="no demonstrations at"):
        list(read_demonstrations(tmp_path / "nowhere"))


def test_a_file_of_no_libero_task_is_named(tmp_path: Path) -> None:
    path = tmp_path / "part.hdf5"
    write_demonstration(path, made_up())
    with h5py.File(path, "r+") as file:
        file["data"].attrs["bddl_file_name"] = "bddl_files/my_suite/wash_up.bddl"
    with pytest.raises(UserError, match="names no LIBERO task"):
        list(read_demonstrations(path))


def test_merging_sorts_by_seed_and_drops_what_is_there_already(tmp_path: Path) -> None:
    target = task_file(tmp_path, TASK)
    parts = [tmp_path / f"{seed}.hdf5" for seed in (9, 2, 4)]
    for part in parts:
        write_demonstration(part, made_up(int(part.stem), steps=int(part.stem)))
    merge(parts[:2], target)
    write_demonstration(parts[1], made_up(2, steps=2))  # as if killed before it was deleted
    merge(parts[1:], target)
    merge([], target)
    assert stored_seeds(target) == {2, 4, 9}
    for read, seed in zip(read_demonstrations(target), (2, 4, 9), strict=True):
        assert_equal(read, made_up(seed, steps=seed))
    with h5py.File(target) as file:
        assert (file["data"].attrs["num_demos"], file["data"].attrs["total"]) == (3, 15)
    assert list(tmp_path.iterdir()) == [target]
