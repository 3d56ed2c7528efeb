"""The rollout loop: what of an episode is recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rsd.arms import read_arm
from rsd.envs.assets import ResolvedAssets
from rsd.envs.toy import ToyEnvironment
from rsd.episode import BadActionError, check_actions, run_episode, run_expert_episode, sha256_of
from rsd.models.toy import ToyPolicy
from rsd.types import Chunk, ChunkRequest, EpisodeKey

STEPS = 40
TRIALS = range(12)  # some end within a chunk, some run out of steps


class Noting(ToyEnvironment):
    """Notes the actions that it gets."""

    def __init__(self) -> None:
        super().__init__("toy", 0, ResolvedAssets("none", Path(), "", ""), "none", ToyPolicy.images)
        self.got: list[np.ndarray] = []

    def step(self, action: np.ndarray) -> bool:
        self.got.append(action.copy())
        return super().step(action)


def decide(request: ChunkRequest) -> Chunk:
    return ToyPolicy().act([request])[0]


@pytest.mark.parametrize("trial", TRIALS)
def test_the_chunks_of_an_episode_hold_every_action_that_the_simulator_got(trial: int) -> None:
    env = Noting()
    key = EpisodeKey("parallel", "toy", 0, trial)
    result = run_episode(env, key, read_arm("parallel"), decide, STEPS)
    recorded = np.concatenate([chunk.actions for chunk in result.chunks])
    assert recorded.dtype == np.float32
    assert recorded.tobytes() == np.stack(env.got).tobytes()
    assert len(recorded) == result.steps


def test_an_episode_that_ends_within_a_chunk_records_what_it_executed_of_it() -> None:
    keys = [EpisodeKey("parallel", "toy", 0, trial) for trial in TRIALS]
    results = [run_episode(Noting(), key, read_arm("parallel"), decide, STEPS) for key in keys]
    last = {len(result.chunks[-1].actions) for result in results if result.outcome == "success"}
    assert len(last) > 1


def test_an_experts_actions_are_one_record_that_no_decode_made() -> None:
    env, up = Noting(), np.array([0, 1, 0, 0, 0, 0, -1], np.float32)
    key = EpisodeKey("expert", "toy", 0, 0)
    result = run_expert_episode(env, key, lambda: up, STEPS)
    (record,) = result.chunks
    assert np.array_equal(record.actions, np.stack(env.got))
    assert (record.trace.passes, record.trace.layers, record.codes) == (0, 0, None)
    assert record.action_sha256 == sha256_of(record.actions)


def test_actions_that_could_not_be_recorded_as_they_are_executed_are_refused() -> None:
    with pytest.raises(BadActionError, match="actions are float64, expected float32"):
        check_actions(np.zeros((8, 7)))
