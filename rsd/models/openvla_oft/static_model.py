"""OpenVLA-OFT as the decode loops see it, its passes at fixed shapes: graphs that a GPU replays.

The loops, rules and counts are those of every policy (rsd.decoding); only what is launched differs.
A batch is filled up to a power of two with copies of its first row, prompts on the left to a
multiple of 16 tokens. Rows that are final are computed along until the last one is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rsd.decoding.contracts import Numbers
from rsd.models.openvla_oft.code_model import OFTEnds
from rsd.models.openvla_oft.folder import Checkpoint
from rsd.models.openvla_oft.model import Inputs, OpenVLAOFT
from rsd.models.openvla_oft.programs import Programs
from rsd.types import ChunkRequest, ImageSpec

PROMPT = 16  # tokens that prompts are filled up to a multiple of


class StaticContext(NamedTuple):
    """Rows of programs that hold their context: of the batch decoded last."""

    programs: Programs
    suites: Tensor  # int64 (B,)

    def __len__(self) -> int:
        return len(self.suites)

    @property
    def device(self) -> torch.device:
        return self.suites.device


@dataclass
class StaticCache:
    """Rows of programs that hold their keys and values."""

    programs: Programs
    rows: Tensor  # int64 (B,)
    blocks: int

    def select(self, rows: Tensor) -> StaticCache:
        return StaticCache(self.programs, self.rows[rows], self.blocks)


class StaticTarget:
    """Implements rsd.decoding.contracts.Backbone."""

    def __init__(self, steps: int, latent_dim: int) -> None:
        self.steps, self.latent_dim = steps, latent_dim

    def prefill(self, context: StaticContext, codes: Tensor) -> tuple[Tensor, StaticCache]:
        """Context with k layers of codes appended -> logits of layers 0..k, cache."""
        rows = torch.arange(len(context), device=context.device)
        blocks = codes.shape[-1]
        context.programs.guess[rows, ..., :blocks] = codes
        logits = context.programs.prefilled(blocks)[rows]
        return logits, StaticCache(context.programs, rows, blocks + 1)

    def extend(self, cache: StaticCache, codes: Tensor, first: int) -> Tensor:
        """Blocks first.. from codes of layers first - 1.. (B, T, D, n) -> logits of layers
        first..first + n - 1."""
        assert 1 <= first <= cache.blocks, f"block {first} would leave a gap after {cache.blocks}"
        count = codes.shape[-1]
        cache.programs.guess[cache.rows, ..., first - 1 : first - 1 + count] = codes
        cache.blocks = first + count
        return cache.programs.extended(first, count)[cache.rows]


class StaticOFTCodeModel(OFTEnds):
    """Implements rsd.decoding.contracts.CodeModel. One batch at a time."""

    def __init__(
        self,
        model: OpenVLAOFT,
        checkpoint: Checkpoint,
        images: ImageSpec,
        device: str,
        graphed: bool,
    ) -> None:
        """Not `graphed`, the same passes are launched one operation after the other."""
        super().__init__(model, checkpoint, images, device)
        self.target = StaticTarget(model.target.steps, model.target.latent_dim)
        self._graphed = graphed
        self._programs: dict[tuple[int, int], Programs] = {}

    def inputs(self, requests: Sequence[ChunkRequest]) -> StaticContext:
        """Raises UserError for what `Preparation` refuses."""
        inputs, suites = self.read(requests)
        batch = 1 << (len(suites) - 1).bit_length()
        prompt = -(-inputs.prompt.shape[1] // PROMPT) * PROMPT
        programs = self._programs_of(batch, prompt)
        programs.load(filled(inputs, batch, prompt))
        programs.look()
        return StaticContext(programs, suites)

    def target_context(self, inputs: StaticContext) -> StaticContext:
        return inputs

    def draft_context(self, inputs: StaticContext) -> Tensor:
        """(B, W')."""
        return inputs.programs.draft_context[: len(inputs)].clone()

    def parallel_logits(self, context: StaticContext) -> Tensor:
        """-> (B, L, T, D, V)."""
        return self.model.target.code_heads.all_at_once(self._placeholders(context))

    def numbers(self, context: StaticContext) -> Numbers:
        """What the published head of the checkpoint says: regressed, or the middle of a bin."""
        return self.numbers_of(self._placeholders(context), context.suites)

    def _placeholders(self, context: StaticContext) -> Tensor:
        return context.programs.alone()[: len(context)]

    def _programs_of(self, batch: int, prompt: int) -> Programs:
        if (batch, prompt) not in self._programs:
            made = Programs(self.model, batch, prompt, self._graphed, padded=True)
            self._programs[batch, prompt] = made
        return self._programs[batch, prompt]


def filled(inputs: Inputs, batch: int, prompt: int) -> Inputs:
    """Inputs of so many rows, with prompts of so many tokens and a mask."""
    valid, left = inputs.valid, prompt - inputs.prompt.shape[1]
    if valid is None:
        valid = torch.ones_like(inputs.prompt, dtype=torch.bool)
    more = batch - len(valid)

    def with_copies(of: Tensor) -> Tensor:
        return torch.cat([of, of[:1].expand(more, *of.shape[1:])])

    return Inputs(
        with_copies(inputs.pixels),
        with_copies(F.pad(inputs.prompt, (left, 0))),
        with_copies(F.pad(valid, (left, 0))),
        with_copies(inputs.proprio),
        with_copies(inputs.previous),
        with_copies(inputs.known),
    )
