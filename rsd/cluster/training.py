"""Training on Ray Train: who trains with whom, where; what is trained is in rsd/training.

One worker or many, on CPUs (gloo) or a GPU each (NCCL). A worker that dies takes its group with
it; the group is started again and goes on from the training state in the output folder.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from rsd.cluster.actors import start_actor
from rsd.cluster.address import cluster_address
from rsd.cluster.reasons import reason_of
from rsd.cluster.scaling import Footprint
from rsd.errors import CannotWriteError, RunStoppedError, UserError
from rsd.models import bundled
from rsd.provenance import cpus
from rsd.training.config import TrainJob
from rsd.training.metrics import Progress

POLL_S = 0.2
SCRATCH = ".ray-train"  # folder in the output where Ray Train keeps its own notes


@dataclass(frozen=True)
class Placement:
    """The group of workers."""

    workers: int
    gpus_per_worker: float
    restarts: int  # of the group, after a worker's death

    def __str__(self) -> str:
        each = f"{self.gpus_per_worker:g} GPU each" if self.gpus_per_worker else "on CPUs"
        return f"{self.workers} worker{'s' * (self.workers != 1)}, {each}"

    @classmethod
    def choose(
        cls, workers: int | None, gpus_per_worker: float | None, restarts: int, gpus: float
    ) -> Placement:
        """Fill in what the user left open: a worker a GPU on a cluster with `gpus`, else one on
        CPUs. Raises UserError for what cannot be."""
        each = min(1.0, gpus) if gpus_per_worker is None else gpus_per_worker
        count = max(1, int(gpus / each) if each else 1) if workers is None else workers
        if count < 1 or each < 0 or restarts < 0:
            raise UserError(
                f"{count} workers with {each:g} GPUs each and {restarts} restarts; give at least "
                "1 worker, and nothing negative"
            )
        if count * each > gpus and cluster_address() is None:
            raise UserError(
                f"{count} workers with {each:g} GPUs each, this machine has {gpus:g}; give fewer "
                "--workers or --gpus-per-worker 0"
            )
        return cls(count, each, restarts)


class Mailbox:
    """What workers have to say to the one who waits for them."""

    def __init__(self) -> None:
        self._waiting: list[Progress | str] = []
        self._refusal = ""
        self._stop = ""

    def put(self, event: Progress | str) -> None:
        self._waiting.append(event)

    def take(self) -> list[Progress | str]:
        waiting, self._waiting = self._waiting, []
        return waiting

    def refuse(self, reason: str) -> None:
        """The training cannot be done as it was asked for: no use in trying again."""
        self._refusal = self._refusal or reason

    def refusal(self) -> str:
        return self._refusal

    def stop(self, reason: str) -> None:
        """It cannot go on now: no use in trying again before something is mended."""
        self._stop = self._stop or reason

    def ends(self) -> bool:
        """Whether a group that is started again has nothing to do."""
        return bool(self._refusal or self._stop)

    def stopped(self) -> str:
        return self._stop


def train(
    job: TrainJob,
    command: str,
    placement: Placement,
    show: Callable[[Progress | str], None],
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train on the connected cluster; `show` is called with what happens, in this thread.

    Raises UserError for a request that cannot be carried out, RunStoppedError where workers keep
    dying or the output folder has no room, and KeyboardInterrupt where `stop` says so; the workers
    end with the connection.
    """
    mailbox = start_actor(Mailbox, Footprint(0), {})
    scratch = job.output / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    fitter = start_actor(Fitter, Footprint(0), {})
    fitting: Any = fitter.fit.remote(job, command, placement, mailbox)
    failure: Exception | None = None
    try:
        while not ray.wait([fitting], timeout=POLL_S)[0]:
            if stop():
                raise KeyboardInterrupt
            _show_all(mailbox, show)
        try:
            ray.get(fitting)
        except ray.exceptions.RayError as error:
            failure = error
        _show_all(mailbox, show)
        refusing: Any = mailbox.refusal.remote()
        stopping: Any = mailbox.stopped.remote()
        refusal, stopped = ray.get([refusing, stopping])
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if refusal:
        raise UserError(refusal)
    if stopped:
        raise RunStoppedError(stopped)
    if failure:
        raise RunStoppedError(reason_of(failure)) from failure


def _show_all(mailbox: ActorHandle, show: Callable[[Progress | str], None]) -> None:
    answer: Any = mailbox.take.remote()
    for event in ray.get(answer):
        show(event)


class Fitter:
    """Waits for Ray Train, in a process of its own: `fit` takes over Ctrl-C where it runs in a main
    thread, and where it runs in another one it cannot be left without ending the process."""

    def fit(self, job: TrainJob, command: str, placement: Placement, mailbox: ActorHandle) -> None:
        """Run the group of workers to its end. Raises what ended it."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        gpus = placement.gpus_per_worker
        TorchTrainer(
            work,
            train_loop_config={"job": job, "command": command, "mailbox": mailbox},
            scaling_config=ScalingConfig(
                num_workers=placement.workers,
                use_gpu=gpus > 0,
                resources_per_worker={"CPU": 1, **({"GPU": gpus} if gpus else {})},
            ),
            run_config=RunConfig(
                name="train",
                storage_path=str(job.output / SCRATCH),
                failure_config=FailureConfig(max_failures=placement.restarts),
            ),
        ).fit()


def work(config: dict[str, Any]) -> None:
    """What every worker of the group runs."""
    from ray.train import get_context
    from ray.train.torch import get_device

    from rsd.training.distributed import Workers, use_threads
    from rsd.training.run import train as run

    job, mailbox = config["job"], config["mailbox"]
    answer: Any = mailbox.ends.remote()
    if ray.get(answer):
        return
    on_node = get_context().get_local_world_size()
    use_threads(job.threads or max(1, cpus() // on_node))
    try:
        run(job, config["command"], mailbox.put.remote, mailbox.put.remote, get_device(),
            Workers.joined(job.shard))  # fmt: skip
    except CannotWriteError as error:
        ray.get(mailbox.stop.remote(str(error)))
        raise
    except UserError as error:
        ray.get(mailbox.refuse.remote(str(error)))
        raise


def gpus_of_cluster() -> float:
    """GPUs of the connected cluster as it is now."""
    return float(ray.cluster_resources().get("GPU", 0))


def _absolute_checkpoint(spec: str | None) -> str | None:
    """The name of a bundled one stays, and an id of the hub."""
    if spec is None or spec in bundled() or "://" in spec:
        return spec
    return str(Path(spec).expanduser().absolute())


def absolute(job: TrainJob) -> TrainJob:
    """With paths that hold in a worker's folder, too."""
    return dataclasses.replace(
        job,
        data=tuple(path.expanduser().absolute() for path in job.data),
        output=job.output.expanduser().absolute(),
        start_from=_absolute_checkpoint(job.start_from),
        base=_absolute_checkpoint(job.base),
    )
