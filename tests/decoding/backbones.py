"""Small backbones with known behaviour, and a small real one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rsd.decoding.contracts import Backbone, Decoded, Part
from rsd.decoding.rules import Rule
from rsd.decoding.speculative import speculative
from rsd.decoding.stopwatch import Stopwatch
from rsd.decoding.uniforms import Uniforms
from rsd.models.small_vla.architecture import TransformerConfig
from rsd.models.small_vla.draft import Draft
from rsd.models.small_vla.transformer import CodeTransformer
from rsd.rfsq_config import RFSQConfig

T, D, L, V, WIDTH = 2, 3, 4, 7, 16


def real_backbone(seed: int, positions: int = 1) -> CodeTransformer:
    """A random CodeTransformer in float64 whose logits really depend on the codes before."""
    torch.manual_seed(seed)
    sizes = TransformerConfig(WIDTH, 2, 2, positions=positions)
    model = CodeTransformer(sizes, T, D, L, V).double().eval()
    with torch.no_grad():
        model.code_embedding.weight.mul_(60.0)
    return model.requires_grad_(False)


def real_draft(seed: int) -> Draft:
    """A random Draft in float64, likewise; its context is a vector."""
    torch.manual_seed(seed)
    model = Draft(RFSQConfig(T, D, L, V), WIDTH).double().eval()
    with torch.no_grad():
        model.code_embedding.weight.mul_(60.0)
    return model.requires_grad_(False)


def real_context(batch: int, seed: int = 0) -> Tensor:
    return torch.randn(
        batch, 5, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


@dataclass
class TableCache:
    rows: list[int]
    codes: Tensor  # (B, T, D, n) inputs so far
    blocks: int

    def select(self, rows: Tensor) -> TableCache:
        kept = [self.rows[row] for row in rows.tolist()]
        return TableCache(kept, self.codes[rows], self.blocks)


@dataclass
class TableBackbone:
    """Logits given by a function of (row, layer, coarser codes (T, D, layer)) -> (T, D, V).

    The row is read from the context, so that it survives reordering.
    """

    table: Callable[[int, int, Tensor], Tensor]
    calls: list[str] = field(default_factory=list)
    name: str = "table"
    steps: int = T
    latent_dim: int = D

    def prefill(self, context: Tensor, codes: Tensor) -> tuple[Tensor, TableCache]:
        self.calls.append(self.name)
        rows = [int(value) for value in context[:, 0, 0].tolist()]
        cache = TableCache(rows, codes.clone(), codes.shape[-1] + 1)
        return self._logits(cache, 0, codes.shape[-1] + 1), cache

    def extend(self, cache: TableCache, codes: Tensor, first: int) -> Tensor:
        self.calls.append(self.name)
        assert 1 <= first <= cache.blocks
        cache.codes = torch.cat([cache.codes[..., : first - 1], codes], dim=-1)
        cache.blocks = first + codes.shape[-1]
        return self._logits(cache, first, cache.blocks)

    def _logits(self, cache: TableCache, first: int, last: int) -> Tensor:
        rows = [
            torch.stack(
                [self.table(row, layer, codes[..., :layer]) for layer in range(first, last)]
            )
            for row, codes in zip(cache.rows, cache.codes, strict=True)
        ]
        return torch.stack(rows)


def together(parts: Iterable[Part]) -> Decoded:
    """A whole batch from its parts, in its own order."""
    rows, decoded = zip(*parts, strict=True)
    order = torch.cat(rows).argsort()
    return Decoded(*(torch.cat(field)[order] for field in zip(*decoded, strict=True)))


def speculate(
    target: Backbone,
    draft: Backbone,
    context: Tensor,
    draft_context: Tensor,
    rule: Rule,
    layers: int,
    draft_layers: int,
    uniforms: Uniforms | None = None,
) -> Decoded:
    """`speculative` to the end of the whole batch."""
    return together(
        speculative(
            target,
            draft,
            context,
            draft_context,
            rule,
            layers,
            draft_layers,
            uniforms,
            Stopwatch(),
        )
    )


def row_context(batch: int) -> Tensor:
    return torch.arange(batch, dtype=torch.float64)[:, None, None]


def avalanche(row: int, layer: int, coarser: Tensor) -> Tensor:
    """Every token of a layer depends on every coarser token: one wrong code spoils all behind."""
    digest = hashlib.sha256(repr((row, layer, coarser.tolist())).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(T, D, V, dtype=torch.float64, generator=generator)


def shifted(wrong_layers: set[int]) -> Callable[[int, int, Tensor], Tensor]:
    """A draft that agrees with `avalanche` except in `wrong_layers`, where every token is off."""

    def table(row: int, layer: int, coarser: Tensor) -> Tensor:
        logits = avalanche(row, layer, coarser)
        return logits.roll(1, dims=-1) if layer in wrong_layers else logits

    return table


def unrelated(row: int, layer: int, coarser: Tensor) -> Tensor:
    """A draft that knows nothing."""
    return avalanche(row + 1000, layer, coarser)
