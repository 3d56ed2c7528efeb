"""A worker that collects demonstrations. No ray."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

from rsd.cluster.worker import Worker, WorkerSettings, expert_of, own_policy, time_limit
from rsd.demos import (
    CollectionSettings,
    Demonstration,
    Failure,
    NoviceSettings,
    collect_demonstration,
    takes_other_rim,
)
from rsd.envs.libero import LiberoEnvironment
from rsd.episode import Decide
from rsd.experts import has_other_rim
from rsd.suites import Task
from rsd.types import SimTimings


@dataclass(frozen=True)
class Cost:
    """What one attempt took of its worker."""

    timings: SimTimings
    steps: int  # 0 where nothing came of it
    wall_s: float
    peak_memory_bytes: int  # of the worker's process so far


@dataclass(frozen=True)
class Attempt:
    """What came of one placement."""

    outcome: Demonstration | Failure
    cost: Cost


class Collector(Worker[LiberoEnvironment]):
    """Tries placements for a collection."""

    def __init__(
        self, settings: WorkerSettings, collection: CollectionSettings, policy: str | None = None
    ) -> None:
        """`policy` names the novice that `collection` wants."""
        super().__init__(settings, LiberoEnvironment)
        self._collection = collection
        self._decide = None
        if collection.driver is not None:
            assert policy is not None, "a novice needs its policy"
            self._decide = _decider(policy, collection.driver)

    def collect(self, task: Task, seed: int) -> Attempt:
        """Try one placement. Exceptions propagate and leave no simulator behind."""
        started = time.perf_counter()
        other_rim = None
        if self._collection.either_rim and has_other_rim(task.suite, task.task_id):
            other_rim = takes_other_rim(seed, task.task_id)
        try:
            with time_limit(self._settings.time_limit_s):
                env = self._simulator((task.suite, task.task_id))
                outcome = collect_demonstration(
                    env,
                    expert_of(env, task.suite, task.task_id, bool(other_rim)),
                    task,
                    seed,
                    self._settings.images,
                    self._collection,
                    self._decide,
                    other_rim,
                )
        except BaseException:
            self._close()
            raise
        steps = len(outcome) if isinstance(outcome, Demonstration) else 0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Attempt(outcome, Cost(env.timings, steps, time.perf_counter() - started, peak))


def _decider(policy: str, novice: NoviceSettings) -> Decide:
    """A policy of the worker's own: a novice is asked once in several steps."""
    loaded = own_policy(policy, novice.checkpoint_sha256)
    return lambda request: loaded.act([request])[0]
