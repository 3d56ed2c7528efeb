"""Plain classes as Ray actors: the one place where `ray.remote` is written."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import state
from ray.actor import ActorHandle
from ray.core.generated.common_pb2 import (  # type: ignore[attr-defined]
    NODE_OUT_OF_MEMORY,
    SYSTEM_ERROR,
)
from ray.core.generated.gcs_pb2 import (  # type: ignore[attr-defined]
    ActorTableData,
    WorkerTableData,
)
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError

from rsd.cluster.batching import StuckError
from rsd.cluster.metrics import QueueLength
from rsd.cluster.replica import PolicyReplica, ReplicaSettings
from rsd.cluster.scaling import Footprint
from rsd.cluster.worker import EnvWorker, NoReplicaError, WorkerSettings
from rsd.envs import check_node
from rsd.envs.rendering import process_variables
from rsd.errors import UserError
from rsd.provenance import Machine, machine, source_sha256
from rsd.types import Chunk, ChunkRequest, Decoding, EpisodeKey, EpisodeResult

REPLICA_RESTARTS = 20  # deaths of one replica (a lost node not counted) after which it stays dead
DEATHS_PER_CHUNK = 3  # replicas that may die over one request before it is to blame
OUTAGE_S = 30.0  # without any living replica after which an episode is given back
PING_S = 5.0
DEATHS = (RayActorError, OutOfMemoryError)  # what a call to a dead actor raises
RETRY_S = 0.2
UNINTENDED = (SYSTEM_ERROR, NODE_OUT_OF_MEMORY)  # ends of a process


@dataclass(frozen=True)
class WorkerInfo:
    """What a worker says of itself when it is up."""

    machine: Machine
    source_sha256: str  # of the code that it runs
    problem: str  # why its node cannot run the suites; empty if it can


def worker_info(suite: str, settings: WorkerSettings) -> WorkerInfo:
    """Checks this node for the suite's simulator, before an episode pays for it."""
    renderer, problem = settings.renderer, ""
    try:
        renderer = check_node(suite, settings.assets, settings.renderer)
    except UserError as error:
        problem = str(error)
    return WorkerInfo(machine("worker", renderer), source_sha256(), problem)


class EnvWorkerActor(EnvWorker):
    """A worker whose policy is elsewhere."""

    def info(self, suite: str) -> WorkerInfo:
        return worker_info(suite, self._settings)

    def episode(
        self, key: EpisodeKey, decoding: Decoding, replicas: Sequence[ActorHandle]
    ) -> EpisodeResult:
        return self.run(key, decoding, ReplicaClient(replicas).ask)


class PolicyReplicaActor(PolicyReplica):
    """Ray restarts a dead replica in its place, so that the handles that workers hold stay good."""

    def __init__(self, settings: ReplicaSettings, name: str, run_id: str) -> None:
        super().__init__(settings, QueueLength(run_id, name))


class ReplicaClient:
    """Asks the first of `replicas`, another one when it dies, and all of them again until one
    answers. A request is complete in itself and the same request has the same answer."""

    def __init__(self, replicas: Sequence[ActorHandle]) -> None:
        self._replicas = deque(replicas)
        self._suspicious = False

    def ask(self, request: ChunkRequest) -> Chunk:
        """Raises what the policy raises, NoReplicaError where no replica answers, and RuntimeError
        where replicas keep dying over this request.

        Whose batch a replica died with is asked again alone, and after a random pause: the one
        that kills replicas then takes along only what happens to wait behind it, and nobody waits
        long behind one that hangs.
        """
        deaths, sent_away = 0, False
        while deaths <= DEATHS_PER_CHUNK:
            replica = self._living() if self._suspicious else self._replicas[0]
            try:
                answer: Any = replica.act.remote(request, alone=deaths > 0)
                return ray.get(answer)
            except StuckError:
                sent_away = True  # its process goes on, or ends itself soon: not over this request
            except DEATHS:
                self._suspicious = True
                deaths += not sent_away
                sent_away = False
            self._replicas.rotate(-1)
            time.sleep(random.uniform(0, RETRY_S))
        raise RuntimeError(
            f"{DEATHS_PER_CHUNK} replicas died when they were asked for chunk "
            f"{request.chunk_index} alone, and one before them in a batch"
        )

    def _living(self) -> ActorHandle:
        """The first replica that answers a ping, waiting for one that is being restarted."""
        deadline = time.monotonic() + OUTAGE_S
        while time.monotonic() < deadline:
            replica = self._replicas[0]
            try:
                ray.get(replica.info.remote(), timeout=PING_S)
                self._suspicious = False
                return replica
            except (*DEATHS, GetTimeoutError):
                self._replicas.rotate(-1)
                time.sleep(RETRY_S)
        raise NoReplicaError(f"no replica of the policy has answered for {OUTAGE_S:g} s")


def start_replica(
    name: str, settings: ReplicaSettings, footprint: Footprint, threads: int, run_id: str
) -> ActorHandle:
    """A replica of run `run_id`; returns before it is up."""
    return start_actor(
        PolicyReplicaActor,
        footprint,
        {"OMP_NUM_THREADS": str(threads)},
        settings,
        name,
        run_id,
        max_restarts=REPLICA_RESTARTS,
    )


def start_worker(settings: WorkerSettings, footprint: Footprint) -> ActorHandle:
    """A worker; returns before it is up. Its renderer is fixed before mujoco is imported."""
    variables = process_variables(settings.renderer)
    return start_actor(EnvWorkerActor, footprint, variables, settings)


def start_actor(
    kind: type, footprint: Footprint, variables: dict[str, str], *arguments: Any, **options: Any
) -> ActorHandle:
    """`kind(*arguments)` as an actor with these resources and environment variables."""
    actor: Any = ray.remote(kind).options(
        num_cpus=footprint.cpus,
        num_gpus=footprint.gpus,
        memory=int(footprint.memory_bytes),
        runtime_env={"env_vars": variables},
        **options,
    )
    handle: ActorHandle = actor.remote(*arguments)
    return handle


@dataclass(frozen=True)
class Life:
    """What Ray's head has noted of an actor."""

    restarts: int
    ended_by: str  # how a process on its node came to an unintended end last; empty if none has


def life_of(actor: ActorHandle) -> Life:
    """Ask the head: while an actor is being restarted, calls to it wait and say nothing. There is
    no public way without Ray's dashboard, which a local cluster has not."""
    accessor = state._connect_and_get_accessor()
    found = accessor.get_actor_info(actor._actor_id)
    if found is None:  # not registered yet
        return Life(0, "")
    noted = ActorTableData.FromString(found)
    table = map(WorkerTableData.FromString, accessor.get_worker_table())
    ended = [
        worker
        for worker in table
        if not worker.is_alive
        and worker.exit_type in UNINTENDED
        and worker.worker_address.node_id == noted.address.node_id
    ]
    last = max(ended, key=lambda worker: worker.end_time_ms, default=None)
    return Life(noted.num_restarts, last.exit_detail if last else "")


def stop(actor: ActorHandle) -> None:
    """End an actor's process for good."""
    ray.kill(actor)


def restart(actor: ActorHandle) -> None:
    """End an actor's process; Ray starts another in its place, which counts as a death."""
    ray.kill(actor, no_restart=False)
