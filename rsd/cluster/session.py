"""Connecting to Ray, the one that is named or one of our own."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator

import psutil
import ray
from ray._private import worker
from ray._private.resource_and_label_spec import ResourceAndLabelSpec  # what Ray itself asks

from rsd import provenance
from rsd.cluster.address import VARIABLE, cluster_address
from rsd.cluster.reasons import reason_of
from rsd.cluster.scaling import ClusterSize
from rsd.cluster.watch import VITAL, Birth, Lifeline, beside, lifeline
from rsd.errors import RunStoppedError, UserError
from rsd.leaving import is_left_behind

OBJECT_STORE_BYTES = 512 * 1024**2  # of a local cluster: a frame pair is 0.4 MB, and shortly lived
END_S = 1.0  # for killed processes to be gone
STARTS = 3  # tries at a local cluster: a busy machine may take longer than Ray's fixed 30 s


@contextlib.contextmanager
def connected(cpus: int | None = None) -> Iterator[None]:
    """Ray: the cluster that RAY_ADDRESS names (`ray job submit` sets it), else one of our own on
    this machine that ends with the context, with `cpus` CPUs, or those that this process may use.

    Raises RunStoppedError where none of our own can be started, and where the cluster, which
    `check_cluster` has seen, does not answer any more.
    """
    before = _children()
    ours: set[psutil.Process] = set()
    address = cluster_address()
    try:
        _silence_ray()
        if address is not None:
            beside(lambda: _join(address))
        else:
            beside(lambda: _start_local(provenance.cpus() if cpus is None else cpus))
            ours = _children() - before
        vital = _vital() if ours else {}
        head = Lifeline(ray.get_runtime_context().gcs_address, vital)
        with lifeline(head), lifeline(Lifeline(_raylet_address(), what="raylet")):
            yield
    finally:
        try:
            if not is_left_behind():
                beside(ray.shutdown)
                _listen_again(signal.SIGTERM)
        finally:
            if is_left_behind():  # Ray's own end would wait, too
                _end(ours | _children() - before)


def _listen_again(signum: signal.Signals) -> None:
    """Ray's end gives a signal its default action behind Python's back, whatever handler Python
    has and names."""
    handler = signal.getsignal(signum)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signum, handler)


def _silence_ray() -> None:
    """Ray prints (raylet) lines with what it pushes to every driver, log_to_driver or not. What of
    it matters to a run is said by the run; the rest is in Ray's logs."""
    worker._worker_logs_enabled = False


def _vital() -> dict[str, psutil.Process]:
    """Of a local cluster. Only what this process itself started: what their own children are called
    before they have become something else does not count."""
    children = psutil.Process().children()
    return {process.name(): process for process in children if process.name() in VITAL}


def _raylet_address() -> str:
    """Of this process's own node. Ray misses one that stands still: its node counts as alive, and
    nothing is started any more."""
    own = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == own)
    return f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"


def _children() -> set[psutil.Process]:
    """All processes below this one."""
    return set(psutil.Process().children(recursive=True))


def _end(processes: Iterable[psutil.Process]) -> None:
    """For good."""
    left = list(processes)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=END_S)


def _join(address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of many types
        raise RunStoppedError(f"the Ray cluster of {VARIABLE}={address!r}: {error}") from error


def _start_local(cpus: int) -> None:
    os.environ.pop(VARIABLE, None)  # blank, which Ray takes for an address here and there
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 starves the ones that do the work
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # a process a CPU, none for us
    failure = Exception()
    for _ in range(STARTS):
        before = _children()
        try:
            with lifeline(Birth(_vital)):
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
            _end(_children() - before)  # Ray forgets those of a node that it could not start
    raise RunStoppedError(f"Ray does not start on this machine: {reason_of(failure)}")


def local_size() -> ClusterSize:
    """What a cluster of our own on this machine would have, counted as Ray counts at its start:
    container limits, CUDA_VISIBLE_DEVICES and memory that others hold included."""
    spec = ResourceAndLabelSpec(
        num_cpus=provenance.cpus(), object_store_memory=OBJECT_STORE_BYTES
    ).resolve(is_head=True)
    return ClusterSize.of(spec.to_resource_dict())


def check_gpus(each: float) -> None:
    """Raises UserError where this machine has not the GPUs of a single replica."""
    size = local_size()
    if each > size.gpus:
        raise UserError(
            f"--gpus-per-replica {each:g}: this machine has {size.gpus:g} GPUs that Ray finds; "
            f"give 0 for replicas on CPUs, or name a cluster that has them by {VARIABLE}"
        )
