"""The rollout loop: one episode of one arm on one environment. Pure of Ray, torch and robosuite."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rsd.delay import MEASURED, Schedule
from rsd.types import (
    ACTION_DIM,
    Arm,
    Chunk,
    ChunkRecord,
    ChunkRequest,
    DecodeTrace,
    Environment,
    EpisodeKey,
    EpisodeResult,
    Past,
    draws_of,
    past_after,
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
    arm: Arm,
    decide: Decide,
    max_steps: int,
    replan_steps: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> EpisodeResult:
    """Run `key` to its end: chunks open loop, all of one or `replan_steps` of it; the first step
    whose goal holds is a success, running out of `max_steps` is a timeout (PROTOCOL 1, 5, 9). With
    a delay of the arm the world goes on before a chunk arrives (rsd/delay.py).

    Exceptions of simulator or policy propagate: whoever leased the episode decides on a retry.
    """
    rollout = _Rollout(env, key, max_steps, clock)
    schedule = Schedule(arm.delay, replan_steps)
    measured = arm.delay is not None and arm.delay.steps is None
    wait_s, still_steps = 0.0, 0
    records: list[ChunkRecord] = []
    executed: list[list[np.ndarray]] = []  # by chunk
    past = Past()
    while not rollout.over:
        if schedule.asks:
            index = len(records)
            draws = draws_of(key, index)
            request = ChunkRequest(env.observe(), arm.decoding, draws, index, past, alone=measured)
            asked = clock()
            chunk = decide(request)
            wait_s += clock() - asked
            check_actions(chunk.actions)
            delay_steps = schedule.asked(chunk)
            records.append(_record(index, chunk, None if arm.delay is None else delay_steps))
            executed.append([])
            past = past_after(request, chunk)
        else:
            move = schedule.move()
            still_steps += move.still
            executed[move.chunk].append(move.action)
            rollout.step(move.action)
    result = rollout.result(wait_s, list(map(_with_actions, records, executed)))
    if arm.delay is None:
        return result
    return dataclasses.replace(result, **told(arm), still_steps=still_steps)


def told(arm: Arm) -> dict[str, Any]:
    """What an episode's row says of its arm's delay."""
    if arm.delay is None:
        return {}
    steps = arm.delay.steps
    delay = MEASURED if steps is None else str(steps)
    return {"delay": delay, "while_waiting": arm.delay.waiting}


def _record(index: int, chunk: Chunk, delay_steps: int | None) -> ChunkRecord:
    decoded = None
    if chunk.codes is not None:
        decoded = chunk.codes[..., : chunk.trace.layers].astype(np.uint8)
    sha256 = sha256_of(chunk.actions)
    return ChunkRecord(index, chunk.trace, sha256, decoded, delay_steps=delay_steps)


def _with_actions(record: ChunkRecord, executed: list[np.ndarray]) -> ChunkRecord:
    actions = np.array(executed, np.float32).reshape(-1, ACTION_DIM)
    return dataclasses.replace(record, actions=actions)


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
        action = act()
        check_actions(action[None])
        rollout.step(action)
        steps.append(action)
    executed = np.stack(steps)
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

    def step(self, action: np.ndarray) -> None:
        self._steps += 1
        self._success = self._env.step(action)

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
