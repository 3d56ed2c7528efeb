"""An evaluation on Ray: which episode is run next, and what comes of it."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

from ray.actor import ActorHandle
from rich.console import Console

from rsd.books import Books
from rsd.cluster.actors import EnvWorkerActor, start_worker
from rsd.cluster.address import cluster_address
from rsd.cluster.deaths import Deaths
from rsd.cluster.display import Display, Standing, make_display
from rsd.cluster.leases import Lease, Leases, task_of
from rsd.cluster.metrics import Metrics, latency_s
from rsd.cluster.pool import TICK_S, Report, WorkerPool
from rsd.cluster.reasons import killed_for_memory, reason_of
from rsd.cluster.replicas import Replicas
from rsd.cluster.scaling import Footprint, Wishes
from rsd.cluster.staffing import Staffing
from rsd.cluster.watch import Interrupts, beside
from rsd.cluster.worker import NoReplicaError, WorkerSettings, error_result
from rsd.envs import suite_of
from rsd.preflight import RunPlan
from rsd.tracking.curves import Finished
from rsd.tracking.log import UNLOGGED, RunLog
from rsd.types import EpisodeResult


def wishes_of(run: RunPlan) -> Wishes:
    """What the user asked for in workers and replicas; experts ask no replica."""
    cluster = run.config.cluster
    gpus = cluster.gpus_per_replica
    return Wishes(
        cluster.workers,
        cluster.replicas if run.asks_policy else 0,
        0.0 if gpus is None and run.policy.elsewhere else gpus,
        cluster.worker_memory_gb,
        run.batch_size,
        grows=cluster_address() is not None,
    )


class EvaluationRun:
    """One session of a run. Holds no result: what is done is in the books."""

    def __init__(
        self,
        run: RunPlan,
        books: Books,
        display: Display,
        interrupts: Interrupts,
        clock: Callable[[], float] = time.monotonic,
        log: RunLog = UNLOGGED,
    ) -> None:
        recorded = books.recorded()
        cluster = run.config.cluster
        self._arm_of = run.arm_of
        self._books = books
        self._display = display
        self._interrupts = interrupts
        self._log = log
        self._clock = clock
        self._leases = Leases(
            (key for key in run.keys if key not in recorded),
            cluster.retries,
            max_steps=lambda suite: run.protocol.most_steps(suite_of(suite)),
        )
        self._outcomes: Counter[tuple[str, str]] = Counter()  # (arm, outcome) of this session
        self._planned = len(run.keys)
        self._recorded_before = self._planned - self._leases.waiting
        self._started = clock()
        self._metrics = Metrics(books.run_id)
        self._told_full = False
        self._memory_deaths = Deaths(clock)  # of workers, while they run episodes
        self._worker_settings = settings = WorkerSettings(
            run.assets, run.renderer, run.policy.images, cluster.time_limit_s, run.protocol
        )

        def make(footprint: Footprint) -> ActorHandle:
            return start_worker(EnvWorkerActor, footprint, settings)

        self.pool = WorkerPool[Lease, EpisodeResult](
            make,
            run.keys[0].suite,
            cluster.time_limit_s,
            cluster.episodes_per_worker,
            books.note_machine,
            clock,
        )
        wishes = wishes_of(run)
        asked = wishes.replicas != 0
        self._replicas = Replicas(
            run, asked, display.say, books.note_machine, books.note_replica, clock
        )
        self._staffing = Staffing(wishes, self.pool, self._replicas, display.say, clock)

    def run(self) -> Standing:
        """Work until everything is recorded or the user interrupts.

        Raises RunStoppedError where the cluster cannot run the plan at all; the books hold what
        was done.
        """
        with self._staffing:
            while self._remaining and not self._interrupts.leave:
                if self._interrupts.finish:
                    if not self._leases.held:
                        break
                    self._staffing.wind_down()
                self._replicas.tend(len(self.pool.members))
                self._staffing.tend(self._remaining)
                self._hand_out()
                for report in self.pool.reports(TICK_S):
                    self._take_in(report)
                self._tend_books()
                self._display.show(self.standing)
                self._tend_log()
            self._books.flush()
            while self._books.waiting and not self._interrupts.leave:  # for a store that is away
                time.sleep(TICK_S)
                self._tend_books()
            self._tend_books()
        return self.standing

    def _tend_books(self) -> None:
        """Raises CannotWriteError where their store has been away for too long."""
        for line in self._books.news():
            self._display.say(line)
        if self._books.full and not self._told_full:
            self._display.say(
                f"{self._books.waiting} episodes wait for {self._books.output}: no more are begun "
                "until it is written again"
            )
        self._told_full = self._books.full
        self._books.catch_up()

    def _tend_log(self) -> None:
        for line in self._log.news():
            self._display.say(line)
        self._log.show(lambda: pace(self.standing))

    @property
    def standing(self) -> Standing:
        """Where the run is now."""
        return Standing(
            planned=self._planned,
            recorded_before=self._recorded_before,
            outcomes=self._outcomes,
            workers=len(self.pool.members),
            running=self._leases.held,
            elapsed_s=self._clock() - self._started,
        )

    @property
    def _remaining(self) -> int:
        return self._leases.waiting + self._leases.held

    def _hand_out(self) -> None:
        if self._interrupts.finish or self._books.full or not self._replicas.ready:
            return
        for member in self.pool.idle:
            task = task_of(member.job.key) if member.job is not None else None
            lease = self._leases.take(member.name, task, self.pool.up)
            if lease is not None:
                arm = self._arm_of(lease.key)
                replicas = self._replicas.actors(home=member.index)
                answer: Any = member.actor.episode.remote(lease.key, arm, replicas)
                self.pool.assign(member, lease, answer)

    def _take_in(self, report: Report[Lease, EpisodeResult]) -> None:
        """Record an attempt, or have it made again."""
        lease, error = report.job, report.error
        if isinstance(error, NoReplicaError) or self._memory_is_short(error):
            self._leases.returned(lease.key)
            return
        result = report.answer or error_result(
            lease.key, self._arm_of(lease.key), _text(error), self._worker_settings
        )
        if result.outcome == "error" and self._leases.failed(lease.key):
            why = reason_of(error) if error else result.error.strip().splitlines()[-1]
            self._display.say(f"attempt {lease.attempt} at {lease.key} failed: {why}")
            return
        attempts = self._leases.done(lease.key)
        self._books.add(
            result, attempts=attempts, worker=report.member.name, node=report.member.node
        )
        self._outcomes[result.key.arm, result.outcome] += 1
        self._metrics.record(result, self._remaining)
        traces = [chunk.trace for chunk in result.chunks if chunk.trace.is_decode]
        passes = [trace.passes for trace in traces]
        latencies_s = [latency_s(trace) for trace in traces]
        key = result.key
        self._log.add(Finished(key.arm, key.suite, result.outcome, passes, latencies_s))

    def _memory_is_short(self, error: Exception | None) -> bool:
        """Whether a worker was killed for memory, and no episode has come back since the one before
        was: the nodes lack it then, whatever an episode does.

        Raises RunStoppedError where every worker is: every episode would become an error.
        """
        if error is None:
            self._memory_deaths.end_row()
        elif killed_for_memory(error):
            self._memory_deaths.add(error)
            return self._memory_deaths.are_many
        return False


def _text(error: Exception | None) -> str:
    """The traceback of a lost attempt; a task's own carries the worker's."""
    return "".join(traceback.format_exception_only(error)) if error else ""


def pace(standing: Standing) -> dict[str, float]:
    """What a tracker shows of a run beside its curves."""
    return {
        "pace/episodes_per_hour": standing.per_hour,
        "pace/workers": standing.workers,
        "pace/running": standing.running,
    }


def evaluate(run: RunPlan, books: Books, console: Console, log: RunLog = UNLOGGED) -> Standing:
    """Run what the books lack of a plan on the connected cluster, or less after a Ctrl-C.

    Raises RunStoppedError where the cluster cannot run it or is lost, and KeyboardInterrupt for a
    second Ctrl-C or SIGTERM. The books may then lack what only `close` writes.
    """
    run = dataclasses.replace(run, run_id=books.run_id)  # that of the run that is resumed
    with make_display(console) as display, Interrupts(display.say) as interrupts:
        try:
            standing = beside(
                lambda: EvaluationRun(run, books, display, interrupts, log=log).run(),
                lambda: interrupts.leave,
            )
        finally:
            if interrupts.leave:
                books.hurry()
        if interrupts.leave:
            raise KeyboardInterrupt
        return standing
