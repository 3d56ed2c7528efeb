"""Rollouts of a calibration on Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray.actor import ActorHandle

from rsd.calibration import Observed
from rsd.cluster.actors import start_worker
from rsd.cluster.calibrator import Calibrator
from rsd.cluster.errands import Errand, run_errand
from rsd.cluster.scaling import Footprint
from rsd.cluster.worker import WorkerSettings
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
    """Roll out. `came` is told of each, with what was seen or why nothing was. Raises as
    `run_errand`."""

    def make(footprint: Footprint) -> ActorHandle:
        return start_worker(
            Calibrator, footprint, plan.worker, plan.policy, plan.sha256, plan.stored
        )

    def ask(worker: ActorHandle, key: EpisodeKey) -> Any:
        return worker.roll_out.remote(key, plan.arms[key])

    errand = Errand[Observed](
        list(plan.arms),
        lambda suite: get_suite(suite).max_steps,
        make,
        ask,
        came,
        named,
        plan.worker.time_limit_s,
        plan.workers,
    )
    run_errand(errand, say)


def named(key: EpisodeKey) -> str:
    """Of a rollout, for people."""
    return f"{key.suite}, task {key.task_id}, placement {key.trial}"
