"""Measure what RSD costs: every figure of the documentation comes from here.

  python jobs/benchmark.py rollout     simulator: reference loop, ours, floor
  python jobs/benchmark.py decoding    policy: parallel, autoregressive, speculative
  python jobs/benchmark.py driver      bookkeeping: driver time an episode, 2,000 toy episodes

Ratios of one run are what counts: absolute times depend on machine and load, processor times less.
`--json FILE` writes the figures.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from rsd.errors import UserError
from rsd.provenance import hardware
from rsd.types import Decoding, Observation


@dataclass(frozen=True)
class Rollout:
    """Control steps per second of the reference loop, ours and the floor; one process each."""

    suite: str = "libero_spatial"
    task: int = 2
    trials: int = 5
    steps: int = 110
    """Control steps of an episode"""

    chunk: int = 8
    """Steps between two looks of the policy"""

    assets: str = "auto"
    """auto, lite, official, or the folder of an asset tree"""

    renderer: str = "osmesa"
    json: Path | None = None
    """Also write the figures to this file"""

    def run(self, console: Console) -> dict[str, Any]:
        from rsd.envs import assets, benchmark, rendering

        resolved = assets.resolve(self.assets, [self.suite])
        renderer = rendering.resolve(self.renderer)
        work = benchmark.Workload(
            self.suite, self.task, self.trials, self.steps, self.chunk, 256, resolved, renderer
        )
        costs = []
        for name in benchmark.SIDES:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                costs.append(pool.submit(benchmark.SIDES[name], work).result())
        table = Table(
            title=f"{self.suite} task {self.task}, {self.trials} x {self.steps} steps, 256 px, "
            f"{renderer}, assets {resolved.name[:12]}"
        )
        times = ("build s", "episode s", "steps/s", "x reference", "cpu s", "x cpu")
        for column in ("side", *times, "same states"):
            table.add_column(column, justify="left" if column == "side" else "right")
        for cost in costs:
            same = {True: "all", False: "NO"}[cost.finals == costs[0].finals]
            table.add_row(
                cost.side,
                f"{cost.build_s:.1f}",
                f"{cost.episode_s:.2f}",
                f"{cost.steps_per_s:.1f}",
                f"{costs[0].episode_s / cost.episode_s:.2f}",
                f"{cost.cpu_s:.2f}",
                f"{costs[0].cpu_s / cost.cpu_s:.2f}",
                same if cost.finals else "-",
            )
        console.print(table)
        return {"costs": [dataclasses.asdict(cost) for cost in costs]}


@dataclass(frozen=True)
class Decode:
    """Chunk latency and passes of the decode modes: same weights, same observations, one run."""

    policy: str = "bundled"
    """`bundled` or the folder of a checkpoint"""

    suite: str = "libero_spatial"
    batches: tuple[int, ...] = (1, 8)
    chunks: int = 64
    """Observations, taken along the policy's own episodes"""

    repeats: int = 3
    threads: int = 1
    device: str = "cpu"
    draft_layers: int | None = None
    """Layers drafted before the first pass; None: as many as the policy likes"""

    assets: str = "auto"
    renderer: str = "auto"
    json: Path | None = None
    """Also write the figures to this file"""

    def run(self, console: Console) -> dict[str, Any]:
        import torch

        from rsd.models.benchmark import benchmark, requests
        from rsd.models.policy import NEAR_TIE, load

        torch.set_num_threads(self.threads)
        policy = load(self.policy, deterministic=True, device=self.device)
        observations = self._observations(policy)
        decodings = {
            "autoregressive": Decoding("autoregressive"),
            "speculative": Decoding("speculative", draft_layers=self.draft_layers),
            "parallel": Decoding("parallel"),
        }
        rows = benchmark(policy, observations, decodings, self.batches, self.repeats)
        table = Table(
            title=f"{self.policy}, {self.device}, {self.threads} thread(s), {policy.layers} layers"
        )
        columns = (
            *("mode", "B", "ms", "p95", "vision", "draft", "target"),
            *("passes", "x AR", "same", "ties", "kept by layer"),
        )
        for column in columns:
            left = column == "mode"
            table.add_column(column, justify="left" if left else "right", no_wrap=True)
        for row in rows:
            baseline = next(r for r in rows if r.batch == row.batch)
            table.add_row(
                row.name,
                str(row.batch),
                f"{row.total_ms:.1f}",
                f"{row.p95_ms:.1f}",
                f"{row.vision_ms:.1f}",
                f"{row.draft_ms:.1f}",
                f"{row.target_ms:.1f}",
                f"{row.passes:.2f}",
                f"{baseline.total_ms / row.total_ms:.2f}",
                f"{row.same_codes:.0%}",
                f"{row.canonical:.0%}",
                " ".join(f"{100 * value:.0f}" for value in row.acceptance) or "-",
            )
        console.print(table)
        difference = policy.logit_difference(requests(observations, Decoding("autoregressive")))
        console.print(
            f"logits differ by up to {difference:.1e} between one pass over a batch of "
            f"{len(observations)} and batch 1 layer by layer; "
            f"near ties are settled below {NEAR_TIE:.1e}"
        )
        if 2 * difference > NEAR_TIE:
            raise UserError(f"NEAR_TIE {NEAR_TIE:.1e} is too small for this machine")
        return {
            "latencies": [dataclasses.asdict(row) for row in rows],
            "logit_difference": difference,
        }

    def _observations(self, policy: Any) -> list[tuple[Observation, np.ndarray | None]]:
        """What the policy sees along its own autoregressive episodes: trial 0 of task 0, 1, ...
        until there are enough."""
        from rsd.envs import assets, rendering
        from rsd.envs.libero import LiberoEnvironment
        from rsd.episode import run_episode
        from rsd.suites import get_suite
        from rsd.types import Chunk, ChunkRequest, EpisodeKey

        seen: list[tuple[Observation, np.ndarray | None]] = []

        def decide(request: ChunkRequest) -> Chunk:
            seen.append((request.observation, request.previous_codes))
            return policy.act([request])[0]

        resolved = assets.resolve(self.assets, [self.suite])
        renderer = rendering.resolve(self.renderer)
        suite = get_suite(self.suite)
        for task in range(suite.num_tasks):
            env = LiberoEnvironment(self.suite, task, resolved, renderer, policy.images)
            key = EpisodeKey("benchmark", self.suite, task, 0)
            run_episode(env, key, Decoding("autoregressive"), decide, suite.max_steps)
            env.close()
            if len(seen) >= self.chunks:
                break
        return seen[: self.chunks]


@dataclass(frozen=True)
class Driver:
    """Driver time an episode over a toy run on a local Ray."""

    episodes: int = 2000
    workers: int = 2
    json: Path | None = None
    """Also write the figures to this file"""

    def run(self, console: Console) -> dict[str, Any]:
        from rsd.cluster.benchmark import driver_cost

        cost = driver_cost(self.episodes, self.workers)
        console.print(
            f"{cost.episodes} episodes: driver busy {cost.busy_ms:.2f} ms and "
            f"{cost.cpu_ms:.2f} ms of processor time an episode; "
            f"memory grew by {cost.rss_growth_bytes / 2**20:.1f} MiB to "
            f"{cost.peak_rss_bytes / 2**20:.0f} MiB; {cost.wall_s:.1f} s"
        )
        return dataclasses.asdict(cost)


Job = (
    Annotated[Rollout, tyro.conf.subcommand("rollout")]
    | Annotated[Decode, tyro.conf.subcommand("decoding")]
    | Annotated[Driver, tyro.conf.subcommand("driver")]
)


def main() -> int:
    """Run one benchmark; exit code 2 for a bad request."""
    console = Console(width=None if sys.stdout.isatty() else 110)
    job: Any = tyro.cli(Job, description=__doc__)
    try:
        figures = job.run(console)
    except UserError as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        return 2
    if job.json:
        job.json.write_text(json.dumps({"hardware": hardware(), **figures}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
