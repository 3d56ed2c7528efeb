"""Workers and replicas as many as `scaling` decides, and what they wait for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from ray.autoscaler.sdk import request_resources

from rsd.cluster import scaling
from rsd.cluster.address import cluster_address
from rsd.cluster.nodes import cluster_size
from rsd.cluster.pool import PATIENCE_S, WorkerPool
from rsd.cluster.replicas import Replicas
from rsd.cluster.scaling import ClusterSize, ScalingDecision, Sizing, Staff, Wishes

PERIOD_S = 5.0  # from one sizing to the next


class Staffing:
    """Grows with the cluster, and has its autoscaler grow it; a context that ends everybody."""

    def __init__(
        self,
        wishes: Wishes,
        pool: WorkerPool[Any, Any],
        replicas: Replicas | None,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`replicas`: those that the pool's workers ask, if they ask any."""
        self._wishes = wishes
        self._pool = pool
        self._replicas = replicas
        self._say = say
        self._clock = clock
        self._growing = True
        self._sized = -math.inf
        self._served = clock()  # when workers and replicas were up last, or the run began
        self._told = False

    @classmethod
    def of_workers(
        cls,
        pool: WorkerPool[Any, Any],
        workers: int | None,
        worker_memory_gb: float,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> Staffing:
        """Of workers that ask no replica."""
        grows = cluster_address() is not None
        return cls(Wishes(workers, 0, 0.0, worker_memory_gb, 1, grows), pool, None, say, clock)

    def __enter__(self) -> Staffing:
        self._served = self._clock()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.end()
        if self._replicas is not None:
            self._replicas.end()
        request_resources(bundles=[])

    def wind_down(self) -> None:
        """From now on nobody is started, nor a node asked for; who has a job ends it."""
        if self._growing:
            self._growing = False
            self._pool.wind_down()
            request_resources(bundles=[])

    def tend(self, remaining: int) -> None:
        """Now and then: start whom the cluster has room for, with so many jobs left."""
        if self._growing and self._clock() - self._sized >= PERIOD_S:
            self._sized = self._clock()
            cluster = cluster_size()
            sizing = scaling.size(cluster, self._wishes, remaining, self._staff)
            self._grow(sizing)
            self._explain_silence(cluster, sizing)

    def _grow(self, sizing: Sizing) -> None:
        if self._replicas is not None:
            self._tell("replica", sizing.replicas)
            self._replicas.start(sizing.replicas.change, sizing.replica)
        self._tell("worker", sizing.workers)
        self._pool.start(sizing.workers.change, sizing.worker)
        bundle = {"CPU": sizing.worker.cpus, "memory": int(sizing.worker.memory_bytes)}
        request_resources(bundles=[bundle] * sizing.worth_a_node)  # no autoscaler: no effect

    @property
    def _staff(self) -> Staff:
        replicas = self._replicas
        if replicas is None:
            return Staff(len(self._pool.members))
        return Staff(len(self._pool.members), len(replicas), replicas.dead, replicas.footprint)

    def _tell(self, kind: str, decision: ScalingDecision) -> None:
        if decision.change:
            self._say(f"starting {decision.change} {kind}(s): {decision.reason}")

    def _explain_silence(self, cluster: ClusterSize, sizing: Sizing) -> None:
        """Say once what an actor that does not start is waiting for."""
        up = bool(self._pool.up)
        if up and (self._replicas is None or self._replicas.ready):
            self._served = self._clock()
        elif not self._told and self._clock() - self._served > PATIENCE_S:
            self._told = True
            who, footprint = ("a replica", sizing.replica) if up else ("a worker", sizing.worker)
            self._say(f"waiting for {who}: it asks for {footprint}; the cluster has {cluster}")
