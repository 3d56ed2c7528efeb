"""LIBERO's suites: step limits, tasks, instructions (PROTOCOL 1 to 3). No simulator, no torch."""

from __future__ import annotations

import functools
import importlib.util
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsd import installation
from rsd.errors import UserError, unknown

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


class _NumpyUnpickler(pickle.Unpickler):
    """Reads LIBERO's initial states (PROTOCOL 12: pickles) and nothing but numpy arrays."""

    _ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"})

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        if module.split(".")[0] == "numpy" and name in self._ALLOWED:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise UserError(f"initial-state file asks for {module}.{name}: not a LIBERO state file")


def load_initial_states(task: Task) -> np.ndarray:
    """float64 (50, 1 + nq + nv): the stored states [time, qpos, qvel] of a task."""
    with zipfile.ZipFile(task.initial_states_path) as archive:
        data = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(data) as stream:
            states = _NumpyUnpickler(stream).load()
    if not isinstance(states, np.ndarray) or len(states) != TRIALS_PER_TASK:
        raise UserError(f"{task.initial_states_path}: expected {TRIALS_PER_TASK} stored states")
    return states
