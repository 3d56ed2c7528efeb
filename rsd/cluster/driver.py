"""The driver: hands episodes to workers until every one is in the books exactly once."""

from __future__ import annotations

import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from types import FrameType

from rsd.cluster.crew import Crew, Member, Report, worker_settings
from rsd.cluster.leases import Leases
from rsd.cluster.metrics import Metrics
from rsd.cluster.progress import Progress, Standing
from rsd.cluster.worker import NoReplicaError, error_result
from rsd.envs import suite_of
from rsd.preflight import RunPlan
from rsd.records import Books
from rsd.types import EpisodeResult

TICK_S = 0.5


class Interrupts:
    """Ctrl-C as a wish: once to finish what is running, twice to leave now. SIGTERM leaves now.

    A context, in which the signals do not raise.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.count = 0
        self._say = say

    @property
    def finish(self) -> bool:
        """Start nothing more."""
        return self.count > 0

    @property
    def leave(self) -> bool:
        """Do not wait for what is running."""
        return self.count > 1

    def __enter__(self) -> Interrupts:
        self._before = {
            signum: signal.signal(signum, self._on_signal)
            for signum in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self.count += 1 if signum == signal.SIGINT else 2
        if not self.leave:
            self._say("finishing the episodes that are running; Ctrl-C again to leave now")


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
        self._metrics = Metrics()

    def run(self) -> Standing:
        """Work until everything is recorded or the user interrupts.

        Raises RunStoppedError where the cluster cannot run the plan at all; the books hold what
        was done.
        """
        while self._remaining and not self._interrupts.leave:
            if self._interrupts.finish and not self._leases.held:
                break
            self._crew.look(self._remaining)
            self._hand_out()
            for report in self._crew.reports(TICK_S):
                self._settle(report)
            self._progress.show(self.standing)
        self._books.flush()
        return self.standing

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
        if self._interrupts.finish or not self._crew.can_decide:
            return
        crew = {member.name for member in self._crew.members if member.node}
        for member in self._crew.idle:
            lease = self._leases.take(member.name, member.task, crew)
            if lease is not None:
                self._crew.assign(member, lease, self._arms[lease.key.arm].decoding)

    def _settle(self, report: Report) -> None:
        """Record an attempt, or have it made again."""
        member = report.member
        lease, member.lease = member.lease, None
        assert lease is not None
        if isinstance(report.error, NoReplicaError):
            self._leases.returned(lease.key)
            return
        result = report.result or error_result(
            lease.key, _text(report.error), self._worker_settings
        )
        if result.outcome == "error" and self._leases.failed(lease.key):
            last = result.error.strip().splitlines()[-1]
            self._progress.say(f"attempt {lease.attempt} at {lease.key} failed: {last}")
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
