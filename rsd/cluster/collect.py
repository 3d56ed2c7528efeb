"""A collection on Ray: which placement is tried next, and what comes of it."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ray.actor import ActorHandle

from rsd.cluster.actors import DEATHS, start_worker
from rsd.cluster.collector import Attempt, Collector, Cost
from rsd.cluster.deaths import Deaths
from rsd.cluster.pool import TICK_S, Member, Report, WorkerPool
from rsd.cluster.reasons import reason_of
from rsd.cluster.scaling import Footprint
from rsd.cluster.staffing import Staffing
from rsd.cluster.worker import WorkerSettings
from rsd.config import ClusterConfig
from rsd.demos import CollectionSettings, Demonstration, Failure, Quota, Store
from rsd.suites import Task

RETRIES = ClusterConfig.retries  # of a placement after an exception, a hang or a dead worker
MANY = 10  # placements of a task, and more than were solved, that tell that something is wrong


@dataclass(frozen=True)
class CollectionPlan:
    """A checked collection."""

    tasks: tuple[Task, ...]
    demos: int  # wanted of each task
    first_seed: int
    worker: WorkerSettings
    collection: CollectionSettings
    policy: str | None  # of the novice that `collection` wants
    code: dict[str, Any]  # version that goes into every demonstration
    workers: int | None  # None: what the cluster holds
    worker_memory_gb: float
    demos_per_worker: int  # attempts after which a worker's process is replaced


@dataclass(frozen=True)
class TaskStanding:
    """How far a task is."""

    wanted: int
    done: int
    done_now: int = 0  # by this session, as below
    failed_now: int = 0  # placements that the expert did not solve
    void_now: int = 0  # that were solved before anything was done
    errors_now: int = 0  # that something else broke off, RETRIES included: skipped

    @property
    def given_up(self) -> str:
        """Why it is no use to go on; empty where it is."""
        for count, least, what in (
            (self.failed_now, max(MANY, self.wanted), "were not solved"),
            (self.void_now, max(MANY, self.wanted), "were solved before anything was done"),
            (self.errors_now, MANY, "ended in errors, which are none of the expert's failures"),
        ):
            if count >= least and count > self.done_now:
                return f"{count} placements {what}; {self.done_now} were solved"
        return ""

    @property
    def complete(self) -> bool:
        return self.done >= self.wanted


class Assignment(NamedTuple):
    """What a worker is asked: a placement."""

    task: Task
    seed: int


class CollectionRun:
    """One session of a collection. `standings` may be read at any time.

    Making one puts into the tasks' files what an interrupted session left behind, and raises
    UserError where the folder holds damaged ones.
    """

    def __init__(
        self,
        plan: CollectionPlan,
        store: Store,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._store = store
        self._say = say
        store.merge_all()
        self._quotas: dict[Task, Quota] = {
            task: store.quota(task, plan.demos, plan.first_seed) for task in plan.tasks
        }
        self._counts: Counter[tuple[Task, str]] = Counter()  # fields of TaskStanding
        self._tries: Counter[Assignment] = Counter()
        self._deaths = Deaths(clock)  # of workers, while they try
        self.costs: list[Cost] = []

        def make(footprint: Footprint) -> ActorHandle:
            return start_worker(Collector, footprint, plan.worker, plan.collection, plan.policy)

        self._pool = WorkerPool[Assignment, Attempt](
            make, plan.tasks[0].suite, plan.worker.time_limit_s, plan.demos_per_worker, clock=clock
        )
        self._staffing = Staffing.of_workers(
            self._pool, plan.workers, plan.worker_memory_gb, say, clock
        )

    def standings(self) -> dict[Task, TaskStanding]:
        return {
            task: TaskStanding(
                quota.wanted,
                len(quota.done),
                **{name: count for (of, name), count in self._counts.items() if of == task},
            )
            for task, quota in self._quotas.items()
        }

    def run(
        self, stop: Callable[[], bool], show: Callable[[dict[Task, TaskStanding]], None]
    ) -> None:
        """Collect until every task has its demonstrations or is given up, or `stop` says so.

        What is kept lies merged in the tasks' files afterwards, also after an exception. Raises
        RunStoppedError where workers do not start, and UserError where files cannot be written.
        """
        with contextlib.ExitStack() as afterwards:
            afterwards.callback(self._store.merge_all)
            afterwards.enter_context(self._staffing)
            while not stop() and self._remaining:
                self._staffing.tend(self._remaining)
                self._hand_out()
                for report in self._pool.reports(TICK_S):
                    self._take_in(report)
                show(self.standings())
        show(self.standings())

    # -- what to try next ---------------------------------------------------------------------

    @property
    def _remaining(self) -> int:
        held = sum(quota.held for quota in self._quotas.values())
        return held + sum(self._quotas[task].open for task in self._open_tasks())

    def _open_tasks(self) -> list[Task]:
        standings = self.standings()
        return [
            task
            for task, quota in self._quotas.items()
            if quota.open and not standings[task].given_up
        ]

    def _hand_out(self) -> None:
        for member in self._pool.idle:
            task = self._task_for(member)
            seed = self._quotas[task].take() if task is not None else None
            if task is not None and seed is not None:
                assignment = Assignment(task, seed)
                self._tries[assignment] += 1
                self._pool.assign(member, assignment, member.actor.collect.remote(task, seed))

    def _task_for(self, member: Member[Assignment]) -> Task | None:
        """The worker's own task as long as it lasts: making a simulator takes seconds. Then the one
        with the most left per worker on it."""
        open_tasks = self._open_tasks()
        if member.job is not None and member.job.task in open_tasks:
            return member.job.task
        quotas = self._quotas
        return max(
            open_tasks, key=lambda task: quotas[task].open / (1 + quotas[task].held), default=None
        )

    # -- what comes of it ---------------------------------------------------------------------

    def _take_in(self, report: Report[Assignment, Attempt]) -> None:
        if report.answer is None:
            self._retry_or_skip(report.job, report.error)
            return
        self._deaths.end_row()
        self._keep(report.job, report.answer.outcome)
        self.costs.append(report.answer.cost)

    def _keep(self, job: Assignment, outcome: Demonstration | Failure) -> None:
        task, seed = job
        if isinstance(outcome, Failure):
            self._store.note_failure(task, outcome)
            self._quotas[task].gave_nothing(seed)
            self._count(task, "void_now" if outcome.void else "failed_now")
        else:
            self._store.add(dataclasses.replace(outcome, code=self._plan.code))
            self._quotas[task].succeeded(seed)
            self._count(task, "done_now")
            if self.standings()[task].complete:
                self._store.merge(task)

    def _count(self, task: Task, field: str) -> None:
        before = self.standings()[task].given_up
        self._counts[task, field] += 1
        why = self.standings()[task].given_up
        if why and not before:
            self._say(f"giving up on task {task.task_id} ({task.instruction}): {why}")

    def _retry_or_skip(self, job: Assignment, error: Exception | None) -> None:
        """Nothing came of an attempt, and not through the expert: an exception, a hang, a dead
        worker, a demonstration that no file may hold."""
        assert error is not None
        task, seed = job
        self._say(f"task {task.task_id}, seed {seed}: {type(error).__name__}: {reason_of(error)}")
        if isinstance(error, DEATHS):
            self._deaths.add(error)
        if self._tries[job] > RETRIES:
            text = "".join(traceback.format_exception_only(error))  # a task's holds the worker's
            self._store.note_error(task, seed, text)
            self._quotas[task].skip(seed)
            self._count(task, "errors_now")
        else:
            self._quotas[task].returned(seed)
