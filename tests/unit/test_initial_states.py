"""LIBERO's initial states are pickles: what they may ask for, and what they may not."""

from __future__ import annotations

import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rsd.errors import UserError
from rsd.suites import SUITES, Task, get_task, load_initial_states


class StoredTask(Task):
    """A task whose states lie in a file of the test's."""

    @property
    def initial_states_path(self) -> Path:
        return Path(self.name)


def stored(folder: Path, content: bytes) -> StoredTask:
    path = folder / "task.pruned_init"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return StoredTask("libero_spatial", 0, str(path), "")


LARGE = b"(I1000000000000\nt"


def asks(module: str, name: str, call: bytes = b"") -> bytes:
    return f"c{module}\n{name}\n".encode() + call + b"."


@pytest.mark.parametrize("suite", SUITES)
def test_all_of_liberos_are_read(suite: str) -> None:
    for task_id in range(SUITES[suite].num_tasks):
        states = load_initial_states(get_task(suite, task_id))
        assert states.shape[0] == 50 and states.dtype == np.float64


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_of_this_numpy_are_read(tmp_path: Path, protocol: int) -> None:
    states = np.random.default_rng(0).normal(size=(50, 9))
    if protocol == 5:
        with pytest.raises(UserError, match="asks for numpy"):  # _frombuffer, which LIBERO has not
            load_initial_states(stored(tmp_path, pickle.dumps(states, protocol)))
        return
    read = load_initial_states(stored(tmp_path, pickle.dumps(states, protocol)))
    np.testing.assert_array_equal(read, states)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("numpy.testing", "dtype"),
        ("numpy.ma.core", "ndarray"),
        ("numpy.f2py.crackfortran", "ndarray"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy.core.numeric", "_frombuffer"),
        ("numpy", "_reconstruct"),
        ("numpy", "ndarray.tofile"),
        ("numpy", "load"),
        ("numpyx", "dtype"),
        ("_codecs", "decode"),
        ("torch", "load"),
        ("numpy", "\x1b[31mred"),
    ],
)
def test_nothing_else_is_imported(tmp_path: Path, module: str, name: str) -> None:
    before = set(sys.modules)
    with pytest.raises(UserError, match="no file of LIBERO's initial states: asks for") as told:
        load_initial_states(stored(tmp_path, asks(module, name)))
    assert set(sys.modules) == before and "\x1b" not in str(told.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (asks("numpy", "ndarray", LARGE + b"R"), "makes an array by its size"),
        (
            asks(
                "numpy.core.multiarray", "_reconstruct", b"(cnumpy\nndarray\n(I99999999\ntU\x01btR"
            ),
            "begins an array of shape",
        ),
        (
            asks("_codecs", "encode", b"(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR"),
            "encodes to 'hex'",
        ),
        (b"\x80\x02Nr\xff\xff\xff\x7f.", "no file of LIBERO's initial states"),  # a memo of 2^31
        (b"Px\n.", "persistent"),
        (pickle.dumps(np.zeros((50, 9)), 2)[:40], "truncated"),
        (b"", "no file of LIBERO's initial states"),
        (pickle.dumps([1] * 50), "expected 50 stored states"),
        (pickle.dumps("x" * 50), "expected 50 stored states"),
        (pickle.dumps(np.zeros(50), 2), "expected 50 stored states"),
        (pickle.dumps(np.zeros((49, 9)), 2), "expected 50 stored states"),
        (pickle.dumps(np.full((50, 9), np.nan), 2), "expected 50 stored states, finite"),
        (pickle.dumps(np.full((50, 9), None), 2), "expected 50 stored states"),
        (pickle.dumps(np.full((50, 9), "a"), 2), "expected 50 stored states"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, content: bytes, told: str) -> None:
    with pytest.raises(UserError, match=told):
        load_initial_states(stored(tmp_path, content))


def test_a_file_that_is_no_archive_is_named(tmp_path: Path) -> None:
    """Empty ones were seen in the wild."""
    task = stored(tmp_path, b"")
    task.initial_states_path.write_bytes(b"")
    with pytest.raises(UserError, match=r"task\.pruned_init is no file .* not a zip file"):
        load_initial_states(task)
    with zipfile.ZipFile(task.initial_states_path, "w") as archive:
        archive.writestr("archive/other", b"")
    with pytest.raises(UserError, match=r"no item named"):
        load_initial_states(task)
    task.initial_states_path.unlink()
    with pytest.raises(UserError, match=r"cannot read .*task\.pruned_init"):
        load_initial_states(task)
