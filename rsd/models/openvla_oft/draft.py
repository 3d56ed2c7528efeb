"""The draft: guesses codes from what exists before the backbone runs (DESIGN 5).

A little of every patch's tower features, the mean embedding of the instruction, proprioception and
the chunk before become one vector; layer l is guessed by an MLP of its own from it and the sum of
the embeddings of all coarser codes. About 4.7 M parameters at full size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsd.models.openvla_oft.config import PROPRIO_DIM, OFTConfig
from rsd.models.openvla_oft.heads import CodeEmbedding, LayerHeads


@dataclass
class DraftCache:
    """What each block starts from: the context plus the embeddings of the layers before it."""

    states: Tensor  # (B, L - 1, W')
    blocks: int  # valid blocks

    def select(self, rows: Tensor) -> DraftCache:
        """The cache of some rows of the batch."""
        return DraftCache(self.states[rows], self.blocks)


class OFTDraft(nn.Module):
    """Implements `rsd.decoding.contracts.Backbone` for all layers but the last, which needs no
    guess."""

    def __init__(self, config: OFTConfig) -> None:
        super().__init__()
        codes, sizes = config.tokeniser, config.draft
        self.steps, self.latent_dim = codes.steps, codes.latent_dim
        self.levels, self.layers = codes.levels, codes.layers - 1
        tokens, width = self.steps * self.latent_dim, sizes.width
        inputs = config.patches * sizes.patch_width + sizes.text_width + PROPRIO_DIM + tokens + 1
        self.patch = nn.Linear(config.vision_width, sizes.patch_width)
        self.text = nn.Linear(config.llama.width, sizes.text_width)
        self.mix = nn.Sequential(
            nn.Linear(inputs, 2 * width), nn.GELU(approximate="tanh"), nn.Linear(2 * width, width)
        )
        self.code_embedding = CodeEmbedding(tokens, self.layers - 1, self.levels, width)
        self.norm = nn.LayerNorm(width)
        self.up = LayerHeads(self.layers, width, 2 * width)
        self.down = LayerHeads(self.layers, 2 * width, width)
        self.heads = LayerHeads(self.layers, width, tokens * self.levels)

    def context(
        self, patches: Tensor, text: Tensor, proprio: Tensor, previous: Tensor, known: Tensor
    ) -> Tensor:
        """Tower features (B, S, F), the instruction's mean embedding (B, W), normalised
        proprioception (B, 8), latents of the chunk before (B, T, D) where bool (B,) -> (B, W')."""
        seen = known[:, None].to(patches.dtype)
        parts = [
            self.patch(patches).flatten(1),
            self.text(text),
            proprio,
            previous.to(patches.dtype).flatten(1) * seen,
            seen,
        ]
        return self.mix(torch.cat(parts, dim=1))

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
