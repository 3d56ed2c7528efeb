"""Speculative decoding, coarse to fine (DESIGN 6): the loop, its verdict, its guess."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from rsd.decoding.contracts import Backbone, Cache, Context, Decoded, Part
from rsd.decoding.rules import Case, Rule, Verdict
from rsd.decoding.sequential import draw, no_codes, smallest_margin
from rsd.decoding.stopwatch import Stopwatch
from rsd.decoding.uniforms import Purpose, Uniforms


def speculative(
    target: Backbone,
    draft: Backbone,
    context: Context,
    draft_context: Context,
    rule: Rule,
    layers: int,
    draft_layers: int,
    uniforms: Uniforms | None,
    stopwatch: Stopwatch,
    begun: Begun | None = None,
) -> Iterator[Part]:
    """Draft `draft_layers` layers before the target runs, verify them in its first pass, then
    redraft and verify what is open until `layers` are final: 1 to `layers` passes.

    Yields the rows of the batch as they become final. What the draft has `begun` to say of all of
    them is not asked again.
    """
    open_rows = OpenRows(target, context, layers)
    guess = Guess(draft, draft_context, rule, layers, begun)
    with stopwatch("draft"):
        guess.propose(open_rows, 0, draft_layers, uniforms)
    with stopwatch("target"):
        logits, cache = target.prefill(context, guess.codes[..., :draft_layers])
        open_rows.judge(guess, logits, 0, draft_layers, rule, uniforms)
    while len(rows := open_rows.unfinished()) > 0:
        if len(rows) < len(open_rows):
            yield open_rows.finished()
            open_rows.keep(rows)
            guess.keep(rows)
            cache = cache.select(rows)
            uniforms = uniforms.rows(rows.tolist()) if uniforms else None
        first = open_rows.first_open()
        with stopwatch("draft"):
            guess.propose(open_rows, first, layers - 1, uniforms)
        with stopwatch("target"):
            logits = target.extend(cache, guess.codes[..., first - 1 : layers - 1], first)
            open_rows.judge(guess, logits, first, layers - 1, rule, uniforms)
    yield open_rows.finished()


class OpenRows:
    """Final codes and counts of the rows that are still open."""

    def __init__(self, target: Backbone, context: Context, layers: int) -> None:
        batch, device = len(context), context.device
        self.layers = layers
        self.rounds = 0
        self.rows = torch.arange(batch, device=device)
        self.codes = no_codes(target, context, layers)
        self.final = torch.zeros(batch, dtype=torch.int64, device=device)
        self.passes = torch.zeros(batch, dtype=torch.int64, device=device)
        self.judged = torch.zeros(batch, 2, layers, dtype=torch.int64, device=device)
        self.kept = torch.zeros(batch, 2, layers, dtype=torch.int64, device=device)
        self.margin = torch.full((batch,), torch.inf, device=device)
        self.off = torch.zeros_like(self.codes)

    def __len__(self) -> int:
        return len(self.rows)

    def first_open(self) -> int:
        """The coarsest layer that is not final in some row."""
        return int(self.final.min())

    def judge(
        self,
        guess: Guess,
        logits: Tensor,
        first: int,
        guessed: int,
        rule: Rule,
        uniforms: Uniforms | None,
    ) -> None:
        """Finalise layers in every row from its first open one through its first rejected token,
        or through the layer behind the last guess, which is the target's free choice.

        `logits` (B, n, T, D, V) are those of layers first..guessed given the guess of all but the
        last of them.
        """
        self.rounds += 1
        self.passes += 1
        drafted, free = range(first, guessed), range(guessed, guessed + 1)
        codes = torch.zeros(logits.shape[:-1], dtype=torch.int64, device=logits.device)
        verdict = Verdict(codes.bool(), codes, codes.clone())
        choose = functools.partial(draw, rule, uniforms, Purpose.CHOOSE, self.rounds, self.codes)
        if drafted:
            count = len(drafted)
            accept = draw(rule, uniforms, Purpose.ACCEPT, self.rounds, self.codes, drafted)
            case = Case(
                guess.codes[..., first : first + count].permute(0, 3, 1, 2),
                logits[:, :count],
                guess.stacked_logits(drafted) if rule.samples else None,
                accept,
                choose(drafted),
                self.off[..., :first].permute(0, 3, 1, 2),
            )
            for whole, judged in zip(verdict, rule.judge(case), strict=True):
                whole[:, :count] = judged
        codes[:, len(drafted) :] = rule.take(logits[:, len(drafted) :], choose(free))
        self._finalise(first, verdict, len(drafted), smallest_margin(logits))

    def _finalise(self, first: int, verdict: Verdict, drafted: int, margin: Tensor) -> None:
        """Make layers final, from each row's first open one through its first rejected token.

        The verdict and the margin (B, n) are those of layers first.. (n of them, the first
        `drafted` of which had a guess).
        """
        accepted, codes, off = verdict
        count = codes.shape[1]
        layers = torch.arange(first, first + count, device=codes.device)
        closing = layers >= self.final[:, None]
        stops = closing & ~accepted.flatten(2).all(dim=2)
        stops[:, -1] = True
        last = first + stops.int().argmax(dim=1)  # the first stop
        closing &= layers <= last[:, None]
        here = closing[:, :, None, None]
        for held, found in ((self.codes, codes), (self.off, off)):
            part = held[..., first : first + count]
            part.copy_(torch.where(here, found, part.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        self.final = last + 1
        self.margin = torch.minimum(
            self.margin, margin.masked_fill(~closing, torch.inf).amin(dim=1)
        )
        judged = closing[:, :drafted]
        counted = (slice(None), min(self.rounds - 1, 1), slice(first, first + drafted))
        self.judged[counted] += judged * codes[0, 0].numel()
        self.kept[counted] += judged * accepted[:, :drafted].sum(dim=(2, 3))

    def unfinished(self) -> Tensor:
        """Indices, among the open rows, of those that need another pass."""
        return torch.nonzero(self.final < self.layers)[:, 0]

    def finished(self) -> Part:
        """The open rows that need no more passes."""
        done = torch.nonzero(self.final >= self.layers)[:, 0]
        return Part(self.rows[done], self._fields(done))

    def keep(self, rows: Tensor) -> None:
        """Go on with `rows` of the open ones."""
        (self.codes, self.passes, self.judged, self.kept, self.margin, self.off) = self._fields(
            rows
        )
        self.final, self.rows = self.final[rows], self.rows[rows]

    def _fields(self, rows: Tensor) -> Decoded:
        return Decoded(
            self.codes[rows],
            self.passes[rows],
            self.judged[rows],
            self.kept[rows],
            self.margin[rows],
            self.off[rows],
        )


class Begun(NamedTuple):
    """A draft's own guess, before any pass."""

    codes: Tensor  # int64 (B, T, D, n)
    logits: Tensor  # (B, n, T, D, V)
    cache: Cache

    def of(self, rows: Tensor) -> Begun:
        """Some rows."""
        return Begun(self.codes[rows], self.logits[rows], self.cache.select(rows))


def begin(draft: Backbone, context: Context, layers: int) -> Begun:
    """Have the draft guess its first `layers`, the most probable levels."""
    codes = no_codes(draft, context, layers)
    logits, cache = draft.prefill(context, codes[..., :0])
    steps = [logits]
    codes[..., 0] = logits[:, 0].argmax(dim=-1)
    for layer in range(1, layers):
        steps.append(draft.extend(cache, codes[..., layer - 1 : layer], layer))
        codes[..., layer] = steps[-1][:, 0].argmax(dim=-1)
    return Begun(codes, torch.cat(steps, dim=1), cache)


class Guess:
    """The current guess of every layer that serves as input (all but the last).

    Layers that are final hold their final codes. `logits[l]` (B, T, D, V) is the distribution that
    the guess of layer l was taken from.
    """

    def __init__(
        self,
        draft: Backbone,
        context: Context,
        rule: Rule,
        layers: int,
        begun: Begun | None = None,
    ) -> None:
        self._draft, self._context, self._rule = draft, context, rule
        self._cache: Cache | None = None if begun is None else begun.cache
        self._begun = () if begun is None else begun.logits.unbind(dim=1)
        self.codes = no_codes(draft, context, layers - 1)
        self.logits: dict[int, Tensor] = {}

    def propose(self, rows: OpenRows, start: int, stop: int, uniforms: Uniforms | None) -> None:
        """Guess layers start..stop - 1 anew, each given those before it; rows in which a layer is
        final keep it. Layers before `start` are final in every row."""
        self.codes[..., :start] = rows.codes[..., :start]
        uneven = bool((rows.final != start).any())
        for layer in range(start, stop):
            known = rows.rounds == 0 and layer < len(self._begun)
            self.logits[layer] = self._begun[layer] if known else self._step(layer)
            rows.margin = torch.minimum(rows.margin, self._margin(layer, rows))
            guess = self._take(layer, rows.rounds, self.logits[layer], uniforms)
            if uneven:
                is_open = (rows.final <= layer)[:, None, None]
                guess = torch.where(is_open, guess, rows.codes[..., layer])
            self.codes[..., layer] = guess

    def _margin(self, layer: int, rows: OpenRows) -> Tensor:
        """(B,): how near guesses of a layer are to others, where that matters; NaN as logits."""
        logits = self.logits[layer]
        if self._rule.lossless:
            return torch.inf + 0 * logits.flatten(1).sum(dim=1)
        return smallest_margin(logits[:, None])[:, 0].masked_fill(rows.final > layer, torch.inf)

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
        u = draw(self._rule, uniforms, Purpose.PROPOSE, round_, self.codes, one)
        return self._rule.take(logits[:, None], u)[:, 0]
