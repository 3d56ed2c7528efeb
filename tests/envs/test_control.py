"""Our control step against robosuite's own, on one simulator: states to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsd.envs.assets import ResolvedAssets
from rsd.envs.control import ControlLoop
from rsd.envs.libero import LiberoEnvironment

STEPS = 40
RNG = np.random.default_rng(3)
ACTIONS = {
    "moderate": RNG.uniform(-0.6, 0.6, (STEPS, 7)),
    "float32, as policies answer": RNG.uniform(-1, 1, (STEPS, 7)).astype(np.float32),
    "down into the table, gripper closing": np.tile([0.0, 0.0, -1.0, 0, 0, 0, 1.0], (STEPS, 1)),
    "beyond the limits, no rotation": np.tile([2.0, -3.0, 0.0, 0, 0, 0, -1.0], (STEPS, 1)),
}


@pytest.fixture(scope="module", params=[0, 4], ids=["bowl", "open drawer"])
def environment(request: pytest.FixtureRequest, lite: ResolvedAssets) -> LiberoEnvironment:
    return LiberoEnvironment("libero_spatial", request.param, lite, "none")


def ours(environment: LiberoEnvironment) -> Callable[[np.ndarray], bool]:
    return environment.step


def robosuites(environment: LiberoEnvironment) -> Callable[[np.ndarray], bool]:
    return lambda action: bool(environment.simulator.step(action)[2])


def run(environment: LiberoEnvironment, step: Callable[[np.ndarray], bool], actions: Any) -> Any:
    """(states, verdicts) along a trial."""
    environment.reset(1)
    verdicts, states = [], []
    for action in actions:
        verdicts.append(step(action))
        states.append(environment.state())
    return np.array(states), verdicts


@pytest.mark.parametrize("kind", ACTIONS)
def test_states_and_verdicts_are_robosuites(kind: str, environment: LiberoEnvironment) -> None:
    states, verdicts = run(environment, ours(environment), ACTIONS[kind])
    expected, expected_verdicts = run(environment, robosuites(environment), ACTIONS[kind])
    assert np.array_equal(states, expected)
    assert verdicts == expected_verdicts
    assert len(np.unique(states[:, 1:8], axis=0)) == STEPS  # the arm moves


def test_both_may_take_turns(environment: LiberoEnvironment) -> None:
    actions = ACTIONS["moderate"]
    expected, _ = run(environment, robosuites(environment), actions)
    turns = [ours(environment), robosuites(environment)] * STEPS
    states, _ = run(environment, lambda action: turns.pop()(action), actions)
    assert np.array_equal(states, expected)


def test_one_solve_less_would_give_other_states(environment: LiberoEnvironment) -> None:
    """The negative control: the solver starts from its last answer, so each call counts."""

    def without_the_second_solve(action: np.ndarray) -> bool:
        loop = ControlLoop(environment.simulator)
        loop._mujoco = _OneSolve(loop._mujoco)
        return loop.step(action)

    expected, _ = run(environment, robosuites(environment), ACTIONS["moderate"])
    states, _ = run(environment, without_the_second_solve, ACTIONS["moderate"])
    assert not np.array_equal(states, expected)


class _OneSolve:
    """mujoco without mj_forwardSkip."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return (lambda *_: None) if name == "mj_forwardSkip" else getattr(self._module, name)


@pytest.mark.parametrize("part", ["qpos", "qvel"])
def test_a_simulation_beyond_all_bounds_is_reset_as_mj_step_resets_it(
    part: str, environment: LiberoEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warning to a file here
    finals = []
    for step in (ours(environment), robosuites(environment)):
        environment.reset(0)
        getattr(environment.simulator.sim.data._data, part)[9] = 1e11
        for action in ACTIONS["moderate"][:3]:
            step(action)
        finals.append(environment.state())
    assert np.array_equal(finals[0], finals[1])
    assert finals[0][0] < 10 * 0.05  # s: time began anew


def test_a_controller_that_is_not_liberos_is_refused(environment: LiberoEnvironment) -> None:
    environment.reset(0)
    environment.simulator.robots[0].controller.impedance_mode = "variable"
    with pytest.raises(RuntimeError, match="needs impedance_mode = 'fixed', found 'variable'"):
        ControlLoop(environment.simulator)
