"""How many workers and replicas a cluster can hold: pure decisions with their reasons, no ray."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

GB = 1024**3
WORKERS_PER_CPU_REPLICA = 8  # simulators that keep one CPU replica of a small policy busy
SHARED_CPUS = 8  # up to here a CPU replica takes its time from the simulators' CPUs
EPISODES_WORTH_A_WORKER = 10  # fewer do not pay for a node that takes minutes to start


@dataclass(frozen=True)
class ClusterSize:
    """What the nodes of a cluster have in all."""

    cpus: float
    gpus: float
    memory_bytes: float

    @classmethod
    def of(cls, resources: Mapping[str, float]) -> ClusterSize:
        """By Ray's names of what there is."""
        return cls(*(resources.get(name, 0.0) for name in ("CPU", "GPU", "memory")))

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs, {self.gpus:g} GPUs, {self.memory_bytes / GB:.0f} GB of memory"


@dataclass(frozen=True)
class Footprint:
    """What one actor asks of Ray."""

    cpus: float
    gpus: float = 0.0
    memory_bytes: float = 0.0

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs, {self.gpus:g} GPUs and {self.memory_bytes / GB:.1f} GB"


@dataclass(frozen=True)
class ScalingDecision:
    """Start `change` actors more (never fewer: an idle one costs nothing but its reservation)."""

    change: int
    reason: str


@dataclass(frozen=True)
class Wishes:
    """What the user asked for; None: derive it."""

    workers: int | None
    replicas: int | None
    gpus_per_replica: float | None
    worker_memory_gb: float
    max_batch_size: int
    grows: bool = True  # whether nodes may join: what does not fit yet waits for them


@dataclass(frozen=True)
class Staff:
    """Who is there already."""

    workers: int = 0
    replicas: int = 0
    dead_replicas: int = 0  # for good: nobody takes their place, where one died, so would others
    replica: Footprint | None = None  # of one that is there: all are of its kind


@dataclass(frozen=True)
class Sizing:
    """Whom to start, and what each asks for."""

    workers: ScalingDecision
    worker: Footprint
    replicas: ScalingDecision
    replica: Footprint
    worth_a_node: int  # workers in all that an autoscaler should make room for


NOBODY = Staff()


def size(cluster: ClusterSize, wishes: Wishes, remaining: int, staff: Staff = NOBODY) -> Sizing:
    """Whom to start beside `staff` for `remaining` episodes, those that are running included.

    It never shrinks, and it may be asked again whenever nodes have joined.
    """
    replica = _replica_footprint(cluster, wishes)
    if staff.replica is not None and staff.replica.gpus != replica.gpus:
        replica = staff.replica
    replicas = _replicas(cluster, wishes, remaining, staff, replica)
    worker = Footprint(1.0, 0.0, min(wishes.worker_memory_gb * GB, cluster.memory_bytes))
    held_cpus = (staff.replicas + replicas.change) * replica.cpus
    workers = _workers(cluster, wishes, remaining, staff, worker, held_cpus)
    return Sizing(workers, worker, replicas, replica, _worth_a_node(wishes, remaining))


def _replica_footprint(cluster: ClusterSize, wishes: Wishes) -> Footprint:
    """A GPU and the CPU that feeds it; without GPUs a CPU, or on a small machine none of its own:
    while a simulator waits for the replica it leaves its CPU to it."""
    gpus = wishes.gpus_per_replica
    if gpus is None:
        gpus = 1.0 if cluster.gpus >= 1 else 0.0
    if gpus > 0:
        return Footprint(cpus=min(1.0, gpus), gpus=gpus)
    return Footprint(cpus=1.0 if cluster.cpus > SHARED_CPUS else 0.0)


def _replicas(
    cluster: ClusterSize, wishes: Wishes, remaining: int, staff: Staff, replica: Footprint
) -> ScalingDecision:
    made = staff.replicas + staff.dead_replicas
    asked = wishes.replicas
    if asked != 0 and cluster.cpus < 1 and wishes.gpus_per_replica is None:
        return ScalingDecision(0, "the first node with CPUs decides whether they run on GPUs")
    if asked is not None:
        why = f"{asked} asked for" if asked else "nobody asks one"
        room = math.inf if wishes.grows else _room(cluster, replica)
        if asked > room:
            asked, why = int(room), f"{why}, room for {room:g} ({cluster})"
        return ScalingDecision(max(0, asked - made), why)
    simulators = max(1, min(remaining, int(cluster.cpus), wishes.workers or remaining))
    if replica.gpus > 0:
        fit = int(cluster.gpus / replica.gpus)
        useful = math.ceil(simulators / wishes.max_batch_size)
        why = f"{cluster.gpus:g} GPUs hold {fit}, {simulators} simulators fill {useful}"
    elif replica.cpus > 0:
        fit = int(cluster.cpus / (WORKERS_PER_CPU_REPLICA + replica.cpus))
        useful = math.ceil(simulators / WORKERS_PER_CPU_REPLICA)
        why = f"one to {WORKERS_PER_CPU_REPLICA} simulators on {cluster.cpus:g} CPUs"
    else:
        fit = useful = 1
        why = f"one shares the simulators' {cluster.cpus:g} CPUs"
    return ScalingDecision(max(0, max(1, min(fit, useful)) - made), why)


def _room(cluster: ClusterSize, replica: Footprint) -> float:
    """Replicas that leave a CPU to a worker, at least 1."""
    gpus = cluster.gpus // replica.gpus if replica.gpus else math.inf
    cpus = (cluster.cpus - 1) // replica.cpus if replica.cpus else math.inf
    return max(1.0, min(gpus, cpus))


def _workers(
    cluster: ClusterSize,
    wishes: Wishes,
    remaining: int,
    staff: Staff,
    worker: Footprint,
    held_cpus: float,
) -> ScalingDecision:
    """More than fit can be asked for: where nodes may join the others wait for them, elsewhere
    there are no others."""
    cpus = int((cluster.cpus - held_cpus) / worker.cpus)
    memory = int(cluster.memory_bytes / worker.memory_bytes) if worker.memory_bytes else cpus
    wanted = max(1, min(cpus, memory))
    limit = "CPUs" if cpus <= memory else "memory"
    why = f"{limit} for {wanted} ({cluster})"
    asked = wishes.workers
    if asked is not None and asked <= wanted:
        wanted, why = asked, f"{asked} asked for"
    elif asked is not None and wishes.grows:
        wanted, why = asked, f"{asked} asked for, {why}: the others wait for nodes"
    elif asked is not None:
        why = f"{asked} asked for, {why}"
    if remaining < wanted:
        wanted, why = remaining, f"{remaining} episodes left"
    return ScalingDecision(max(0, wanted - staff.workers), why)


def _worth_a_node(wishes: Wishes, remaining: int) -> int:
    if wishes.workers is not None:
        return min(wishes.workers, remaining)
    return math.ceil(remaining / EPISODES_WORTH_A_WORKER)
