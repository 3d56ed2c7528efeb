"""Rollouts of a calibration on Ray: which is next, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray.actor import ActorHandle

from rsd.calibration import Observed
from rsd.cluster.actors import start_worker
from rsd.cluster.calibrator import Calibrator
from rsd.cluster.leases import Lease, Leases, task_of
from rsd.cluster.pool import TICK_S, WorkerPool
from rsd.cluster.reasons import reason_of
from rsd.cluster.scaling import Footprint
from rsd.cluster.session import connected
from rsd.cluster.staffing import Staffing
from rsd.cluster.watch import Interrupts, beside
from rsd.cluster.worker import WorkerSettings
from rsd.config import ClusterConfig
from rsd.suites import get_suite
from rsd.types import Arm, EpisodeKey

Came = Callable[[EpisodeKey, Observed | None, str], None]


@dataclass(frozen=True)
class CalibrationPlan:
    """Checked rollouts."""

    arms: Mapping[EpisodeKey, Arm]  # of every rollout, what acts in it
    policy: str
    sha256: str
    stored: bool
    worker: WorkerSettings
    workers: int | None


def observe(plan: CalibrationPlan, came: Came, say: Callable[[str], None]) -> None:
    """Roll out on the cluster of RAY_ADDRESS or one of our own. `came` is told of each rollout,
    with what was seen or why nothing was.

    Raises RunStoppedError where the cluster cannot do it, KeyboardInterrupt where the user
    interrupts.
    """

    def make(footprint: Footprint) -> ActorHandle:
        return start_worker(
            Calibrator, footprint, plan.worker, plan.policy, plan.sha256, plan.stored
        )

    keys = list(plan.arms)
    leases = Leases(keys, ClusterConfig.retries, lambda suite: get_suite(suite).max_steps)
    with connected(), Interrupts(say) as interrupts:
        pool = WorkerPool[Lease, Observed](
            make, keys[0].suite, plan.worker.time_limit_s, ClusterConfig.episodes_per_worker
        )
        staffing = Staffing.of_workers(pool, plan.workers, ClusterConfig.worker_memory_gb, say)

        def work() -> None:
            with staffing:
                while not interrupts.finish and (left := leases.held + leases.waiting):
                    staffing.tend(left)
                    _hand_out(pool, leases, plan)
                    for report in pool.reports(TICK_S):
                        key = report.job.key
                        why = "" if report.error is None else reason_of(report.error)
                        if report.answer is None and leases.failed(key):
                            say(f"attempt {report.job.attempt} at {named(key)} failed: {why}")
                            continue
                        leases.done(key)
                        came(key, report.answer, why)

        beside(work, lambda: interrupts.leave)
        if interrupts.finish:
            raise KeyboardInterrupt


def _hand_out(pool: WorkerPool[Lease, Observed], leases: Leases, plan: CalibrationPlan) -> None:
    for member in pool.idle:
        task = task_of(member.job.key) if member.job is not None else None
        lease = leases.take(member.name, task, pool.up)
        if lease is not None:
            answer: Any = member.actor.roll_out.remote(lease.key, plan.arms[lease.key])
            pool.assign(member, lease, answer)


def named(key: EpisodeKey) -> str:
    """Of a rollout, for people."""
    return f"{key.suite}, task {key.task_id}, placement {key.trial}"
