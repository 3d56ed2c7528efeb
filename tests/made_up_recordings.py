"""Small runs of the toy simulator whose actions are recorded, to be simulated again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rsd import arithmetic
from rsd.arms import read_arm
from rsd.books import Books
from rsd.envs.toy import ToyEnvironment
from rsd.episode import run_episode
from rsd.models.toy import ToyPolicy
from rsd.provenance import provenance
from rsd.types import Chunk, ChunkRequest, EpisodeKey, EpisodeResult

STEPS = 40
ARMS = ("speculative", "timid")
WORLDS = [(task, trial) for task in range(2) for trial in range(4)]
RUN: dict[str, Any] = {
    "run_id": "toy-run",
    "config": {"arms": {}, "suites": {"toy": [0, 1]}, "deterministic": True, "seed": 0},
    "checkpoint_sha256": "c0ffee",
    "assets": "none",
    "assets_fingerprint": "",
    "renderer": "none",
    "simulator": {},
    "arithmetic": arithmetic.name(),
    **provenance(),
}


def decide(request: ChunkRequest) -> Chunk:
    return ToyPolicy().act([request])[0]


def timid(request: ChunkRequest) -> Chunk:
    """Acts as the other arm does in its first chunk, and stands still from then on."""
    chunk = decide(request)
    still = chunk.actions * np.float32(request.chunk_index < 1)
    return dataclasses.replace(chunk, actions=still)


DECIDE: dict[str, Callable[[ChunkRequest], Chunk]] = {"speculative": decide, "timid": timid}


def simulator(task: int = 0, kind: type[ToyEnvironment] = ToyEnvironment) -> ToyEnvironment:
    return kind("toy", task, None, "none", ToyPolicy.images)


def episode(arm: str = "speculative", task: int = 0, trial: int = 0) -> EpisodeResult:
    key = EpisodeKey(arm, "toy", task, trial)
    return run_episode(simulator(task), key, read_arm("speculative"), DECIDE[arm], STEPS)


def episodes() -> list[EpisodeResult]:
    return [episode(arm, *world) for world in WORLDS for arm in ARMS]


def write(output: Path, results: list[EpisodeResult], planned: int | None = None) -> str:
    """A run with these episodes, some parts of a few each."""
    run = RUN | {"planned_episodes": planned or len(results)}
    with Books.open(str(output), run, resume=False, flush_every=3) as books:
        for result in results:
            books.add(result, attempts=1, worker="worker-0", node="node-0")
    return str(output)


def without_actions(result: EpisodeResult) -> EpisodeResult:
    """As an older run has it."""
    chunks = [dataclasses.replace(chunk, actions=None) for chunk in result.chunks]
    return dataclasses.replace(result, chunks=chunks)


def otherwise(result: EpisodeResult) -> EpisodeResult:
    """Its first action is another than was executed: what follows is another world."""
    first = result.chunks[0]
    assert first.actions is not None
    actions = first.actions.copy()
    actions[0, 0] = -actions[0, 0] if actions[0, 0] else 1
    chunks = [dataclasses.replace(first, actions=actions), *result.chunks[1:]]
    return dataclasses.replace(result, chunks=chunks)
