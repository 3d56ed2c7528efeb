"""Who attends to whom, and the cache that keeps it: context, then blocks of codes (DESIGN 4).

The context (block 0: everything of the published sequence) attends to itself in both directions
and never to what stands behind it; block l >= 1 attends to the context, the blocks before it and
itself. So block 0 is the published forward, whatever codes are appended. Every block has a fixed
slot; slots that a row must not see are masked, not cropped, so that all shapes are static.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

NAME = "rsd_block_causal"  # of the attention function, among transformers'
ALIGNMENT = 16  # slots are a multiple of it: kernels that take a mask copy it otherwise


@dataclass(frozen=True)
class Layout:
    """Slots of a sequence."""

    context: int  # S: positions of block 0, padding included
    steps: int  # T: positions of each further block
    layers: int  # L

    @property
    def slots(self) -> int:
        """Of the cache: S + (L - 1) T, rounded up."""
        used = self.context + (self.layers - 1) * self.steps
        return -(-used // ALIGNMENT) * ALIGNMENT

    def start(self, block: int) -> int:
        """First slot of a block, 1 or more."""
        return self.context + (block - 1) * self.steps

    def block_mask(self, valid: Tensor | None, dtype: torch.dtype, device: Any) -> Tensor:
        """What to add to the scores of the code blocks: 0 or -inf, (B or 1, 1, (L - 1) T, slots).

        `valid` bool (B, S) is False where the context is padding."""
        slot = torch.arange(self.slots, device=device)
        of_slot = torch.div(slot - self.context, self.steps, rounding_mode="floor") + 1
        of_slot = torch.where(slot < self.context, 0, of_slot)
        of_row = 1 + torch.arange((self.layers - 1) * self.steps, device=device) // self.steps
        seen = (of_slot <= of_row[:, None])[None, None]
        if valid is not None:
            padding = F.pad(~valid, (0, self.slots - self.context))
            seen = seen & ~padding[:, None, None]
        return _to_add(seen, dtype)

    def context_mask(self, valid: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """What to add to the scores of the context, (B, 1, 1, S); None where nothing is padding:
        kernels without a mask are faster."""
        return None if valid is None else _to_add(valid[:, None, None], dtype)

    def positions(self, valid: Tensor | None, device: Any) -> Tensor:
        """Rotary position of each slot, int64 (B or 1, slots): padding counts for nothing."""
        slots = torch.arange(self.slots, device=device)[None]
        if valid is None:
            return slots
        of_context = (valid.cumsum(dim=1) - 1).clamp(min=0)
        behind = valid.sum(dim=1, keepdim=True) + slots[:, : self.slots - self.context]
        return torch.cat([of_context, behind], dim=1)


def _to_add(seen: Tensor, dtype: torch.dtype) -> Tensor:
    zeros = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return zeros.masked_fill(~seen, -torch.inf)


@dataclass
class BlockCache:
    """Keys and values of every transformer layer, at fixed slots.

    transformers' attention hands its keys to `update`; `rsd.decoding` crops by overwriting.
    """

    entries: Tensor  # (depth, 2, B, slots, heads, head width)
    layout: Layout
    block_mask: Tensor  # (B or 1, 1, (L - 1) T, slots)
    context_mask: Tensor | None  # (B, 1, 1, S)
    positions: Tensor  # int64 (B or 1, slots): rotary position of each slot
    blocks: int = 0  # valid blocks, block 0 included
    start: int = field(default=0)  # first slot that the pass in progress writes

    def remask(self, valid: Tensor) -> None:
        """Go by other padding of the same shape: bool (B, S)."""
        dtype, device = self.block_mask.dtype, valid.device
        self.block_mask.copy_(self.layout.block_mask(valid, dtype, device))
        self.positions.copy_(self.layout.positions(valid, device))
        assert self.context_mask is not None, "a cache that was made without padding"
        self.context_mask.copy_(_to_add(valid[:, None, None], dtype))

    def select(self, rows: Tensor) -> BlockCache:
        """The cache of some rows of the batch."""
        padded = self.context_mask is not None
        return BlockCache(
            self.entries[:, :, rows],
            self.layout,
            self.block_mask[rows] if padded else self.block_mask,
            self.context_mask[rows] if self.context_mask is not None else None,
            self.positions[rows] if padded else self.positions,
            self.blocks,
        )

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        """Write keys and values (B, heads, N, head width) from `start` on; all slots of a layer,
        (B, heads, slots, head width)."""
        end = self.start + keys.shape[2]
        k, v = self.entries[layer]
        k[:, self.start : end] = keys.transpose(1, 2)
        v[:, self.start : end] = values.transpose(1, 2)
        return k.transpose(1, 2), v.transpose(1, 2)


@dataclass
class TrackedCache(BlockCache):
    """For training: what is computed with gradients stays in the graph and is not kept; what was
    computed without is."""

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        """As `BlockCache.update`; with gradients, slots behind the pass are zero."""
        if not torch.is_grad_enabled():
            return super().update(keys, values, layer)
        before = self.entries[layer, :, :, : self.start].transpose(2, 3)
        after = self.layout.slots - self.start - keys.shape[2]
        k, v = (
            F.pad(torch.cat([old, new], dim=2), (0, 0, 0, after))
            for old, new in zip(before, (keys, values), strict=True)
        )
        return k, v


def new_cache(
    layout: Layout,
    valid: Tensor | None,
    batch: int,
    depth: int,
    heads: int,
    head_width: int,
    like: Tensor,
    kind: type[BlockCache] = BlockCache,
) -> BlockCache:
    """An empty one of the dtype and device of `like`. Slots behind the context are zero: a masked
    slot adds nothing as long as it holds numbers."""
    entries = like.new_empty(depth, 2, batch, layout.slots, heads, head_width)
    entries[:, :, :, layout.context :] = 0
    return kind(
        entries,
        layout,
        layout.block_mask(valid, like.dtype, like.device),
        layout.context_mask(valid, like.dtype),
        layout.positions(valid, like.device),
    )


def attend(query: Tensor, keys: Tensor, values: Tensor, cache: BlockCache, split: bool) -> Tensor:
    """Queries (B, heads, N, E) of the slots from `cache.start` on, keys and values of all slots ->
    (B, N, heads, E).

    With `split` the context attends by itself, without a mask; else one call takes it all.
    """
    layout, length = cache.layout, query.shape[2]
    mixed: Tensor
    if cache.start >= layout.context:  # code blocks alone
        row = cache.start - layout.context
        mask = cache.block_mask[:, :, row : row + length]
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        return mixed.transpose(1, 2)
    size = layout.context
    if split or length == size:
        mixed = F.scaled_dot_product_attention(
            query[:, :, :size], keys[:, :, :size], values[:, :, :size], attn_mask=cache.context_mask
        ).transpose(1, 2)
        if length == size:
            return mixed
        mask = cache.block_mask[:, :, : length - size]
        rest = F.scaled_dot_product_attention(query[:, :, size:], keys, values, attn_mask=mask)
        return torch.cat([mixed, rest.transpose(1, 2)], dim=1)
    of_context = torch.full_like(cache.block_mask[:, :, :1], -torch.inf)
    of_context[..., :size] = 0 if cache.context_mask is None else cache.context_mask
    mask = torch.cat(
        [of_context.expand(-1, -1, size, -1), cache.block_mask[:, :, : length - size]], dim=2
    )
    mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    return mixed.transpose(1, 2)


def _for_transformers(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    blocks: BlockCache,
    **_: Any,
) -> tuple[Tensor, None]:
    """`attend` as transformers calls attention functions."""
    return attend(query, key, value, blocks, split=True), None


AttentionInterface.register(NAME, _for_transformers)
