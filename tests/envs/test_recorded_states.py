"""States that were recorded on another machine come out here, bit for bit: the claim of the README,
with one episode of each suite. `rsd repeat` repeats as many as one likes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rsd import repeat
from rsd.arms import read_arm
from rsd.cluster.worker import EnvWorker, WorkerSettings
from rsd.envs.assets import ResolvedAssets
from rsd.models import load_policy
from rsd.types import Delay, Policy

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "machines" / "epyc.parquet"
SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy("libero", deterministic=True, device="cpu")


@pytest.mark.parametrize(
    ("suite", "delay"), [*((suite, None) for suite in SUITES), (SUITES[0], Delay(0, "hold"))]
)
def test_a_recorded_episode_ends_in_its_state(
    suite: str, delay: Delay | None, policy: Policy, lite: ResolvedAssets, renderer: str
) -> None:
    """Recorded before chunks could be late: no delay at all is the same."""
    kept = repeat.load(str(RESULTS))
    sample = repeat.worlds_of(kept, ["speculative"], worlds=1, seed=1)
    (key,) = (key for key in sample if key.suite == suite)
    settings = WorkerSettings(lite, renderer, policy.images, time_limit_s=600)
    worker = EnvWorker(settings)
    arm = dataclasses.replace(read_arm("speculative"), delay=delay)
    result = worker.run(key, arm, lambda request: policy.act([request])[0])
    assert not result.error
    rows = kept.rows.set_index(["suite", "task_id", "trial", "arm"])
    row = rows.loc[(suite, key.task_id, key.trial, "speculative")]
    assert (result.outcome, result.steps) == (row["outcome"], row["steps"])
    assert result.final_state_sha256.startswith(row["final_state"])
