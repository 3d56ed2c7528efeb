"""Whether speculative codes are autoregressive ones, and what bfloat16 makes of that.

    python -m rsd.models.openvla_oft.equality                    # 10,000 chunks of the tiny model
    python -m rsd.models.openvla_oft.equality --policy FOLDER    # of trained heads and their draft

Random chunks in ragged batches, prompts of different lengths in each. Every draft is compared with
layer-by-layer decoding of the same precision, code for code. Exits with 1 where a difference in
float32 is left after near ties were settled in double precision (rsd/decoding/settle.py).
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from rsd.decoding.contracts import Backbone, Decoded
from rsd.decoding.rules import Exact
from rsd.decoding.sequential import autoregressive
from rsd.decoding.settle import NEAR_TIE
from rsd.decoding.speculative import speculative
from rsd.decoding.stopwatch import Stopwatch
from rsd.models.openvla_oft import folder
from rsd.models.openvla_oft.config import OFTConfig, tiny
from rsd.models.openvla_oft.loading import load_model
from rsd.models.openvla_oft.model import Context, Inputs, OpenVLAOFT, make, random_inputs

BATCHES = (1, 7, 32, 61)  # rows of batches, in turn
PROMPTS = (4, 24)  # shortest and longest prompt
SHARES = {"oracle": 1.0, "nine in ten tokens right": 0.9, "always wrong": 0.0}


@dataclass(frozen=True)
class Row:
    """One draft in one precision, against layer-by-layer decoding in the same."""

    precision: str
    draft: str
    chunks: int
    different: int  # chunks in which any code differs
    passes: float  # mean
    left: int  # different chunks after near ties were settled


@dataclass(frozen=True)
class Rounding:
    """A precision against double precision, layer by layer."""

    precision: str
    chunks: int
    different: int  # chunks in which any code differs
    error: float  # largest of a logit, given the same coarser codes
    near_ties: int  # chunks with a margin below twice that: to be settled


@dataclass
class ToldCache:
    rows: Tensor
    blocks: int

    def select(self, rows: Tensor) -> ToldCache:
        return ToldCache(self.rows[rows], self.blocks)


class ToldDraft:
    """A draft that is told what to say. Implements Backbone; its context is row numbers (B,)."""

    def __init__(self, guesses: Tensor, levels: int) -> None:
        """Guesses int64 (B, T, D, L)."""
        _, self.steps, self.latent_dim, _ = guesses.shape
        self._logits = F.one_hot(guesses, levels).float().permute(0, 3, 1, 2, 4)

    def prefill(self, context: Tensor, codes: Tensor) -> tuple[Tensor, ToldCache]:
        blocks = codes.shape[-1] + 1
        return self._logits[context, :blocks], ToldCache(context, blocks)

    def extend(self, cache: ToldCache, codes: Tensor, first: int) -> Tensor:
        cache.blocks = first + codes.shape[-1]
        return self._logits[cache.rows, first : cache.blocks]


def model_of(policy: str | None, seed: int, device: str) -> OpenVLAOFT:
    """A checkpoint's in float32, or the tiny one whose codes depend on the coarser ones."""
    if policy is not None:
        return load_model(folder.describe(policy), device, torch.float32).model
    torch.manual_seed(seed)
    model = make(tiny(), device, torch.float32)
    model.target.code_heads.embedding.weight.mul_(30)
    return model


def in_precision(model: OpenVLAOFT, dtype: torch.dtype) -> OpenVLAOFT:
    """A copy; the tokeniser stays as it is."""
    made = copy.deepcopy(model).to(dtype)
    made.tokeniser = model.tokeniser
    return made


def ragged_inputs(config: OFTConfig, rows: int, device: torch.device) -> Inputs:
    """Noise, with prompts of different lengths."""
    inputs = random_inputs(config, rows, PROMPTS[1], device, torch.float32)
    lengths = torch.randint(PROMPTS[0], PROMPTS[1] + 1, (rows, 1), device=device)
    return inputs._replace(valid=torch.arange(PROMPTS[1], device=device) >= PROMPTS[1] - lengths)


def cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    return inputs._replace(pixels=inputs.pixels.to(dtype), proprio=inputs.proprio.to(dtype))


def layer_by_layer(model: OpenVLAOFT, context: Context) -> Decoded:
    layers = model.config.tokeniser.layers
    return autoregressive(model.target, context, Exact(), layers, None, Stopwatch())


def drafts(
    model: OpenVLAOFT, patches: Tensor, inputs: Inputs, right: Tensor
) -> Iterator[tuple[str, Backbone, Tensor]]:
    """Name, draft, its context; `right` are the codes that a draft should guess."""
    yield "its own", model.draft, model.draft_context(patches, inputs)
    levels = model.config.tokeniser.levels
    for name, share in SHARES.items():
        wrong = (right + torch.randint(1, levels, right.shape, device=right.device)) % levels
        guesses = torch.where(torch.rand(right.shape, device=right.device) < share, right, wrong)
        yield name, ToldDraft(guesses, levels), torch.arange(len(right), device=right.device)


def compare(
    model: OpenVLAOFT, precise: OpenVLAOFT, chunks: int, precision: str
) -> tuple[list[Row], Rounding]:
    """Decode random chunks in every way. `precise` is the same model in double precision."""
    config = model.config
    layers, dtype = config.tokeniser.layers, model.projector.fc1.weight.dtype
    rows: dict[str, Row] = {}
    margins: list[Tensor] = []
    errors, changed, done = [0.0], 0, 0
    while done < chunks:
        count = min(BATCHES[len(margins) % len(BATCHES)], chunks - done)
        noise = ragged_inputs(config, count, model.projector.fc1.weight.device)
        inputs, exactly = cast(noise, dtype), cast(noise, torch.float64)
        patches = model.vision_backbone(inputs.pixels)
        context = model.context(patches, inputs)
        precisely = precise.context(precise.vision_backbone(exactly.pixels), exactly)
        plain, truth = layer_by_layer(model, context), layer_by_layer(precise, precisely)
        logits, _ = model.target.prefill(context, truth.codes[..., :-1])
        known, _ = precise.target.prefill(precisely, truth.codes[..., :-1])
        errors.append(float((logits.double() - known).abs().max()))
        margins.append(plain.margin)
        changed += _different(plain.codes, truth.codes)
        for name, draft, draft_context in drafts(model, patches, inputs, plain.codes):
            codes, passes, margin = torch.zeros_like(plain.codes), 0, plain.margin.clone()
            for at, decoded in speculative(
                model.target,
                draft,
                context,
                draft_context,
                Exact(),
                layers,
                layers - 1,
                None,
                Stopwatch(),
            ):
                codes[at], margin[at] = decoded.codes, decoded.margin
                passes += int(decoded.passes.sum())
            close = [each < NEAR_TIE for each in (plain.margin, margin)]
            one, other = (
                torch.where(near[:, None, None, None], truth.codes, said)
                for near, said in zip(close, (plain.codes, codes), strict=True)
            )
            before = rows.get(name, Row(precision, name, 0, 0, 0.0, 0))
            rows[name] = replace(
                before,
                chunks=before.chunks + count,
                different=before.different + _different(codes, plain.codes),
                passes=before.passes + passes,
                left=before.left + _different(one, other),
            )
        done += count
    near = int((torch.cat(margins) < 2 * max(errors)).sum())
    found = [replace(row, passes=row.passes / row.chunks) for row in rows.values()]
    return found, Rounding(precision, done, changed, max(errors), near)


def _different(one: Tensor, other: Tensor) -> int:
    return int((one != other).flatten(1).any(dim=1).sum())


def tables(rows: Sequence[Row], roundings: Sequence[Rounding]) -> Iterator[Table]:
    """For people."""
    table = Table("precision", "draft", "chunks", "other codes than layer by layer", "settled")
    table.add_column("passes")
    for row in rows:
        cells = (row.chunks, row.different, row.left, f"{row.passes:.2f}")
        table.add_row(row.precision, row.draft, *map(str, cells))
    yield table
    table = Table("precision", "chunks", "other codes than float64", "largest error of a logit")
    table.add_column("chunks within twice that of a tie")
    for each in roundings:
        table.add_row(
            each.precision,
            str(each.chunks),
            f"{each.different} ({each.different / each.chunks:.2%})",
            f"{each.error:.2g}",
            f"{each.near_ties} ({each.near_ties / each.chunks:.2%})",
        )
    yield table


def run(
    policy: str | None, chunks: int, bf16_chunks: int, device: str = "cpu", seed: int = 0
) -> dict[str, Any]:
    """All comparisons, as JSON has them."""
    with torch.inference_mode():
        model = model_of(policy, seed, device)
        precise = in_precision(model, torch.float64)
        rows, roundings = [], []
        for precision, dtype, count in (
            ("float32", torch.float32, chunks),
            ("bfloat16", torch.bfloat16, bf16_chunks),
        ):
            torch.manual_seed(seed)
            same = model if dtype == torch.float32 else in_precision(model, dtype)
            against = precise if dtype == torch.float32 else in_precision(same, torch.float64)
            found, rounding = compare(same, against, count, precision)
            rows += found
            roundings.append(rounding)
    return {"rows": rows, "roundings": roundings}


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare and show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", help="a checkpoint with heads of codes; else a tiny one")
    parser.add_argument("--chunks", type=int, default=10_000, help="in float32 (default 10000)")
    parser.add_argument("--bf16-chunks", type=int, default=1000, help="in bfloat16 (default 1000)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--json", type=Path, help="file for the result")
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    found = run(given.policy, given.chunks, given.bf16_chunks, given.device)
    console = Console(width=130)
    for table in tables(found["rows"], found["roundings"]):
        console.print(table)
    if given.json:
        content = {name: [asdict(each) for each in of] for name, of in found.items()}
        given.json.write_text(json.dumps(content, indent=1) + "\n")
    sys.exit(int(any(row.left for row in found["rows"] if row.precision == "float32")))


if __name__ == "__main__":
    main()
