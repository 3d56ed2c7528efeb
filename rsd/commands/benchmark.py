"""Measure what RSD costs: `rsd benchmark --help`."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from rich.console import Console

from rsd import commands
from rsd.arms import read_arm
from rsd.cluster.address import check_cluster
from rsd.cluster.display import Count, make_display
from rsd.commands import DONE, as_called, called
from rsd.console import PLAIN
from rsd.envs.rendering import NO_RENDERER
from rsd.errors import UserError, unknown
from rsd.experts import EXPERTS, has_other_rim
from rsd.flags import Least, check_least, read
from rsd.models import inspect_policy, load_policy
from rsd.models.costs import sheet_named
from rsd.models.remote.wire import library
from rsd.outputs import prove_writable, write_file
from rsd.plan import ready_arms, refuse_repeats
from rsd.provenance import hardware
from rsd.suites import TRIALS_PER_TASK, Task, get_suite, get_task
from rsd.tables import Grid, print_grid
from rsd.types import Arm, Decoding, Observation, Past

if TYPE_CHECKING:
    from rsd.ambiguity import Summary
    from rsd.models.benchmark import Elsewhere, Latency

DESCRIPTION = """\
Measure what RSD costs: latencies, simulator, tokeniser and driver.

  rsd benchmark rollout     simulator: reference loop, ours, floor
  rsd benchmark decoding    policy: parallel, autoregressive, speculative, draft
  rsd benchmark tokeniser   codes: what K layers reconstruct, by settings
  rsd benchmark driver      bookkeeping: driver time an episode, 2,000 toy episodes
  rsd benchmark books       a large run: time and memory of its summary, a resume and a page
  rsd benchmark remote      a policy behind a server: milliseconds and bytes of a chunk
  rsd benchmark ambiguity   two ways to solve a task: do a policy's chunks take one, or mix both?

Ratios of one run are what counts: absolute times depend on machine and load, processor times less.
`--json FILE` writes the figures.
Exit codes: 0 done, 1 no Ray starts, 2 bad request, 130 interrupted.
"""

_ONE = Least(1, "there is nothing to measure otherwise")
_SOME = {"chunks": Least(10, "a median needs some"), "callers": Least(1, "somebody has to ask")}


@dataclass(frozen=True)
class Rollout:
    """Control steps per second of the reference loop, ours and the floor; one process each."""

    suite: str = "libero_spatial"
    """LIBERO suite"""

    task: int = 2
    """Task of the suite, from 0"""

    trials: int = 5
    """Episodes, from stored initial states 0, 1, ... on"""

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
        check_least(vars(self), dict.fromkeys(("trials", "steps", "chunk"), _ONE))
        if self.trials > TRIALS_PER_TASK:
            raise UserError(f"--trials {self.trials}: a task has {TRIALS_PER_TASK}")
        get_task(self.suite, self.task)
        _check_renderer(self.renderer)
        with commands.importing():
            from rsd.envs import assets, benchmark, rendering

        resolved = assets.resolve(self.assets, [self.suite])
        renderer = rendering.resolve(self.renderer)
        work = benchmark.Workload(
            self.suite, self.task, self.trials, self.steps, self.chunk, 256, resolved, renderer
        )
        costs = []
        for name in benchmark.SIDES:
            with ProcessPoolExecutor(
                1,
                mp_context=get_context("spawn"),
                initializer=signal.signal,
                initargs=(signal.SIGINT, signal.SIG_DFL),  # Ctrl-C reaches both; one speaks
            ) as pool:
                costs.append(pool.submit(benchmark.SIDES[name], work).result())
        times = ("build s", "episode s", "steps/s", "x reference", "cpu s", "x cpu")
        table = Grid(
            f"{self.suite} task {self.task}, {self.trials} x {self.steps} steps, 256 px, "
            f"{renderer}, assets {resolved.name[:12]}",
            ("side", *times, "same states"),
        )
        for cost in costs:
            same = {True: "all", False: "NO"}[cost.finals == costs[0].finals]
            table.add(
                cost.side,
                f"{cost.build_s:.1f}",
                f"{cost.episode_s:.2f}",
                f"{cost.steps_per_s:.1f}",
                f"{costs[0].episode_s / cost.episode_s:.2f}",
                f"{cost.cpu_s:.2f}",
                f"{costs[0].cpu_s / cost.cpu_s:.2f}",
                same if cost.finals else "-",
            )
        print_grid(console, table)
        return {"costs": [dataclasses.asdict(cost) for cost in costs]}


@dataclass(frozen=True)
class Decode:
    """Chunk latency and passes of arms: same weights, same observations, one run; beside them what
    three rates of this machine (FLOP, bytes, dispatches) predict, which are measured on primitive
    calls in the same run."""

    policy: str = "spatial"
    """Name of a bundled checkpoint, or the folder of one"""

    suite: str = "libero_spatial"
    """LIBERO suite"""

    arms: tuple[str, ...] = ("autoregressive", "speculative", "parallel", "draft")
    """As of `rsd evaluate`; the first is what the others are compared with"""

    batches: tuple[int, ...] = (1, 8)
    """Requests that are decoded together"""

    chunks: int = 64
    """Observations, taken along the policy's own episodes"""

    repeats: int = 3
    """Times that every mode decodes all of them"""

    threads: int = 1
    """Of torch"""

    device: str = "cpu"
    """cpu, cuda"""

    draft_layers: int | None = None
    """Layers drafted before the first pass; None: as many as the policy likes"""

    assets: str = "auto"
    """auto, lite, official, or the folder of an asset tree"""

    renderer: str = "auto"
    """auto, osmesa, egl"""

    predict: str | None = None
    """Also predict the same rows for OpenVLA-OFT at 7B with codes like these, on an H100, H200 or
    A100 (docs/decoding_time.md)"""

    json: Path | None = None
    """Also write the figures to this file"""

    rows: Path | None = None
    """Also write a row an arm and batch size to this Parquet file"""

    def run(self, console: Console) -> dict[str, Any]:
        decodings = {arm.name: arm.decoding for arm in self._checked()}
        with commands.importing():
            import torch

            from rsd.decoding.settle import NEAR_TIE
            from rsd.models.benchmark import benchmark, elsewhere, logit_difference, requests
            from rsd.models.code_policy import CodePolicy
            from rsd.presentation.figures import as_parquet

        if self.device not in ("cpu", "cuda") or (
            self.device == "cuda" and not torch.cuda.is_available()
        ):
            raise UserError(f"--device {self.device}: torch finds no such device here; choose cpu")
        torch.set_num_threads(self.threads)
        policy = load_policy(self.policy, deterministic=True, device=self.device)
        if not isinstance(policy, CodePolicy):
            raise UserError(
                f"--policy {self.policy}: it is no model of codes, whose modes could be compared"
            )
        observations = self._observations(policy)
        if len(observations) < self.chunks:
            console.print(
                f"{len(observations)} observations instead of {self.chunks}: the suite's first "
                "trials have no more",
                **PLAIN,
            )
        by_torch = "runtime" not in json.loads(inspect_policy(self.policy).says or "{}")
        count = Count(0, "turns of the arms")
        with make_display(console) as display:

            def told(done: int, planned: int) -> None:
                count.now, count.planned = done, planned
                display.show(count)

            rows = benchmark(
                policy,
                observations,
                decodings,
                self.batches,
                self.repeats,
                predict=self.device == "cpu" and by_torch,  # what torch dispatches is all there is
                told=told,
            )
        for table in _decoding_tables(
            rows, f"{self.policy}, {self.device}, {self.threads} thread(s)"
        ):
            print_grid(console, table)
        for device in dict.fromkeys(row.predicted.device for row in rows if row.predicted):
            console.print(str(device), **PLAIN)
        elsewheres = []
        if self.predict is not None:
            elsewheres = elsewhere(policy, observations, decodings, self.batches, self.predict)
            print_grid(console, _elsewhere_table(elsewheres, self.predict, policy.model.layers))
        if self.rows is not None:
            write_file(self.rows, as_parquet(map(dataclasses.asdict, rows)), "--rows")
        difference = logit_difference(policy, requests(observations, Decoding("autoregressive")))
        console.print(
            f"logits are up to {difference:.1e} from double precision's, in one pass over a batch "
            f"of {len(observations)} and at batch 1 layer by layer; near ties are settled below "
            f"{NEAR_TIE:.1e}"
        )
        if 2 * difference > NEAR_TIE:
            raise UserError(f"NEAR_TIE {NEAR_TIE:.1e} is too small for this machine")
        return {
            "latencies": [dataclasses.asdict(row) for row in rows],
            "elsewhere": [dataclasses.asdict(row) for row in elsewheres],
            "logit_difference": difference,
        }

    def _checked(self) -> list[Arm]:
        """The arms. Raises UserError for numbers and names that nothing can be measured with."""
        names = ("chunks", "repeats", "threads", "draft_layers")
        check_least(vars(self), dict.fromkeys(names, _ONE))
        for batch in self.batches:
            check_least({"batches": batch}, {"batches": _ONE})
        if not self.batches:
            raise UserError("--batches needs a number")
        if not self.arms:
            raise UserError("--arms needs a name")
        arms = [read_arm(name, draft_layers=self.draft_layers) for name in self.arms]
        ready = ready_arms(arms, self.policy, inspect_policy(self.policy))
        get_suite(self.suite)
        _check_renderer(self.renderer)
        if self.predict is not None:
            sheet_named(self.predict)
        if self.rows is not None:
            prove_writable(self.rows, "--rows")
        return ready

    def _observations(self, policy: Any) -> list[tuple[Observation, Past]]:
        """What the policy sees along its own autoregressive episodes: trial 0 of task 0, 1, ...
        until there are enough."""
        with commands.importing():
            from rsd.envs import assets, rendering
            from rsd.envs.libero import LiberoEnvironment
            from rsd.episode import run_episode
            from rsd.types import Chunk, ChunkRequest, EpisodeKey

        seen: list[tuple[Observation, Past]] = []

        def decide(request: ChunkRequest) -> Chunk:
            seen.append((request.observation, request.past))
            return policy.act([request])[0]

        resolved = assets.resolve(self.assets, [self.suite])
        renderer = rendering.resolve(self.renderer)
        suite, arm = get_suite(self.suite), read_arm("autoregressive")
        for task in range(suite.num_tasks):
            key = EpisodeKey("benchmark", self.suite, task, 0)
            with closing(
                LiberoEnvironment(self.suite, task, resolved, renderer, policy.images)
            ) as env:
                run_episode(env, key, arm, decide, suite.max_steps)
            if len(seen) >= self.chunks:
                break
        return seen[: self.chunks]


def _check_renderer(choice: str) -> None:
    if choice == NO_RENDERER:
        raise UserError(f"--renderer {choice}: frames are drawn here; choose auto, osmesa or egl")


def _decoding_tables(rows: Sequence[Latency], title: str) -> tuple[Grid, Grid, Grid]:
    """What each mode costs, of what that is made up and should be, and what it did."""
    times = ("B", "answer", "x", "mean", "x", "p95", "batch", "x")
    costs = Grid(f"{title}: medians, ms; x: times faster than {rows[0].name}", ("arm", *times))
    stages = ("B", "vision", "draft", "target", "detokenise", "other", "mean")
    counts = ("GFLOP", "MB", "dispatches", "processor", "predicted", "off")
    parts = Grid(
        "Means until an answer, ms: stages and all else (other) sum up to the mean. Processor "
        "time, beside what the FLOP, bytes and operations that torch dispatched predict",
        ("arm", *stages, *counts),
    )
    done = ("B", "passes", "fast", "same codes", "mm apart", "mean", "bound", "near ties")
    works = Grid(
        "Passes a chunk; drafted ones executed unjudged (fast); codes, and the largest distance of "
        f"a chunk's actions, against {rows[0].name}; guesses kept, % by layer",
        ("arm", *done, "draft", "redraft"),
    )
    for row in rows:
        baseline = next(r for r in rows if r.batch == row.batch)
        costs.add(
            row.name,
            str(row.batch),
            f"{row.answer_ms:.1f}",
            f"{baseline.answer_ms / row.answer_ms:.2f}",
            f"{row.answer_mean_ms:.1f}",
            f"{baseline.answer_mean_ms / row.answer_mean_ms:.2f}",
            f"{row.answer_p95_ms:.1f}",
            f"{row.batch_ms:.1f}",
            f"{baseline.batch_ms / row.batch_ms:.2f}",
        )
        parts.add(
            row.name,
            str(row.batch),
            f"{row.vision_mean_ms:.2f}",
            f"{row.draft_mean_ms:.2f}",
            f"{row.target_mean_ms:.2f}",
            f"{row.detokenise_mean_ms:.2f}",
            f"{row.other_mean_ms:.2f}",
            f"{row.answer_mean_ms:.2f}",
            *_predicted_cells(row),
        )
        kept = [
            " ".join(f"{100 * value:.1f}" for value in rates) or "-"
            for rates in (row.acceptance, row.reacceptance)
        ]
        works.add(
            row.name,
            str(row.batch),
            f"{row.passes:.2f}",
            f"{row.fast:.0%}",
            f"{row.same_codes:.0%}",
            f"{row.apart_mm:.1f}",
            f"{row.apart_mean_mm:.2f}",
            "-" if row.bound_mm is None else f"{row.bound_mm:.1f}",
            f"{row.canonical:.0%}",
            *kept,
        )
    return costs, parts, works


def _predicted_cells(row: Latency) -> tuple[str, ...]:
    measured = f"{row.processor_mean_ms:.2f}"
    if row.predicted is None:
        return ("-", "-", "-", measured, "-", "-")
    cost, ms = row.predicted.cost, row.predicted.ms
    return (
        f"{cost.flops / 1e9:.2f}",
        f"{cost.bytes / 1e6:.0f}",
        f"{cost.dispatches:.0f}",
        measured,
        f"{ms:.2f}",
        f"{ms / row.processor_mean_ms - 1:+.0%}",
    )


def _elsewhere_table(rows: Sequence[Elsewhere], gpu: str, layers: int) -> Grid:
    table = Grid(
        f"Predicted for OpenVLA-OFT, 7B, with {layers} layers of codes on an {gpu}, whose decode "
        "loop asks for the same: mean ms until an answer, by the rates measured there and at least "
        f"(data sheet); x: times faster than {rows[0].name}",
        ("arm", "B", "passes", "fast", "draft calls", "ms", "x", "floor", "x"),
    )
    for row in rows:
        first = next(each for each in rows if each.batch == row.batch)
        known = row.predicted_ms is not None and first.predicted_ms is not None
        table.add(
            row.name,
            str(row.batch),
            f"{row.passes:.2f}",
            f"{row.fast:.0%}",
            f"{row.draft_calls:.1f}",
            f"{row.predicted_ms:.1f}" if known else "-",
            f"{first.predicted_ms / row.predicted_ms:.2f}" if known else "-",  # type: ignore[operator]
            f"{row.floor_ms:.1f}",
            f"{first.floor_ms / row.floor_ms:.2f}",
        )
    return table


@dataclass(frozen=True)
class Driver:
    """Driver time an episode over a toy run on a local Ray."""

    episodes: int = 2000
    """1 to 3,000: the toy suite has 10 tasks of 50 trials, its policy 6 arms. Measured is the next
    number that whole arms and trials give"""

    workers: int = 2
    """Environment workers"""

    json: Path | None = None
    """Also write the figures to this file"""

    def run(self, console: Console) -> dict[str, Any]:
        check_cluster()
        with commands.importing():
            from rsd.cluster.benchmark import driver_cost

        cost = driver_cost(self.episodes, self.workers)
        console.print(
            f"{cost.episodes} episodes ({self.episodes} asked for): "
            f"driver busy {cost.busy_ms:.2f} ms and {cost.cpu_ms:.2f} ms of processor time "
            f"an episode; memory grew by {cost.rss_growth_bytes / 2**20:.1f} MiB to "
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
    """Of the encoders' weights and batches"""

    json: Path | None = None
    """Also write the figures to this file"""

    def run(self, console: Console) -> dict[str, Any]:
        check_least(vars(self), dict.fromkeys(("chunks", "tokeniser_steps"), _ONE))
        with commands.importing():
            from rsd.training.data import load_chunks
            from rsd.training.tokeniser import (
                VARIANTS,
                table_lines,
                train_tokeniser,
                truncation_table,
            )

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
                **PLAIN,
            )
            for line in table_lines(rows):
                console.print(line, **PLAIN)
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


def make_page(output: str) -> None:
    """What `rsd report --html` does, but for writing it."""
    from rsd.presentation.evidence import read_evidence
    from rsd.presentation.page import page
    from rsd.summary.rules import MARGIN

    page(read_evidence([output], MARGIN, datetime.now(UTC)), Path("page.html"), "")


@dataclass(frozen=True)
class BooksOf:
    """Reading a made-up run as large as asked for: the summary that ends every evaluation, what
    --resume does before anything runs, and the page of `rsd report --html`; each in a process of
    its own."""

    episodes: int = 20_000
    """Of 20 decodes each, 8 x 7 x 6 codes a decode"""

    part: int = 64
    """Episodes a part; a driver writes one every 10 seconds or 20 episodes"""

    json: Path | None = None
    """Also write the figures to this file"""

    def run(self, console: Console) -> dict[str, Any]:
        from rsd.summary.benchmark import OPERATIONS, make_run, measure

        with TemporaryDirectory(prefix="rsd-books-") as folder:
            make_run(Path(folder), self.episodes, self.part)
            operations = {**OPERATIONS, "page": make_page}
            costs = [measure(name, operation, folder) for name, operation in operations.items()]
        for cost in costs:
            console.print(
                f"{cost.operation} of {self.episodes} episodes: {cost.wall_s:.1f} s, "
                f"{cost.cpu_s:.1f} s of processor time, {cost.peak_rss_bytes / 1e6:.0f} MB at most"
            )
        return {"costs": [dataclasses.asdict(cost) for cost in costs]}


@dataclass(frozen=True)
class Remote:
    """A chunk of a policy that takes no time, in-process and behind `rsd serve` on this machine:
    256-px frames of two cameras, in the protocols of openpi and vla-eval."""

    chunks: int = 400
    """Chunks that each way is measured on"""

    callers: tuple[int, ...] = (1, 8)
    """How many ask at a time"""

    json: Path | None = None
    """Also write the figures to this file"""

    def run(self, console: Console) -> dict[str, Any]:
        check_least({"chunks": self.chunks, "callers": min(self.callers, default=0)}, _SOME)
        library("websockets")
        with commands.importing():
            from rsd.serving.benchmark import measure

        costs = measure(commands.program("serve"), self.chunks, self.callers)
        columns = ("callers", "ms a chunk", "p95", "chunks/s", "kB sent", "kB back")
        table = Grid("from question to answer, loopback, 2 x 256 px", ("way", *columns))
        for cost in costs:
            table.add(
                cost.way,
                str(cost.callers),
                f"{cost.median_ms:.2f}",
                f"{cost.p95_ms:.2f}",
                f"{cost.chunks_per_s:.0f}",
                f"{cost.sent_bytes / 1000:.1f}",
                f"{cost.received_bytes / 1000:.1f}",
            )
        print_grid(console, table)
        return {"remote": [dataclasses.asdict(cost) for cost in costs]}


@dataclass(frozen=True)
class Ambiguity:
    """Chunks of a policy that was taught two ways (`rsd collect --either-rim`), asked for where
    either is right, in evaluation's worlds before anything has moved: between the expert's plans
    for both rims, or at one of them?"""

    policy: str
    """Folder of a checkpoint, or the name of a bundled one"""

    suite: str = "libero_spatial"
    """LIBERO suite"""

    tasks: tuple[int, ...] = ()
    """Task numbers from 0; all that can be solved by either rim if left out"""

    trials: int = TRIALS_PER_TASK
    """Worlds of each task, trial 0, 1, ... on"""

    arms: tuple[str, ...] = ("regression", "parallel", "autoregressive", "speculative")
    """As of `rsd evaluate`; speculative-sampling=0.5 draws at that temperature"""

    least_mm: float = 20.0
    """Worlds whose two plans are less apart are left out: there is nothing to choose"""

    assets: str = "auto"
    """auto, lite, official, or the folder of an asset tree"""

    renderer: str = "auto"
    """auto, osmesa, egl"""

    json: Path | None = None
    """Also write the figures to this file"""

    rows: Path | None = None
    """Also write a row a chunk to this Parquet file"""

    picture: Path | None = None
    """Also draw them: a .svg or .png"""

    def run(self, console: Console) -> dict[str, Any]:
        check_least(vars(self), {"trials": _ONE, "least_mm": Least(0, "a distance")})
        info = inspect_policy(self.policy)
        arms = ready_arms([read_arm(name) for name in self.arms], self.policy, info)
        if info.chunk_steps is None:
            raise UserError(f"--policy {self.policy}: its chunks have no known length to compare")
        _check_renderer(self.renderer)
        if self.picture is not None and self.picture.suffix not in (".svg", ".png"):
            raise UserError(f"--picture {self.picture}: name a .svg or a .png")
        for path, flag in ((self.rows, "--rows"), (self.picture, "--picture")):
            if path is not None:
                prove_writable(path, flag)
        tasks = self._tasks()
        with commands.importing():
            import torch

            from rsd.ambiguity import ask, first_look, summarise
            from rsd.envs import assets, rendering
            from rsd.envs.libero import LiberoEnvironment
            from rsd.presentation.ambiguity import as_rows, picture

        torch.set_num_threads(1)
        policy = load_policy(self.policy, deterministic=True, device="cpu")
        resolved = assets.resolve(self.assets, [self.suite])
        renderer = rendering.resolve(self.renderer)
        decodings = {arm.name: arm.decoding for arm in arms}
        answers, alike = [], 0
        count = Count(len(tasks) * self.trials, "worlds")
        with make_display(console) as display:
            for task in tasks:
                with closing(
                    LiberoEnvironment(self.suite, task.task_id, resolved, renderer, policy.images)
                ) as env:
                    for trial in range(self.trials):
                        seen, plans = first_look(env, task, trial, info.chunk_steps)
                        if plans.apart_mm < self.least_mm:
                            alike += 1
                        else:
                            answers += ask(policy, seen, plans, decodings, task.task_id, trial)
                        count.now += 1
                        display.show(count)
        if not answers:
            raise UserError(
                f"--least-mm {self.least_mm:g}: all {alike} worlds are closer; give less"
            )
        summaries = summarise(answers)
        print_grid(console, _ambiguity_table(summaries, f"{self.policy}, {self.suite}"))
        if self.rows is not None:
            write_file(self.rows, as_rows(answers), "--rows")
        if self.picture is not None:
            drawn = picture(answers, self.picture.suffix.removeprefix("."))
            write_file(self.picture, drawn, "--picture")
        return {
            "checkpoint": policy.checkpoint_sha256,
            "assets": resolved.name,
            "worlds": len(answers) // len(arms),
            "worlds_left_out": alike,
            "arms": [dataclasses.asdict(each) for each in summaries],
        }

    def _tasks(self) -> list[Task]:
        """Raises UserError for those with one way only."""
        if self.trials > TRIALS_PER_TASK:
            raise UserError(f"--trials {self.trials}: a task has {TRIALS_PER_TASK}")
        suite = get_suite(self.suite)
        if self.suite not in EXPERTS:
            raise unknown("suite with an expert", self.suite, EXPERTS)
        refuse_repeats("task", self.tasks)
        tasks = [get_task(self.suite, each) for each in self.tasks or range(suite.num_tasks)]
        two = [task for task in tasks if has_other_rim(task.suite, task.task_id)]
        one = [str(task.task_id) for task in tasks if task not in two]
        if not two or (self.tasks and one):
            raise UserError(
                f"--tasks {' '.join(one)}: of {self.suite}, solved by one rim only; leave them out"
            )
        return two


def _ambiguity_table(summaries: Sequence[Summary], title: str) -> Grid:
    from rsd.summary.terminal import success_cells  # scipy takes a second

    columns = ("chunks", "mixed", "mixed, %", "interval", "other rim, %", "nearest mm", "p90")
    table = Grid(f"{title}: first chunks; other rim: of those not mixed", ("arm", *columns))
    for each in summaries:
        _, mixed, interval = success_cells(each.mixed)
        _, other, _ = success_cells(each.other)
        table.add(
            each.arm,
            str(each.mixed.finished),
            str(each.mixed.successes),
            mixed,
            interval,
            other,
            f"{each.nearest_mm_median:.1f}",
            f"{each.nearest_mm_p90:.1f}",
        )
    return table


Job = (
    Annotated[Rollout, tyro.conf.subcommand("rollout")]
    | Annotated[Decode, tyro.conf.subcommand("decoding")]
    | Annotated[Tokeniser, tyro.conf.subcommand("tokeniser")]
    | Annotated[Driver, tyro.conf.subcommand("driver")]
    | Annotated[BooksOf, tyro.conf.subcommand("books")]
    | Annotated[Remote, tyro.conf.subcommand("remote")]
    | Annotated[Ambiguity, tyro.conf.subcommand("ambiguity")]
)


def main(words: Sequence[str], console: Console) -> int:
    """Run one benchmark; returns the exit code that `--help` explains."""
    job: Any = read(Job, words, called("benchmark"), as_called(DESCRIPTION))
    if job.json:
        prove_writable(job.json, "--json")
    figures = job.run(console)
    if job.json:
        text = json.dumps({"hardware": hardware(), **figures}, indent=2) + "\n"
        write_file(job.json, text, "--json")
    return DONE
