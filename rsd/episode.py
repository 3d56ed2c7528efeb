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
    DecodeTrace,
    Decoding,
    Environment,
    EpisodeKey,
    EpisodeResult,
    draws_of,
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
    """Raises BadActionError for a wrong shape or type, NaN, or values outside [-1, 1]."""
    if actions.dtype != np.float32:  # as they are recorded, to be replayed
        raise BadActionError(f"actions are {actions.dtype}, expected float32")
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
    rollout = _Rollout(env, key, max_steps, clock)
    wait_s = 0.0
    records: list[ChunkRecord] = []
    previous_codes = None
    while not rollout.over:
        index = len(records)
        draws = draws_of(key, index)
        request = ChunkRequest(env.observe(), decoding, draws, index, previous_codes)
        asked = clock()
        chunk = decide(request)
        wait_s += clock() - asked
        check_actions(chunk.actions)
        executed = rollout.play(chunk.actions)
        records.append(_record(index, chunk, executed))
        previous_codes = chunk.codes
    return rollout.result(wait_s, records)


def _record(index: int, chunk: Chunk, executed: np.ndarray) -> ChunkRecord:
    decoded = None
    if chunk.codes is not None:
        decoded = chunk.codes[..., : chunk.trace.layers].astype(np.uint8)
    return ChunkRecord(index, chunk.trace, sha256_of(chunk.actions), decoded, executed)


_UNDECODED = DecodeTrace(drafted=(), accepted=(), passes=0, layers=0)  # an expert's


def run_expert_episode(
    env: Environment,
    key: EpisodeKey,
    act: Callable[[], np.ndarray],
    max_steps: int,
    clock: Callable[[], float] = time.perf_counter,
) -> EpisodeResult:
    """Run `key` with an expert that looks at the simulator's state before every step: `act` gives
    its action float32 (7,). Nothing is drawn; all its actions are one record, of no pass."""
    rollout = _Rollout(env, key, max_steps, clock)
    steps = []
    while not rollout.over:
        action = act()[None]
        check_actions(action)
        steps.append(rollout.play(action))
    executed = np.concatenate(steps)
    record = ChunkRecord(0, _UNDECODED, sha256_of(executed), actions=executed)
    return rollout.result(wait_s=0.0, chunks=[record])


class _Rollout:
    """An episode from its reset to its end: the first step whose goal holds, or `max_steps`."""

    def __init__(
        self, env: Environment, key: EpisodeKey, max_steps: int, clock: Callable[[], float]
    ) -> None:
        self._env, self._key, self._max_steps, self._clock = env, key, max_steps, clock
        self._started = clock()
        self._steps = 0
        self._success = False
        env.reset(key.trial)

    @property
    def over(self) -> bool:
        return self._success or self._steps >= self._max_steps

    def play(self, actions: np.ndarray) -> np.ndarray:
        """Execute actions float32 (T, 7) until the episode is over; returns those that were (n, 7),
        without a copy."""
        before = self._steps
        for action in actions:
            self._steps += 1
            self._success = self._env.step(action)
            if self.over:
                break
        return actions[: self._steps - before]

    def result(self, wait_s: float, chunks: list[ChunkRecord]) -> EpisodeResult:
        env = self._env
        return EpisodeResult(
            key=self._key,
            instruction=env.instruction,
            outcome="success" if self._success else "timeout",
            steps=self._steps,
            error="",
            physics_s=env.timings.physics_s,
            render_s=env.timings.render_s,
            reset_s=env.timings.reset_s,
            wait_s=wait_s,
            wall_s=self._clock() - self._started,
            assets=env.assets,
            renderer=env.renderer,
            final_state_sha256=sha256_of(env.state()),
            chunks=chunks,
        )
