"""Latency of OpenVLA-OFT at full size, with random weights made on the device.

    python -m rsd.models.openvla_oft.benchmark --size 7b --device cuda --out latency.json

needs torch, timm, transformers, safetensors, numpy and rich, no download. Measures stages and whole
chunks, graphed and eager, by device events, against the least time that operations and bytes allow.
The most important figures come first, and the file is written after each: a time limit loses what
was not measured yet, nothing else. What fails is recorded and the rest goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import gc
import itertools
import json
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from rich.console import Console
from torch import Tensor

from rsd.decoding.rules import Exact
from rsd.decoding.sequential import autoregressive
from rsd.decoding.stopwatch import Stopwatch
from rsd.models.costs import SHEETS, Cost, Device, Work
from rsd.models.openvla_oft import acceptance, costs, kernels, trunk
from rsd.models.openvla_oft.config import SIZES, OFTConfig
from rsd.models.openvla_oft.model import Inputs, OpenVLAOFT, make, random_inputs
from rsd.models.openvla_oft.programs import Programs
from rsd.tables import Grid, print_grid

ACCEPTANCES = (1.0, 0.95, 0.9, 0.75, 0.6, 0.0)
SKIPPED = (0.0, 0.5, 0.7, 0.9)
INPUT_SETS = 4  # that take turns, so that no cache holds them
SCHEDULES = 60  # acceptance plans that take turns


@dataclass(frozen=True)
class Settings:
    """What to measure."""

    size: str = "7b"
    device: str = "cuda"
    out: Path | None = None
    minutes: float = 8.0
    batches: tuple[int, ...] = (1, 4, 16)
    prompt: int = costs.PROMPT  # tokens behind BOS
    seconds: float = 0.8  # a figure
    seed: int = 0
    triton: bool = True
    one_stream: bool = False
    variants: bool = True
    compile: bool = True
    only: str = ""  # a part of the names of what to measure
    show: Path | None = None  # measure nothing: tables of this file


@dataclass(frozen=True)
class Figure:
    """A measured time. ms: by device events; wall_ms: by the host's clock, through a
    synchronisation."""

    name: str
    kind: str  # stage, total or variant
    batch: int
    graphed: bool
    ms: float  # median
    p95_ms: float
    mean_ms: float
    wall_ms: float  # median
    wall_p95_ms: float
    repeats: int
    passes: float | None  # of the target, mean over rows
    rounds: float | None  # mean over batches: passes of the slowest row
    flops: float
    bytes: float
    floor_ms: float | None  # by the data sheet
    ceiling_ms: float | None  # by the rates measured here
    ratio: float | None  # ms / floor_ms


@dataclass
class Results:
    """What is written."""

    settings: dict[str, Any]
    environment: dict[str, Any]
    figures: list[Figure] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path | None) -> None:
        """Whole, or as it was."""
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(dataclasses.asdict(self), indent=1, default=str))
        partial.replace(path)


class Bench:
    """Measures one model on one device within a time limit."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self.settings, self.console = settings, console
        self.started = time.monotonic()
        self.device = torch.device(settings.device)
        self.cuda = self.device.type == "cuda"
        self.dtype = torch.bfloat16 if self.cuda else torch.float32
        self.config: OFTConfig = SIZES[settings.size]()
        self.sheet: Device | None = None
        self.measured: Device | None = None
        self.graphed = self.cuda
        self.results = Results(_plain(settings), environment(self.device))

    # Running.

    def left_s(self) -> float:
        """Until the time limit."""
        return self.started + 60 * self.settings.minutes - time.monotonic()

    @contextlib.contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """A failure is recorded and shown, and what follows goes on."""
        try:
            yield
        except Exception as error:
            text = f"{type(error).__name__}: {error}"[:500]
            self.results.failures.append(
                {"what": what, "error": text, "trace": traceback.format_exc()[-2000:]}
            )
            self.console.print(f"FAILED {what}: {text}", style="red", markup=False)
            if self.cuda:
                with contextlib.suppress(Exception):
                    torch.cuda.synchronize(self.device)
        self.results.write(self.settings.out)

    def time(
        self,
        name: str,
        kind: str,
        programs: Programs,
        call: Callable[[int], object],
        work: Work,
        passes: Callable[[], tuple[float, float]] | None = None,
        least: int = 5,
    ) -> None:
        """Call again and again for the seconds of a figure; `call` gets the number of the call."""
        batch = len(programs.final)
        label = f"{name}, batch {batch}, {'graphed' if programs.graphed else 'eager'}"
        if self.settings.only and self.settings.only not in name:
            return
        if self.left_s() < 5:
            self.results.left_out.append(label)
            return
        with self.guarded(label):
            for index in range(2):
                call(index)
            device_ms, wall_ms = self._times(call, least)
            rows, rounds = passes() if passes else (None, None)
            floor = self.sheet.ms(work) if self.sheet else None
            ceiling = self.measured.ms(work) if self.measured else None
            median = float(np.median(device_ms))
            figure = Figure(
                name=name,
                kind=kind,
                batch=batch,
                graphed=programs.graphed,
                ms=median,
                p95_ms=float(np.quantile(device_ms, 0.95)),
                mean_ms=float(np.mean(device_ms)),
                wall_ms=float(np.median(wall_ms)),
                wall_p95_ms=float(np.quantile(wall_ms, 0.95)),
                repeats=len(device_ms),
                passes=rows,
                rounds=rounds,
                flops=sum(cost.flops for cost in work),
                bytes=sum(cost.bytes for cost in work),
                floor_ms=floor,
                ceiling_ms=ceiling,
                ratio=median / floor if floor else None,
            )
            self.results.figures.append(figure)
            self.console.print(
                f"{time.monotonic() - self.started:5.0f}s {label}: {median:.3f} ms"
                + (f" = {figure.ratio:.2f} x floor" if figure.ratio else ""),
                markup=False,
                highlight=False,
            )

    def _times(
        self, call: Callable[[int], object], least: int, seconds: float | None = None
    ) -> tuple[list[float], list[float]]:
        """Of every call, ms by device events and by the host's clock."""
        device_ms: list[float] = []
        wall_ms: list[float] = []
        until = time.perf_counter() + (seconds or self.settings.seconds)
        while len(wall_ms) < least or (time.perf_counter() < until and self.left_s() > 2):
            if self.cuda:
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                torch.cuda.synchronize(self.device)
            started = time.perf_counter()
            if self.cuda:
                begin.record()
            call(len(wall_ms))
            if self.cuda:
                end.record()
                torch.cuda.synchronize(self.device)
            wall_ms.append(1000 * (time.perf_counter() - started))
            device_ms.append(begin.elapsed_time(end) if self.cuda else wall_ms[-1])
        return device_ms, wall_ms

    # What is measured.

    def run(self) -> Results:
        """Everything, in order of importance."""
        torch.manual_seed(self.settings.seed)
        if self.cuda:
            with self.guarded("ceilings"):
                self.ceilings()
        kernel = kernels.probe(self.device) if self.settings.triton else "torch: switched off"
        self.results.facts["elementwise"] = kernel
        with self.guarded("check"):
            self.check()
        started = time.monotonic()
        model = self.make()
        self._synchronise()
        self.results.facts["make_s"] = time.monotonic() - started
        self.results.facts["parameters"] = {
            name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
        }
        self.console.print(
            f"elementwise: {kernel}; model made in {self.results.facts['make_s']:.1f} s",
            markup=False,
        )
        if self.cuda:
            self.capture(model)
        if self.settings.variants:
            self.variant(model, "transformers' own layers")
        trunk.fuse(model.target.llama)
        gc.collect()
        for batch in self.settings.batches[:1]:
            self.batch(model, batch, self.graphed)
        if self.graphed:
            for batch in self.settings.batches[:1]:
                self.batch(model, batch, graphed=False, brief=True)
        for batch in self.settings.batches[1:]:
            self.batch(model, batch, self.graphed)
        if self.settings.variants:
            self.variants(model)
        if self.graphed:
            for batch in self.settings.batches[1:]:
                self.batch(model, batch, graphed=False, brief=True)
        if self.settings.compile:
            self.compiled(model)
        self.results.facts["wall_s"] = time.monotonic() - self.started
        self.results.write(self.settings.out)
        return self.results

    def make(self) -> OpenVLAOFT:
        """The model, in its dtype from the start; where an initialiser refuses that dtype, through
        float32, at twice the memory."""
        try:
            return make(self.config, self.device, self.dtype)
        except (RuntimeError, NotImplementedError) as error:
            self.results.facts["made_through_float32"] = str(error)[:300]
            model = make(self.config, self.device, torch.float32)
            tokeniser = model.tokeniser
            model.to(self.dtype).tokeniser = tokeniser.float()
            return model

    def capture(self, model: OpenVLAOFT) -> None:
        """Find out whether graphs can be captured: with the towers on two streams, else on one,
        else not at all."""
        tower: Any = model.vision_backbone
        tower.side_by_side = not self.settings.one_stream
        for side_by_side, graphed in ((tower.side_by_side, True), (False, True), (False, False)):
            tower.side_by_side, self.graphed = side_by_side, graphed
            failures = len(self.results.failures)
            with self.guarded(f"capture of the towers, two streams {side_by_side}"):
                Programs(model, 1, self.settings.prompt, graphed).parallel()
                self._synchronise()
            if len(self.results.failures) == failures:
                break
        self.results.facts["graphed"] = self.graphed
        self.results.facts["towers_on_two_streams"] = tower.side_by_side

    def check(self, batches: int = 8) -> None:
        """The tiny model in float32 on this device, fused and as programs, against transformers'
        layers and `rsd.decoding`: shares of chunks with the same codes, 1 where all is well
        (but for near ties)."""
        config, batch, prompt = SIZES["tiny"](), 4, 7
        model = make(config, self.device, torch.float32)
        layers = config.tokeniser.layers
        inputs = [
            random_inputs(config, batch, prompt, self.device, torch.float32) for _ in range(batches)
        ]
        contexts: list[Any] = [
            model.context(model.vision_backbone(one.pixels), one) for one in inputs
        ]
        target: Any = model.target  # its context is no tensor
        wanted = [
            autoregressive(target, one, Exact(), layers, None, Stopwatch(self.device))
            for one in contexts
        ]
        at_once = [model.target.parallel_logits(one).argmax(-1) for one in contexts]
        trunk.fuse(model.target.llama)
        programs = Programs(model, batch, prompt, graphed=self.cuda)
        programs.prepare()
        same: dict[str, list[bool]] = {"autoregressive": [], "speculative": [], "parallel": []}
        for given, decoded, levels in zip(inputs, wanted, at_once, strict=True):
            programs.load(given)
            for name, codes in (
                ("autoregressive", decoded.codes),
                ("speculative", decoded.codes),
                ("parallel", levels.permute(0, 2, 3, 1)),
            ):
                getattr(programs, name)()
                same[name] += (programs.codes == codes).flatten(1).all(dim=1).tolist()
        shares = {name: float(np.mean(rows)) for name, rows in same.items()}
        self.results.facts["check, tiny model in float32"] = shares
        self.console.print(f"check: {shares}", markup=False)

    def ceilings(self) -> None:
        """What this device does at best, and what its data sheet says."""
        name = torch.cuda.get_device_name(self.device)
        self.sheet = next((sheet for key, sheet in SHEETS.items() if key in name), None)
        size = 8192
        a, b = (torch.randn(size, size, device=self.device, dtype=self.dtype) for _ in range(2))
        out = torch.empty_like(a)
        flops = 2 * size**3 / self._seconds(lambda: torch.mm(a, b, out=out))
        source = torch.randn(2**30, device=self.device, dtype=self.dtype)
        target = torch.empty_like(source)
        bandwidth = 2 * 2 * 2**30 / self._seconds(lambda: target.copy_(source))
        self.measured = Device("measured here", flops, bandwidth)
        self.results.facts["ceilings"] = {
            "data_sheet": dataclasses.asdict(self.sheet) if self.sheet else None,
            "measured": dataclasses.asdict(self.measured),
        }
        self.console.print(
            f"{name}: {flops / 1e12:.0f} TFLOP/s bf16, {bandwidth / 1e12:.2f} TB/s measured"
        )

    def _seconds(self, call: Callable[[], object]) -> float:
        times = self._times(lambda _: call(), 10)[0]
        return float(np.median(times)) / 1000

    def batch(self, model: OpenVLAOFT, size: int, graphed: bool, brief: bool = False) -> None:
        """Stages, then totals, at one batch size. `brief`: a few of each."""
        if self.left_s() < 10:
            self.results.left_out.append(f"batch {size}, {'graphed' if graphed else 'eager'}")
            return
        with self.guarded(f"batch {size}"):
            self._batch(model, size, graphed, brief)
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def _batch(self, model: OpenVLAOFT, size: int, graphed: bool, brief: bool) -> None:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        programs = Programs(model, size, self.settings.prompt, graphed)
        sets = self.input_sets(size)
        self.totals(programs, sets, brief)
        self.stages(programs, brief)
        if not brief and self.left_s() > 10:
            with self.guarded(f"codes, batch {size}"):
                self.codes(programs)
        if self.cuda:
            self.results.facts[f"peak_vram_bytes, batch {size}, graphed {graphed}"] = (
                torch.cuda.max_memory_allocated(self.device)
            )

    def input_sets(self, batch: int) -> list[Inputs]:
        """In host memory; pinned where a GPU will fetch them."""
        sets = []
        for _ in range(INPUT_SETS):
            inputs = random_inputs(self.config, batch, self.settings.prompt, "cpu", self.dtype)
            if self.cuda:
                pinned: Any = (None if t is None else t.pin_memory() for t in inputs)
                inputs = Inputs(*pinned)
            sets.append(inputs)
        return sets

    def totals(self, programs: Programs, sets: Sequence[Inputs], brief: bool) -> None:
        """Whole chunks, from pinned host memory to actions in host memory."""
        config, batch, prompt = self.config, len(programs.final), self.settings.prompt
        layers = config.tokeniser.layers
        plain = costs.one_pass(config, batch, prompt, 0)
        programs.load(sets[0])

        def whole(decode: Callable[[], object]) -> Callable[[int], None]:
            def call(index: int) -> None:
                programs.load(sets[index % len(sets)])
                decode()

            return call

        modes = {
            "parallel": (programs.parallel, plain),
            "regression": (programs.regression, (*plain, costs.l1_head(config, batch))),
            "autoregressive": (
                programs.autoregressive,
                costs.autoregressive(config, batch, prompt),
            ),
        }
        for name, (decode, cost) in modes.items():
            self.time(name, "total", programs, whole(decode), cost)
        with self.guarded(f"capture of rounds, batch {batch}"):
            programs.prepare()
        verified = costs.one_pass(config, batch, prompt, layers - 1)
        for p, unit in itertools.product((1.0, 0.9) if brief else ACCEPTANCES, acceptance.UNITS):
            if p == 1.0 and unit != acceptance.UNITS[0]:
                continue  # the same
            self.speculative(programs, sets, unit, p, verified)
        for share in (0.5,) if brief else SKIPPED:
            self.skipping(programs, sets, share, verified)

    def speculative(
        self, programs: Programs, sets: Sequence[Inputs], unit: str, p: float, cost: Work
    ) -> None:
        """With a draft of set acceptance; `cost`: of the least, one pass that verifies all."""
        plans = self.plans(programs, unit, p)
        used: list[int] = []

        def call(index: int) -> None:
            programs.load(sets[index % len(sets)])
            programs.speculative(plans[index % len(plans)])
            used.append(index % len(plans))

        def passes() -> tuple[float, float]:
            rows = [_passes(plans[index], programs.layers) for index in used]
            return float(np.mean(rows)), float(np.mean([len(plans[index]) for index in used]))

        self.time(f"speculative, {unit} p {p:g}", "total", programs, call, cost, passes, 10)
        programs.forced.fill_(-1)

    def plans(self, programs: Programs, unit: str, p: float) -> list[list[Tensor]]:
        """What `Programs.speculative` takes, several of them."""
        codes = self.config.tokeniser
        draws = np.random.default_rng(self.settings.seed)
        tokens = codes.steps * codes.latent_dim
        return [
            [
                torch.tensor(finals, device=self.device)
                for finals in acceptance.schedule(
                    unit, p, codes.layers, tokens, len(programs.final), draws
                )
            ]
            for _ in range(SCHEDULES)
        ]

    def skipping(
        self, programs: Programs, sets: Sequence[Inputs], share: float, verified: Work
    ) -> None:
        """A share of chunks acts on the draft alone; the others are wholly accepted."""
        plan = [torch.full_like(programs.final, programs.layers)]

        def call(index: int) -> None:
            programs.load(sets[index % len(sets)])
            if int((index + 1) * share + 1e-9) > int(index * share + 1e-9):
                programs.skip()
            else:
                programs.speculative(plan)

        towers = costs.towers(self.config, len(programs.final))
        mean = [towers.times(share), *(cost.times(1 - share) for cost in verified)]
        self.time(f"skipping {share:.0%}", "total", programs, call, mean, least=20)
        programs.forced.fill_(-1)

    def stages(self, programs: Programs, brief: bool) -> None:
        """Parts of a chunk, each a program of its own."""
        config, batch, prompt = self.config, len(programs.final), self.settings.prompt
        layers = config.tokeniser.layers
        parts: dict[str, tuple[Callable[[], object], Cost]] = {
            "towers": (programs.see, costs.towers(config, batch)),
            "projector and embedding": (programs.embed, costs.projector(config, batch)),
        }
        for blocks in (0, layers - 1, *range(1, layers - 1)):
            parts[f"prefill with {blocks} blocks"] = (
                functools.partial(programs.prefill, blocks),
                costs.prefill(config, batch, prompt, blocks),
            )
        for count in sorted({1, layers // 2, layers - 1}):
            positions = count * config.tokeniser.steps
            parts[f"extra pass over {positions} positions"] = (
                functools.partial(programs.extend, 1, count),
                costs.extend(config, batch, prompt, 1, count),
            )
        parts["draft's context"] = (programs.read, Cost())
        parts["draft, all layers"] = (lambda: programs.propose(0), Cost())
        parts["detokenisation"] = (programs.detokenise, Cost())
        parts["parallel heads"] = (programs.all_layers, Cost())
        parts["L1 head"] = (programs.regress, costs.l1_head(config, batch))
        if brief:
            kept = ("towers", "prefill with 0", f"prefill with {layers - 1}", "extra", "draft, all")
            parts = {name: part for name, part in parts.items() if name.startswith(kept)}
        for name, (function, cost) in parts.items():
            self.time(name, "stage", programs, _part(programs, name, function), [cost])

    def codes(self, programs: Programs) -> None:
        """Share of chunks whose speculative codes, drafted by an oracle and judged as the tokens
        say, differ from autoregressive ones: passes of other shapes round otherwise."""
        same, passes, chunks = [], [], []
        for _ in range(max(1, 16 // len(programs.final))):
            inputs = random_inputs(
                self.config, len(programs.final), self.settings.prompt, self.device, self.dtype
            )
            programs.load(inputs)
            programs.autoregressive()
            codes = programs.codes.clone()
            programs.oracle.copy_(codes[..., :-1])
            passes.append(programs.speculative())
            programs.oracle.fill_(-1)
            same += (programs.codes == codes).flatten(1).all(dim=1).tolist()
            chunks.append(float((programs.codes == codes).double().mean()))
        self.results.facts[f"codes, batch {len(programs.final)}"] = {
            "dtype": str(self.dtype),
            "chunks": len(same),
            "chunks_equal": float(np.mean(same)),
            "tokens_equal": float(np.mean(chunks)),
            "rounds_with_an_oracle": float(np.mean(passes)),
        }

    # Other ways to do the same.

    def variant(self, model: OpenVLAOFT, name: str, batch: int = 1) -> None:
        """The language model's passes and the towers, another way."""
        if self.left_s() < 20:
            self.results.left_out.append(f"variant: {name}")
            return
        config, prompt, blocks = self.config, self.settings.prompt, self.config.tokeniser.layers - 1
        with self.guarded(f"variant: {name}"):
            programs = Programs(model, batch, prompt, self.graphed)
            for part, function, cost in (
                ("towers", programs.see, costs.towers(config, batch)),
                (
                    "prefill with 0 blocks",
                    functools.partial(programs.prefill, 0),
                    costs.prefill(config, batch, prompt, 0),
                ),
                (
                    f"prefill with {blocks} blocks",
                    functools.partial(programs.prefill, blocks),
                    costs.prefill(config, batch, prompt, blocks),
                ),
                (
                    f"extra pass over {blocks * config.tokeniser.steps} positions",
                    functools.partial(programs.extend, 1, blocks),
                    costs.extend(config, batch, prompt, 1, blocks),
                ),
            ):
                self.time(
                    f"{part}: {name}",
                    "variant",
                    programs,
                    _part(programs, part, function),
                    [cost],
                )

    def variants(self, model: OpenVLAOFT) -> None:
        """Each differs in one thing from what was measured above."""
        tower: Any = model.vision_backbone
        if self.cuda:
            with self.guarded("products"):
                self.products()
            use, kernels.Backend.use_triton = kernels.Backend.use_triton, False
            self.variant(model, "elementwise in torch")
            kernels.Backend.use_triton = use
            both, tower.side_by_side = tower.side_by_side, False
            self.variant(model, "towers one after the other")
            tower.side_by_side = both
            with self.guarded("cuDNN attention"):
                from torch.nn.attention import SDPBackend, sdpa_kernel

                order = [
                    SDPBackend.CUDNN_ATTENTION,
                    SDPBackend.FLASH_ATTENTION,
                    SDPBackend.EFFICIENT_ATTENTION,
                    SDPBackend.MATH,
                ]
                with sdpa_kernel(order, set_priority=True):
                    self.variant(model, "cuDNN attention first")
        layers: Any = model.target.llama.layers
        for layer in layers:
            layer.split = False
        self.variant(model, "one masked attention")
        for layer in layers:
            layer.split = True

    def compiled(self, model: OpenVLAOFT) -> None:
        """Blocks of the towers through torch.compile, which cannot be taken back."""
        if not self.cuda or self.left_s() < 90:
            self.results.left_out.append("variant: towers compiled")
            return
        with self.guarded("torch.compile"):
            started = time.monotonic()
            tower: Any = model.vision_backbone
            for block in (*tower.featurizer.blocks, *tower.fused_featurizer.blocks):
                block.compile(dynamic=False)
            self.variant(model, "towers compiled")
            self.results.facts["compile_s"] = time.monotonic() - started

    def products(self) -> None:
        """The matrix products of one pass of the language model alone, by positions: what is left
        of a pass is attention, elementwise work and gaps."""
        llama, steps = self.config.llama, self.config.tokeniser.steps
        context = self.config.context(self.settings.prompt)
        shapes = {
            "qkv": (3 * llama.width, llama.width),
            "out": (llama.width, llama.width),
            "gate, up": (2 * llama.hidden, llama.width),
            "down": (llama.width, llama.hidden),
        }
        table = {}
        for positions in (steps, 7 * steps, context, context + 3 * steps, context + 7 * steps):
            for name, shape in shapes.items():
                weights = [
                    torch.randn(shape, device=self.device, dtype=self.dtype) for _ in range(4)
                ]  # which take turns, so that no cache holds them
                x = torch.randn(positions, shape[1], device=self.device, dtype=self.dtype)

                def call(_: int, x: Tensor = x, weights: list[Tensor] = weights) -> None:
                    for weight in weights:
                        torch.nn.functional.linear(x, weight)

                call(0)
                times = self._times(call, 5, seconds=0.1)[0]
                ms = float(np.median(times)) / len(weights)
                rate = 2 * shape[0] * shape[1] * positions / ms / 1e9
                table[f"{name}, {positions} positions"] = {
                    "ms": ms,
                    "of_a_pass_ms": ms * llama.depth,
                    "tflops": rate,
                }
        self.results.facts["products"] = table

    def _synchronise(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)


def _part(programs: Programs, name: str, function: Callable[[], object]) -> Callable[[int], None]:
    """A stage as `Bench.time` calls it."""

    def call(_: int) -> None:
        programs.run(f"stage: {name}", function)

    return call


def _passes(plan: list[Tensor], layers: int) -> list[int]:
    """Of every row: the first pass after which all layers are final."""
    finals = torch.stack(plan)
    return ((finals < layers).sum(dim=0) + 1).tolist()


def environment(device: torch.device) -> dict[str, Any]:
    """What the figures depend on."""
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "timm": timm.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "cuda": torch.version.cuda,
        "device": str(device),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["name"], found["vram_bytes"] = properties.name, properties.total_memory
        found["processors"] = properties.multi_processor_count
    return found


def _plain(settings: Settings) -> dict[str, Any]:
    return {name: str(v) if isinstance(v, Path) else v for name, v in vars(settings).items()}


def read(path: Path) -> Results:
    """What `Results.write` wrote."""
    content = json.loads(path.read_text())
    content["figures"] = [Figure(**each) for each in content["figures"]]
    return Results(**content)


def show(results: Results, console: Console) -> None:
    """Tables of totals, stages and variants; what failed and was left out."""
    for kind in ("total", "stage", "variant"):
        columns = ("batch", "run", "ms", "p95", "mean", "wall", "floor", "x floor", "passes")
        grid = Grid(
            {"total": "Chunks", "stage": "Stages", "variant": "Variants"}[kind], ("what", *columns)
        )
        for f in results.figures:
            if f.kind == kind:
                grid.add(
                    *(f.name, str(f.batch), "graph" if f.graphed else "eager", _number(f.ms)),
                    *(_number(f.p95_ms), _number(f.mean_ms), _number(f.wall_ms)),
                    *(_number(f.floor_ms), _number(f.ratio), _number(f.passes)),
                )
        if grid.rows:
            print_grid(console, grid)
    for name, fact in results.facts.items():
        if name == "products":
            continue
        console.print(f"{name}: {fact}", markup=False, highlight=False)
    for name, ratio in aims(results).items():
        console.print(f"{name}: {ratio:.3f}", markup=False, highlight=False)
    for failure in results.failures:
        console.print(f"FAILED {failure['what']}: {failure['error']}", style="red", markup=False)
    if results.left_out:
        console.print(f"left out for time: {'; '.join(results.left_out)}", markup=False)


def aims(results: Results) -> dict[str, float]:
    """Ratios that decide whether speculation pays, of graphed chunks one at a time."""
    ms = {f.name: f.ms for f in results.figures if f.batch == 1 and f.graphed}
    best = f"speculative, {acceptance.UNITS[0]} p 1"
    found = {}
    if "parallel" in ms and best in ms:
        found["all accepted / parallel"] = ms[best] / ms["parallel"]
    if "autoregressive" in ms and best in ms:
        found["autoregressive / all accepted"] = ms["autoregressive"] / ms[best]
    for f in results.figures:
        if f.name == "prefill with 0 blocks" and f.batch == 1 and f.graphed and f.ratio:
            found["prefill, share of the floor's rate"] = 1 / f.ratio
    return found


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """The command line."""
    defaults = Settings()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=list(SIZES), default=defaults.size)
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--out", type=Path, help="a JSON file, written after every figure")
    parser.add_argument("--minutes", type=float, default=defaults.minutes, help="stop then")
    parser.add_argument("--batches", type=int, nargs="+", default=list(defaults.batches))
    parser.add_argument("--prompt", type=int, default=defaults.prompt, help="tokens")
    parser.add_argument("--seconds", type=float, default=defaults.seconds, help="a figure")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--only", default="", help="figures whose name has this in it")
    parser.add_argument("--no-triton", action="store_true", help="elementwise work in torch")
    parser.add_argument("--one-stream", action="store_true", help="towers one after the other")
    parser.add_argument("--no-variants", action="store_true")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--show", type=Path, help="only the tables of a file of --out")
    given = parser.parse_args(arguments)
    return Settings(
        size=given.size,
        device=given.device,
        out=given.out,
        minutes=given.minutes,
        batches=tuple(given.batches),
        prompt=given.prompt,
        seconds=given.seconds,
        seed=given.seed,
        triton=not given.no_triton,
        one_stream=given.one_stream,
        variants=not given.no_variants,
        compile=not given.no_compile,
        only=given.only,
        show=given.show,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and show."""
    console = Console(width=130)
    settings = parse(arguments)
    if settings.show is not None:
        show(read(settings.show), console)
        return
    bench = Bench(settings, console)
    with torch.no_grad():
        results = bench.run()
    show(results, console)


if __name__ == "__main__":
    main()
