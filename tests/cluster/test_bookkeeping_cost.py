from __future__ import annotations

import pytest

from rsd.cluster.benchmark import MAX_EPISODES, plan_of
from rsd.errors import UserError


@pytest.mark.parametrize(
    ("episodes", "trials", "arms"),
    [(1, 1, 2), (20, 1, 2), (21, 2, 2), (1000, 50, 2), (1500, 25, 6), (2000, 50, 4), (3000, 50, 6)],
)
def test_a_benchmark_runs_what_was_asked_for(episodes: int, trials: int, arms: int) -> None:
    planned_trials, planned_arms = plan_of(episodes)
    assert (planned_trials, len(planned_arms)) == (trials, arms)
    assert episodes <= 10 * trials * arms < episodes + 60


@pytest.mark.parametrize("episodes", [-1, 0, 3001, 20000])
def test_more_episodes_than_there_are_are_refused(episodes: int) -> None:
    assert MAX_EPISODES == 3000
    with pytest.raises(UserError, match=f"--episodes {episodes}: .* choose 1 to 3000"):
        plan_of(episodes)
