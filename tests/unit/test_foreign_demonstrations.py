"""HDF5 files of others: read where they are LIBERO's or openvla-oft's, and told what is wrong with
them where they are not. Nobody is advised to delete a file that is whole."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from rsd.demos import check_files, read_demonstrations, stored_seeds, task_file
from rsd.errors import UserError
from rsd.training.data import load_examples
from rsd.training.small_vla import SmallVLAReader
from rsd.types import ImageSpec
from tests.made_up_demonstrations import LIBEROS, TASK, published
from tests.unprivileged import forbidden

Edit = Callable[[h5py.Group], object]


def refused(path: Path) -> str:
    """What reading a path says."""
    with pytest.raises(UserError) as told:
        list(read_demonstrations(path))
    return str(told.value)


# --- the file itself -------------------------------------------------------------------------


def test_a_locked_file_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    path = published(tmp_path / "a_demo.hdf5")
    with path.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        for read in (lambda: refused(path), lambda: refused(tmp_path)):
            told = read()
            assert "a_demo.hdf5 is locked: another process" in told
            assert "damaged" not in told and "delete" not in told
        with pytest.raises(UserError, match="is locked"):
            check_files(path)
        with pytest.raises(UserError, match="is locked"):
            stored_seeds(path)
    assert len(list(read_demonstrations(path))) == 2


def test_a_forbidden_file_or_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    path = published(folder / "a_demo.hdf5")
    folder.chmod(0o755)
    for closed in (path, folder):
        with forbidden(closed, tmp_path):
            for read in (path, folder):
                told = refused(read)
                assert "may not be read by this user" in told and "delete" not in told
                assert str(closed) in told


def test_links_that_lead_nowhere_are_told(tmp_path: Path) -> None:
    link = tmp_path / "a_demo.hdf5"
    link.symlink_to("/nowhere/x.hdf5")
    for path in (link, tmp_path):
        assert "is a link to /nowhere/x.hdf5, which does not exist" in refused(path)
    link.unlink()
    link.symlink_to(link.name)
    for path in (link, tmp_path):
        assert "is a link that leads back to itself" in refused(path)


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "a_demo.hdf5"
    folder.mkdir()
    assert "a_demo.hdf5 is a folder, expected an HDF5 file" in refused(tmp_path)
    folder.rmdir()
    os.mkfifo(folder)  # opening it would wait for a writer
    for path in (folder, tmp_path):
        assert "a_demo.hdf5 is a pipe, socket or device" in refused(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"PK\x03\x04 and so on", "is a zip archive, no HDF5 file; unpack it"),
        (b"\x1f\x8b\x08", r"is compressed \(gzip\)"),
        (b"\0" * 257 + b"ustar", "is a tar archive"),
        (b"PAR1 and so on", "is a Parquet file, as of a LeRobot data set"),
        (b"\0\0\0\x18ftypmp42", "is a video"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "is a web page"),
        (b"\x93NUMPY \x1b[31m", r"is no HDF5 file \(it begins with b'.*\\x1b"),
    ],
)
def test_other_kinds_of_files_are_told(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "a_demo.hdf5"
    path.write_bytes(content)
    message = refused(path)
    with pytest.raises(UserError, match=told):
        check_files(path)
    assert "damaged" not in message and "delete" not in message and "\x1b" not in message


@pytest.mark.parametrize("size", [0, 50, 9000])
def test_only_a_truncated_file_is_to_be_deleted(tmp_path: Path, size: int) -> None:
    path = published(tmp_path / "a_demo.hdf5")
    os.truncate(path, size)
    assert "a_demo.hdf5 is damaged: it is" in refused(path) and "delete" in refused(path)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("meta/info.json", "It holds a LeRobot data set"),
        ("x.parquet", "It holds a LeRobot data set"),
        ("x.tfrecord-00000-of-00001", "It holds an RLDS data set"),
        ("spatial.zip", "It holds spatial.zip: unpack that first"),
        ("lift.hdf5", "It holds lift.hdf5: to have such files read"),
        ("libero_spatial/a_demo.hdf5", "Folders in it do: give .*libero_spatial"),
        ("._a_demo.hdf5", "no demonstrations at"),  # of macOS
    ],
)
def test_a_folder_of_something_else_says_of_what(tmp_path: Path, entry: str, told: str) -> None:
    (tmp_path / entry).parent.mkdir(exist_ok=True)
    (tmp_path / entry).write_bytes(b"")
    with pytest.raises(UserError, match=told):
        check_files(tmp_path)


def test_other_layouts_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a_demo.hdf5"
    with h5py.File(path, "w") as file:
        group = file.create_group("data/demo_0")
        group["actions"], group["states"] = np.zeros((5, 7)), np.zeros((5, 32))
        group["obs/robot0_eef_pos"] = np.zeros((5, 3))
        group["obs/agentview_image"] = np.zeros((5, 84, 84, 3), np.uint8)
    assert "demo_0 is of robomimic's layout, not LIBERO's" in refused(path)
    with h5py.File(path, "w") as file:
        file["action"], file["observations/qpos"] = np.zeros((5, 14)), np.zeros((5, 14))
    assert "not LIBERO's layout (it holds action, observations)" in refused(path)
    with h5py.File(path, "w") as file:
        group = file.create_group("data/demo_0")
        group["actions"], group["states"] = np.zeros((5, 7)), np.zeros((5, 32))
    assert "demo_0 is without observations" in refused(path)
    with h5py.File(path, "w") as file:
        file["data"] = np.zeros(3)
    assert "not LIBERO's layout" in refused(path)
    assert "delete" not in refused(path)


# --- LIBERO's own, and openvla-oft's ---------------------------------------------------------


def assert_paired(path: Path, count: int, steps: int, size: int) -> None:
    """Every action stands beside what was seen before it."""
    demos = list(read_demonstrations(path))
    assert len(demos) == count
    for demo in demos:
        assert (demo.suite, demo.task_id, demo.instruction) == (
            TASK.suite,
            TASK.task_id,
            TASK.instruction,
        )
        number = np.rint(demo.actions[:, 0] * 1000)
        np.testing.assert_array_equal(number, np.arange(40 - steps, 40))
        np.testing.assert_array_equal(np.rint(demo.proprio[:, 0] * 1000), number)
        np.testing.assert_array_equal(demo.frame_steps, np.arange(steps))
        for frames in (demo.agentview, demo.wrist):
            assert frames.shape == (steps, size, size, 3)
            np.testing.assert_array_equal(frames[:, 0, 0, 0], number)


def test_liberos_own_files_pair_actions_with_what_was_seen_before(tmp_path: Path) -> None:
    assert_paired(published(task_file(tmp_path, TASK)), count=2, steps=39, size=16)


@pytest.mark.parametrize(("folder", "size"), [("libero_spatial_no_noops", 256), ("somewhere", 16)])
def test_files_of_openvla_oft_are_read(tmp_path: Path, folder: str, size: int) -> None:
    """No attributes, gaps in the numbers, 256 pixels, observations before actions, and a first
    state from before the scene settled."""

    def unsettled(group: h5py.Group) -> None:
        group["states"][0] += 5

    path = task_file(tmp_path / folder, TASK)
    names = ["demo_0", "demo_2", "demo_17"]
    published(path, after=False, attributes=None, size=size, names=names, edit=unsettled)
    check_files(path.parent)
    assert_paired(path, count=3, steps=40, size=size)
    examples = load_examples([path.parent], 8, SmallVLAReader(64))
    assert examples.spec == ImageSpec(size, size) and len(examples) == 120
    np.testing.assert_allclose(examples.proprio[:, 0], examples.actions[:, 0, 0], atol=1e-6)


def test_a_file_without_attributes_has_to_be_called_after_its_task(tmp_path: Path) -> None:
    path = published(tmp_path / "mine_demo.hdf5", after=False, attributes=None)
    assert "is not called <task>_demo.hdf5 either" in refused(path)
    other = published(tmp_path / "b.hdf5", attributes={"bddl_file_name": "libero\\x\\" + TASK.name})
    assert next(read_demonstrations(other)).task == TASK


def test_attributes_may_be_bytes(tmp_path: Path) -> None:
    as_bytes = {name: np.bytes_(value) for name, value in LIBEROS.items()}
    path = published(tmp_path / "a_demo.hdf5", attributes=as_bytes)
    assert_paired(path, count=2, steps=39, size=16)
    published(path, attributes={"bddl_file_name": 3.5})
    assert "a_demo.hdf5: attribute bddl_file_name is" in refused(path)


@pytest.mark.parametrize("after", [True, False])
def test_an_arm_that_stands_still_in_a_demonstration_follows_the_file(
    tmp_path: Path, after: bool
) -> None:
    def still(group: h5py.Group) -> None:
        if group.name.endswith("demo_1"):
            group["obs/joint_states"][...] = group["states"][:, 1:8] = 0.5

    path = published(tmp_path / "a_demo.hdf5", after=after, edit=still)
    assert_paired(path, count=2, steps=39 if after else 40, size=16)


def test_a_file_that_does_not_say_when_it_observed_is_refused(tmp_path: Path) -> None:
    def elsewhere(group: h5py.Group) -> None:
        group["obs/joint_states"][...] = np.random.default_rng(1).normal(size=(40, 7))

    path = published(tmp_path / "a_demo.hdf5", edit=elsewhere)
    assert "before or after their actions cannot be told" in refused(path)

    def other_way(group: h5py.Group) -> None:
        if group.name.endswith("demo_1"):
            group["obs/joint_states"][...] = group["states"][:, 1:8]

    published(path, edit=other_way, names=["demo_0", "demo_1", "demo_2"])
    assert "demo_1 was observed before its actions, demo_0 after them" in refused(path)


# --- what a file says of itself --------------------------------------------------------------


def env_args(**kwargs: Any) -> dict[str, object]:
    return {"env_args": json.dumps({"type": 1, "env_kwargs": kwargs})}


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        (env_args(control_freq=10), "control_freq is 10, assumed is 20"),
        (env_args(control_freq="20"), "control_freq is '20', assumed is 20"),
        (env_args(control_freq=True), "control_freq is True"),
        (env_args(control_freq=float("nan")), "control_freq is nan"),
        (env_args(control_freq=None), "control_freq is None"),
        ({"env_args": json.dumps({"control_freq": 15})}, "env_args.control_freq is 15"),
        (env_args(controller_configs={"type": "JOINT_POSITION"}), "type is 'JOINT_POSITION'"),
        (env_args(controller_configs=[{"type": "OSC_POSITION"}]), "type is 'OSC_POSITION'"),
        (env_args(controller_configs={"control_delta": False}), "control_delta is False"),
        (env_args(controller_configs={"output_max": 0.1}), "output_max is 0.1, assumed is "),
        (env_args(robots=["Sawyer"]), r"robots \['Sawyer'\], assumed is a Panda"),
        ({"env_args": "{"}, "attribute env_args is no JSON"),
        ({"env_args": "[" * 30_000}, "nested more than 100 levels"),
        ({"env_args": "[]"}, r"env_args is \[\], expected settings"),
        ({"env_args": '{"env_kwargs": 3}'}, "env_kwargs is 3, expected settings"),
        ({"macros_image_convention": "mirrored"}, "macros_image_convention is 'mirrored'"),
        ({"macros_image_convention": "\x1b[31m"}, r"macros_image_convention is '\\x1b\[31m'"),
        ({"bddl_file_name": "x/\x1b[2J.bddl"}, r"bddl_file_name 'x/\\x1b\[2J.bddl'"),
    ],
)
def test_what_a_file_says_of_itself_is_believed(
    tmp_path: Path, attributes: dict[str, object], told: str
) -> None:
    path = published(tmp_path / "a_demo.hdf5", attributes=attributes)
    with pytest.raises(UserError, match=f"a_demo.hdf5.*{told}") as error:
        check_files(path)
    assert str(error.value) == refused(path) and "\x1b" not in str(error.value)


def test_upright_frames_are_turned(tmp_path: Path) -> None:
    """OpenCV's convention of robosuite: the rows the other way round."""
    path, upright = tmp_path / "a_demo.hdf5", tmp_path / "b_demo.hdf5"
    published(path)

    def flip(group: h5py.Group) -> None:
        for camera in ("agentview_rgb", "eye_in_hand_rgb"):
            group[f"obs/{camera}"][...] = group[f"obs/{camera}"][()][:, ::-1]

    published(upright, edit=flip, attributes={"macros_image_convention": "opencv"})
    one, other = next(read_demonstrations(path)), next(read_demonstrations(upright))
    np.testing.assert_array_equal(one.agentview, other.agentview)
    np.testing.assert_array_equal(one.wrist, other.wrist)


def commands(*values: float) -> Edit:
    """The gripper's commands, the last one to the end."""

    def edit(group: h5py.Group) -> None:
        padded = [*values, *[values[-1]] * (40 - len(values))]
        group["actions"][:, 6] = padded

    return edit


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (commands(0, 0, 0, 0, 0, 1), "is 0 or 1"),
        (commands(*[0.0] * 20, 0.996078, 1), "is 0 or 1"),
        (commands(*[0.0] * 20, -0.003, 1), "is 0 or 1"),
        (commands(*[0.0] * 20, -1, 1), "is 0 or 1"),
        (commands(*[1.0] * 20, 0), "is 0 or 1"),
        (commands(0), "is 0 or 1"),
        (commands(*np.linspace(0, 1, 40)), "is 0 or 1"),
        (commands(*[1.0] * 20, -1), "further apart where the gripper is told to close"),
    ],
)
def test_other_grippers_are_refused(tmp_path: Path, edit: Edit, told: str) -> None:
    assert told in refused(published(tmp_path / "a_demo.hdf5", edit=edit))


@pytest.mark.parametrize("edit", [commands(1), commands(-1), commands(*[-0.98] * 20, 0.97)])
def test_liberos_grippers_are_read(tmp_path: Path, edit: Edit) -> None:
    assert len(list(read_demonstrations(published(tmp_path / "a_demo.hdf5", edit=edit)))) == 2


# --- datasets --------------------------------------------------------------------------------


def put(name: str, value: object) -> Edit:
    def edit(group: h5py.Group) -> None:
        if name in group:
            del group[name]
        if value is not None:
            group[name] = value

    return edit


def huge(name: str, shape: tuple[int, ...], kind: str) -> Edit:
    """Claimed and not written: a few bytes."""

    def edit(group: h5py.Group) -> None:
        del group[name]
        chunks = tuple(min(size, 10) for size in shape)
        group.create_dataset(name, shape=shape, dtype=kind, chunks=chunks)

    return edit


FRAMES = "obs/agentview_rgb"


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (put("actions", np.zeros((40, 6))), r"actions has shape \(40, 6\), expected \(40, 7\)"),
        (put("actions", np.zeros((40, 14))), r"actions has shape \(40, 14\)"),
        (put("actions", 1.0), "no actions at all"),
        (put("actions", np.zeros((0, 7))), "no actions at all"),
        (put("actions", np.full((40, 7), b"x")), "actions holds .S1, expected floats"),
        (put("actions", np.ones((40, 7)) * 0.5j), "actions holds complex128"),
        (put("actions", None), "lacks actions"),
        (put("actions", h5py.Empty("f8")), "no actions at all"),
        (lambda g: (put("actions", None)(g), g.create_group("actions")), "lacks actions"),
        (lambda g: g["actions"].__setitem__((3, 2), np.nan), "actions holds NaN"),
        (lambda g: g["actions"].__setitem__((3, 2), 3), r"outside \[-1, 1\]"),
        (lambda g: g["obs/ee_pos"].__setitem__(3, 1e300), "proprio holds NaN or infinity"),
        (lambda g: g["states"].__setitem__(slice(None), 1e308), "cannot be told"),
        (put("states", None), "lacks states"),
        (put("states", np.zeros((39, 80))), r"states has shape \(39, 80\)"),
        (put("states", np.zeros((40, 5))), "lack the arm's joints"),
        (put("obs/joint_states", None), "lacks obs/joint_states"),
        (put("obs/joint_states", np.zeros((40, 9))), r"joint_states has shape \(40, 9\)"),
        (put("obs/gripper_states", np.zeros((40, 1))), r"gripper_states has shape \(40, 1\)"),
        (put(FRAMES, None), "lacks obs/agentview_rgb"),
        (put(FRAMES, np.zeros((39, 16, 16, 3), "u1")), r"shape \(39, 16, 16, 3\)"),
        (put(FRAMES, np.zeros((40, 16, 16), "u1")), r"agentview_rgb has shape \(40, 16, 16\)"),
        (put(FRAMES, np.zeros((40, 3, 16, 16), "u1")), r"shape \(40, 3, 16, 16\)"),
        (put(FRAMES, np.zeros((40, 0, 0, 3), "u1")), "frames of 0 x 0 pixels"),
        (put(FRAMES, np.zeros((40, 16, 16, 3), "f4")), "agentview is float32, expected uint8"),
        (put(FRAMES, np.zeros((40, 8, 8, 3), "u1")), "frames of 8 x 8 pixels, wrist of 16 x 16"),
        (huge("actions", (10**9, 7), "f8"), "1000000000 actions are no demonstration"),
        (huge(FRAMES, (40, 10**5, 10**5, 3), "u1"), "more than any demonstration has"),
        (huge(FRAMES, (40, 16, 16, 3), "u1"), "agentview_rgb was never written to its end"),
        (huge("states", (40, 80), "f8"), "states was never written to its end"),
    ],
)
def test_datasets_that_cannot_be_liberos_are_refused(tmp_path: Path, edit: Edit, told: str) -> None:
    path = published(tmp_path / "a_demo.hdf5", edit=edit)
    with pytest.raises(UserError, match=f"a_demo.hdf5: .*{told}") as error:
        list(read_demonstrations(path))
    assert "delete" not in str(error.value)


@pytest.mark.parametrize(
    "frames",
    [
        {"compression": "gzip"},
        {"compression": "lzf", "shuffle": True},
        {"chunks": (7, 5, 5, 2), "fletcher32": True},
        {"maxshape": (None, 16, 16, 3)},
    ],
)
def test_compressed_and_chunked_frames_are_read(tmp_path: Path, frames: dict[str, Any]) -> None:
    assert_paired(published(tmp_path / "a_demo.hdf5", **frames), count=2, steps=39, size=16)


def test_an_unknown_compression_is_named(tmp_path: Path) -> None:
    def lz4(group: h5py.Group) -> None:
        del group[FRAMES]
        space, kind = h5py.h5s.create_simple((40, 16, 16, 3)), h5py.h5t.NATIVE_UINT8
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk((1, 16, 16, 3))
        settings.set_filter(32004, h5py.h5z.FLAG_OPTIONAL)
        h5py.h5d.create(group["obs"].id, b"agentview_rgb", kind, space, settings)

    told = refused(published(tmp_path / "a_demo.hdf5", edit=lz4))
    assert "compressed with filter 32004" in told and "repack" in told


def test_frames_of_several_sizes_are_named_by_file(tmp_path: Path) -> None:
    published(tmp_path / "a_demo.hdf5")
    published(tmp_path / "b_demo.hdf5", size=24)
    with pytest.raises(UserError, match=r"mixed image.*a_demo.*height=16.*b_demo.*height=24"):
        load_examples([tmp_path], 8, SmallVLAReader(64))


def test_frames_that_are_not_square_are_refused(tmp_path: Path) -> None:
    def wide(group: h5py.Group) -> None:
        for camera in (FRAMES, "obs/eye_in_hand_rgb"):
            put(camera, np.zeros((40, 16, 24, 3), "u1"))(group)

    published(tmp_path / "a_demo.hdf5", edit=wide)
    with pytest.raises(UserError, match=r"demo_0: images of 16 x 24 pixels: .* square"):
        load_examples([tmp_path], 8, SmallVLAReader(64))


# --- links and storage outside the file ------------------------------------------------------


def _external_demo(group: h5py.Group, other: Path) -> None:
    data = group.parent
    del data["demo_0"]
    data["demo_0"] = h5py.ExternalLink(str(other), "/data/demo_0")


def _external_actions(group: h5py.Group, other: Path) -> None:
    put("actions", h5py.ExternalLink(str(other), "/data/demo_0/actions"))(group)


def _external_driven(group: h5py.Group, other: Path) -> None:
    """A dataset that need not be there."""
    group["executed_actions"] = h5py.ExternalLink(str(other), "/data/demo_0/actions")


def _soft_through_external(group: h5py.Group, other: Path) -> None:
    group.file["out"] = h5py.ExternalLink(str(other), "/data/demo_0")
    put("actions", h5py.SoftLink("/out/actions"))(group)


def _virtual(group: h5py.Group, other: Path) -> None:
    del group["actions"]
    layout = h5py.VirtualLayout((40, 7), "f8")
    layout[...] = h5py.VirtualSource(str(other), "data/demo_0/actions", (40, 7))
    group.create_virtual_dataset("actions", layout)


def _external_storage(group: h5py.Group, other: Path) -> None:
    del group[FRAMES]
    where = [(str(other), 0, 40 * 16 * 16 * 3)]
    group.create_dataset(FRAMES, shape=(40, 16, 16, 3), dtype="u1", external=where)


@pytest.mark.parametrize(
    "leave",
    [
        _external_demo,
        _external_actions,
        _external_driven,
        _soft_through_external,
        _virtual,
        _external_storage,
    ],
)
def test_a_file_is_not_left(tmp_path: Path, leave: Callable[[h5py.Group, Path], None]) -> None:
    other = published(tmp_path / "other.hdf5")
    path = published(tmp_path / "a_demo.hdf5", names=["demo_0"], edit=lambda g: leave(g, other))
    for read in (lambda: list(read_demonstrations(path)), lambda: check_files(path)):
        with pytest.raises(UserError, match=r"another file.*copy"):
            read()


def test_a_pipe_behind_an_external_link_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = published(
        tmp_path / "a_demo.hdf5", edit=lambda g: _external_actions(g, tmp_path / "pipe")
    )
    assert "link to another file" in refused(path)


def test_soft_links_in_a_file_are_followed_and_loops_are_told(tmp_path: Path) -> None:
    def linked(group: h5py.Group) -> None:
        group.move("actions", "labels")
        group["actions"] = h5py.SoftLink("labels")

    path = published(tmp_path / "a_demo.hdf5", edit=linked)
    assert_paired(path, count=2, steps=39, size=16)
    published(path, edit=put("actions", h5py.SoftLink("actions")))
    assert "actions is a link that leads nowhere" in refused(path)
