"""Recorded episodes simulated again on Ray: which is next, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ray.actor import ActorHandle

from rsd.cluster.actors import start_worker
from rsd.cluster.leases import Lease, Leases, task_of
from rsd.cluster.pool import TICK_S, Member, Report, WorkerPool
from rsd.cluster.reasons import reason_of
from rsd.cluster.replayer import Replayed, Replayer
from rsd.cluster.scaling import Footprint
from rsd.cluster.session import connected
from rsd.cluster.staffing import Staffing
from rsd.cluster.watch import Interrupts, beside
from rsd.cluster.worker import WorkerSettings
from rsd.config import ClusterConfig
from rsd.envs import suite_of
from rsd.errors import UserError
from rsd.replay.choice import Take
from rsd.types import EpisodeResult

Read = Callable[[Take], list[EpisodeResult]]
Came = Callable[[Take, Replayed | None, str], None]


@dataclass(frozen=True)
class Job:
    """What a worker is asked."""

    lease: Lease
    take: Take


def replay_on_ray(
    takes: Sequence[Take],
    read: Read,
    settings: WorkerSettings,
    draws: bool,
    workers: int,
    came: Came,
    say: Callable[[str], None],
) -> None:
    """Simulate all takes on the cluster of RAY_ADDRESS or one of our own. `came` is told of each,
    with what came of it or why nothing did.

    `read` may raise UserError for an episode that cannot be simulated.

    Raises RunStoppedError where the cluster cannot do it or is lost, KeyboardInterrupt where the
    user interrupts, and what `read` and `came` raise.
    """

    def make(footprint: Footprint) -> ActorHandle:
        return start_worker(Replayer, footprint, settings, draws)

    leases = Leases(
        (take.key for take in takes),
        ClusterConfig.retries,
        max_steps=lambda suite: settings.protocol.most_steps(suite_of(suite)),
    )
    with connected(), Interrupts(say) as interrupts:
        pool = WorkerPool[Job, Replayed](
            make,
            takes[0].key.suite,
            2 * settings.time_limit_s,  # of a pair
            ClusterConfig.episodes_per_worker,
        )
        run = _ReplayRun(takes, read, leases, pool, came, say)
        staffing = Staffing.of_workers(pool, workers, ClusterConfig.worker_memory_gb, say)
        beside(lambda: run.run(staffing, lambda: interrupts.finish), lambda: interrupts.leave)
        if interrupts.finish:
            raise KeyboardInterrupt


class _ReplayRun:
    """Holds nothing that is done: that is up to `came`."""

    def __init__(
        self,
        takes: Sequence[Take],
        read: Read,
        leases: Leases,
        pool: WorkerPool[Job, Replayed],
        came: Came,
        say: Callable[[str], None],
    ) -> None:
        self._takes = {take.key: take for take in takes}
        self._read = read
        self._leases = leases
        self._pool = pool
        self._came = came
        self._say = say

    def run(self, staffing: Staffing, stop: Callable[[], bool]) -> None:
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
            task = task_of(member.job.take.key) if member.job is not None else None
            lease = self._leases.take(member.name, task, self._pool.up)
            if lease is not None:
                self._ask(member, Job(lease, self._takes[lease.key]))

    def _ask(self, member: Member[Job], job: Job) -> None:
        try:
            recorded = self._read(job.take)
        except UserError as error:
            self._leases.done(job.lease.key)
            self._came(job.take, None, str(error))
            return
        answer: Any = member.actor.replay.remote(recorded)
        self._pool.assign(member, job, answer)

    def _take_in(self, report: Report[Job, Replayed]) -> None:
        key, take = report.job.lease.key, report.job.take
        why = "" if report.error is None else reason_of(report.error)
        if report.answer is None and self._leases.failed(key):
            self._say(f"attempt {report.job.lease.attempt} at {take} failed: {why}")
            return
        self._leases.done(key)
        self._came(take, report.answer, why)
