"""The environment is the reference loop: states, frames and proprioception, in any order."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsd.envs.assets import ResolvedAssets
from rsd.envs.libero import LiberoEnvironment
from rsd.envs.looks import Looks, vary
from rsd.envs.reference import ReferenceLoop
from rsd.envs.worlds import WorldStream
from rsd.episode import sha256_of
from rsd.protocols import get_protocol
from rsd.suites import WAIT_ACTION, WAIT_STEPS, get_task, load_initial_states
from rsd.types import ImageSpec, Observation

SUITE, TASK = "libero_spatial", 4  # the drawer: its cabinet is placed by a draw at every reset
TRIALS, STEPS, CHUNK = 3, 16, 8
ACTIONS = np.random.default_rng(0).uniform(-0.6, 0.6, (STEPS, 7))


@dataclass
class Run:
    """What a trial looked like: a frame after the wait and after each chunk, and the end."""

    frames: list[Observation]
    final: str


@pytest.fixture(scope="module")
def reference(lite: ResolvedAssets, renderer: str) -> list[Run]:
    """The reference loop's first trials, every frame drawn."""
    loop = ReferenceLoop(get_task(SUITE, TASK), lite, renderer)
    runs = []
    for first in itertools.islice(loop.trials(), TRIALS):
        frames = [first]
        for index, action in enumerate(ACTIONS):
            frame, _ = loop.step(action)
            if index % CHUNK == CHUNK - 1:
                frames.append(frame)
        runs.append(Run(frames, sha256_of(loop.state())))
    loop.close()
    return runs


@pytest.fixture(scope="module")
def environment(lite: ResolvedAssets, renderer: str) -> LiberoEnvironment:
    return LiberoEnvironment(SUITE, TASK, lite, renderer)


def _run(environment: LiberoEnvironment, trial: int, *, observe: bool = True) -> Run:
    environment.reset(trial)
    frames = [environment.observe()] if observe else []
    for index, action in enumerate(ACTIONS):
        environment.step(action)
        if observe and index % CHUNK == CHUNK - 1:
            frames.append(environment.observe())
    return Run(frames, sha256_of(environment.state()))


@pytest.mark.parametrize("trial", [2, 0, 1, 2])
def test_any_order_of_trials_ends_in_the_reference_states_with_its_frames(
    trial: int, environment: LiberoEnvironment, reference: list[Run]
) -> None:
    run = _run(environment, trial)
    assert run.final == reference[trial].final
    for ours, theirs in zip(run.frames, reference[trial].frames, strict=True):
        assert np.array_equal(ours.agentview, theirs.agentview)
        assert np.array_equal(ours.wrist, theirs.wrist)
        assert np.array_equal(ours.proprio, theirs.proprio)


def test_looking_changes_nothing(environment: LiberoEnvironment, reference: list[Run]) -> None:
    assert _run(environment, 1, observe=False).final == reference[1].final


def test_worlds_of_different_trials_differ(reference: list[Run]) -> None:
    assert len({run.final for run in reference}) == TRIALS


SCRIPTS: dict[str, Callable[[Any], None]] = {  # of their trial 1, up to the stored state
    "openpi": lambda env: (env.seed(7), env.reset(), env.reset()),
    "lerobot": lambda env: (env.reset(), env.seed(1001), env.reset()),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_worlds_of_another_protocol_are_those_of_its_script(
    name: str, lite: ResolvedAssets, renderer: str
) -> None:
    loop = ReferenceLoop(get_task(SUITE, TASK), lite, renderer)
    SCRIPTS[name](loop.env)
    loop.env.set_init_state(load_initial_states(get_task(SUITE, TASK))[1])
    for action in [WAIT_ACTION] * WAIT_STEPS + list(ACTIONS):
        loop.step(np.array(action))
    final = sha256_of(loop.state())
    loop.close()
    finals = {}
    for protocol in ("oft", name):
        ours = LiberoEnvironment(SUITE, TASK, lite, "none", protocol=get_protocol(protocol))
        finals[protocol] = _run(ours, 1, observe=False).final
        ours.close()
    assert finals[name] == final != finals["oft"]


def test_a_protocol_without_wait_steps_is_looked_at_at_once(
    lite: ResolvedAssets, renderer: str
) -> None:
    at_once = LiberoEnvironment(SUITE, TASK, lite, renderer, protocol=get_protocol("gr00t"))
    at_once.reset(0)
    seen = at_once.observe()
    at_once.close()
    assert seen.agentview.std() > 10  # a picture, not a blank
    assert np.abs(seen.proprio).max() > 0.1
    assert at_once.timings.physics_s == 0.0


def test_a_fresh_placement_in_between_leaves_no_trace(
    environment: LiberoEnvironment, reference: list[Run]
) -> None:
    environment.reset_fresh(seed=12345)
    environment.step(ACTIONS[0])
    assert _run(environment, 0).final == reference[0].final


def test_fresh_placements_repeat_by_seed_and_differ_between_seeds(
    environment: LiberoEnvironment,
) -> None:
    states = []
    for seed in (5, 6, 5):
        environment.reset_fresh(seed)
        states.append(sha256_of(environment.state()))
    assert states[0] == states[2] != states[1]


def test_looks_vary_with_the_seed_and_change_only_what_is_drawn(
    environment: LiberoEnvironment,
) -> None:
    environment.reset(0)
    evaluation = environment.observe()
    states, frames = [], []
    for looks in (None, Looks(), Looks(), Looks().scaled(1e-3)):
        environment.reset_fresh(5, looks)
        environment.step(ACTIONS[0])
        states.append(sha256_of(environment.state()))
        frames.append(environment.observe().agentview.astype(int))
    assert len(set(states)) == 1
    assert np.array_equal(frames[1], frames[2])
    far, near = (np.abs(frame - frames[0]).mean() for frame in (frames[1], frames[3]))
    assert far > 5 and near < 0.5
    model, given = environment.simulator.sim.model._model, []
    for seed in (5, 6):
        restore = vary(model, Looks(), seed)
        given.append([model.cam_pos.copy(), model.light_diffuse.copy(), model.mat_rgba.copy()])
        restore()
    assert not any(np.array_equal(one, other) for one, other in zip(*given, strict=True))
    environment.reset(0)
    again = environment.observe()
    assert np.array_equal(again.agentview, evaluation.agentview)
    assert np.array_equal(again.wrist, evaluation.wrist)


def test_a_single_trial_in_a_fresh_process_is_the_same_world(
    lite: ResolvedAssets, renderer: str, reference: list[Run], tmp_path: Path
) -> None:
    """Trial 2 alone, without the cache of worlds, without cameras, as a retry would run it."""
    script = f"""
import numpy as np
from rsd.envs import libero, worlds
from rsd.envs.assets import resolve
from rsd.episode import sha256_of
from pathlib import Path
cache = Path({str(tmp_path)!r})
libero.WorldStream = lambda task, assets, protocol: worlds.WorldStream(task, assets, cache)
env = libero.LiberoEnvironment({SUITE!r}, {TASK}, resolve("lite", [{SUITE!r}]), "none")
env.reset(2)
for action in np.random.default_rng(0).uniform(-0.6, 0.6, ({STEPS}, 7)):
    env.step(action)
print(sha256_of(env.state()))
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == reference[2].final


def test_another_image_size_leaves_states_alone(
    lite: ResolvedAssets, renderer: str, reference: list[Run]
) -> None:
    small = LiberoEnvironment(SUITE, TASK, lite, renderer, ImageSpec(96, 96, 0, False))
    run = _run(small, 0)
    small.close()
    assert run.final == reference[0].final
    assert run.frames[0].agentview.shape == (96, 96, 3)
    assert run.frames[0].agentview.std() > 10  # a picture, not a blank


def test_worlds_recorded_in_two_processes_are_the_reference_worlds(
    lite: ResolvedAssets,
    renderer: str,
    reference: list[Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cache ends after trial 0; another environment records trial 1 and later ones."""
    from rsd.envs import libero

    monkeypatch.setattr(
        libero, "WorldStream", lambda task, assets, protocol: WorldStream(task, assets, tmp_path)
    )
    for trial in range(TRIALS):
        environment = LiberoEnvironment(SUITE, TASK, lite, "none")
        assert _run(environment, trial, observe=False).final == reference[trial].final
        environment.close()


def test_a_fresh_placement_does_not_depend_on_the_resets_before(
    lite: ResolvedAssets, renderer: str, environment: LiberoEnvironment
) -> None:
    finals = []
    for env in (environment, LiberoEnvironment(SUITE, TASK, lite, "none")):
        env.reset_fresh(7)
        for action in ACTIONS:
            env.step(action)
        finals.append(sha256_of(env.state()))
    assert finals[0] == finals[1]


def test_the_stream_of_worlds_continues_where_the_cache_ends(
    lite: ResolvedAssets, tmp_path: Path
) -> None:
    """Recording 1 then 2 worlds gives what recording 3 at once gives."""
    import rsd.envs.worlds as worlds

    def draw(loads_before: int) -> worlds.World:
        return worlds.World(np.random.rand(2, 3), np.random.rand(2, 4), np.random.rand(5))

    task = get_task(SUITE, TASK)
    at_once = WorldStream(task, lite, tmp_path / "a")
    at_once.extend(2, draw)
    piecewise = WorldStream(task, lite, tmp_path / "b")
    piecewise.extend(0, draw)
    again = WorldStream(task, lite, tmp_path / "b")
    assert 0 in again and 1 not in again
    again.extend(2, draw)
    for trial in range(3):
        assert np.array_equal(at_once[trial].body_pos, again[trial].body_pos)
        assert np.array_equal(at_once[trial].qacc_warmstart, again[trial].qacc_warmstart)


def test_a_trial_that_does_not_exist_is_refused(environment: LiberoEnvironment) -> None:
    with pytest.raises(ValueError, match="trial 50"):
        environment.reset(50)
