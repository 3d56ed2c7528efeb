"""What the cluster has, and what a node of it must have in common with the driver."""

from __future__ import annotations

import ray

from rsd import arithmetic
from rsd.cluster.scaling import ClusterSize
from rsd.cluster.worker import WorkerInfo
from rsd.errors import RunStoppedError


def cluster_size() -> ClusterSize:
    """What the connected cluster has now."""
    return ClusterSize.of(ray.cluster_resources())


def check_code(node: str, sha256: str, drivers: str) -> None:
    """Raises RunStoppedError where a node runs other sources than the driver."""
    if sha256 != drivers:
        raise RunStoppedError(
            f"node {node} runs other code than the driver (source {sha256[:12]}, the driver's is "
            f"{drivers[:12]}): upload one working folder to all nodes with `ray job submit "
            "--working-dir .`, and leave the code as it is while a run goes on"
        )


def check_worker(info: WorkerInfo, drivers: str) -> None:
    """Raises RunStoppedError for a worker whose node cannot do what the driver's can; `drivers` is
    the driver's own sources."""
    check_code(info.machine.node, info.source_sha256, drivers)
    if info.machine.arithmetic != arithmetic.name():
        raise RunStoppedError(
            f"node {info.machine.node} ({info.machine.cpu}) computes with other bits than the "
            f"driver: {info.machine.arithmetic} instead of {arithmetic.name()}; its states would "
            "differ: give a run one kind of machine"
        )
    if info.problem:
        raise RunStoppedError(f"node {info.machine.node} cannot run episodes: {info.problem}")
