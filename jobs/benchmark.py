"""Measure what RSD costs: latencies, simulator, tokeniser and driver.

  python jobs/benchmark.py rollout     simulator: reference loop, ours, floor
  python jobs/benchmark.py decoding    policy: parallel, autoregressive, speculative
  python jobs/benchmark.py tokeniser   codes: what K layers reconstruct, by settings
  python jobs/benchmark.py driver      bookkeeping: driver time an episode, 2,000 toy episodes

Ratios of one run are what counts: absolute times depend on machine and load, processor times less.
`--json FILE` writes the figures.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from rsd.errors import UserError, writing
from rsd.outputs import write_atomically
from rsd.provenance import hardware
from rsd.types import Decoding, Observation

if TYPE_CHECKING:
    from rsd.models.benchmark import Latency


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

    renderer: str = "auto"
    """auto, osmesa, egl"""

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

    policy: str = "spatial"
    """Name of a bundled checkpoint, or the folder of one"""

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
        for table in _decoding_tables(
            rows, f"{self.policy}, {self.device}, {self.threads} thread(s)"
        ):
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


def _decoding_tables(rows: Sequence[Latency], title: str) -> tuple[Table, Table]:
    """What each mode costs, and what it did."""
    costs = Table("mode", title=f"{title}: medians, ms")
    for name in ("B", "answer", "p95", "x AR", "batch", "x AR", "vision", "draft", "target"):
        costs.add_column(name, justify="right", no_wrap=True)
    works = Table("mode", title="Passes a chunk; guesses kept, % by layer")
    for name in ("B", "passes", "same codes", "near ties", "draft", "redraft"):
        works.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        baseline = next(r for r in rows if r.batch == row.batch)
        costs.add_row(
            row.name,
            str(row.batch),
            f"{row.answer_ms:.1f}",
            f"{row.answer_p95_ms:.1f}",
            f"{baseline.answer_ms / row.answer_ms:.2f}",
            f"{row.batch_ms:.1f}",
            f"{baseline.batch_ms / row.batch_ms:.2f}",
            f"{row.vision_ms:.1f}",
            f"{row.draft_ms:.1f}",
            f"{row.target_ms:.1f}",
        )
        kept = [
            " ".join(f"{100 * value:.1f}" for value in rates) or "-"
            for rates in (row.acceptance, row.reacceptance)
        ]
        same, ties = f"{row.same_codes:.0%}", f"{row.canonical:.0%}"
        works.add_row(row.name, str(row.batch), f"{row.passes:.2f}", same, ties, *kept)
    return costs, works


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


@dataclass(frozen=True)
class Tokeniser:
    """Truncation tables of tokeniser settings on demonstrations, all of them on the same chunks."""

    data: tuple[Path, ...]
    """HDF5 files, or folders of them, with demonstrations"""

    chunks: int = 4000
    """Chunks that the tables are measured on, evenly from all; encoders are fitted to all"""

    tokeniser_steps: int = 2000
    """Steps of an encoder, where there is one"""

    seed: int = 0
    json: Path | None = None
    """Also write the figures to this file"""

    def run(self, console: Console) -> dict[str, Any]:
        from rsd.training.data import load_chunks
        from rsd.training.tokeniser import VARIANTS, table_lines, train_tokeniser, truncation_table

        (steps,) = {config.steps for config in VARIANTS.values()}
        actions = load_chunks(self.data, steps)
        some = actions[:: max(1, len(actions) // self.chunks)]
        figures = []
        for name, config in VARIANTS.items():
            tokeniser = train_tokeniser(
                config, actions, steps=self.tokeniser_steps, batch_size=256, seed=self.seed
            )
            rows = truncation_table(tokeniser, some)
            bits = config.latent_dim * config.layers * np.log2(config.levels)
            console.print(
                f"{name}: D={config.latent_dim} L={config.layers} V={config.levels}, "
                f"{bits:.0f} bits a step, {len(some)} chunks of {steps} steps",
                highlight=False,
            )
            for line in table_lines(rows):
                console.print(line, highlight=False)
            figures.append(
                {
                    "name": name,
                    "settings": dataclasses.asdict(config),
                    "bits_per_step": float(bits),
                    "rows": [dataclasses.asdict(row) for row in rows],
                }
            )
        return {
            "chunks": len(some),
            "data": [str(path) for path in self.data],
            "tokenisers": figures,
        }


Job = (
    Annotated[Rollout, tyro.conf.subcommand("rollout")]
    | Annotated[Decode, tyro.conf.subcommand("decoding")]
    | Annotated[Tokeniser, tyro.conf.subcommand("tokeniser")]
    | Annotated[Driver, tyro.conf.subcommand("driver")]
)


def main() -> int:
    """Run one benchmark; exit code 2 for a bad request."""
    console = Console(width=None if sys.stdout.isatty() else 110)
    job: Any = tyro.cli(Job, description=__doc__)
    try:
        figures = job.run(console)
        if job.json:
            with writing(job.json):
                text = json.dumps({"hardware": hardware(), **figures}, indent=2) + "\n"
                write_atomically(job.json, text.encode())
    except UserError as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
