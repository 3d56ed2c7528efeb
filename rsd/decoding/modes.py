"""The decode loops: parallel, autoregressive, speculative (DESIGN 6); regression beside them.

A backbone predicts layer l from its block l, whose input are the codes of layer l - 1 (block 0:
query positions), so codes of K layers need K - 1 of them as input. Shapes: codes (B, T, D, K),
logits (B, n, T, D, V) for n consecutive layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from rsd.decoding.rules import Rule
from rsd.decoding.stopwatch import Stopwatch
from rsd.decoding.uniforms import Purpose, Uniforms

Cache = Any  # a backbone's own: `blocks` valid blocks, `select(rows)` for some rows of the batch


class Backbone(Protocol):
    """Target or draft: a coarse-to-fine model over a context (B, ...) of its own kind."""

    steps: int  # T
    latent_dim: int  # D

    def prefill(self, context: Tensor, codes: Tensor) -> tuple[Tensor, Cache]:
        """Context with k layers of codes appended -> logits of layers 0..k, cache."""

    def extend(self, cache: Cache, codes: Tensor, first: int) -> Tensor:
        """Recompute blocks first.. from codes of layers first - 1.. (B, T, D, n) -> logits of
        layers first..first + n - 1. Overwriting the blocks from `first` on is the rollback."""


class Decoded(NamedTuple):
    """A decoded batch."""

    codes: Tensor  # int64 (B, T, D, K)
    passes: Tensor  # int64 (B,): forwards of the target that each row took part in
    judged: Tensor  # int64 (B, 2, K): guessed tokens judged by the first pass, and by later ones
    kept: Tensor  # int64 (B, 2, K): of those, tokens kept
    margin: Tensor  # float (B,): smallest gap between the two best target logits of any token; NaN
    # where target or draft gave NaN or infinity


class Part(NamedTuple):
    """Some rows of a batch."""

    rows: Tensor  # int64: which ones
    decoded: Decoded
    latents: Tensor | None = None  # float (rows, T, D): what to act on where it is not the codes


def parallel(
    context: Tensor,
    heads: Callable[[Tensor], Tensor],
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
    return _unspeculated(codes, ones, _margin(logits).amin(dim=1))


def regression(latents: Tensor, quantise: Callable[[Tensor], Tensor]) -> Part:
    """Latents (B, T, D) from one pass that decodes nothing; their codes are for the books."""
    finite = torch.isfinite(latents).flatten(1).all(dim=1)
    margin = torch.where(finite, torch.inf, torch.nan)
    latents = latents.nan_to_num().clamp(-1, 1)
    codes = quantise(latents)
    ones = torch.ones(len(codes), dtype=torch.int64, device=codes.device)
    return Part(torch.arange(len(codes)), _unspeculated(codes, ones, margin), latents)


def autoregressive(
    target: Backbone,
    context: Tensor,
    rule: Rule,
    layers: int,
    uniforms: Uniforms | None,
    stopwatch: Stopwatch,
) -> Decoded:
    """Coarse to fine, one pass a layer. The baseline, and the definition of what is right."""
    batch = len(context)
    codes = _no_codes(target, context, layers)
    margin = torch.full((batch,), torch.inf, device=context.device)
    cache = None
    for layer in range(layers):
        with stopwatch("target"):
            if cache is None:
                logits, cache = target.prefill(context, codes[..., :0])
            else:
                logits = target.extend(cache, codes[..., layer - 1 : layer], layer)
            u = _draw(rule, uniforms, Purpose.CHOOSE, 0, codes, range(layer, layer + 1))
            codes[..., layer] = rule.take(logits, u)[:, 0]
            margin = torch.minimum(margin, _margin(logits)[:, 0])
    passes = torch.full((batch,), layers, dtype=torch.int64, device=context.device)
    return _unspeculated(codes, passes, margin)


def speculative(
    target: Backbone,
    draft: Backbone,
    context: Tensor,
    draft_context: Tensor,
    rule: Rule,
    layers: int,
    draft_layers: int,
    uniforms: Uniforms | None,
    stopwatch: Stopwatch,
) -> Iterator[Part]:
    """Draft `draft_layers` layers before the target runs, verify them in its first pass, then
    redraft and verify what is open until `layers` are final: 1 to `layers` passes.

    Yields the rows of the batch as they become final.
    """
    books = _Books(target, context, layers)
    guess = _Guess(draft, draft_context, rule, layers)
    with stopwatch("draft"):
        guess.propose(books, 0, draft_layers, uniforms)
    with stopwatch("target"):
        logits, cache = target.prefill(context, guess.codes[..., :draft_layers])
        _judge(books, guess, logits, 0, draft_layers, rule, uniforms)
    while len(rows := books.unfinished()) > 0:
        if len(rows) < len(books.open_rows):
            yield books.finished()
            books.keep(rows)
            guess.keep(rows)
            cache = cache.select(rows)
            uniforms = uniforms.rows(rows.tolist()) if uniforms else None
        first = int(books.final.min())
        with stopwatch("draft"):
            guess.propose(books, first, layers - 1, uniforms)
        with stopwatch("target"):
            logits = target.extend(cache, guess.codes[..., first - 1 : layers - 1], first)
            _judge(books, guess, logits, first, layers - 1, rule, uniforms)
    yield books.finished()


def _judge(
    books: _Books,
    guess: _Guess,
    logits: Tensor,
    first: int,
    guessed: int,
    rule: Rule,
    uniforms: Uniforms | None,
) -> None:
    """Finalise layers in every row from its first open one through its first rejected token, or
    through the layer behind the last guess, which is the target's free choice.

    `logits` (B, n, T, D, V) are those of layers first..guessed given the guess of all but the last
    of them.
    """
    books.rounds += 1
    books.passes += 1
    drafted, free = range(first, guessed), range(guessed, guessed + 1)
    accepted = torch.zeros(logits.shape[:-1], dtype=torch.bool, device=logits.device)
    codes = torch.zeros(logits.shape[:-1], dtype=torch.int64, device=logits.device)
    choose = functools.partial(_draw, rule, uniforms, Purpose.CHOOSE, books.rounds, books.codes)
    if drafted:
        count = len(drafted)
        accept = _draw(rule, uniforms, Purpose.ACCEPT, books.rounds, books.codes, drafted)
        accepted[:, :count], codes[:, :count] = rule.judge(
            guess.codes[..., first : first + count].permute(0, 3, 1, 2),
            guess.stacked_logits(drafted) if rule.samples else None,
            logits[:, :count],
            accept,
            choose(drafted),
        )
    codes[:, len(drafted) :] = rule.take(logits[:, len(drafted) :], choose(free))
    books.settle(first, accepted, codes, len(drafted), _margin(logits))


class _Books:
    """Final codes and counts of the rows that are still open."""

    def __init__(self, target: Backbone, context: Tensor, layers: int) -> None:
        batch, device = len(context), context.device
        self.layers = layers
        self.rounds = 0
        self.open_rows = torch.arange(batch, device=device)
        self.codes = _no_codes(target, context, layers)
        self.final = torch.zeros(batch, dtype=torch.int64, device=device)
        self.passes = torch.zeros(batch, dtype=torch.int64, device=device)
        self.judged = torch.zeros(batch, 2, layers, dtype=torch.int64, device=device)
        self.kept = torch.zeros(batch, 2, layers, dtype=torch.int64, device=device)
        self.margin = torch.full((batch,), torch.inf, device=device)

    def settle(
        self, first: int, accepted: Tensor, codes: Tensor, drafted: int, margin: Tensor
    ) -> None:
        """Make layers final, from each row's first open one through its first rejected token.

        For layers first.. (n of them, the first `drafted` of which had a guess): accepted and
        codes (B, n, T, D), margin (B, n).
        """
        count = codes.shape[1]
        layers = torch.arange(first, first + count, device=codes.device)
        settled = layers >= self.final[:, None]
        stops = settled & ~accepted.flatten(2).all(dim=2)
        stops[:, -1] = True
        last = first + stops.int().argmax(dim=1)  # the first stop
        settled &= layers <= last[:, None]
        held = self.codes[..., first : first + count]
        here = settled[:, :, None, None]
        held.copy_(torch.where(here, codes, held.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        self.final = last + 1
        self.margin = torch.minimum(
            self.margin, margin.masked_fill(~settled, torch.inf).amin(dim=1)
        )
        judged = settled[:, :drafted]
        part = (slice(None), min(self.rounds - 1, 1), slice(first, first + drafted))
        self.judged[part] += judged * codes[0, 0].numel()
        self.kept[part] += judged * accepted[:, :drafted].sum(dim=(2, 3))

    def unfinished(self) -> Tensor:
        """Indices, among the open rows, of those that need another pass."""
        return torch.nonzero(self.final < self.layers)[:, 0]

    def finished(self) -> Part:
        """The open rows that need no more passes."""
        done = torch.nonzero(self.final >= self.layers)[:, 0]
        return Part(self.open_rows[done], self._fields(done))

    def keep(self, rows: Tensor) -> None:
        """Go on with `rows` of the open ones."""
        self.codes, self.passes, self.judged, self.kept, self.margin = self._fields(rows)
        self.final, self.open_rows = self.final[rows], self.open_rows[rows]

    def _fields(self, rows: Tensor) -> Decoded:
        return Decoded(
            self.codes[rows],
            self.passes[rows],
            self.judged[rows],
            self.kept[rows],
            self.margin[rows],
        )


class _Guess:
    """The current guess of every layer that serves as input (all but the last).

    Layers that are final hold their final codes. `logits[l]` (B, T, D, V) is the distribution that
    the guess of layer l was taken from.
    """

    def __init__(self, draft: Backbone, context: Tensor, rule: Rule, layers: int) -> None:
        self._draft, self._context, self._rule = draft, context, rule
        self._cache: Cache | None = None
        self.codes = _no_codes(draft, context, layers - 1)
        self.logits: dict[int, Tensor] = {}

    def propose(self, books: _Books, start: int, stop: int, uniforms: Uniforms | None) -> None:
        """Guess layers start..stop - 1 anew, each given those before it; rows in which a layer is
        final keep it. Layers before `start` are final in every row."""
        self.codes[..., :start] = books.codes[..., :start]
        uneven = bool((books.final != start).any())
        for layer in range(start, stop):
            self.logits[layer] = self._step(layer)
            books.margin = books.margin + 0 * self.logits[layer].flatten(1).sum(dim=1)
            guess = self._take(layer, books.rounds, self.logits[layer], uniforms)
            if uneven:
                is_open = (books.final <= layer)[:, None, None]
                guess = torch.where(is_open, guess, books.codes[..., layer])
            self.codes[..., layer] = guess

    def stacked_logits(self, layers: range) -> Tensor:
        """What the guesses of `layers` were taken from: (B, n, T, D, V)."""
        return torch.stack([self.logits[layer] for layer in layers], dim=1)

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows of the batch."""
        self._context, self.codes = self._context[rows], self.codes[rows]
        self.logits = {layer: logits[rows] for layer, logits in self.logits.items()}
        if self._cache is not None:
            self._cache = self._cache.select(rows)

    def _step(self, layer: int) -> Tensor:
        """The draft's logits of `layer` given the codes before it."""
        if self._cache is None:
            logits, self._cache = self._draft.prefill(self._context, self.codes[..., :0])
        if layer == 0:
            return logits[:, 0]
        first = min(layer, self._cache.blocks)
        return self._draft.extend(self._cache, self.codes[..., first - 1 : layer], first)[:, -1]

    def _take(self, layer: int, round_: int, logits: Tensor, uniforms: Uniforms | None) -> Tensor:
        one = range(layer, layer + 1)
        u = _draw(self._rule, uniforms, Purpose.PROPOSE, round_, self.codes, one)
        return self._rule.take(logits[:, None], u)[:, 0]


def _no_codes(backbone: Backbone, context: Tensor, layers: int) -> Tensor:
    shape = (len(context), backbone.steps, backbone.latent_dim, layers)
    return torch.zeros(shape, dtype=torch.int64, device=context.device)


def _margin(logits: Tensor) -> Tensor:
    """(B, n, T, D, V) -> (B, n): the smallest gap between the two best levels of any token; NaN
    where a logit is NaN or infinite."""
    best = logits.topk(2, dim=-1).values
    gap = best[..., 0] - best[..., 1] + 0 * logits.sum(dim=-1)
    return gap.amin(dim=(-2, -1)).float()


def _draw(
    rule: Rule,
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


def _unspeculated(codes: Tensor, passes: Tensor, margin: Tensor) -> Decoded:
    nothing = torch.zeros(len(codes), 2, codes.shape[-1], dtype=torch.int64, device=codes.device)
    return Decoded(codes, passes, nothing, nothing.clone(), margin)
