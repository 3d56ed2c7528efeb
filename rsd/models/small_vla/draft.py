"""The draft of SmallVLA: it guesses from what exists before the target's backbone runs (DESIGN 5).

The context is one vector. Layer l is guessed by an MLP of its own from the context plus the sum of
the embeddings of all coarser codes, whether guessed or final: so it continues from any prefix, and
a layer costs a few small matrix products. A transformer in its place cost as much as the passes it
saved (docs/decisions.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsd.models.small_vla.architecture import SmallVLAConfig
from rsd.models.small_vla.transformer import CodeEmbedding, LayerHeads
from rsd.rfsq_config import RFSQConfig
from rsd.types import PROPRIO_DIM


class DraftContext(nn.Module):
    """Everything the draft reads, as one vector: a little of every image and text token,
    proprioception, the chunk before."""

    def __init__(self, config: SmallVLAConfig, tokens: int) -> None:
        super().__init__()
        tokeniser, width, token_width = (
            config.tokeniser,
            config.draft.width,
            config.draft.token_width,
        )
        previous = tokeniser.steps * tokeniser.latent_dim
        inputs = tokens * token_width + PROPRIO_DIM + previous + 1
        self.reduce = nn.Linear(config.target.width, token_width)
        self.mix = nn.Sequential(
            nn.Linear(inputs, 2 * width), nn.GELU(approximate="tanh"), nn.Linear(2 * width, width)
        )

    def forward(
        self, image: Tensor, text: Tensor, proprio: Tensor, previous: Tensor, has_previous: Tensor
    ) -> Tensor:
        """Tokens (B, S, W), (B, S', W), normalised proprio (B, 8), latents of the chunk before
        (B, T, D) where bool (B,) -> (B, W')."""
        tokens = self.reduce(torch.cat([image, text], dim=1)).flatten(1)
        known = has_previous[:, None].to(tokens.dtype)
        return self.mix(torch.cat([tokens, proprio, previous.flatten(1) * known, known], dim=1))


@dataclass
class DraftCache:
    """What each block starts from: the context plus the embeddings of the layers before it."""

    states: Tensor  # (B, L, W')
    blocks: int  # valid blocks

    def select(self, rows: Tensor) -> DraftCache:
        """The cache of some rows of the batch."""
        return DraftCache(self.states[rows], self.blocks)


class Draft(nn.Module):
    """Implements `rsd.decoding.contracts.Backbone` for all layers but the last, which needs no
    guess."""

    def __init__(self, tokeniser: RFSQConfig, width: int) -> None:
        super().__init__()
        self.steps, self.latent_dim = tokeniser.steps, tokeniser.latent_dim
        self.levels, self.layers = tokeniser.levels, tokeniser.layers - 1
        tokens = self.steps * self.latent_dim
        self.code_embedding = CodeEmbedding(tokens, self.layers - 1, self.levels, width)
        self.norm = nn.LayerNorm(width)
        self.up = LayerHeads(self.layers, width, 2 * width)
        self.down = LayerHeads(self.layers, 2 * width, width)
        self.heads = LayerHeads(self.layers, width, tokens * self.levels)

    def forward(self, context: Tensor, codes: Tensor) -> Tensor:
        """Training: context (B, W'), codes of the first k layers (B, T, D, k) -> logits
        (B, k + 1, T, D, V)."""
        return self.prefill(context, codes)[0]

    def prefill(self, context: Tensor, codes: Tensor) -> tuple[Tensor, DraftCache]:
        """Context (B, W') and codes of the first k layers -> logits of layers 0..k, cache."""
        states = context[:, None]
        if codes.shape[-1]:
            embedded = self._embed(codes, 0).cumsum(dim=1)
            states = torch.cat([states, states + embedded], dim=1)
        cache = DraftCache(F.pad(states, (0, 0, 0, self.layers - states.shape[1])), states.shape[1])
        return self._logits(states, 0), cache

    def extend(self, cache: DraftCache, codes: Tensor, first: int) -> Tensor:
        """Blocks first.. from codes of layers first - 1.. (B, T, D, n) -> logits of layers
        first..first + n - 1; blocks from `first` on are overwritten."""
        assert 1 <= first <= cache.blocks, f"block {first} would leave a gap after {cache.blocks}"
        count = codes.shape[-1]
        states = cache.states[:, first - 1 : first] + self._embed(codes, first - 1).cumsum(dim=1)
        cache.states[:, first : first + count] = states
        cache.blocks = first + count
        return self._logits(states, first)

    def _embed(self, codes: Tensor, first: int) -> Tensor:
        """Codes (B, T, D, n) of layers first.. -> (B, n, W')."""
        tokens = codes.flatten(1, 2).transpose(1, 2)[:, :, None]
        return self.code_embedding(tokens, first)[:, :, 0]

    def _logits(self, states: Tensor, first: int) -> Tensor:
        """(B, n, W') -> logits (B, n, T, D, V) of layers first.."""
        x = self.norm(states).transpose(0, 1)
        x = x + self.down(F.gelu(self.up(x, first), approximate="tanh"), first)
        shape = (len(states), states.shape[1], self.steps, self.latent_dim, self.levels)
        return self.heads(x, first).transpose(0, 1).reshape(shape)
