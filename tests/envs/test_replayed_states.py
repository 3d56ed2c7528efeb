"""An episode of LIBERO, simulated again from its recorded actions: the same state, and before each
chunk the same frames as the policy saw."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from rsd.arms import read_arm
from rsd.envs.assets import ResolvedAssets
from rsd.envs.libero import LiberoEnvironment
from rsd.episode import run_episode, sha256_of
from rsd.replay.again import Ending, replay
from rsd.replay.recording import Recording
from rsd.types import (
    Chunk,
    ChunkRequest,
    DecodeTrace,
    EpisodeKey,
    EpisodeResult,
    ImageSpec,
    Observation,
)

KEY = EpisodeKey("drawn", "libero_spatial", 3, 7)
IMAGES = ImageSpec(96, 96, samples=0, reflection=False)  # the bundled policies'
CHUNK, STEPS = 8, 44
seen: list[str] = []


def looks(observation: Observation) -> str:
    """All that a policy sees."""
    parts = (observation.agentview, observation.wrist, observation.proprio)
    return " ".join(map(sha256_of, parts))


def decide(request: ChunkRequest) -> Chunk:
    """Moves about, hand and fingers."""
    seen.append(looks(request.observation))
    drawn = np.random.default_rng(request.chunk_index).uniform(-1, 1, (CHUNK, 7))
    return Chunk(drawn.astype(np.float32), None, DecodeTrace((), (), 1, 0))


def again(
    recorded: EpisodeResult, lite: ResolvedAssets, renderer: str, images: ImageSpec
) -> tuple[Ending, list[str]]:
    """On a simulator of its own, looked at after every step."""
    env = LiberoEnvironment(KEY.suite, KEY.task_id, lite, renderer, images)
    looked: list[str] = []
    try:
        return replay(env, recorded, lambda step: looked.append(looks(env.observe()))), looked
    finally:
        env.close()


def test_an_episode_ends_in_its_state_and_shows_what_the_policy_saw(
    lite: ResolvedAssets, renderer: str
) -> None:
    env = LiberoEnvironment(KEY.suite, KEY.task_id, lite, renderer, IMAGES)
    recorded = run_episode(env, KEY, read_arm("native"), decide, STEPS)
    env.close()
    assert recorded.steps == STEPS and len(seen) == len(recorded.chunks) == 6

    ending, looked = again(recorded, lite, renderer, IMAGES)
    assert ending.differs(recorded) == ""
    assert looked[0 : STEPS + 1 : CHUNK] == seen
    assert len(set(looked)) > STEPS // 2

    larger, _ = again(recorded, lite, renderer, ImageSpec(128, 128))  # as a video is drawn
    assert larger.differs(recorded) == ""

    last = recorded.chunks[-1]
    assert last.actions is not None
    nudged = last.actions.copy()
    nudged[0, 0] = np.nextafter(nudged[0, 0], np.float32(2))
    chunks = [*recorded.chunks[:-1], dataclasses.replace(last, actions=nudged)]
    other, _ = again(dataclasses.replace(recorded, chunks=chunks), lite, renderer, IMAGES)
    assert "final state" in other.differs(recorded)


RECORDED = Path(__file__).parents[1] / "data" / "recorded"


@pytest.mark.parametrize(("task", "trial", "outcome"), [(8, 2, "success"), (3, 3, "timeout")])
def test_a_run_of_another_machine_is_simulated_again_to_its_states(
    task: int, trial: int, outcome: str, lite: ResolvedAssets, renderer: str
) -> None:
    """By `rsd verify tests/data/recorded` all of it."""
    key = EpisodeKey("speculative", "libero_goal", task, trial)
    recorded = Recording.of(str(RECORDED)).homes[key].result(key)
    assert recorded.outcome == outcome
    env = LiberoEnvironment(key.suite, key.task_id, lite, renderer, IMAGES)
    try:
        assert replay(env, recorded).differs(recorded) == ""
    finally:
        env.close()
