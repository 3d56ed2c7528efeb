"""All suites on a full asset tree: any order of trials is the reference loop, bit for bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rsd.envs.assets import ResolvedAssets
from rsd.envs.libero import LiberoEnvironment
from rsd.envs.reference import ReferenceLoop
from rsd.episode import sha256_of
from rsd.suites import get_task

TRIALS, STEPS = 2, 5
ACTIONS = np.random.default_rng(1).uniform(-0.6, 0.6, (STEPS, 7))
TASKS = [
    ("libero_object", 0),
    ("libero_goal", 0),  # the drawer is to be opened
    ("libero_goal", 7),  # the stove is to be turned on
    ("libero_10", 3),  # a drawer starts open
    ("libero_10", 9),  # the microwave starts open
    ("libero_90", 5),  # another cabinet starts open
    ("libero_90", 35),  # the microwave starts closed
    ("libero_90", 39),  # the stove starts turned on
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("suite", "task"), TASKS)
def test_trials_backwards_are_the_reference_loop(
    suite: str, task: int, full_assets: ResolvedAssets, renderer: str
) -> None:
    loop = ReferenceLoop(get_task(suite, task), full_assets, renderer)
    expected = []
    for first in itertools.islice(loop.trials(), TRIALS):
        verdicts = [loop.step(action)[1] for action in ACTIONS]
        expected.append((first, verdicts, sha256_of(loop.state())))
    loop.close()
    assert len({final for *_, final in expected}) == TRIALS

    environment = LiberoEnvironment(suite, task, full_assets, renderer)
    for trial in (*reversed(range(TRIALS)), TRIALS - 1):
        environment.reset(trial)
        frame = environment.observe()
        verdicts = [environment.step(action) for action in ACTIONS]
        theirs, their_verdicts, their_final = expected[trial]
        assert sha256_of(environment.state()) == their_final
        assert verdicts == their_verdicts
        assert np.array_equal(frame.agentview, theirs.agentview)
        assert np.array_equal(frame.wrist, theirs.wrist)
        assert np.array_equal(frame.proprio, theirs.proprio)
    environment.close()
