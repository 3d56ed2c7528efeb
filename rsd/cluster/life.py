"""The process of an actor: what Ray's head knows of it, and its end."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import psutil
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
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

UNINTENDED = (SYSTEM_ERROR, NODE_OUT_OF_MEMORY)  # ends of a process
STOPPED_S = 10.0  # after which a stopped process counts as stopped for good


@dataclass(frozen=True)
class Life:
    """What Ray's head has noted of an actor."""

    restarts: int = 0
    ended_by: str = ""  # how a process on its node came to an unintended end last, if one has
    node_id: str = ""  # empty until it has a process
    pid: int = 0


def life_of(actor: ActorHandle) -> Life:
    """Ask the head: while an actor is being restarted, calls to it wait and say nothing. There is
    no public way without Ray's dashboard, which a local cluster has not."""
    accessor = state._connect_and_get_accessor()
    found = accessor.get_actor_info(actor._actor_id)
    if found is None:  # not registered yet
        return Life()
    noted = ActorTableData.FromString(found)
    node_id = noted.address.node_id
    table = map(WorkerTableData.FromString, accessor.get_worker_table())
    ended = [
        worker
        for worker in table
        if not worker.is_alive
        and worker.exit_type in UNINTENDED
        and worker.worker_address.node_id == node_id
    ]
    last = max(ended, key=lambda worker: worker.end_time_ms, default=None)
    return Life(noted.num_restarts, last.exit_detail if last else "", node_id.hex(), noted.pid)


def stop(actor: ActorHandle) -> None:
    """End an actor's process for good."""
    ray.kill(actor)


def restart(actor: ActorHandle) -> None:
    """End an actor's process; Ray starts another in its place, which counts as a death."""
    ray.kill(actor, no_restart=False)


def end_if_stopped(actor: ActorHandle) -> None:
    """Kill a starting actor's process where it stands still (SIGSTOP) for good: it answers nobody,
    as one that loads for long, and only its node can tell. Returns at once; what follows is that of
    any death."""
    life = life_of(actor)
    if life.pid:
        there = NodeAffinitySchedulingStrategy(life.node_id, soft=False)
        task: Any = ray.remote(_end_if_stopped).options(num_cpus=0, scheduling_strategy=there)
        task.remote(life.pid, STOPPED_S)


def _end_if_stopped(pid: int, stopped_s: float) -> None:
    """On its node. Who dies meanwhile is another matter."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_STOPPED:
            time.sleep(stopped_s)
            if process.status() == psutil.STATUS_STOPPED:
                process.kill()  # raises where the pid is another process's by now
