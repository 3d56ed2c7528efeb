"""Parts that families of code models share: maps by layer, and the draft (DESIGN 5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsd.rfsq_config import RFSQConfig


class LayerHeads(nn.Module):
    """A linear map for each code layer, several layers at once."""

    def __init__(self, layers: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(layers, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(layers, 1, outputs))

    def forward(self, x: Tensor, first: int) -> Tensor:
        """(n, N, inputs) for layers first.. -> (n, N, outputs)."""
        layers = slice(first, first + len(x))
        return torch.baddbmm(self.bias[layers], x, self.weight[layers])


class CodeEmbedding(nn.Module):
    """Sums of code embeddings, a table for each token of a position in each layer."""

    offsets: Tensor  # int64 (layers, tokens): where the table of a token begins

    def __init__(self, tokens: int, layers: int, levels: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(layers * tokens * levels, width))
        offsets = levels * torch.arange(layers * tokens).view(layers, tokens)
        self.register_buffer("offsets", offsets, persistent=False)

    def forward(self, codes: Tensor, first: int) -> Tensor:
        """Codes (B, n, P, tokens) of layers first.. -> (B, n, P, W)."""
        rows = codes + self.offsets[first : first + codes.shape[1], None]
        sums = F.embedding_bag(rows.reshape(-1, rows.shape[-1]), self.weight, mode="sum")
        return sums.view(*codes.shape[:-1], -1)


@dataclass
class DraftCache:
    """What each block starts from: the context plus the embeddings of the layers before it."""

    states: Tensor  # (B, L - 1, W')
    blocks: int  # valid blocks

    def select(self, rows: Tensor) -> DraftCache:
        """The cache of some rows of the batch."""
        return DraftCache(self.states[rows], self.blocks)


class CodeDraft(nn.Module):
    """A draft over a context that is one vector (B, W'): layer l is guessed by an MLP of its own
    from the context plus the sum of the embeddings of all coarser codes, whether guessed or final.
    So it continues from any prefix, and a layer costs a few small matrix products.

    Implements `rsd.decoding.contracts.Backbone` for all layers but the last, which needs no guess.
    """

    def __init__(self, tokeniser: RFSQConfig, width: int, embedding: nn.Module) -> None:
        """`embedding` maps codes (B, n, 1, T D) of layers first.. to sums (B, n, 1, W')."""
        super().__init__()
        self.steps, self.latent_dim = tokeniser.steps, tokeniser.latent_dim
        self.levels, self.layers = tokeniser.levels, tokeniser.layers - 1
        tokens = self.steps * self.latent_dim
        self.code_embedding = embedding
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
