"""The decode loops: parallel, autoregressive, speculative (DESIGN 6).

A backbone predicts layer l from its block l, whose input are the codes of layer l - 1 (block 0:
query positions), so codes of K layers need K - 1 of them as input. Shapes: codes (B, T, D, K),
logits (B, n, T, D, V) for n consecutive layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from rsd.decoding.rules import Rule
from rsd.decoding.stopwatch import Stopwatch
from rsd.decoding.uniforms import Purpose, Uniforms

Cache = Any  # a backbone's own: `blocks` valid blocks, `select(rows)` for some rows of the batch


class Backbone(Protocol):
    """Target or draft: a block-causal model over a context."""

    steps: int  # T
    latent_dim: int  # D

    def prefill(self, context: Tensor, codes: Tensor) -> tuple[Tensor, Cache]:
        """Context (B, S, W) with k layers of codes appended -> logits of layers 0..k, cache."""

    def extend(self, cache: Cache, codes: Tensor, first: int) -> Tensor:
        """Recompute blocks first.. from codes of layers first - 1.. (B, T, D, n) -> logits of
        layers first..first + n - 1. Overwriting the blocks from `first` on is the rollback."""


class Decoded(NamedTuple):
    """A decoded batch."""

    codes: Tensor  # int64 (B, T, D, K)
    passes: Tensor  # int64 (B,): forwards of the target that each row took part in
    drafted: Tensor  # int64 (B, K): tokens judged against a guess
    accepted: Tensor  # int64 (B, K): of those, tokens kept
    margin: Tensor  # float (B,): smallest gap between the two best target logits of any token


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
        u = _draw(rule, uniforms, Purpose.CHOOSE, layer, 0, codes)
        codes[..., layer] = rule.take(logits[:, 0], u)
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
) -> Decoded:
    """Draft `draft_layers` layers before the target runs, verify them in its first pass, then
    redraft and verify what is open until `layers` are final: 1 to `layers` passes."""
    books = _Books(target, context, layers)
    guess = _Guess(draft, draft_context, rule, layers)
    with stopwatch("draft"):
        guess.draft(draft_layers, uniforms)
    with stopwatch("target"):
        logits, cache = target.prefill(context, guess.codes[..., :draft_layers])
    first, guessed = 0, draft_layers
    while True:
        verdict = _judge(books, guess, logits, first, guessed, rule, uniforms)
        rows = books.unfinished()
        if len(rows) == 0:
            return books.decoded()
        if len(rows) < len(books.open_rows):
            books.keep(rows)
            guess.keep(rows)
            logits, verdict = logits[rows], verdict[rows]
            cache = cache.select(rows)
            uniforms = uniforms.rows(rows.tolist()) if uniforms else None
        with stopwatch("draft"):
            guess.redraft(books, logits, verdict, first, uniforms)
        first, guessed = int(books.final.min()), layers - 1
        with stopwatch("target"):
            logits = target.extend(cache, guess.codes[..., first - 1 : layers - 1], first)


def _judge(
    books: _Books,
    guess: _Guess,
    logits: Tensor,
    first: int,
    guessed: int,
    rule: Rule,
    uniforms: Uniforms | None,
) -> Tensor:
    """Finalise layers in every row from its first open one through its first rejected token, or
    through the layer behind the last guess, which is the target's free choice.

    `logits` (B, n, T, D, V) are those of layers first.. given the guess. Returns bool (B, T, D):
    the latents whose guess stood in all layers finalised now.
    """
    books.rounds += 1
    books.passes += 1
    margins = _margin(logits)
    stood = torch.ones_like(books.codes[..., 0], dtype=torch.bool)
    alive = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    for layer in range(first, first + logits.shape[1]):
        open_ = alive & (books.final == layer)
        target_logits = logits[:, layer - first]
        u_choose = _draw(rule, uniforms, Purpose.CHOOSE, layer, books.rounds, books.codes)
        if layer < guessed:
            u_accept = _draw(rule, uniforms, Purpose.ACCEPT, layer, books.rounds, books.codes)
            accepted, codes = rule.judge(
                guess.codes[..., layer], guess.logits[layer], target_logits, u_accept, u_choose
            )
            books.count(layer, open_, accepted)
        else:
            codes = rule.take(target_logits, u_choose)
            accepted = torch.zeros_like(codes, dtype=torch.bool)
        books.settle(layer, open_, codes, margins[:, layer - first])
        stood = torch.where(open_[:, None, None], stood & accepted, stood)
        alive = alive & (~open_ | accepted.all(dim=(1, 2)))
    return stood


class _Books:
    """Final codes and counts of the rows that are still open, and of those that are done."""

    def __init__(self, target: Backbone, context: Tensor, layers: int) -> None:
        batch, device = len(context), context.device
        self.layers = layers
        self.rounds = 0
        self.open_rows = torch.arange(batch, device=device)
        self.codes = _no_codes(target, context, layers)
        self.final = torch.zeros(batch, dtype=torch.int64, device=device)
        self.passes = torch.zeros(batch, dtype=torch.int64, device=device)
        self.drafted = torch.zeros(batch, layers, dtype=torch.int64, device=device)
        self.accepted = torch.zeros(batch, layers, dtype=torch.int64, device=device)
        self.margin = torch.full((batch,), torch.inf, device=device)
        self._done: list[tuple[Tensor, Decoded]] = []

    def settle(self, layer: int, open_: Tensor, codes: Tensor, margin: Tensor) -> None:
        """Make `layer` final in the open rows."""
        self.codes[..., layer] = torch.where(open_[:, None, None], codes, self.codes[..., layer])
        self.margin = torch.where(open_, torch.minimum(self.margin, margin), self.margin)
        self.final = self.final + open_

    def count(self, layer: int, open_: Tensor, accepted: Tensor) -> None:
        self.drafted[:, layer] += open_ * accepted[0].numel()
        self.accepted[:, layer] += open_ * accepted.sum(dim=(1, 2))

    def unfinished(self) -> Tensor:
        """Indices, among the open rows, of those that need another pass."""
        return torch.nonzero(self.final < self.layers)[:, 0]

    def keep(self, rows: Tensor) -> None:
        """Go on with `rows` of the open ones; the others are done."""
        done = torch.nonzero(self.final >= self.layers)[:, 0]
        self._done.append((self.open_rows[done], self._fields(done)))
        self.codes, self.passes, self.drafted, self.accepted, self.margin = self._fields(rows)
        self.final, self.open_rows = self.final[rows], self.open_rows[rows]

    def decoded(self) -> Decoded:
        """All rows in the order of the batch."""
        parts = [*self._done, (self.open_rows, self._fields(slice(None)))]
        order = torch.cat([rows for rows, _ in parts]).argsort()
        return Decoded(
            *(torch.cat(field)[order] for field in zip(*(p for _, p in parts), strict=True))
        )

    def _fields(self, rows: Tensor | slice) -> Decoded:
        return Decoded(
            self.codes[rows],
            self.passes[rows],
            self.drafted[rows],
            self.accepted[rows],
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

    def draft(self, draft_layers: int, uniforms: Uniforms | None) -> None:
        """Guess layers 0..draft_layers - 1, coarse to fine."""
        for layer in range(draft_layers):
            self.logits[layer] = self._step(layer)
            self.codes[..., layer] = self._take(layer, 0, self.logits[layer], uniforms)

    def redraft(
        self,
        books: _Books,
        target_logits: Tensor,
        stood: Tensor,
        first: int,
        uniforms: Uniforms | None,
    ) -> None:
        """Guess the open layers again: per latent the target's own output of the last pass while
        all its coarser codes stood there, the draft's where they changed.

        `target_logits` (B, n, T, D, V) are those of the last pass, for layers first..;
        `stood` (B, T, D) tells whose guess stood in the layers that this pass made final.
        """
        start = int(books.final.min())
        for layer in range(self.codes.shape[-1]):
            is_open = (books.final <= layer)[:, None, None]
            known = books.codes[..., layer]
            if layer < start:
                self.codes[..., layer] = known
                continue
            logits = self._step(layer)
            if layer - first < target_logits.shape[1]:
                logits = torch.where(stood[..., None], target_logits[:, layer - first], logits)
            fresh = self._take(layer, books.rounds, logits, uniforms)
            repeated = fresh == self.codes[..., layer]
            stood = stood & (~is_open | repeated)
            self.codes[..., layer] = torch.where(is_open, fresh, known)
            self.logits[layer] = logits

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
        u = _draw(self._rule, uniforms, Purpose.PROPOSE, layer, round_, self.codes)
        return self._rule.take(logits, u)


def _no_codes(backbone: Backbone, context: Tensor, layers: int) -> Tensor:
    shape = (len(context), backbone.steps, backbone.latent_dim, layers)
    return torch.zeros(shape, dtype=torch.int64, device=context.device)


def _margin(logits: Tensor) -> Tensor:
    """(B, n, T, D, V) -> (B, n): the smallest gap between the two best levels of any token."""
    best = logits.topk(2, dim=-1).values
    return (best[..., 0] - best[..., 1]).amin(dim=(-2, -1)).float()


def _draw(
    rule: Rule,
    uniforms: Uniforms | None,
    purpose: Purpose,
    layer: int,
    round_: int,
    codes: Tensor,
) -> Tensor | None:
    if not rule.samples:
        return None
    assert uniforms is not None, "this rule samples: it needs uniforms"
    return uniforms.draw(purpose, layer, round_, tuple(codes.shape[1:3]))


def _unspeculated(codes: Tensor, passes: Tensor, margin: Tensor) -> Decoded:
    nothing = torch.zeros(len(codes), codes.shape[-1], dtype=torch.int64, device=codes.device)
    return Decoded(codes, passes, nothing, nothing.clone(), margin)
