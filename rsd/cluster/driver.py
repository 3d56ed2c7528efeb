"""The driver: hands episodes to workers until every one is in the books exactly once."""

from __future__ import annotations

import time
import traceback
from collections import Counter

from rsd.books import Books
from rsd.cluster.crew import Crew, Member, Report, worker_settings
from rsd.cluster.leases import Leases
from rsd.cluster.metrics import Metrics
from rsd.cluster.progress import Progress, Standing
from rsd.cluster.reasons import reason_of
from rsd.cluster.watch import Interrupts, check_cluster
from rsd.cluster.worker import NoReplicaError, error_result
from rsd.envs import suite_of
from rsd.preflight import RunPlan
from rsd.types import EpisodeResult

TICK_S = 0.5


class Driver:
    """Leases, retries, records. Holds no result: what is done is in the books."""

    def __init__(
        self,
        run: RunPlan,
        books: Books,
        crew: Crew,
        progress: Progress,
        interrupts: Interrupts,
    ) -> None:
        recorded = books.recorded()
        self._arms = run.arms
        self._worker_settings = worker_settings(run)
        self._books = books
        self._crew = crew
        self._progress = progress
        self._interrupts = interrupts
        self._recycle_after = run.config.cluster.episodes_per_worker
        self._leases = Leases(
            (key for key in run.keys if key not in recorded),
            run.config.cluster.retries,
            max_steps=lambda suite: suite_of(suite).max_steps,
        )
        self._outcomes: Counter[tuple[str, str]] = Counter()  # (arm, outcome) of this session
        self._planned = len(run.keys)
        self._recorded_before = self._planned - self._leases.waiting
        self._started = time.monotonic()
        self._metrics = Metrics(books.run_id)
        self._told_full = False

    def run(self) -> Standing:
        """Work until everything is recorded or the user interrupts.

        Raises RunStoppedError where the cluster cannot run the plan at all; the books hold what
        was done.
        """
        while self._remaining and not self._interrupts.leave:
            if self._interrupts.finish:
                if not self._leases.held:
                    break
                self._crew.wind_down()
            self._crew.look(self._remaining)
            self._hand_out()
            for report in self._crew.reports(TICK_S):
                self._settle(report)
            self._look_at_books()
            self._progress.show(self.standing)
        self._books.flush()
        while self._books.waiting and not self._interrupts.leave:  # for a store that is away
            time.sleep(TICK_S)
            self._look_at_books()
        self._look_at_books()
        return self.standing

    def _look_at_books(self) -> None:
        """Raises CannotWriteError where their store has been away for too long."""
        for line in self._books.news():
            self._progress.say(line)
        if self._books.full and not self._told_full:
            self._progress.say(
                f"{self._books.waiting} episodes wait for {self._books.output}: no more are begun "
                "until it is written again"
            )
        self._told_full = self._books.full
        self._books.look()

    @property
    def standing(self) -> Standing:
        """Where the run is now."""
        return Standing(
            planned=self._planned,
            recorded_before=self._recorded_before,
            outcomes=self._outcomes,
            workers=len(self._crew.members),
            running=self._leases.held,
            elapsed_s=time.monotonic() - self._started,
        )

    @property
    def _remaining(self) -> int:
        return self._leases.waiting + self._leases.held

    def _hand_out(self) -> None:
        if self._interrupts.finish or self._books.full or not self._crew.can_decide:
            return
        crew = {member.name for member in self._crew.members if member.node}
        for member in self._crew.idle:
            lease = self._leases.take(member.name, member.task, crew)
            if lease is not None:
                self._crew.assign(member, lease, self._arms[lease.key.arm].decoding)

    def _settle(self, report: Report) -> None:
        """Record an attempt, or have it made again. Raises RunStoppedError where it failed with the
        cluster: that is no episode's error."""
        member = report.member
        lease, member.lease = member.lease, None
        assert lease is not None
        if report.error is not None:
            check_cluster()
        if isinstance(report.error, NoReplicaError):
            self._leases.returned(lease.key)
            return
        if self._crew.is_short_of_memory(report.error):
            self._leases.returned(lease.key)
            self._crew.replace(member)
            return
        result = report.result or error_result(
            lease.key, _text(report.error), self._worker_settings
        )
        if result.outcome == "error" and self._leases.failed(lease.key):
            why = reason_of(report.error) if report.error else result.error.strip().splitlines()[-1]
            self._progress.say(f"attempt {lease.attempt} at {lease.key} failed: {why}")
        else:
            self._record(result, member)
        if report.error is not None or member.episodes >= self._recycle_after:
            self._crew.replace(member)

    def _record(self, result: EpisodeResult, member: Member) -> None:
        attempts = self._leases.done(result.key)
        self._books.add(result, attempts=attempts, worker=member.name, node=member.node)
        self._outcomes[result.key.arm, result.outcome] += 1
        self._metrics.record(result, self._remaining)


def _text(error: Exception | None) -> str:
    """The traceback of a lost attempt; a task's own carries the worker's."""
    return "".join(traceback.format_exception_only(error)) if error else ""
