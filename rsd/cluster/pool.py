"""Workers, whatever they are asked: started, checked, timed out, replaced."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from rsd.cluster import life
from rsd.cluster.deaths import Deaths
from rsd.cluster.nodes import check_worker
from rsd.cluster.scaling import Footprint
from rsd.cluster.watch import check_cluster
from rsd.cluster.worker import KILL_GRACE_S, NoReplicaError, WorkerInfo
from rsd.provenance import Machine, source_sha256

TICK_S = 0.5  # that a run waits for reports at a time
PATIENCE_S = 60.0  # for an actor to start before somebody looks why it does not

Job = TypeVar("Job")  # what a worker is asked: an episode, a placement
Answer = TypeVar("Answer")  # what comes of it


@dataclass
class Member(Generic[Job]):
    """One worker process."""

    name: str
    actor: ActorHandle
    index: int  # chooses its replica
    node: str = ""  # empty until it is up
    job: Job | None = None  # the one that it was given last
    busy: bool = False
    done: int = 0  # jobs
    deadline: float = math.inf  # on the pool's clock: of its job, or when to look why it is not up


@dataclass(frozen=True)
class Report(Generic[Job, Answer]):
    """How a job came back: with an answer, or the exception that stands for it."""

    member: Member[Job]
    job: Job
    answer: Answer | None
    error: Exception | None


class WorkerPool(Generic[Job, Answer]):
    """Workers of one kind. One whose job failed is replaced, and one that has done its share."""

    def __init__(
        self,
        make: Callable[[Footprint], ActorHandle],
        suite: str,
        time_limit_s: float,
        jobs_per_worker: int,
        note_machine: Callable[[Machine], None] = lambda machine: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`make` starts an actor whose method `info` checks its node for `suite`; a job's own call
        is given to `assign`."""
        self.members: list[Member[Job]] = []
        self.waited_s = 0.0  # seconds in which the driver had nothing to do
        self._make = make
        self._suite = suite
        self._time_limit_s = time_limit_s
        self._jobs_per_worker = jobs_per_worker
        self._note_machine = note_machine
        self._clock = clock
        self._source_sha256 = source_sha256()
        self._footprint = Footprint(0)
        self._hiring = True
        self._pending: dict[ray.ObjectRef[Any], Member[Job]] = {}
        self._numbers = itertools.count()
        self._deaths = Deaths(clock)  # while they start

    @property
    def up(self) -> set[str]:
        """Names of the workers that have started."""
        return {member.name for member in self.members if member.node}

    @property
    def idle(self) -> list[Member[Job]]:
        """Workers that are up and have nothing to do."""
        return [member for member in self.members if member.node and not member.busy]

    def start(self, count: int, footprint: Footprint) -> None:
        """So many more, which ask for `footprint`, as do from now on those that replace others."""
        self._footprint = footprint
        for _ in range(count):
            self._start()

    def _start(self) -> None:
        index = next(self._numbers)
        actor = self._make(self._footprint)
        late = self._clock() + PATIENCE_S
        member = Member[Job](f"worker-{index}", actor, index, deadline=late)
        self.members.append(member)
        self._pending[actor.info.remote(self._suite)] = member

    def assign(self, member: Member[Job], job: Job, answer: ray.ObjectRef[Answer]) -> None:
        """An idle worker has been asked for a job; `answer` is what its call returned."""
        member.job, member.busy = job, True
        member.deadline = self._clock() + self._time_limit_s + KILL_GRACE_S
        self._pending[answer] = member

    def wind_down(self) -> None:
        """From now on nobody is replaced; who has a job ends it."""
        self._hiring = False

    def end(self) -> None:
        """End all processes; whatever they were doing is lost."""
        for member in list(self.members):
            self._dismiss(member)

    def _dismiss(self, member: Member[Job]) -> None:
        life.stop(member.actor)
        self.members.remove(member)
        self._pending = {ref: other for ref, other in self._pending.items() if other is not member}

    def _replace(self, member: Member[Job]) -> None:
        self._dismiss(member)
        if self._hiring:
            self._start()

    def reports(self, timeout_s: float) -> Iterator[Report[Job, Answer]]:
        """What comes back within `timeout_s`, hung jobs among it; first the answers, which are kept
        when a failure stops the run.

        Raises RunStoppedError where the cluster is lost, where a node cannot do what the driver's
        can, and where workers keep dying while they start.
        """
        back = [(ref, self._pending.pop(ref)) for ref in self._wait(timeout_s)]
        reports = [self._report(ref, member) for ref, member in back if member.busy]
        reports += self._hung()
        for report in sorted(reports, key=lambda report: report.error is not None):
            self._free(report)
            yield report
        for ref, member in back:
            if not member.node:
                self._welcome(ref, member)
        self._look_after_late_ones()

    def _wait(self, timeout_s: float) -> list[ray.ObjectRef[Any]]:
        started = time.perf_counter()
        refs = list(self._pending)
        done, _ = ray.wait(refs, timeout=timeout_s) if refs else ([], None)
        if not refs:
            time.sleep(timeout_s)
        self.waited_s += time.perf_counter() - started
        return ray.wait(refs, num_returns=len(refs), timeout=0)[0] if done else []

    def _report(self, ref: ray.ObjectRef[Answer], member: Member[Job]) -> Report[Job, Answer]:
        assert member.job is not None
        try:
            return Report(member, member.job, ray.get(ref), None)
        except Exception as error:  # of the process or of Ray: the driver decides what it costs
            return Report(member, member.job, None, error)

    def _hung(self) -> list[Report[Job, Answer]]:
        error = TimeoutError(
            f"the episode exceeded its time limit of {self._time_limit_s:g} s and did not react "
            f"within {KILL_GRACE_S:g} s more; its worker was killed (its stack is in the worker's "
            "log)"
        )
        waiting = [member for member in self._pending.values() if member.busy]
        return [
            Report(member, member.job, None, error)
            for member in waiting
            if member.job is not None and self._clock() > member.deadline
        ]

    def _free(self, report: Report[Job, Answer]) -> None:
        """Its worker has nothing to do any more, or is replaced."""
        member = report.member
        member.busy = False
        member.done += 1
        if report.error is not None:
            check_cluster()  # what fails with it is no fault of a job
        spoilt = report.error is not None and not isinstance(report.error, NoReplicaError)
        if spoilt or member.done >= self._jobs_per_worker:
            self._replace(member)

    def _welcome(self, ref: ray.ObjectRef[WorkerInfo], member: Member[Job]) -> None:
        try:
            info = ray.get(ref)
        except RayError as error:  # of the process, or an exception of its own
            self._deaths.add(error)
            self._replace(member)
            return
        self._deaths.end_row()
        check_worker(info, self._source_sha256)
        self._note_machine(info.machine)
        member.node = info.machine.node

    def _look_after_late_ones(self) -> None:
        for member in self.members:
            if not member.node and self._clock() > member.deadline:
                member.deadline = self._clock() + PATIENCE_S
                life.end_if_stopped(member.actor)
