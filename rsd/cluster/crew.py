"""The replicas and workers of a run: started, watched, replaced. Knows nothing of outcomes."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.autoscaler.sdk import request_resources
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError, RayError

from rsd import arithmetic
from rsd.cluster import actors, scaling
from rsd.cluster.actors import WorkerInfo
from rsd.cluster.address import cluster_address
from rsd.cluster.batching import BatchLimits
from rsd.cluster.leases import Lease, TaskId, task_of
from rsd.cluster.reasons import in_a_line, killed_for_memory, reason_of
from rsd.cluster.replica import ReplicaInfo, ReplicaSettings
from rsd.cluster.scaling import ClusterSize, Footprint, Wishes
from rsd.cluster.worker import KILL_GRACE_S, WorkerSettings
from rsd.errors import RunStoppedError
from rsd.preflight import RunPlan
from rsd.provenance import Machine, source_sha256
from rsd.types import Decoding, EpisodeResult

LOOK_S = 5.0  # between two looks at the cluster's size and the replicas' health
LOOK_AGAIN_S = 0.5  # the same while no replica answers
PATIENCE_S = 60.0  # for an actor to start before the user is told what it waits for
DEATHS_IN_A_ROW = 5  # of workers, after which the run stops
MOMENT_S = 2.0  # deaths within it have one cause
DEAD_FOR_GOOD = (ActorDiedError, OutOfMemoryError)  # the latter where no restart is left


class Deaths:
    """Of workers, without a success between them. Those of one moment count once: with a node that
    is lost go all its workers."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._count, self._last = 0, -math.inf

    def add(self, error: RayError) -> None:
        """Raises RunStoppedError where there are too many to try again."""
        if self._clock() - self._last < MOMENT_S:
            return
        self._last = self._clock()
        self._count += 1
        if self._count >= DEATHS_IN_A_ROW:
            why = reason_of(error)
            if killed_for_memory(error):
                raise RunStoppedError(
                    f"workers were {why} {self._count} times in a row; give fewer --workers, or "
                    "nodes with more memory"
                ) from None
            raise RunStoppedError(f"workers died {self._count} times in a row: {why}") from None

    def end_row(self) -> None:
        """Somebody did what he was asked."""
        self._count = 0

    @property
    def are_many(self) -> bool:
        """Whether one has followed another, so that what died may not be what is to blame."""
        return self._count > 1


@dataclass
class Member:
    """One worker process."""

    name: str
    actor: ActorHandle
    index: int  # chooses its replica
    node: str = ""  # known once it is up
    lease: Lease | None = None
    task: TaskId | None = None  # of its simulator
    episodes: int = 0
    deadline: float = math.inf  # on the crew's clock, when it counts as hung


@dataclass(frozen=True)
class _Ping:
    """A question to a replica that any living one answers, whatever it is doing."""

    replica: ActorHandle
    deadline: float  # on the crew's clock


@dataclass(frozen=True)
class Report:
    """How an attempt came back: a result, or the exception that stands for it."""

    member: Member
    result: EpisodeResult | None
    error: Exception | None


def wishes_of(run: RunPlan) -> Wishes:
    """What the user asked for in workers and replicas; experts ask no replica."""
    cluster = run.config.cluster
    return Wishes(
        cluster.workers,
        cluster.replicas if run.asks_policy else 0,
        cluster.gpus_per_replica,
        cluster.worker_memory_gb,
        cluster.max_batch_size,
        grows=cluster_address() is not None,
    )


def worker_settings(run: RunPlan) -> WorkerSettings:
    """What a run's workers make their simulators from."""
    return WorkerSettings(
        run.assets, run.renderer, run.policy.images, run.config.cluster.time_limit_s
    )


def check_code(node: str, sha256: str, drivers: str) -> None:
    """Raises RunStoppedError where a node runs other sources than the driver."""
    if sha256 != drivers:
        raise RunStoppedError(
            f"node {node} runs other code than the driver (source {sha256[:12]}, the driver's is "
            f"{drivers[:12]}): upload one working folder to all nodes with `ray job submit "
            "--working-dir .`, and leave the code as it is while a run goes on"
        )


def check_worker(info: WorkerInfo, drivers: str) -> None:
    """Raises RunStoppedError for a worker whose node cannot do what the driver's can."""
    check_code(info.machine.node, info.source_sha256, drivers)
    if info.machine.arithmetic != arithmetic.name():
        raise RunStoppedError(
            f"node {info.machine.node} ({info.machine.cpu}) computes with other bits than the "
            f"driver: {info.machine.arithmetic} instead of {arithmetic.name()}; its states would "
            "differ: give a run one kind of machine"
        )
    if info.problem:
        raise RunStoppedError(f"node {info.machine.node} cannot run episodes: {info.problem}")


def cluster_size() -> ClusterSize:
    """What the connected cluster has now."""
    return size_of(ray.cluster_resources())


def size_of(resources: Mapping[str, float]) -> ClusterSize:
    """A cluster by Ray's names of what it has."""
    return ClusterSize(
        resources.get("CPU", 0.0), resources.get("GPU", 0.0), resources.get("memory", 0.0)
    )


def ask_for_nodes(remaining: int, wishes: Wishes, worker: Footprint) -> None:
    """Tell the autoscaler, where there is one, what would be used (a no-op elsewhere)."""
    wanted = scaling.workers_worth_a_node(remaining, wishes).change
    bundle = {"CPU": worker.cpus, "memory": int(worker.memory_bytes)}
    request_resources(bundles=[bundle] * wanted)


def ask_for_no_nodes() -> None:
    """Take back what was asked of the autoscaler."""
    request_resources(bundles=[])


def waiting_for(who: str, footprint: Footprint) -> str:
    """What an actor that does not start asks for, and what there is."""
    return (
        f"waiting for {who}: it asks for {footprint.cpus:g} CPUs, {footprint.gpus:g} GPUs and "
        f"{footprint.memory_bytes / scaling.GB:.1f} GB; the cluster has {cluster_size()}"
    )


class Crew:
    """Keeps as many replicas and workers as `scaling` decides; a context that ends them all."""

    def __init__(
        self,
        run: RunPlan,
        say: Callable[[str], None],
        note_machine: Callable[[Machine], None] = lambda machine: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.members: list[Member] = []
        self.waited_s = 0.0  # seconds in which the driver had nothing to do
        self._run = run
        self._say = say
        self._note_machine = note_machine
        self._clock = clock
        self._source_sha256 = source_sha256()
        self._cluster = run.config.cluster
        self._wishes = wishes_of(run)
        self._replicas: list[ActorHandle] = []
        self._pings: dict[ray.ObjectRef[ReplicaInfo], _Ping] = {}
        self._answering: set[ActorHandle] = set()
        self._processes: dict[ActorHandle, str] = {}  # who answered last, unless its end was told
        self._pending: dict[ray.ObjectRef[Any], Member] = {}
        self._names = itertools.count()
        self._dead_replicas = 0  # for good
        self._restarts: dict[ActorHandle, int] = {}  # of those that have answered, until then
        self._deaths = Deaths(clock)  # of workers while they start
        self._memory_deaths = Deaths(clock)  # of workers, for memory, while they run episodes
        self._stopped: RunStoppedError | None = None
        self._hiring = True
        self._looked = -math.inf
        self._served_at = clock()  # when workers and replicas were up last, or the run began
        self._told = False
        self._told_machines: set[Machine] = set()
        self._replica_footprint = Footprint(0)
        self._measure(cluster_size())

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for member in list(self.members):
            self.dismiss(member)
        for replica in self._replicas:
            actors.stop(replica)
        ask_for_no_nodes()

    def wind_down(self) -> None:
        """From now on nobody is started, nor a node asked for; who runs an episode ends it."""
        if self._hiring:
            self._hiring = False
            ask_for_no_nodes()

    # -- size ---------------------------------------------------------------------------------

    def look(self, remaining: int) -> None:
        """Now and then: grow to what the cluster has, and see whether the replicas live.

        Raises RunStoppedError where it is no use to go on.
        """
        if self._stopped is not None:
            raise self._stopped
        self._check_replicas()
        if self._clock() - self._looked < (LOOK_S if self.can_decide else LOOK_AGAIN_S):
            return
        self._looked = self._clock()
        if self._hiring:
            size = cluster_size()
            self._measure(size)
            self._grow_replicas(remaining, size)
            self._grow_workers(remaining, size)
            ask_for_nodes(remaining, self._wishes, self._worker_footprint)
        self._give_up_replicas_that_never_load()
        self._ping_replicas()
        self._explain_silence()

    def _measure(self, size: ClusterSize) -> None:
        """What the next actors ask for; replicas are all of one kind, the first one's."""
        self._worker_footprint = scaling.worker_footprint(size, self._wishes)
        replica = scaling.replica_footprint(size, self._wishes)
        if not self._replicas or replica.gpus == self._replica_footprint.gpus:
            self._replica_footprint = replica

    def _grow_replicas(self, remaining: int, size: ClusterSize) -> None:
        if size.cpus < 1 and self._wishes.gpus_per_replica is None:
            return  # no node is up for anybody to simulate on: its kind decides the replicas'
        made = len(self._replicas) + self._dead_replicas  # where one died for good, so would others
        decision = scaling.scale_replicas(
            made, remaining, size, self._replica_footprint, self._wishes
        )
        if decision.change:
            self._say(f"starting {decision.change} replica(s): {decision.reason}")
        settings = ReplicaSettings(
            policy=self._run.config.policy.policy,
            deterministic=self._run.config.policy.deterministic,
            device="cuda" if self._replica_footprint.gpus else "cpu",
            limits=BatchLimits(
                self._cluster.max_batch_size,
                self._cluster.max_wait_ms / 1000,
                self._cluster.decode_limit_s / 2,
            ),
            decode_limit_s=self._cluster.decode_limit_s,
        )
        for number in range(made, made + decision.change):
            threads = self._cluster.replica_threads
            self._replicas.append(
                actors.start_replica(
                    f"replica-{number}",
                    settings,
                    self._replica_footprint,
                    threads,
                    self._run.run_id,
                )
            )

    def _grow_workers(self, remaining: int, size: ClusterSize) -> None:
        count = len(self._replicas)
        held = Footprint(count * self._replica_footprint.cpus, count * self._replica_footprint.gpus)
        decision = scaling.scale_workers(
            len(self.members), remaining, size, self._worker_footprint, held, self._wishes
        )
        if decision.change:
            self._say(f"starting {decision.change} worker(s): {decision.reason}")
        for _ in range(decision.change):
            self._hire()

    # -- replicas -----------------------------------------------------------------------------

    @property
    def can_decide(self) -> bool:
        """Whether a replica answered the last ping, or nobody will ask one."""
        return bool(self._answering) or self._wishes.replicas == 0

    def _ping_replicas(self) -> None:
        callers = math.ceil(len(self.members) / max(1, len(self._replicas)))
        limit_s = self._cluster.decode_limit_s + KILL_GRACE_S
        for replica in set(self._replicas) - {ping.replica for ping in self._pings.values()}:
            replica.expect.remote(callers)
            # one that has not answered yet loads its model, which may take as long as it likes
            deadline = self._clock() + limit_s if replica in self._answering else math.inf
            self._pings[replica.info.remote()] = _Ping(replica, deadline)

    def _check_replicas(self) -> None:
        if not self._pings:
            return
        answered, _ = ray.wait(list(self._pings), num_returns=len(self._pings), timeout=0)
        for ref in answered:
            replica = self._pings.pop(ref).replica
            self._answering.discard(replica)
            try:
                info = ray.get(ref)
                self._check_replica(info)
                if self._processes.get(replica, info.process) != info.process:
                    self._tell_death("was")  # both between two looks
                self._processes[replica] = info.process
                self._answering.add(replica)
                self._restarts.pop(replica, None)
            except DEAD_FOR_GOOD as error:
                self._bury(replica, reason_of(error))
            except RayActorError:
                if self._processes.pop(replica, None):
                    self._tell_death("is being")
        self._restart_silent_replicas()

    def _bury(self, replica: ActorHandle, why: str) -> None:
        """A replica is dead for good. Raises RunStoppedError where it was the last one."""
        self._replicas.remove(replica)
        self._dead_replicas += 1
        if not self._replicas:
            raise RunStoppedError(f"every replica of the policy is dead: {why}")
        self._say(f"a replica is dead for good, {len(self._replicas)} left: {why}")

    def _give_up_replicas_that_never_load(self) -> None:
        """Ray starts one again that dies while it loads, and tells nobody."""
        for replica in {ping.replica for ping in self._pings.values()} - self._answering:
            life = actors.life_of(replica)
            before = self._restarts.setdefault(replica, life.restarts)
            if life.restarts - before < DEATHS_IN_A_ROW:
                continue
            times = f"{life.restarts - before} times in a row before it answered"
            why = f"{in_a_line(life.ended_by)}, " if life.ended_by else ""
            actors.stop(replica)
            self._pings = {
                ref: ping for ref, ping in self._pings.items() if ping.replica != replica
            }
            self._bury(replica, f"{why}{times}")

    def _restart_silent_replicas(self) -> None:
        """Those whose process does not even run the thread that would end it."""
        overdue = [ref for ref, ping in self._pings.items() if self._clock() > ping.deadline]
        for ref in overdue:
            replica = self._pings.pop(ref).replica
            self._answering.discard(replica)
            self._processes.pop(replica, None)
            self._say("a replica does not answer any more: it is killed and restarted")
            actors.restart(replica)

    def _tell_death(self, passive: str) -> None:
        self._say(
            f"a replica died and {passive} restarted; what it decoded is asked again (if a batch "
            f"took it {self._cluster.decode_limit_s:g} s, its stack is in its log)"
        )

    def _check_replica(self, info: ReplicaInfo) -> None:
        node = info.machine.node
        check_code(node, info.source_sha256, self._source_sha256)
        if info.checkpoint_sha256 != self._run.policy.sha256:
            raise RunStoppedError(
                f"node {node} has another checkpoint at {self._run.config.policy.policy!r}: "
                f"{info.checkpoint_sha256[:12]}, the driver's is {self._run.policy.sha256[:12]}"
            )
        self._note(info.machine)

    def _note(self, machine: Machine) -> None:
        """Keep what the run runs on; say what decides."""
        self._note_machine(machine)
        if machine.role == "replica" and machine not in self._told_machines:
            self._told_machines.add(machine)
            models = ", ".join(sorted(set(machine.gpus)))
            device = f"{machine.runs_on} ({models})" if machine.runs_on == "cuda" else machine.cpu
            self._say(f"a replica decides on {device} of node {machine.node}")

    # -- workers ------------------------------------------------------------------------------

    @property
    def idle(self) -> list[Member]:
        """Workers that are up and hold no episode."""
        return [member for member in self.members if member.node and member.lease is None]

    def _hire(self) -> None:
        index = next(self._names)
        actor = actors.start_worker(worker_settings(self._run), self._worker_footprint)
        member = Member(f"worker-{index}", actor, index)
        self.members.append(member)
        self._pending[actor.info.remote(self._run.keys[0].suite)] = member

    def dismiss(self, member: Member) -> None:
        """End a worker's process; whatever it was doing is lost."""
        actors.stop(member.actor)
        self.members.remove(member)
        self._pending = {ref: other for ref, other in self._pending.items() if other is not member}

    def replace(self, member: Member) -> None:
        """End a worker's process and start another in its place, unless the run winds down."""
        self.dismiss(member)
        if self._hiring:
            self._hire()

    def assign(self, member: Member, lease: Lease, decoding: Decoding) -> None:
        """Have an idle worker run an episode."""
        home = member.index % max(1, len(self._replicas))
        replicas = [*self._replicas[home:], *self._replicas[:home]]
        member.lease = lease
        member.task = task_of(lease.key)
        member.deadline = self._clock() + self._cluster.time_limit_s + KILL_GRACE_S
        self._pending[member.actor.episode.remote(lease.key, decoding, replicas)] = member

    def reports(self, timeout_s: float) -> list[Report]:
        """Attempts that came back within `timeout_s`, hung ones among them."""
        started = time.perf_counter()
        refs = list(self._pending)
        done, _ = ray.wait(refs, timeout=timeout_s) if refs else ([], None)
        if not refs:
            time.sleep(timeout_s)
        self.waited_s += time.perf_counter() - started
        if done:
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        came_back = [self._report(ref, self._pending.pop(ref)) for ref in done]
        return [report for report in [*came_back, *self._hung()] if report is not None]

    def _report(self, ref: ray.ObjectRef[Any], member: Member) -> Report | None:
        if member.lease is None:
            self._welcome(ref, member)
            return None
        member.deadline = math.inf
        member.episodes += 1
        try:
            report = Report(member, ray.get(ref), None)
        except Exception as error:  # of the process or of Ray: the driver decides what it costs
            report = Report(member, None, error)
        self._count_memory_deaths(report)
        return report

    def is_short_of_memory(self, error: Exception | None) -> bool:
        """Whether a worker was killed for memory, and no episode has come back since the one before
        was: the nodes lack it then, whatever an episode does."""
        return error is not None and killed_for_memory(error) and self._memory_deaths.are_many

    def _count_memory_deaths(self, report: Report) -> None:
        """Where every worker is killed for memory, every episode would become an error."""
        if report.result is not None:
            self._memory_deaths.end_row()
        elif isinstance(report.error, RayError) and killed_for_memory(report.error):
            try:
                self._memory_deaths.add(report.error)
            except RunStoppedError as stopped:  # after what else came back is recorded
                self._stopped = stopped

    def _welcome(self, ref: ray.ObjectRef[WorkerInfo], member: Member) -> None:
        try:
            info = ray.get(ref)
        except RayError as error:  # of the process, or an exception of its own
            self._deaths.add(error)
            self.replace(member)
            return
        self._deaths.end_row()
        check_worker(info, self._source_sha256)
        self._note(info.machine)
        member.node = info.machine.node

    def _hung(self) -> list[Report]:
        now = self._clock()
        limit = self._cluster.time_limit_s
        text = (
            f"the episode exceeded its time limit of {limit:g} s and did not react within "
            f"{KILL_GRACE_S:g} s more; its worker was killed (its stack is in the worker's log)"
        )
        return [
            Report(member, None, TimeoutError(text))
            for member in self.members
            if member.lease is not None and now > member.deadline
        ]

    def _explain_silence(self) -> None:
        """Say once what an actor that does not start is waiting for."""
        up = any(member.node for member in self.members)
        if up and self.can_decide:
            self._served_at = self._clock()
        late = self._clock() - self._served_at > PATIENCE_S
        if self._told or not late or not self._hiring:
            return
        self._told = True
        who, footprint = "a worker", self._worker_footprint
        if up:
            who, footprint = "a replica", self._replica_footprint
        self._say(waiting_for(who, footprint))
