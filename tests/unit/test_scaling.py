from __future__ import annotations

import dataclasses

import pytest

from rsd.cluster.scaling import GB, ClusterSize, Footprint, Sizing, Staff, Wishes, size

AUTO = Wishes(None, None, None, worker_memory_gb=2.0, max_batch_size=16)
COLLECTING = Wishes(None, 0, 0.0, worker_memory_gb=2.0, max_batch_size=1)
HEAD = ClusterSize(cpus=0, gpus=0, memory_bytes=4 * GB)
LAPTOP = ClusterSize(cpus=2, gpus=0, memory_bytes=16 * GB)
SERVER = ClusterSize(cpus=64, gpus=0, memory_bytes=256 * GB)
GPUS = ClusterSize(cpus=96, gpus=4, memory_bytes=512 * GB)


def counts(sizing: Sizing) -> tuple[int, int, float]:
    """(workers, replicas, GPUs a replica) that are started."""
    return sizing.workers.change, sizing.replicas.change, sizing.replica.gpus


def wishing(**wishes: float | None) -> Wishes:
    return dataclasses.replace(AUTO, **wishes)  # type: ignore[arg-type]


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
    assert counts(size(cluster, AUTO, 1000)) == expected


def test_a_collection_has_all_cpus_for_its_workers_and_no_replica() -> None:
    sizing = size(SERVER, COLLECTING, 1000)
    assert counts(sizing) == (64, 0, 0.0)
    assert sizing.replicas.reason == "nobody asks one"
    assert size(HEAD, COLLECTING, 1000).workers.change == 1  # waits for a node


def test_what_is_asked_for_is_given_even_where_it_does_not_fit_yet() -> None:
    wishes = wishing(workers=40, replicas=2, gpus_per_replica=0.5)
    assert counts(size(LAPTOP, wishes, 1000)) == (40, 2, 0.5)


def test_where_no_nodes_can_join_no_more_is_started_than_fits_and_the_reason_says_so() -> None:
    alone = wishing(grows=False, workers=40, replicas=2)
    sizing = size(LAPTOP, alone, 1000)
    assert counts(sizing) == (2, 2, 0.0)
    assert sizing.workers.reason == "40 asked for, CPUs for 2 (2 CPUs, 0 GPUs, 16 GB of memory)"
    few = dataclasses.replace(alone, workers=1)
    assert size(LAPTOP, few, 1000).workers.reason == "1 asked for"
    many = dataclasses.replace(alone, workers=None, replicas=99)
    assert counts(size(SERVER, many, 1000)) == (1, 63, 0.0)
    assert size(GPUS, many, 1000).replicas.change == 4


def test_where_nodes_may_join_the_reason_says_who_waits_for_them() -> None:
    decision = size(LAPTOP, wishing(workers=40), 1000).workers
    assert decision.change == 40
    assert decision.reason.endswith("GB of memory): the others wait for nodes")


def test_there_are_no_more_workers_than_episodes() -> None:
    assert size(SERVER, AUTO, 3).workers.change == 3


def test_no_more_gpu_replicas_than_the_simulators_can_fill() -> None:
    assert size(ClusterSize(8, 8, 64 * GB), AUTO, 1000).replicas.change == 1


def test_it_grows_when_nodes_join_and_says_why() -> None:
    two = Staff(workers=2)
    assert size(LAPTOP, COLLECTING, 500, two).workers.change == 0
    decision = size(SERVER, COLLECTING, 500, two).workers
    assert decision.change == 62
    assert decision.reason == "CPUs for 64 (64 CPUs, 0 GPUs, 256 GB of memory)"


def test_replicas_wait_for_the_first_node_unless_their_kind_was_asked_for() -> None:
    waiting = size(HEAD, AUTO, 1000).replicas
    assert waiting.change == 0 and waiting.reason.startswith("the first node with CPUs decides")
    assert size(HEAD, wishing(replicas=2), 1000).replicas.change == 0
    assert counts(size(HEAD, wishing(gpus_per_replica=0.5), 1000)) == (1, 1, 0.5)


def test_all_replicas_are_of_the_first_ones_kind() -> None:
    on_cpus = Staff(workers=57, replicas=7, replica=Footprint(1.0))
    assert size(GPUS, AUTO, 1000, on_cpus).replica == Footprint(1.0)
    assert size(GPUS, AUTO, 1000).replica == Footprint(1.0, gpus=1.0)
    sharing = Staff(workers=2, replicas=1, replica=Footprint(0.0))  # of a small first node
    assert size(SERVER, AUTO, 1000, sharing).replica == Footprint(1.0)


def test_where_a_replica_is_dead_for_good_no_other_is_started_nor_its_cpu_kept() -> None:
    staff = Staff(replicas=5, dead_replicas=2, replica=Footprint(1.0))
    assert counts(size(SERVER, AUTO, 1000, staff)) == (59, 0, 0.0)


def test_it_never_shrinks() -> None:
    many = Staff(workers=5, replicas=5, replica=Footprint(0.0))
    assert counts(size(LAPTOP, AUTO, 500, many)) == (0, 0, 0.0)


def test_a_worker_asks_for_no_more_memory_than_there_is() -> None:
    assert size(ClusterSize(1, 0, GB), AUTO, 1000).worker == Footprint(1.0, 0.0, GB)


def test_an_autoscaler_is_asked_for_what_pays() -> None:
    assert size(LAPTOP, AUTO, 500).worth_a_node == 50
    assert size(LAPTOP, wishing(workers=8), 500).worth_a_node == 8
    assert size(LAPTOP, wishing(workers=8), 3).worth_a_node == 3


def test_a_cluster_is_read_by_rays_names() -> None:
    assert ClusterSize.of({"CPU": 2.0, "memory": GB, "node:10.0.0.1": 1.0}) == ClusterSize(2, 0, GB)
