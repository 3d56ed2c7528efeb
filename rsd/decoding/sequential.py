"""One pass a layer, or one pass for all: the decode loops without speculation (DESIGN 6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from rsd.decoding.contracts import Backbone, Cache, Context, Decoded, Part
from rsd.decoding.rules import Choice, Seen, Stop
from rsd.decoding.stopwatch import Stopwatch
from rsd.decoding.uniforms import Purpose, Uniforms


def parallel(
    context: Context,
    heads: Callable[[Context], Tensor],
    layers: int,
    stopwatch: Stopwatch,
) -> Decoded:
    """All layers from one pass, by heads that see the context only (as OpenVLA-OFT decodes).

    `heads` maps a context to logits (B, L, T, D, V). Greedy.
    """
    with stopwatch("target"):
        logits = heads(context)[:, :layers]
        codes = logits.argmax(dim=-1).permute(0, 2, 3, 1)
    ones = torch.ones(len(codes), dtype=torch.int64, device=codes.device)
    return unspeculated(codes, ones, smallest_margin(logits).amin(dim=1))


def autoregressive(
    target: Backbone,
    context: Context,
    rule: Choice,
    layers: int,
    uniforms: Uniforms | None,
    stopwatch: Stopwatch,
    stage: str = "target",
) -> Decoded:
    """Coarse to fine, one pass a layer. The baseline, and the definition of what is right.

    Its time goes to `stage`.
    """
    (whole,) = refined(target, context, rule, layers, uniforms, stopwatch, stage)
    return whole.decoded


def refined(
    target: Backbone,
    context: Context,
    rule: Choice,
    layers: int,
    uniforms: Uniforms | None,
    stopwatch: Stopwatch,
    stage: str = "target",
    actions: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[Part]:
    """The same until the rule stops a row, if it does so. `actions` are what codes decode to.

    Yields the rows as they stop, with as many layers of codes as they took passes.
    """
    stop = rule if isinstance(rule, Stop) and not rule.lossless else None
    rows = torch.arange(len(context), device=context.device)
    codes = no_codes(target, context, layers)
    margin = torch.full((len(context),), torch.inf, device=context.device)
    cache: Cache | None = None
    plan: Tensor | None = None
    for layer in range(layers):
        with stopwatch(stage):
            if cache is None:
                logits, cache = target.prefill(context, codes[..., :0])
            else:
                logits = target.extend(cache, codes[..., layer - 1 : layer], layer)
            u = draw(rule, uniforms, Purpose.CHOOSE, 0, codes, range(layer, layer + 1))
            codes[..., layer] = rule.take(logits, u)[:, 0]
            margin = torch.minimum(margin, smallest_margin(logits)[:, 0])
        if layer == layers - 1:
            break
        if stop is None:
            continue
        assert actions is not None
        with stopwatch("detokenise"):
            before = plan
            plan = actions(codes[..., : layer + 1])
            over = stop.stops(Seen(codes[..., : layer + 1], plan, before, layers))
        if bool(over.any()):
            yield _part(rows[over], codes[over, ..., : layer + 1], margin[over])
            rows, codes, margin, plan = rows[~over], codes[~over], margin[~over], plan[~over]
            if not len(rows):
                return
            cache = cache.select(torch.nonzero(~over)[:, 0])
    yield _part(rows, codes, margin)


def _part(rows: Tensor, codes: Tensor, margin: Tensor) -> Part:
    """Of a pass a layer."""
    return Part(rows, unspeculated(codes, torch.full_like(rows, codes.shape[-1]), margin))


def no_codes(backbone: Backbone, context: Context, layers: int) -> Tensor:
    shape = (len(context), backbone.steps, backbone.latent_dim, layers)
    return torch.zeros(shape, dtype=torch.int64, device=context.device)


def smallest_margin(logits: Tensor) -> Tensor:
    """(B, n, T, D, V) -> (B, n): the smallest gap between the two best levels of any token; NaN
    where a logit is NaN or infinite."""
    best = logits.topk(2, dim=-1).values
    gap = best[..., 0] - best[..., 1] + 0 * logits.sum(dim=-1)
    return gap.amin(dim=(-2, -1)).float()


def draw(
    rule: Choice,
    uniforms: Uniforms | None,
    purpose: Purpose,
    round_: int,
    codes: Tensor,
    layers: range,
) -> Tensor | None:
    """float64 (B, n, T, D) for n layers of a rule that samples, else None."""
    if not rule.samples:
        return None
    assert uniforms is not None, "this rule samples: it needs uniforms"
    shape = tuple(codes.shape[1:3])
    return torch.stack([uniforms.draw(purpose, layer, round_, shape) for layer in layers], dim=1)


def unspeculated(codes: Tensor, passes: Tensor, margin: Tensor) -> Decoded:
    nothing = torch.zeros(len(codes), 2, codes.shape[-1], dtype=torch.int64, device=codes.device)
    return Decoded(codes, passes, nothing, nothing.clone(), margin, torch.zeros_like(codes))
