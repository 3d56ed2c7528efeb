"""LIBERO's suites: step limits, tasks, instructions (PROTOCOL 1 to 3). No simulator, no torch."""

from __future__ import annotations

import functools
import importlib.util
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from rsd import installation
from rsd.errors import UserError, reading, unknown

CONTROL_HZ = 20  # PROTOCOL 5
WAIT_STEPS = 10  # PROTOCOL 2
WAIT_ACTION = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
TRIALS_PER_TASK = 50  # rows of every stored initial-state file


@dataclass(frozen=True)
class Suite:
    """One LIBERO suite."""

    name: str
    max_steps: int  # policy steps, wait steps not counted (OFT TASK_MAX_STEPS)
    num_tasks: int


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("libero_spatial", 220, 10),
        Suite("libero_object", 280, 10),
        Suite("libero_goal", 300, 10),
        Suite("libero_10", 520, 10),
        Suite("libero_90", 400, 90),
    )
}


def get_suite(name: str) -> Suite:
    """Raises UserError with the nearest name for an unknown suite."""
    if name not in SUITES:
        raise unknown("suite", name, SUITES)
    return SUITES[name]


@dataclass(frozen=True)
class Task:
    """One task: its files in the installed hf-libero package and its instruction."""

    suite: str
    task_id: int
    name: str
    instruction: str

    @property
    def bddl_path(self) -> Path:
        """The goal and placement description that LIBERO's environment parses."""
        return libero_root() / "bddl_files" / self.suite / f"{self.name}.bddl"

    @property
    def initial_states_path(self) -> Path:
        """The stored initial states, 50 rows."""
        return libero_root() / "init_files" / self.suite / f"{self.name}.pruned_init"


@functools.cache
def libero_root() -> Path:
    """Folder of the installed `libero.libero`, found without importing it (its import asks on
    standard input where no configuration exists, PROTOCOL 12). Raises UserError where another
    `libero` would be imported."""
    return installation.module_root(installation.LIBERO) / "libero"


@functools.cache
def _task_names() -> dict[str, list[str]]:
    path = libero_root() / "benchmark" / "libero_suite_task_map.py"
    spec = importlib.util.spec_from_file_location("libero_suite_task_map", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.libero_task_map


def _instruction(task_name: str) -> str:
    """LIBERO's own rule (benchmark/__init__.py): LIBERO-100 names carry a scene prefix."""
    words = task_name.split("_")
    if task_name[0].isupper():
        scene = next(i for i, word in enumerate(words) if word.startswith("SCENE"))
        words = words[scene + 1 :]
    return " ".join(words)


def get_task(suite: str, task_id: int) -> Task:
    """Task `task_id` of a suite in LIBERO's task order 0; raises UserError outside the range."""
    size = get_suite(suite).num_tasks
    if not 0 <= task_id < size:
        raise UserError(f"{suite} has tasks 0..{size - 1}; task {task_id} does not exist")
    name = _task_names()[suite][task_id]
    return Task(suite, task_id, name, _instruction(name))


_MOST_BYTES = 100 * 2**20  # of a file of initial states; LIBERO's hold 60 kB


def _latin1(text: str, encoding: str) -> bytes:
    """As Python 2 pickled bytes; `_codecs.encode` itself loads any codec that it is asked for."""
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError(f"encodes to {encoding!r}")
    return text.encode("latin1")


def _no_array(kind: object, shape: object, code: object) -> np.ndarray:
    """The empty array that numpy pickles begin with, and none of a size that a file asks for."""
    if (kind, shape, code) != (_Array, (0,), b"b"):
        raise pickle.UnpicklingError(f"begins an array of shape {shape!r}")
    return np.ndarray.__new__(np.ndarray, (0,), np.int8)


class _Array:
    """Stands for numpy.ndarray, which could be called with any size."""

    def __init__(self, *_: object) -> None:
        raise pickle.UnpicklingError("makes an array by its size")


class _NumpyUnpickler(pickle.Unpickler):
    """Reads LIBERO's initial states (PROTOCOL 12: pickles) and nothing but numpy arrays."""

    _ALLOWED: ClassVar[dict[tuple[str, str], object]] = {
        ("_codecs", "encode"): _latin1,
        ("numpy", "dtype"): np.dtype,
        ("numpy", "ndarray"): _Array,
        ("numpy.core.multiarray", "_reconstruct"): _no_array,  # until numpy 1
        ("numpy._core.multiarray", "_reconstruct"): _no_array,
    }

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"asks for {module}.{name}")
        return self._ALLOWED[module, name]


def load_initial_states(task: Task) -> np.ndarray:
    """float64 (50, 1 + nq + nv): the stored states [time, qpos, qvel] of a task.

    Raises UserError for a file that is damaged or holds anything else.
    """
    path = task.initial_states_path
    try:
        with reading(path), zipfile.ZipFile(path) as archive:
            name = next((n for n in archive.namelist() if n.endswith("/data.pkl")), "data.pkl")
            if archive.getinfo(name).file_size > _MOST_BYTES:
                raise pickle.UnpicklingError(f"holds more than {_MOST_BYTES} bytes")
            with archive.open(name) as stream:
                states = _NumpyUnpickler(stream).load()
    except UserError:
        raise
    except Exception as error:  # a pickle calls what it likes of what is allowed
        raise UserError(
            f"{path} is no file of LIBERO's initial states: "
            f"{str(error) or type(error).__name__}; "
            "install hf-libero again"
        ) from error
    shaped = isinstance(states, np.ndarray) and states.ndim == 2 and len(states) == TRIALS_PER_TASK
    if not shaped or states.dtype != np.float64 or not np.isfinite(states).all():
        raise UserError(f"{path}: expected {TRIALS_PER_TASK} stored states, finite float64 rows")
    return states
