"""The replicas of a run: started, pinged, restarted, given up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError

from rsd.batching import BatchLimits
from rsd.cluster import actors, life
from rsd.cluster.deaths import DEATHS_IN_A_ROW
from rsd.cluster.nodes import check_code
from rsd.cluster.pool import PATIENCE_S
from rsd.cluster.reasons import in_a_line, reason_of
from rsd.cluster.replica import ReplicaInfo, ReplicaSettings
from rsd.cluster.scaling import Footprint
from rsd.cluster.worker import KILL_GRACE_S
from rsd.errors import RunStoppedError
from rsd.provenance import Machine, ReplicaEvent, source_sha256

if TYPE_CHECKING:
    from rsd.preflight import RunPlan  # a collection has no use for what that loads

PING_PERIOD_S = 5.0  # from one ping to the next
ANXIOUS_PERIOD_S = 0.5  # the same while no replica answers
AWAY_S = 300.0  # without an answer of the servers that replicas ask, after which the run stops
DEAD_FOR_GOOD = (ActorDiedError, OutOfMemoryError)  # the latter where no restart is left


@dataclass(eq=False)
class _Replica:
    name: str
    actor: ActorHandle
    late: float  # on the clock: when to look why it does not start
    ping: ray.ObjectRef[ReplicaInfo] | None = None  # that any living one answers, whatever it does
    deadline: float = math.inf  # on the clock, of the ping
    answers: bool = False  # to the last ping
    process: str = ""  # that answered last, unless its end was told
    away: str = ""  # why what it asks does not answer, as it said last
    restarts: int | None = None  # that Ray had counted when it was first found not to answer


class Replicas:
    """All about their life. Ray restarts one that dies in its place; one that is dead for good is
    not replaced: where it died, so would others."""

    def __init__(
        self,
        run: RunPlan,
        wanted: bool,
        say: Callable[[str], None],
        note_machine: Callable[[Machine], None] = lambda machine: None,
        note: Callable[[ReplicaEvent], None] = lambda event: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`wanted`: whether anybody will ask one."""
        self.footprint: Footprint | None = None  # of every one of them, once there is one
        self.dead = 0  # for good
        self._run = run
        self._wanted = wanted
        self._say = say
        self._note_machine = note_machine
        self._note = note
        self._clock = clock
        self._source_sha256 = source_sha256()
        self._replicas: list[_Replica] = []
        self._pinged = -math.inf
        self._away_since: float | None = None  # on the clock
        self._told_machines: set[Machine] = set()

    def __len__(self) -> int:
        """Those that are not dead for good."""
        return len(self._replicas)

    @property
    def ready(self) -> bool:
        """Whether one answered the last ping, or nobody will ask one."""
        return not self._wanted or any(replica.answers for replica in self._replicas)

    def actors(self, home: int) -> list[ActorHandle]:
        """All of them, in the order in which worker number `home` asks."""
        first = home % max(1, len(self._replicas))
        return [replica.actor for replica in [*self._replicas[first:], *self._replicas[:first]]]

    def start(self, count: int, footprint: Footprint) -> None:
        """So many more, which ask for `footprint`; returns before they are up."""
        if not count:
            return
        self.footprint = footprint
        cluster, policy = self._run.config.cluster, self._run.config.policy
        settings = ReplicaSettings(
            policy=policy.policy,
            deterministic=policy.deterministic,
            device="cuda" if footprint.gpus else "cpu",
            limits=BatchLimits(
                self._run.batch_size, cluster.max_wait_ms / 1000, cluster.decode_limit_s / 2
            ),
            decode_limit_s=cluster.decode_limit_s,
        )
        made = len(self._replicas) + self.dead
        for number in range(made, made + count):
            name = f"replica-{number}"
            actor = actors.start_replica(
                name, settings, footprint, cluster.replica_threads, self._run.run_id
            )
            self._replicas.append(_Replica(name, actor, late=self._clock() + PATIENCE_S))
            self._note(ReplicaEvent(name, "started"))

    def end(self) -> None:
        """End all processes."""
        for replica in self._replicas:
            life.stop(replica.actor)

    def tend(self, workers: int) -> None:
        """Hear who answers, and see to those who do not; so many workers ask them.

        Raises RunStoppedError where the last one is dead for good, or one is not what the driver
        has checked.
        """
        self._hear()
        self._mind_servers()
        for replica in self._replicas:
            if self._clock() > replica.deadline:
                self._restart(replica)
        if self._clock() - self._pinged < (PING_PERIOD_S if self.ready else ANXIOUS_PERIOD_S):
            return
        self._pinged = self._clock()
        for replica in list(self._replicas):
            if replica.ping is None:
                self._ping(replica, math.ceil(workers / len(self._replicas)))
            elif not replica.answers:
                self._see_to_start(replica)

    def _mind_servers(self) -> None:
        """Of a policy that is elsewhere. Raises RunStoppedError where all stay away."""
        why = [replica.away for replica in self._replicas]
        if not why or not all(why):
            if self._away_since is not None:
                self._say("the policy's server answers again")
            self._away_since = None
        elif self._away_since is None:
            self._away_since = self._clock()
            self._say(f"{why[0]}; its episodes are given back, and tried again")
        elif self._clock() - self._away_since > AWAY_S:
            raise RunStoppedError(f"{why[0]}, and not for {AWAY_S:g} s more; start it again")

    def _ping(self, replica: _Replica, callers: int) -> None:
        replica.actor.expect.remote(callers)
        replica.ping = replica.actor.info.remote()
        if replica.answers:  # one that does not yet loads its model: as long as it likes
            limit_s = self._run.config.cluster.decode_limit_s + KILL_GRACE_S
            replica.deadline = self._clock() + limit_s

    def _hear(self) -> None:
        pings = {replica.ping: replica for replica in self._replicas if replica.ping is not None}
        if not pings:
            return
        answered, _ = ray.wait(list(pings), num_returns=len(pings), timeout=0)
        for ping in answered:
            replica = pings[ping]
            self._silence(replica)
            try:
                self._welcome(replica, ray.get(ping))
            except DEAD_FOR_GOOD as error:
                self._bury(replica, reason_of(error))
            except RayActorError as error:
                if replica.process:
                    self._tell_death(replica, "is being", reason_of(error))
                replica.process = ""

    @staticmethod
    def _silence(replica: _Replica) -> None:
        """It is not known to answer, and has no ping."""
        replica.ping, replica.deadline, replica.answers = None, math.inf, False

    def _welcome(self, replica: _Replica, info: ReplicaInfo) -> None:
        node, sha256 = info.machine.node, self._run.policy.sha256
        check_code(node, info.source_sha256, self._source_sha256)
        if info.checkpoint_sha256 != sha256:
            raise RunStoppedError(
                f"node {node} has another checkpoint at {self._run.config.policy.policy!r}: "
                f"{info.checkpoint_sha256[:12]}, the driver's is {sha256[:12]}"
            )
        if info.process != replica.process:
            if replica.process:
                self._tell_death(replica, "was")  # both between two pings
            self._tell_ready(replica, info.machine)
        replica.process, replica.answers, replica.restarts = info.process, True, None
        replica.away = info.away

    def _tell_ready(self, replica: _Replica, machine: Machine) -> None:
        """Keep what the run runs on; say what decides."""
        models = ", ".join(sorted(set(machine.gpus)))
        device = f"{machine.runs_on} ({models})" if machine.runs_on == "cuda" else machine.cpu
        self._note_machine(machine)
        self._note(ReplicaEvent(replica.name, "ready", machine.node, device))
        if machine not in self._told_machines:
            self._told_machines.add(machine)
            self._say(f"a replica decides on {device} of node {machine.node}")

    def _tell_death(self, replica: _Replica, passive: str, why: str = "") -> None:
        self._note(ReplicaEvent(replica.name, "died", why=why))
        self._say(
            f"a replica died and {passive} restarted; what it decoded is asked again (if a batch "
            f"took it {self._run.config.cluster.decode_limit_s:g} s, its stack is in its log)"
        )

    def _restart(self, replica: _Replica) -> None:
        """Its process does not even run the thread that would end it."""
        self._silence(replica)
        replica.process = ""
        self._note(ReplicaEvent(replica.name, "died", why="it did not answer and was killed"))
        self._say("a replica does not answer any more: it is killed and restarted")
        life.restart(replica.actor)

    def _see_to_start(self, replica: _Replica) -> None:
        """Ray starts one again that dies while it loads, and tells nobody; nor does it of one that
        stands still."""
        noted = life.life_of(replica.actor)
        if replica.restarts is None:
            replica.restarts, replica.late = noted.restarts, self._clock() + PATIENCE_S
        deaths = noted.restarts - replica.restarts
        if deaths >= DEATHS_IN_A_ROW:
            life.stop(replica.actor)
            why = f"{in_a_line(noted.ended_by)}, " if noted.ended_by else ""
            self._bury(replica, f"{why}{deaths} times in a row before it answered")
        elif self._clock() > replica.late:
            replica.late = self._clock() + PATIENCE_S
            life.end_if_stopped(replica.actor)

    def _bury(self, replica: _Replica, why: str) -> None:
        """It is dead for good. Raises RunStoppedError where it was the last one."""
        self._replicas.remove(replica)
        self.dead += 1
        self._note(ReplicaEvent(replica.name, "lost", why=why))
        if not self._replicas:
            raise RunStoppedError(f"every replica of the policy is dead: {why}")
        self._say(f"a replica is dead for good, {len(self._replicas)} left: {why}")
