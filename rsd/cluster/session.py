"""Connecting to Ray, and a run from its plan to its last row."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass

import ray
from ray._private.resource_and_label_spec import ResourceAndLabelSpec  # what Ray itself asks
from rich.console import Console

from rsd import provenance
from rsd.cluster import scaling
from rsd.cluster.address import VARIABLE, cluster_address
from rsd.cluster.crew import Crew, RunStoppedError, cluster_size, size_of, wishes_of
from rsd.cluster.driver import Driver, Interrupts
from rsd.cluster.progress import Standing, make_progress
from rsd.cluster.scaling import ClusterSize
from rsd.envs import suite_of
from rsd.errors import UserError
from rsd.preflight import RunPlan
from rsd.records import Books

OBJECT_STORE_BYTES = 512 * 1024**2  # of a local cluster: a frame pair is 0.4 MB, and shortly lived
STARTS = 3  # tries at a local cluster: a busy machine may take longer than Ray's fixed 30 s
SECONDS_PER_STEP = 0.03  # of an episode, decoding included, measured on one CPU core
START_S = 20.0  # until the first episode runs


@contextlib.contextmanager
def connected(cpus: int | None = None) -> Iterator[None]:
    """Ray: the cluster that RAY_ADDRESS names (`ray job submit` sets it), else one of our own on
    this machine that ends with the context, with `cpus` CPUs, or those that this process may use.

    Raises RunStoppedError where none of our own can be started, and where the cluster, which
    `check_cluster` has seen, does not answer any more.
    """
    address = cluster_address()
    if address is None:
        _start_local(provenance.cpus() if cpus is None else cpus)
    else:
        _join(address)
    try:
        yield
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of many types
        raise RunStoppedError(f"the Ray cluster of {VARIABLE}={address!r}: {error}") from error


def _start_local(cpus: int) -> None:
    os.environ.pop(VARIABLE, None)  # blank, which Ray takes for an address here and there
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 starves the ones that do the work
    failure: Exception | None = None
    for _ in range(STARTS):
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            return
        except Exception as error:  # what Ray raises for a node that starts too slowly
            failure = error
            ray.shutdown()
    raise RunStoppedError(f"Ray does not start on this machine: {failure}")


def evaluate(run: RunPlan, books: Books, console: Console) -> Standing:
    """Run what the books lack of a plan on the connected cluster, or less after an interrupt.

    Raises RunStoppedError where the cluster cannot run it.
    """
    with (
        make_progress(console) as progress,
        Interrupts(progress.say) as interrupts,
        Crew(run, progress.say, books.note_machine) as crew,
    ):
        return Driver(run, books, crew, progress, interrupts).run()


@dataclass(frozen=True)
class Forecast:
    """What a run will take, as far as that is known before it starts."""

    cluster: ClusterSize
    episodes: int
    workers: int
    workers_reason: str
    replicas: int
    replicas_reason: str
    gpus_per_replica: float
    seconds: float  # where every episode takes all its steps


def local_size() -> ClusterSize:
    """What a cluster of our own on this machine would have, counted as Ray counts at its start:
    container limits, CUDA_VISIBLE_DEVICES and memory that others hold included."""
    spec = ResourceAndLabelSpec(
        num_cpus=provenance.cpus(), object_store_memory=OBJECT_STORE_BYTES
    ).resolve(is_head=True)
    return size_of(spec.to_resource_dict())


def check_gpus(each: float) -> None:
    """Raises UserError where this machine has not the GPUs of a single replica."""
    size = local_size()
    if each > size.gpus:
        raise UserError(
            f"--gpus-per-replica {each:g}: this machine has {size.gpus:g} GPUs that Ray finds; "
            f"give 0 for replicas on CPUs, or name a cluster that has them by {VARIABLE}"
        )


def forecast(run: RunPlan) -> Forecast:
    """Size a run up, on the cluster of RAY_ADDRESS or this machine, without starting an actor."""
    if cluster_address() is None:
        size = local_size()
    else:
        with connected():
            size = cluster_size()
    wishes = wishes_of(run.config)
    episodes = len(run.keys)
    replica = scaling.replica_footprint(size, wishes)
    replicas = scaling.scale_replicas(0, episodes, size, replica, wishes)
    held = scaling.Footprint(replicas.change * replica.cpus)
    worker = scaling.worker_footprint(size, wishes)
    workers = scaling.scale_workers(0, episodes, size, worker, held, wishes)
    steps = sum(suite_of(key.suite).max_steps for key in run.keys)
    return Forecast(
        cluster=size,
        episodes=episodes,
        workers=workers.change,
        workers_reason=workers.reason,
        replicas=replicas.change,
        replicas_reason=replicas.reason,
        gpus_per_replica=replica.gpus,
        seconds=START_S + steps * SECONDS_PER_STEP / max(1, workers.change),
    )
