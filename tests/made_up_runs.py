"""Small made-up runs for tests of the books, the report and the notebook. Nothing is measured."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rsd.books import Books
from rsd.types import ChunkRecord, DecodeTrace, EpisodeKey, EpisodeResult, Outcome

LAYERS = 4
STEPS, DIMS = 8, 8
TOKENS = STEPS * DIMS  # per layer

RUN: dict[str, Any] = {
    "run_id": "made-up",
    "config": {
        "arms": {name: {"mode": name} for name in ("autoregressive", "speculative")},
        "suites": {"libero_spatial": [0, 1]},
        "deterministic": True,
        "seed": 0,
    },
    "code": {"git_commit": "0000000", "git_dirty": False, "source_sha256": "feed"},
    "packages": {"mujoco": "3.2.3", "robosuite": "1.4.0", "numpy": "2.4.6"},
    "checkpoint_sha256": "c0ffee",
    "assets": "lite",
    "assets_fingerprint": "feedbeef",
    "renderer": "osmesa",
    "hardware": "2 cores",
}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def key(trial: int = 0, arm: str = "speculative", task_id: int = 0) -> EpisodeKey:
    return EpisodeKey(arm, "libero_spatial", task_id, trial)


def chunk(index: int, speculative: bool, rng: np.random.Generator) -> ChunkRecord:
    """One decode: the draft covers all layers but the last and is worse at finer ones."""
    drafted = tuple(TOKENS if speculative and layer < LAYERS - 1 else 0 for layer in range(LAYERS))
    accepted = tuple(int(rng.binomial(n, 0.95 - 0.12 * layer)) for layer, n in enumerate(drafted))
    passes = int(rng.integers(1, 4)) if speculative else LAYERS
    trace = DecodeTrace(
        drafted=drafted,
        accepted=accepted,
        passes=passes,
        layers=LAYERS,
        redrafted=tuple(n // 2 for n in drafted),
        reaccepted=tuple(n // 3 for n in accepted),
        batch_size=int(rng.integers(1, 5)),
        queue_s=float(rng.exponential(0.003)),
        vision_s=0.004,
        draft_s=0.002 if speculative else 0.0,
        target_s=0.005 * passes + float(rng.exponential(0.001)),
        detokenise_s=0.001,
    )
    return ChunkRecord(index, trace, sha(f"chunk {index}"), codes(index), actions(index))


def actions(index: int) -> np.ndarray:
    """float32 (T, 7)."""
    return np.random.default_rng(index).uniform(-1, 1, (STEPS, 7)).astype(np.float32)


def codes(index: int) -> np.ndarray:
    """uint8 (T, D, L): mostly level 3, of layer 1 level 2."""
    rng = np.random.default_rng([index, TOKENS])
    usual = np.array([3, 2, 3, 3])
    rare = rng.random((STEPS, DIMS, LAYERS)) < 0.2
    return np.where(rare, rng.integers(0, 7, rare.shape), usual).astype(np.uint8)


def result(
    episode: EpisodeKey,
    outcome: Outcome = "success",
    chunks: int = 3,
    final_state: str | None = None,
) -> EpisodeResult:
    rng = np.random.default_rng([episode.task_id, episode.trial, len(episode.arm)])
    speculative = episode.arm == "speculative"
    world = f"{episode.suite} {episode.task_id} {episode.trial}"
    failed = outcome == "error"
    return EpisodeResult(
        key=episode,
        instruction=f"pick up bowl {episode.task_id}",
        outcome=outcome,
        steps=8 * chunks,
        error="Traceback: the simulator raised" if failed else "",
        physics_s=0.9 + float(rng.exponential(0.1)),
        render_s=0.5,
        reset_s=0.2,
        wait_s=0.4,
        wall_s=2.2,
        assets="" if failed else "lite",
        renderer="" if failed else "osmesa",
        final_state_sha256="" if failed else sha(final_state or world),
        chunks=[] if failed else [chunk(i, speculative, rng) for i in range(chunks)],
    )


def unjudged(episode: EpisodeKey, outcome: Outcome = "success") -> EpisodeResult:
    """An episode of the arm `draft`: layers that are decoded in no pass."""
    trace = DecodeTrace((0,) * 3, (0,) * 3, passes=0, layers=3, vision_s=0.004, draft_s=0.002)
    chunks = [ChunkRecord(i, trace, sha(f"{i}"), codes(i)[..., :3], actions(i)) for i in range(3)]
    return dataclasses.replace(result(episode, outcome), chunks=chunks)


def of_expert(episode: EpisodeKey) -> EpisodeResult:
    """All of it is one row, and no decode."""
    chunks = [ChunkRecord(0, DecodeTrace((), (), passes=0, layers=0), sha("0"), None, actions(0))]
    return dataclasses.replace(result(episode), chunks=chunks)


def of_numbers(episode: EpisodeKey, outcome: Outcome = "success") -> EpisodeResult:
    """An episode of a policy that answers with actions: no layers, no codes, nothing to accept."""
    trace = DecodeTrace(drafted=(), accepted=(), passes=1, layers=0, target_s=0.02)
    chunks = [ChunkRecord(i, trace, sha(f"chunk {i}"), None, actions(i)) for i in range(3)]
    return dataclasses.replace(result(episode, outcome), chunks=chunks)


def paired_results(tasks: int = 10, trials: int = 5) -> Iterator[EpisodeResult]:
    """Two arms with equal outcomes, but for one trial that differs and one that is an error."""
    rng = np.random.default_rng(7)
    for task_id in range(tasks):
        for trial in range(trials):
            outcome: Outcome = "success" if rng.random() < 0.95 - 0.06 * task_id else "timeout"
            yield result(key(trial, "autoregressive", task_id), outcome)
            if (task_id, trial) == (1, 1):
                flipped: Outcome = "timeout" if outcome == "success" else "success"
                yield result(key(trial, task_id=task_id), flipped, final_state="elsewhere")
            elif (task_id, trial) == (0, 0):
                yield result(key(trial, task_id=task_id), "error")
            else:
                yield result(key(trial, task_id=task_id), outcome)


def write(output: Path, results: Iterable[EpisodeResult], planned: int | None = None) -> str:
    """A run in `output`, a finished one unless it says more are `planned`; returns it as
    `read_episodes` wants it."""
    ticks = iter(range(1_800_000_000, 1_900_000_000, 3))
    episodes = list(results)
    run = {**RUN, "planned_episodes": len(episodes) if planned is None else planned}
    with Books.open(str(output), run, resume=False, clock=lambda: float(next(ticks))) as books:
        for episode in episodes:
            books.add(episode, attempts=1, worker="worker-0", node="node-0")
    return str(output)
