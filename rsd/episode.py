"""The rollout loop: one episode of one arm on one environment. Pure of Ray, torch and robosuite."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

import numpy as np

from rsd.types import (
    ACTION_DIM,
    Chunk,
    ChunkRecord,
    ChunkRequest,
    Decoding,
    Environment,
    EpisodeKey,
    EpisodeResult,
    Outcome,
)

Decide = Callable[[ChunkRequest], Chunk]

ACTION_LIMIT = 1.0  # the controller's input range; codes are clipped to it by the tokeniser
ACTION_SLACK = 1e-6  # float32 rounding of an action at the limit


class BadActionError(RuntimeError):
    """A policy answered with actions that no robot should execute."""


def sha256_of(array: np.ndarray) -> str:
    """Hex digest of an array's bytes (C order)."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def check_actions(actions: np.ndarray) -> None:
    """Raises BadActionError for a wrong shape, NaN, or values outside [-1, 1]."""
    if actions.ndim != 2 or actions.shape[1] != ACTION_DIM or len(actions) == 0:
        raise BadActionError(f"actions have shape {actions.shape}, expected (T, {ACTION_DIM})")
    if not np.isfinite(actions).all():
        raise BadActionError(f"actions hold {int((~np.isfinite(actions)).sum())} NaN or infinity")
    worst = float(np.abs(actions).max())
    if worst > ACTION_LIMIT + ACTION_SLACK:
        raise BadActionError(f"an action of {worst:.4f} lies outside [-1, 1]")


def run_episode(
    env: Environment,
    key: EpisodeKey,
    decoding: Decoding,
    decide: Decide,
    max_steps: int,
    clock: Callable[[], float] = time.perf_counter,
) -> EpisodeResult:
    """Run `key` to its end: chunks open loop, the first step whose goal holds is a success,
    running out of `max_steps` is a timeout (PROTOCOL 1, 5, 9).

    Exceptions of simulator or policy propagate: whoever leased the episode decides on a retry.
    """
    started = clock()
    env.reset(key.trial)
    wait_s = 0.0
    steps = 0
    outcome: Outcome = "timeout"
    records: list[ChunkRecord] = []
    previous_codes = None
    while steps < max_steps and outcome != "success":
        request = ChunkRequest(env.observe(), decoding, key, len(records), previous_codes)
        asked = clock()
        chunk = decide(request)
        wait_s += clock() - asked
        check_actions(chunk.actions)
        records.append(ChunkRecord(len(records), chunk.trace, sha256_of(chunk.actions)))
        previous_codes = chunk.codes
        for action in chunk.actions[: max_steps - steps]:
            steps += 1
            if env.step(action):
                outcome = "success"
                break
    return EpisodeResult(
        key=key,
        instruction=env.instruction,
        outcome=outcome,
        steps=steps,
        error="",
        physics_s=env.timings.physics_s,
        render_s=env.timings.render_s,
        reset_s=env.timings.reset_s,
        wait_s=wait_s,
        wall_s=clock() - started,
        assets=env.assets,
        renderer=env.renderer,
        final_state_sha256=sha256_of(env.state()),
        chunks=records,
    )
