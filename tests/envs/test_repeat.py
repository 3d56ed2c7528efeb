"""States that were recorded on another machine come out here, bit for bit: the claim of the README,
with one episode of each suite. `jobs/repeat.py` repeats as many as one likes."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsd import repeat
from rsd.envs import make_environment, suite_of
from rsd.envs.assets import ResolvedAssets
from rsd.episode import run_episode
from rsd.models import load_policy
from rsd.types import Decoding, Policy

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "libero_lite.parquet"
SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy("libero", deterministic=True, device="cpu")


@pytest.mark.parametrize("suite", SUITES)
def test_a_recorded_episode_ends_in_its_state(
    suite: str, policy: Policy, lite: ResolvedAssets, renderer: str
) -> None:
    kept = repeat.load(str(RESULTS))
    (key,) = (
        key
        for key in repeat.worlds_of(kept, ["speculative"], worlds=1, seed=1)
        if key.suite == suite
    )
    env = make_environment(suite, key.task_id, lite, renderer, policy.images)
    try:
        result = run_episode(
            env,
            key,
            Decoding("speculative"),
            lambda request: policy.act([request])[0],
            suite_of(suite).max_steps,
        )
    finally:
        env.close()
    row = kept.rows.set_index(["arm", "suite", "task_id", "trial"]).loc[
        (key.arm, suite, key.task_id, key.trial)
    ]
    assert (result.outcome, result.steps) == (row["outcome"], row["steps"])
    assert result.final_state_sha256.startswith(row["final_state"])
