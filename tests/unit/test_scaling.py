from __future__ import annotations

import dataclasses

import pytest

from rsd.cluster.scaling import (
    GB,
    ClusterSize,
    Footprint,
    Wishes,
    replica_footprint,
    scale_replicas,
    scale_workers,
    worker_footprint,
    workers_worth_a_node,
)

AUTO = Wishes(None, None, None, worker_memory_gb=2.0, max_batch_size=16)
LAPTOP = ClusterSize(cpus=2, gpus=0, memory_bytes=16 * GB)
SERVER = ClusterSize(cpus=64, gpus=0, memory_bytes=256 * GB)
GPUS = ClusterSize(cpus=96, gpus=4, memory_bytes=512 * GB)


def sizes(
    cluster: ClusterSize, remaining: int = 1000, wishes: Wishes = AUTO
) -> tuple[int, int, float]:
    """(workers, replicas, GPUs a replica) of a run that starts."""
    replica = replica_footprint(cluster, wishes)
    replicas = scale_replicas(0, remaining, cluster, replica, wishes).change
    held = Footprint(replicas * replica.cpus, replicas * replica.gpus)
    worker = worker_footprint(cluster, wishes)
    workers = scale_workers(0, remaining, cluster, worker, held, wishes).change
    return workers, replicas, replica.gpus


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        (LAPTOP, (2, 1, 0.0)),
        (SERVER, (57, 7, 0.0)),
        (GPUS, (92, 4, 1.0)),
        (ClusterSize(64, 0, 20 * GB), (10, 7, 0.0)),
        (ClusterSize(1, 0, 1 * GB), (1, 1, 0.0)),
    ],
)
def test_sizes_follow_from_the_cluster(
    cluster: ClusterSize, expected: tuple[int, int, float]
) -> None:
    assert sizes(cluster) == expected


def test_what_is_asked_for_is_given_even_where_it_does_not_fit_yet() -> None:
    wishes = dataclasses.replace(AUTO, workers=40, replicas=2, gpus_per_replica=0.5)
    assert sizes(LAPTOP, wishes=wishes) == (40, 2, 0.5)


def test_where_no_nodes_can_join_no_more_is_started_than_fits_and_the_reason_says_so() -> None:
    alone = dataclasses.replace(AUTO, grows=False, workers=40, replicas=2)
    assert sizes(LAPTOP, wishes=alone) == (2, 2, 0.0)
    worker = worker_footprint(LAPTOP, alone)
    decision = scale_workers(0, 1000, LAPTOP, worker, Footprint(0), alone)
    assert decision.reason == "40 asked for, CPUs for 2 (2 CPUs, 0 GPUs, 16 GB of memory)"
    few = dataclasses.replace(alone, workers=1)
    assert scale_workers(0, 1000, LAPTOP, worker, Footprint(0), few).reason == "1 asked for"
    many = dataclasses.replace(alone, workers=None, replicas=99)
    assert sizes(SERVER, wishes=many) == (1, 63, 0.0)
    assert sizes(GPUS, wishes=many)[1] == 4


def test_where_nodes_may_join_the_reason_says_who_waits_for_them() -> None:
    asked = dataclasses.replace(AUTO, workers=40)
    worker = worker_footprint(LAPTOP, asked)
    decision = scale_workers(0, 1000, LAPTOP, worker, Footprint(0), asked)
    assert decision.change == 40
    assert decision.reason.endswith("GB of memory): the others wait for nodes")


def test_there_are_no_more_workers_than_episodes() -> None:
    assert sizes(SERVER, remaining=3)[0] == 3


def test_no_more_gpu_replicas_than_the_simulators_can_fill() -> None:
    assert sizes(ClusterSize(8, 8, 64 * GB))[1] == 1


def test_it_grows_when_nodes_join_and_says_why() -> None:
    worker = worker_footprint(LAPTOP, AUTO)
    none_held = Footprint(0)
    assert scale_workers(2, 500, LAPTOP, worker, none_held, AUTO).change == 0
    decision = scale_workers(2, 500, SERVER, worker, none_held, AUTO)
    assert decision.change == 62
    assert decision.reason == "CPUs for 64 (64 CPUs, 0 GPUs, 256 GB of memory)"


def test_it_never_shrinks() -> None:
    worker = worker_footprint(LAPTOP, AUTO)
    assert scale_workers(5, 500, LAPTOP, worker, Footprint(0), AUTO).change == 0
    assert scale_replicas(5, 500, LAPTOP, Footprint(0), AUTO).change == 0


def test_a_worker_asks_for_no_more_memory_than_there_is() -> None:
    assert worker_footprint(ClusterSize(1, 0, GB), AUTO).memory_bytes == GB


def test_an_autoscaler_is_asked_for_what_pays() -> None:
    assert workers_worth_a_node(500, AUTO).change == 50
    assert workers_worth_a_node(500, dataclasses.replace(AUTO, workers=8)).change == 8
    assert workers_worth_a_node(3, dataclasses.replace(AUTO, workers=8)).change == 3
