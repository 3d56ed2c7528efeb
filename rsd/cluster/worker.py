"""A worker: one simulator at a time, one episode after the other. No ray, no torch."""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Generic, TypeVar

from rsd.cluster.leases import TaskId, task_of
from rsd.envs import check_node, make_environment, suite_of
from rsd.episode import Decide, run_episode, run_expert_episode, told
from rsd.errors import UserError
from rsd.protocols import OFT, Protocol
from rsd.provenance import Machine, machine, source_sha256
from rsd.types import Arm, Environment, EpisodeKey, EpisodeResult, ImageSpec, Policy

if TYPE_CHECKING:
    import numpy as np

    from rsd.envs.assets import ResolvedAssets

STANDARD_ERROR = 2  # the descriptor: sys.stderr may be replaced by something without one
KILL_GRACE_S = 10.0  # after the time limit the driver waits so much longer before it kills


class EpisodeTimeLimitError(RuntimeError):
    """An episode has taken longer than it may; its traceback tells where it hung."""


class NoReplicaError(RuntimeError):
    """No replica has answered for a while: nothing is wrong with the episode."""


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker's simulators are made from."""

    assets: ResolvedAssets
    renderer: str
    images: ImageSpec
    time_limit_s: float
    protocol: Protocol = OFT


@dataclass(frozen=True)
class WorkerInfo:
    """What a worker says of itself when it is up."""

    machine: Machine
    source_sha256: str  # of the code that it runs
    problem: str  # why its node cannot run the suites; empty if it can


E = TypeVar("E", bound=Environment)


class Worker(Generic[E]):
    """Has at most one simulator and keeps it for the next episode of its task: making one takes
    seconds and more than 1 GB."""

    def __init__(self, settings: WorkerSettings, make: Callable[..., E]) -> None:
        self._settings = settings
        self._make = make
        self._env: E | None = None
        self._task: TaskId | None = None

    def info(self, suite: str) -> WorkerInfo:
        """Checks this node for the suite's simulator, before an episode pays for it."""
        renderer, problem = self._settings.renderer, ""
        try:
            renderer = check_node(suite, self._settings.assets, renderer)
        except UserError as error:
            problem = str(error)
        return WorkerInfo(machine("worker", renderer), source_sha256(), problem)

    def _simulator(self, task: TaskId) -> E:
        """The simulator of a task; another one's is closed first."""
        if self._env is None or self._task != task:
            self._close()
            settings = self._settings
            self._env = self._make(
                *task, settings.assets, settings.renderer, settings.images, settings.protocol
            )
            self._task = task
        return self._env

    def _close(self) -> None:
        """Leave no simulator behind."""
        env, self._env = self._env, None
        if env is not None:
            with contextlib.suppress(Exception):  # a broken simulator may not close either
                env.close()


class EnvWorker(Worker[Environment]):
    """Runs episodes of an evaluation."""

    def __init__(
        self,
        settings: WorkerSettings,
        make: Callable[..., Environment] = make_environment,
    ) -> None:
        super().__init__(settings, make)

    def run(self, key: EpisodeKey, arm: Arm, decide: Decide) -> EpisodeResult:
        """One attempt at an episode; an exception becomes a result with outcome `error`.

        Raises EpisodeTimeLimitError (this process is then not to be trusted any more) and
        NoReplicaError.
        """
        started = time.perf_counter()
        try:
            with time_limit(self._settings.time_limit_s):
                env = self._simulator(task_of(key))
                result = self._run(env, key, arm, decide)
                return dataclasses.replace(result, protocol=self._settings.protocol.name)
        except (EpisodeTimeLimitError, NoReplicaError):
            raise
        except Exception:  # whatever simulator or policy raise is recorded as what it is
            error = traceback.format_exc()
            wall_s = time.perf_counter() - started
            result = error_result(key, arm, error, self._settings, self._env, wall_s)
            self._close()  # whatever state the simulator was in is gone
            return result

    def _run(self, env: Environment, key: EpisodeKey, arm: Arm, decide: Decide) -> EpisodeResult:
        protocol = self._settings.protocol
        max_steps = protocol.most_steps(suite_of(key.suite))
        if arm.decoding.mode == "expert":
            return run_expert_episode(env, key, expert_of(env, key.suite, key.task_id), max_steps)
        return run_episode(env, key, arm, decide, max_steps, protocol.replan_steps)


def expert_of(
    env: Environment, suite: str, task_id: int, other_rim: bool = False
) -> Callable[[], np.ndarray]:
    """A fresh expert for one episode on a LIBERO simulator, asked once before every step."""
    from rsd.experts import make_expert, read_state

    expert = make_expert(suite, task_id, other_rim)
    return lambda: expert.act(read_state(env.simulator))  # type: ignore[attr-defined]


def own_policy(spec: str, sha256: str) -> Policy:
    """The job's policy in this process: a small one decides faster than a request travels. Raises
    RuntimeError for another checkpoint than the job's."""
    from rsd.models import load_policy

    loaded = load_policy(spec, deterministic=False, device="cpu")
    if loaded.checkpoint_sha256 != sha256:
        raise RuntimeError(
            f"this node has another checkpoint at {spec!r} than the job: "
            f"{loaded.checkpoint_sha256[:12]} instead of {sha256[:12]}"
        )
    return loaded


def error_result(
    key: EpisodeKey,
    arm: Arm,
    error: str,
    settings: WorkerSettings,
    env: Environment | None = None,
    wall_s: float = 0.0,
) -> EpisodeResult:
    """The record of an attempt without a verdict, from a worker with `settings`.

    `steps` is 0 and there are no chunks, however far the attempt came; times are 0 and the
    instruction is empty where the process is gone and nobody knows them.
    """
    return EpisodeResult(
        key=key,
        instruction=env.instruction if env else "",
        outcome="error",
        steps=0,
        error=error,
        physics_s=env.timings.physics_s if env else 0.0,
        render_s=env.timings.render_s if env else 0.0,
        reset_s=env.timings.reset_s if env else 0.0,
        wait_s=0.0,
        wall_s=wall_s,
        assets=settings.assets.name,
        renderer=settings.renderer,
        final_state_sha256="",
        protocol=settings.protocol.name,
        **told(arm),
    )


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise EpisodeTimeLimitError in the main thread, where it hangs, after so many seconds.

    Code that never comes back to the interpreter is not reached: for that the driver kills the
    process KILL_GRACE_S later, after its stack was dumped to standard error.
    """

    def on_alarm(signum: int, frame: FrameType | None) -> None:
        raise EpisodeTimeLimitError(f"the episode exceeded its time limit of {seconds:g} s")

    before = signal.signal(signal.SIGALRM, on_alarm)
    faulthandler.dump_traceback_later(seconds + KILL_GRACE_S / 2, file=STANDARD_ERROR)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)
