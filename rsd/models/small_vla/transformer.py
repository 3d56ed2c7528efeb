"""The target's block-causal transformer over residual codes (DESIGN 4).

One sequence: context (S positions) | block 0: P query positions | block 1: e(c_0) | ... Block l
sees the context, the blocks before it and itself; its output predicts layer l. Each of a block's P
positions holds T / P steps: the sum of their code embeddings goes in, their logits come out. Every
block has a fixed slot in the cache, so that a rollback is an overwrite.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsd.models.code_layers import CodeEmbedding, LayerHeads
from rsd.models.small_vla.architecture import TransformerConfig


@dataclass
class KVCache:
    """Keys and values of every transformer layer: (depth, 2, B, heads, S + P L, width / heads)."""

    entries: Tensor
    context: int  # S
    blocks: int  # valid blocks

    def select(self, rows: Tensor) -> KVCache:
        """The cache of some rows of the batch."""
        return KVCache(self.entries[:, :, rows], self.context, self.blocks)


class Layer(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm2 = nn.LayerNorm(config.width)
        self.up = nn.Linear(config.width, config.expansion * config.width)
        self.down = nn.Linear(config.expansion * config.width, config.width)

    def forward(
        self, x: Tensor, mask: Tensor | None, entries: Tensor | None, start: int, read: int
    ) -> Tensor:
        """As `Trunk`, of its own entries (2, B, heads, slots, head width). What a wrapper of layers
        hooks into (FSDP)."""
        qkv, end = self.project(x), start + x.shape[1]
        q, kv = qkv[0], qkv[1:]
        if entries is not None:
            entries[:, :, :, start:end] = kv
            kv = entries[:, :, :, :end]
        if read:
            x, q = x[:, read:], q[:, :, read:]
            mask = None if mask is None else mask[read:]
        return self.finish(x, q, kv, mask)

    def project(self, x: Tensor) -> Tensor:
        """x (B, N, W) -> queries, keys and values (3, B, heads, N, head width)."""
        batch, length, _ = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1)
        return qkv.permute(2, 0, 3, 1, 4)

    def finish(self, x: Tensor, q: Tensor, kv: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, N, W) and its queries, the keys and values (2, B, heads, M, head width) of all that
        it may look at, where the mask (N, M) is True -> what goes into the next layer."""
        mixed = F.scaled_dot_product_attention(q, kv[0], kv[1], attn_mask=mask)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Trunk(nn.ModuleList):
    """The layers, one after the other."""

    def __iter__(self) -> Iterator[Layer]:
        return cast(Iterator[Layer], super().__iter__())

    def forward(
        self, x: Tensor, mask: Tensor | None, entries: Tensor | None, start: int, read: int = 0
    ) -> Tensor:
        """x (B, N, W) at slots start..start + N, and a cache's entries, which hold what lies before
        and get its own -> outputs (B, N - read, W) of its positions from `read` on. Without a cache
        x attends to itself."""
        last = len(self) - 1  # of which nobody asks what it makes of the positions before
        for index, layer in enumerate(self):
            own = None if entries is None else entries[index]
            x = layer(x, mask, own, start, read if index == last else 0)
        return x


class CodeTransformer(nn.Module):
    """Predicts codes (B, T, D, L) with V levels over a context (B, S, W), coarse to fine.

    Implements `rsd.decoding.contracts.Backbone`.
    """

    def __init__(
        self, config: TransformerConfig, steps: int, latent_dim: int, layers: int, levels: int
    ) -> None:
        super().__init__()
        self.config = config
        self.steps, self.latent_dim, self.layers, self.levels = steps, latent_dim, layers, levels
        self.positions, width = config.positions, config.width
        if steps % self.positions:
            raise ValueError(f"{self.positions} positions cannot share {steps} steps evenly")
        self.group = steps // self.positions  # steps of a position
        tokens = self.group * latent_dim
        self.code_embedding = CodeEmbedding(tokens, layers - 1, levels, width)
        self.block_embedding = nn.Parameter(0.02 * torch.randn(layers, self.positions, width))
        self.trunk = Trunk(Layer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self.heads = LayerHeads(layers, width, tokens * levels)

    def forward(self, context: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Training: context (B, S, W), codes of the first k layers (B, T, D, k) ->
        logits (B, k + 1, T, D, V) and block 0's output (B, P, W)."""
        blocks = self._blocks(self._run(context, codes, None))
        return self._logits(blocks, 0), blocks[:, 0]

    def prefill(self, context: Tensor, codes: Tensor) -> tuple[Tensor, KVCache]:
        """Context with k layers of codes appended -> logits of layers 0..k, cache."""
        batch, length, width = context.shape
        slots = length + self.positions * self.layers
        entries = context.new_empty(
            self.config.depth, 2, batch, self.config.heads, slots, width // self.config.heads
        )
        cache = KVCache(entries, length, codes.shape[-1] + 1)
        hidden = self._run(context, codes, cache)
        return self._logits(self._blocks(hidden), 0), cache

    def extend(self, cache: KVCache, codes: Tensor, first: int) -> Tensor:
        """Blocks first.. from codes of layers first - 1.. (B, T, D, n) -> logits of layers
        first..first + n - 1; blocks from `first` on are overwritten."""
        assert 1 <= first <= cache.blocks, f"block {first} would leave a gap after {cache.blocks}"
        count = codes.shape[-1]
        hidden = self._embed(codes, first)
        start = cache.context + first * self.positions
        mask = self._block_mask(count, start, hidden.device) if count > 1 else None
        hidden = self.trunk(hidden, mask, cache.entries, start)
        cache.blocks = first + count
        return self._logits(self._blocks(self.norm(hidden)), first)

    def _run(self, context: Tensor, codes: Tensor, cache: KVCache | None) -> Tensor:
        """Outputs (B, n P, W) of the blocks."""
        queries = self.block_embedding[0].expand(len(context), -1, -1).to(context.dtype)
        blocks = [self._embed(codes, 1).to(context.dtype)] if codes.shape[-1] else []
        hidden = torch.cat([context, queries, *blocks], dim=1)
        mask = self._prefill_mask(context.shape[1], codes.shape[-1] + 1, context.device)
        entries = None if cache is None else cache.entries
        return self.norm(self.trunk(hidden, mask, entries, 0, read=context.shape[1]))

    def _embed(self, codes: Tensor, first: int) -> Tensor:
        """Codes (B, T, D, n) of layers first - 1.. -> inputs (B, n P, W) of blocks first.."""
        batch, count = len(codes), codes.shape[-1]
        tokens = codes.reshape(batch, self.positions, -1, count).permute(0, 3, 1, 2)
        blocks = self.code_embedding(tokens, first - 1)
        blocks = blocks + self.block_embedding[first : first + count]
        return blocks.reshape(batch, count * self.positions, self.config.width)

    def _blocks(self, hidden: Tensor) -> Tensor:
        return hidden.reshape(len(hidden), -1, self.positions, hidden.shape[-1])

    def _logits(self, blocks: Tensor, first: int) -> Tensor:
        """Outputs (B, n, P, W) of blocks first.. -> logits (B, n, T, D, V)."""
        batch, count = blocks.shape[:2]
        logits = self.heads(blocks.transpose(0, 1).flatten(1, 2), first).unflatten(1, (batch, -1))
        shape = (batch, count, self.steps, self.latent_dim, self.levels)
        return logits.transpose(0, 1).reshape(shape)

    def _prefill_mask(self, context: int, blocks: int, device: torch.device) -> Tensor:
        """bool (N, N), True where a row may look: ids -1 for the context, l for block l."""
        ids = torch.arange(-context, blocks * self.positions, device=device)
        ids = torch.where(ids < 0, -1, ids // self.positions)
        return ids[:, None] >= ids[None, :]

    def _block_mask(self, blocks: int, start: int, device: torch.device) -> Tensor:
        """bool (blocks P, start + blocks P) for blocks that lie behind `start` cached slots."""
        ids = torch.arange(blocks * self.positions, device=device) // self.positions
        seen = torch.ones(len(ids), start, dtype=torch.bool, device=device)
        return torch.cat([seen, ids[:, None] >= ids[None, :]], dim=1)
