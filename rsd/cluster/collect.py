"""Collecting demonstrations on Ray: workers try placements, the driver keeps what they solve."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import resource
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from rsd.cluster import actors, scaling
from rsd.cluster.actors import WorkerInfo, worker_info
from rsd.cluster.address import cluster_address
from rsd.cluster.crew import (
    LOOK_S,
    PATIENCE_S,
    Deaths,
    RunStoppedError,
    ask_for_no_nodes,
    ask_for_nodes,
    check_worker,
    cluster_size,
    waiting_for,
)
from rsd.cluster.reasons import reason_of
from rsd.cluster.scaling import Footprint, Wishes
from rsd.cluster.watch import check_cluster
from rsd.cluster.worker import (
    KILL_GRACE_S,
    SimulatorSlot,
    WorkerSettings,
    expert_of,
    time_limit,
)
from rsd.config import ClusterConfig
from rsd.demos import (
    CollectionSettings,
    Demonstration,
    DriverSettings,
    Failure,
    Quota,
    Store,
    collect_demonstration,
)
from rsd.envs.libero import LiberoEnvironment
from rsd.envs.rendering import process_variables
from rsd.episode import Decide
from rsd.models import load_policy
from rsd.suites import Task
from rsd.types import SimTimings

RETRIES = ClusterConfig.retries  # of a placement after an exception, a hang or a dead worker
MANY = 10  # placements of a task, and more than were solved, that tell that something is wrong
TICK_S = 0.5


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


class Collector:
    """A worker: one simulator at a time, kept for the next placement of the same task."""

    def __init__(
        self, settings: WorkerSettings, collection: CollectionSettings, policy: str | None = None
    ) -> None:
        """`policy` names the one that `collection.driver` wants."""
        self._settings = settings
        self._collection = collection
        self._decide = None
        if collection.driver is not None:
            assert policy is not None, "a driver needs its policy"
            self._decide = _decider(policy, collection.driver)
        self._simulator = SimulatorSlot(settings, LiberoEnvironment)

    def info(self, suite: str) -> WorkerInfo:
        return worker_info(suite, self._settings)

    def collect(self, task: Task, seed: int) -> Attempt:
        """Try one placement. Exceptions propagate and leave no simulator behind."""
        started = time.perf_counter()
        try:
            with time_limit(self._settings.time_limit_s):
                env = self._simulator.of((task.suite, task.task_id))
                outcome = collect_demonstration(
                    env,
                    expert_of(env, task.suite, task.task_id),
                    task,
                    seed,
                    self._settings.images,
                    self._collection,
                    self._decide,
                )
        except BaseException:
            self._simulator.close()
            raise
        steps = len(outcome) if isinstance(outcome, Demonstration) else 0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Attempt(outcome, Cost(env.timings, steps, time.perf_counter() - started, peak))


def _decider(policy: str, driver: DriverSettings) -> Decide:
    """A policy of the worker's own: a driver is asked once in several steps, and a small one
    decides faster than a request travels. Raises RuntimeError for another than was asked for."""
    loaded = load_policy(policy, deterministic=False, device="cpu")
    if loaded.checkpoint_sha256 != driver.checkpoint_sha256:
        raise RuntimeError(
            f"this node has another checkpoint at {policy!r} than the job: "
            f"{loaded.checkpoint_sha256[:12]} instead of {driver.checkpoint_sha256[:12]}"
        )
    return lambda request: loaded.act([request])[0]


@dataclass(frozen=True)
class CollectionPlan:
    """A checked collection."""

    tasks: tuple[Task, ...]
    demos: int  # wanted of each task
    first_seed: int
    worker: WorkerSettings
    collection: CollectionSettings
    policy: str | None  # that `collection.driver` wants
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


@dataclass
class _Member:
    actor: ActorHandle
    task: Task | None = None
    seed: int = 0
    attempts: int = 0
    deadline: float = math.inf  # on the run's clock, when it counts as hung


class CollectionRun:
    """The driver of one session. `standings` may be read at any time.

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
        self._clock = clock
        self._wishes = Wishes(
            plan.workers, 0, 0.0, plan.worker_memory_gb, 1, grows=cluster_address() is not None
        )
        store.merge_all()
        self._quotas: dict[Task, Quota] = {
            task: store.quota(task, plan.demos, plan.first_seed) for task in plan.tasks
        }
        self._counts: Counter[tuple[Task, str]] = Counter()  # fields of TaskStanding
        self._tries: Counter[tuple[Task, int]] = Counter()
        self._starting: dict[ray.ObjectRef[WorkerInfo], _Member] = {}
        self._idle: list[_Member] = []
        self._busy: dict[ray.ObjectRef[Any], _Member] = {}
        self._deaths = Deaths(clock)
        self._looked = -math.inf
        self._up_at = clock()  # when a worker was up last, or the run began
        self._told = False
        self.costs: list[Cost] = []

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
        self._up_at = self._clock()
        with contextlib.ExitStack() as afterwards:
            afterwards.callback(self._store.merge_all)
            afterwards.callback(ask_for_no_nodes)
            afterwards.callback(self._dismiss)
            while not stop() and self._work():
                show(self.standings())
        show(self.standings())

    def _work(self) -> bool:
        """One turn; False where nothing is left to do."""
        self._give_out()
        if not self._busy and not self._open_tasks():
            return False
        self._look()
        done, _ = ray.wait([*self._busy, *self._starting], timeout=TICK_S)
        for ref in done:
            if ref in self._starting:
                self._welcome(ref, self._starting.pop(ref))
            else:
                self._take_in(ref, self._busy.pop(ref))
        for ref in [ref for ref, member in self._busy.items() if self._clock() > member.deadline]:
            self._lost(self._busy.pop(ref), TimeoutError("the worker hung and was killed"))
        return True

    # -- workers ------------------------------------------------------------------------------

    def _members(self) -> list[_Member]:
        return [*self._starting.values(), *self._idle, *self._busy.values()]

    def _dismiss(self) -> None:
        for member in self._members():
            ray.kill(member.actor)

    def _look(self) -> None:
        """Now and then: grow to what the cluster has, and ask its autoscaler for more."""
        if self._clock() - self._looked < LOOK_S:
            return
        self._looked = self._clock()
        size = cluster_size()
        self._footprint = scaling.worker_footprint(size, self._wishes)
        held = sum(quota.held for quota in self._quotas.values())
        remaining = held + sum(self._quotas[task].open for task in self._open_tasks())
        decision = scaling.scale_workers(
            len(self._members()), remaining, size, self._footprint, Footprint(0.0), self._wishes
        )
        if decision.change:
            self._say(f"starting {decision.change} worker(s): {decision.reason}")
        for _ in range(decision.change):
            self._start()
        ask_for_nodes(remaining, self._wishes, self._footprint)
        self._explain_silence()

    def _explain_silence(self) -> None:
        """Say once what workers that do not start are waiting for."""
        if self._idle or self._busy:
            self._up_at = self._clock()
        elif not self._told and self._clock() - self._up_at > PATIENCE_S:
            self._told = True
            self._say(waiting_for("a worker", self._footprint))

    def _start(self) -> None:
        settings = self._plan.worker
        variables = process_variables(settings.renderer)
        actor = actors.start_actor(
            Collector,
            self._footprint,
            variables,
            settings,
            self._plan.collection,
            self._plan.policy,
        )
        self._starting[actor.info.remote(self._plan.tasks[0].suite)] = _Member(actor)

    def _welcome(self, ref: ray.ObjectRef[WorkerInfo], member: _Member) -> None:
        try:
            info = ray.get(ref)
        except RayError as error:  # it died, or its node cannot be checked
            self._deaths.add(error)
            self._replace(member)
            return
        try:
            check_worker(info, self._plan.code["source_sha256"])
        except RunStoppedError:
            ray.kill(member.actor)
            raise
        self._idle.append(member)

    def _replace(self, member: _Member) -> None:
        ray.kill(member.actor)
        self._start()

    # -- placements ---------------------------------------------------------------------------

    def _give_out(self) -> None:
        waiting, self._idle = self._idle, []
        for member in waiting:
            task = self._task_for(member)
            seed = self._quotas[task].take() if task is not None else None
            if task is None or seed is None:
                self._idle.append(member)
                continue
            member.task, member.seed = task, seed
            member.attempts += 1
            self._tries[task, seed] += 1
            member.deadline = self._clock() + self._plan.worker.time_limit_s + KILL_GRACE_S
            self._busy[member.actor.collect.remote(task, seed)] = member

    def _open_tasks(self) -> list[Task]:
        standings = self.standings()
        return [
            task
            for task, quota in self._quotas.items()
            if quota.open and not standings[task].given_up
        ]

    def _task_for(self, member: _Member) -> Task | None:
        """The worker's own task as long as it lasts: making a simulator takes seconds. Then the one
        with the most left per worker on it."""
        open_tasks = self._open_tasks()
        if member.task in open_tasks or not open_tasks:
            return member.task if open_tasks else None
        quotas = self._quotas
        return max(open_tasks, key=lambda task: quotas[task].open / (1 + quotas[task].held))

    def _take_in(self, ref: ray.ObjectRef[Attempt], member: _Member) -> None:
        try:
            attempt = ray.get(ref)
        except Exception as error:  # of simulator, expert, process or Ray
            self._lost(member, error)
            return
        self._deaths.end_row()
        self._keep(member, attempt.outcome)
        self.costs.append(attempt.cost)
        if member.attempts >= self._plan.demos_per_worker:
            self._replace(member)
        else:
            self._idle.append(member)

    def _keep(self, member: _Member, outcome: Demonstration | Failure) -> None:
        task = member.task
        assert task is not None
        if isinstance(outcome, Failure):
            self._store.note_failure(task, outcome)
            self._quotas[task].gave_nothing(member.seed)
            self._count(task, "void_now" if outcome.void else "failed_now")
        else:
            self._store.add(dataclasses.replace(outcome, code=self._plan.code))
            self._quotas[task].succeeded(member.seed)
            self._count(task, "done_now")
            if self.standings()[task].complete:
                self._store.merge(task)

    def _count(self, task: Task, field: str) -> None:
        before = self.standings()[task].given_up
        self._counts[task, field] += 1
        why = self.standings()[task].given_up
        if why and not before:
            self._say(f"giving up on task {task.task_id} ({task.instruction}): {why}")

    def _lost(self, member: _Member, error: Exception) -> None:
        """Nothing came of an attempt, and not through the expert: an exception, a hang, a dead
        worker, a demonstration that no file may hold."""
        check_cluster()
        task = member.task
        assert task is not None
        kind = type(error).__name__
        self._say(f"task {task.task_id}, seed {member.seed}: {kind}: {reason_of(error)}")
        if isinstance(error, actors.DEATHS):
            self._deaths.add(error)
        if self._tries[task, member.seed] > RETRIES:
            text = "".join(traceback.format_exception_only(error))  # a task's holds the worker's
            self._store.note_error(task, member.seed, text)
            self._quotas[task].skip(member.seed)
            self._count(task, "errors_now")
        else:
            self._quotas[task].returned(member.seed)
        self._replace(member)
