"""Something that workers are asked once an episode, on Ray: which is next, and what comes of it.
Recordings are replayed so, and calibrations rolled out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ray.actor import ActorHandle

from rsd.cluster.leases import Lease, Leases, task_of
from rsd.cluster.pool import TICK_S, Member, Report, WorkerPool
from rsd.cluster.reasons import reason_of
from rsd.cluster.scaling import Footprint
from rsd.cluster.session import connected
from rsd.cluster.staffing import Staffing
from rsd.cluster.watch import Interrupts, beside
from rsd.config import ClusterConfig
from rsd.errors import UserError
from rsd.types import EpisodeKey

Answer = TypeVar("Answer")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Errand(Generic[Answer]):
    """What is asked of whom."""

    keys: Sequence[EpisodeKey]
    max_steps: Callable[[str], int]  # that an episode of a suite may take
    make: Callable[[Footprint], ActorHandle]
    ask: Callable[[ActorHandle, EpisodeKey], Any]  # the reference of an answer; UserError: nobody
    # can be asked that
    came: Callable[[EpisodeKey, Answer | None, str], None]  # told of each: what came of it, or why
    # nothing did
    named: Callable[[EpisodeKey], str]  # for people
    time_limit_s: float
    workers: int | None  # None: what the cluster holds


def run_errand(errand: Errand[Answer], say: Say) -> None:
    """Have it done on the cluster of RAY_ADDRESS or one of our own.

    Raises RunStoppedError where the cluster cannot do it or is lost, KeyboardInterrupt where the
    user interrupts and something is left after what was running, and what `came` raises.
    """
    with connected(), Interrupts(say) as interrupts:
        pool = WorkerPool[Lease, Answer](
            errand.make,
            errand.keys[0].suite,
            errand.time_limit_s,
            ClusterConfig.episodes_per_worker,
        )
        memory_gb = ClusterConfig.worker_memory_gb
        staffing = Staffing.of_workers(pool, errand.workers, memory_gb, say)
        run = ErrandRun(errand, pool, say)
        beside(lambda: run.run(staffing, lambda: interrupts.finish), lambda: interrupts.leave)
        if run.left:
            raise KeyboardInterrupt


class ErrandRun(Generic[Answer]):
    """Holds nothing that is done: that is up to `came`."""

    def __init__(self, errand: Errand[Answer], pool: WorkerPool[Lease, Answer], say: Say) -> None:
        self._errand = errand
        self._pool = pool
        self._say = say
        self._leases = Leases(errand.keys, ClusterConfig.retries, errand.max_steps)

    @property
    def left(self) -> int:
        """Of what nothing has come yet."""
        return self._leases.held + self._leases.waiting

    def run(self, staffing: Staffing, stop: Callable[[], bool]) -> None:
        """To the end; once `stop` says so, to that of what is running."""
        with staffing:
            while remaining := self._leases.held + (0 if stop() else self._leases.waiting):
                if stop():
                    staffing.wind_down()
                staffing.tend(remaining)
                if not stop():
                    self._hand_out()
                for report in self._pool.reports(TICK_S):
                    self._take_in(report)

    def _hand_out(self) -> None:
        for member in self._pool.idle:
            task = task_of(member.job.key) if member.job is not None else None
            lease = self._leases.take(member.name, task, self._pool.up)
            if lease is not None:
                self._ask(member, lease)

    def _ask(self, member: Member[Lease], lease: Lease) -> None:
        try:
            answer = self._errand.ask(member.actor, lease.key)
        except UserError as error:
            self._leases.done(lease.key)
            self._errand.came(lease.key, None, str(error))
            return
        self._pool.assign(member, lease, answer)

    def _take_in(self, report: Report[Lease, Answer]) -> None:
        key, attempt = report.job.key, report.job.attempt
        why = "" if report.error is None else reason_of(report.error)
        if report.answer is None and self._leases.failed(key):
            self._say(f"attempt {attempt} at {self._errand.named(key)} failed: {why}")
            return
        self._leases.done(key)
        self._errand.came(key, report.answer, why)
