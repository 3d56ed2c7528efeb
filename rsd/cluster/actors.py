"""Plain classes as Ray actors, and how a worker asks replicas."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError

from rsd import arithmetic
from rsd.batching import StuckError
from rsd.cluster.metrics import QueueLength
from rsd.cluster.replica import PolicyReplica, ReplicaSettings
from rsd.cluster.scaling import Footprint
from rsd.cluster.worker import EnvWorker, NoReplicaError, Worker, WorkerSettings
from rsd.envs.rendering import process_variables
from rsd.errors import PolicyAwayError
from rsd.types import Arm, Chunk, ChunkRequest, EpisodeKey, EpisodeResult

REPLICA_RESTARTS = 20  # deaths of one replica (a lost node not counted) after which it stays dead
DEATHS_PER_CHUNK = 3  # replicas that may die over one request before it is to blame
OUTAGE_S = 30.0  # without any living replica after which an episode is given back
PING_S = 5.0
DEATHS = (RayActorError, OutOfMemoryError)  # what a call to a dead actor raises
RETRY_S = 0.2


class EnvWorkerActor(EnvWorker):
    """A worker whose policy is elsewhere."""

    def episode(self, key: EpisodeKey, arm: Arm, replicas: Sequence[ActorHandle]) -> EpisodeResult:
        return self.run(key, arm, ReplicaClient(replicas).ask)


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
            except PolicyAwayError as error:
                raise NoReplicaError(str(error)) from error
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


def start_worker(
    kind: type[Worker[Any]], footprint: Footprint, settings: WorkerSettings, *arguments: Any
) -> ActorHandle:
    """`kind(settings, *arguments)` as a worker; returns before it is up. Its renderer is fixed
    before mujoco is imported."""
    variables = process_variables(settings.renderer)
    return start_actor(kind, footprint, variables, settings, *arguments)


def start_actor(
    kind: type, footprint: Footprint, variables: dict[str, str], *arguments: Any, **options: Any
) -> ActorHandle:
    """`kind(*arguments)` as an actor with these resources and environment variables."""
    actor: Any = ray.remote(kind).options(
        num_cpus=footprint.cpus,
        num_gpus=footprint.gpus,
        memory=int(footprint.memory_bytes),
        runtime_env={"env_vars": arithmetic.PINNED | variables},
        **options,
    )
    handle: ActorHandle = actor.remote(*arguments)
    return handle
