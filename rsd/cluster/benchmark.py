"""What the driver itself costs: `rsd benchmark driver`."""

from __future__ import annotations

import math
import resource
import tempfile
import time
from dataclasses import dataclass
from io import StringIO

import psutil
from rich.console import Console

from rsd.cluster.display import LineDisplay, Shown, Standing
from rsd.cluster.evaluate import EvaluationRun
from rsd.cluster.session import connected
from rsd.cluster.watch import Interrupts
from rsd.config import parse
from rsd.errors import UserError
from rsd.models.toy import LAYERS
from rsd.preflight import open_books, prepare
from rsd.suites import TRIALS_PER_TASK

MODES = ("autoregressive", "speculative")
EPISODES_PER_TRIAL = 10 * len(MODES)  # toy suite: 10 tasks
MAX_EPISODES = TRIALS_PER_TASK * LAYERS * EPISODES_PER_TRIAL  # a pair of arms a layer


@dataclass(frozen=True)
class DriverCost:
    """Driver's own time and memory, over the episodes of a toy run."""

    episodes: int
    busy_ms: float  # an episode: wall time in which the driver did not wait for a worker
    cpu_ms: float  # an episode: processor time of the driver's process, Ray's threads included
    wall_s: float
    rss_growth_bytes: int  # from a quarter of the run to its end
    peak_rss_bytes: int


class _MemoryWatch(LineDisplay):
    """Notes the driver's memory at a quarter of the run, when everything is imported and warm."""

    def __init__(self) -> None:
        super().__init__(Console(file=StringIO()))
        self.quarter_bytes = 0

    def show(self, standing: Shown) -> None:
        super().show(standing)
        assert isinstance(standing, Standing)
        if not self.quarter_bytes and standing.recorded_now * 4 >= standing.planned:
            self.quarter_bytes = psutil.Process().memory_info().rss


def driver_cost(episodes: int = 2000, workers: int = 2) -> DriverCost:
    """Run `episodes` toy episodes (`plan_of` says how many in fact) into real Parquet on a local
    Ray and measure the driver. Workers share the machine's processors with it, so that its wall
    time is an upper bound.

    Raises UserError for more episodes than there are.
    """
    trials, arms = plan_of(episodes)
    watch = _MemoryWatch()
    with tempfile.TemporaryDirectory() as folder, connected():
        flags = ["--task-suite", "toy", "--policy", "toy", "--worker-memory-gb", "0.2"]
        flags += ["--workers", str(workers), "--episodes-per-worker", str(2 * MAX_EPISODES)]
        flags += ["--num-trials", str(trials), "--output", folder]
        config = parse([*flags, "--arms", *arms])
        run = prepare(config)
        with open_books(run, watch.say) as books, Interrupts(watch.say) as interrupts:
            session = EvaluationRun(run, books, watch, interrupts)
            started, cpu = time.perf_counter(), time.process_time()
            standing = session.run()
            wall_s = time.perf_counter() - started
            cpu_s = time.process_time() - cpu
            busy_s = wall_s - session.pool.waited_s
    done = standing.recorded_now
    return DriverCost(
        episodes=done,
        busy_ms=1000 * busy_s / done,
        cpu_ms=1000 * cpu_s / done,
        wall_s=wall_s,
        rss_growth_bytes=psutil.Process().memory_info().rss - watch.quarter_bytes,
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def plan_of(episodes: int) -> tuple[int, list[str]]:
    """(trials, arms) of the smallest run of at least so many episodes: a task has 50 trials, more
    episodes come from more arms. Raises UserError for more than the toy suite has."""
    if not 1 <= episodes <= MAX_EPISODES:
        raise UserError(
            f"--episodes {episodes}: the toy suite has {MAX_EPISODES} (a task's "
            f"{TRIALS_PER_TASK} trials in {LAYERS * len(MODES)} arms); choose 1 to {MAX_EPISODES}"
        )
    sizes = {
        depth: math.ceil(episodes / (depth * EPISODES_PER_TRIAL)) for depth in range(1, LAYERS + 1)
    }
    fitting = [depth for depth, trials in sizes.items() if trials <= TRIALS_PER_TASK]
    depth = min(fitting, key=lambda depth: (depth * sizes[depth], depth))
    return sizes[depth], [f"{mode}@{layer}" for layer in range(1, depth + 1) for mode in MODES]
