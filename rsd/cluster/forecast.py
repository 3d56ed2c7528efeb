"""What a run will take, before it starts: the dry run's lines."""

from __future__ import annotations

from dataclasses import dataclass

from rsd.cluster import scaling
from rsd.cluster.address import cluster_address
from rsd.cluster.evaluate import wishes_of
from rsd.cluster.nodes import cluster_size
from rsd.cluster.scaling import ClusterSize
from rsd.cluster.session import connected, local_size
from rsd.envs import suite_of
from rsd.preflight import RunPlan

SECONDS_PER_STEP = 0.03  # of an episode, decoding included, measured on one CPU core
START_S = 20.0  # until the first episode runs


@dataclass(frozen=True)
class Forecast:
    """As far as it is known before anything runs."""

    cluster: ClusterSize
    sizing: scaling.Sizing
    seconds: float  # where every episode takes all its steps


def forecast(run: RunPlan) -> Forecast:
    """Size a run up, on the cluster of RAY_ADDRESS or this machine, without starting an actor."""
    if cluster_address() is None:
        cluster = local_size()
    else:
        with connected():
            cluster = cluster_size()
    sizing = scaling.size(cluster, wishes_of(run), len(run.keys))
    steps = sum(run.protocol.most_steps(suite_of(key.suite)) for key in run.keys)
    seconds = START_S + steps * SECONDS_PER_STEP / max(1, sizing.workers.change)
    return Forecast(cluster, sizing, seconds)
