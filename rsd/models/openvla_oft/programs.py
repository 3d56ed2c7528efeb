"""Whole decodes as programs over fixed buffers, which a GPU can replay as graphs.

A program reads and writes tensors that never move, so that it can be captured once and replayed
without Python. Verdicts are computed on the device: a chunk costs one host synchronisation a round,
when the host asks how many layers are final. Greedy (rule `exact`) only; other rules decode through
`rsd.decoding` with `Target` itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rsd.models.openvla_oft.model import Context, Inputs, OpenVLAOFT, random_inputs

WARM_UP = 2  # calls before a capture: handles, workspaces, compiled kernels


def judge_greedily(
    codes: Tensor, final: Tensor, guess: Tensor, logits: Tensor, first: int, forced: Tensor
) -> Tensor:
    """Make layers final, from each row's first open one through its first rejected token or the
    free choice behind the last guess; what `rsd.decoding` does under the rule `exact`.

    codes int64 (B, T, D, L), overwritten; final int64 (B,): layers final so far; guess
    (B, T, D, L - 1); logits (B, n, T, D, V) of layers first..L - 1. `forced` int64 (B,): -1, or
    the result for a row whatever the tokens say (to measure at a set acceptance). Returns the new
    `final`.
    """
    best = logits.argmax(dim=-1)
    layers = torch.arange(first, first + best.shape[1], device=codes.device)
    right = guess[..., first:].permute(0, 3, 1, 2) == best[:, :-1]
    stops = torch.ones(best.shape[:2], dtype=torch.bool, device=codes.device)
    stops[:, :-1] = ~right.flatten(2).all(dim=2)
    stops &= layers >= final[:, None]
    stops[:, -1] = True
    last = first + stops.int().argmax(dim=1)
    last = torch.where(forced >= 0, forced - 1, last)
    settled = ((layers >= final[:, None]) & (layers <= last[:, None]))[:, :, None, None]
    held = codes[..., first:]
    held.copy_(torch.where(settled, best, held.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    return torch.maximum(final, last + 1)


class Programs:
    """Decodes of one batch size and prompt length.

    Fill `inputs` with `load`, then call a decode; results lie in `codes` and `actions`, and after a
    synchronisation in `host_actions`. Or call its passes one by one, for loops of `rsd.decoding`.
    Prompts that are `padded` have a mask among the inputs; kernels without one are faster.
    """

    def __init__(
        self, model: OpenVLAOFT, batch: int, prompt: int, graphed: bool, padded: bool = False
    ) -> None:
        self.model, self.graphed = model, graphed
        config, table = model.config, model.target.llama.embed_tokens.weight
        self.device, self.dtype = table.device, table.dtype
        self.inputs = random_inputs(config, batch, prompt, self.device, self.dtype)
        codes = config.tokeniser
        self.layers = codes.layers
        shape = (batch, codes.steps, codes.latent_dim)
        self.codes = self._zeros(*shape, codes.layers)
        self.guess = self._zeros(*shape, codes.layers - 1)
        self.oracle = self._zeros(*shape, codes.layers - 1) - 1  # -1: the draft's own guess
        self.final = self._zeros(batch)
        self.forced = self._zeros(batch) - 1  # -1: as the tokens say
        self.actions = torch.zeros(batch, codes.steps, 7, device=self.device)
        width = config.llama.width
        length = config.context(prompt)
        self.patches = self._floats(batch, config.patches, config.vision_width)
        valid = None
        if padded:
            mask = torch.ones(batch, prompt, dtype=torch.bool, device=self.device)
            self.inputs = self.inputs._replace(valid=mask)
            valid = torch.ones(batch, length, dtype=torch.bool, device=self.device)
        self.context = Context(self._floats(batch, length, width), valid)
        self.draft_context = self._floats(batch, config.draft.width)
        self.cache = model.target.cache(self.context)
        self.hidden = self._floats(batch, config.placeholders, width)
        self.logits = self._floats(batch, codes.layers, codes.steps, codes.latent_dim, codes.levels)
        self.host_final = self._on_host(self.final)
        self.host_actions = self._on_host(self.actions)
        self._programs: dict[str, Callable[[], object]] = {}
        self._pool: Any = None

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.int64, device=self.device)

    def _floats(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def _on_host(self, buffer: Tensor) -> Tensor:
        twin = torch.zeros(buffer.shape, dtype=buffer.dtype)
        return twin.pin_memory() if self.device.type == "cuda" else twin

    # Parts. Each reads and writes buffers only.

    def see(self) -> None:
        """Pixels -> tower features."""
        self.patches.copy_(self.model.vision_backbone(self.inputs.pixels))

    def embed(self) -> None:
        """Tower features and the rest -> block 0's embeddings."""
        context = self.model.context(self.patches, self.inputs)
        self.context.embeddings.copy_(context.embeddings)
        if context.valid is not None:
            self.cache.remask(context.valid)

    def read(self) -> None:
        """Tower features and the rest -> the draft's context."""
        self.draft_context.copy_(self.model.draft_context(self.patches, self.inputs))

    def propose(self, start: int) -> None:
        """Guess layers start..L - 2 anew, each given those before it; what is final stays."""
        draft, guess = self.model.draft, self.guess
        guess[..., :start] = self.codes[..., :start]
        if start == self.layers - 1:
            return
        logits, cache = draft.prefill(self.draft_context, guess[..., :start])
        for layer in range(start, self.layers - 1):
            if layer > start:
                logits = draft.extend(cache, guess[..., layer - 1 : layer], layer)
            best, oracle = logits[:, -1].argmax(dim=-1), self.oracle[..., layer]
            best = torch.where(oracle >= 0, oracle, best)
            is_open = (self.final <= layer)[:, None, None]
            guess[..., layer] = torch.where(is_open, best, self.codes[..., layer])

    def prefill(self, blocks: int) -> Tensor:
        """Context with the first `blocks` guessed layers -> logits of layers 0..blocks."""
        return self.model.target.prefill_into(self.cache, self.context, self.guess[..., :blocks])

    def extend(self, first: int, count: int) -> Tensor:
        """Blocks first..first + count - 1 of the guess -> logits of those layers."""
        self.cache.blocks = first
        codes = self.guess[..., first - 1 : first - 1 + count]
        return self.model.target.extend(self.cache, codes, first)

    def context_alone(self) -> None:
        """Block 0 -> the hidden states that the action heads read."""
        target = self.model.target
        hidden = target.hidden(self.cache, self.context, self.guess[..., :0])
        self.hidden.copy_(target.of_placeholders(hidden, self.cache))

    def all_layers(self) -> None:
        """The parallel heads' codes."""
        logits = self.model.target.code_heads.all_at_once(self.hidden)
        self.codes.copy_(logits.argmax(dim=-1).permute(0, 2, 3, 1))

    def regress(self) -> None:
        """The L1 head's actions."""
        self.actions.copy_(self.model.target.l1_head(self.hidden))

    def detokenise(self) -> None:
        """Codes -> actions."""
        self.actions.copy_(self.model.tokeniser.decode(self.codes))

    def detokenise_guess(self) -> None:
        """The draft's codes, of all layers but the last -> actions."""
        self.actions.copy_(self.model.tokeniser.decode(self.guess))

    # Whole programs.

    def _perceive(self) -> None:
        self.see()
        self.embed()

    def _parallel(self) -> None:
        self._perceive()
        self.context_alone()
        self.all_layers()
        self.detokenise()

    def _regression(self) -> None:
        self._perceive()
        self.context_alone()
        self.regress()

    def _autoregressive(self) -> None:
        self._perceive()
        self.codes[..., 0] = self.prefill(0)[:, 0].argmax(dim=-1)
        for layer in range(1, self.layers):
            self.guess[..., layer - 1] = self.codes[..., layer - 1]
            self.codes[..., layer] = self.extend(layer, 1)[:, 0].argmax(dim=-1)
        self.detokenise()

    def _first(self) -> None:
        self.see()
        self.read()
        self.final.zero_()
        self.propose(0)
        self.embed()
        self._judge(self.prefill(self.layers - 1), 0)

    def _round(self, first: int) -> None:
        self.propose(first)
        self._judge(self.extend(first, self.layers - first), first)

    def _judge(self, logits: Tensor, first: int) -> None:
        self.final.copy_(
            judge_greedily(self.codes, self.final, self.guess, logits, first, self.forced)
        )
        self.detokenise()  # wasted on a round that is not the last; else it would cost a launch

    def _skip(self) -> None:
        self.see()
        self.read()
        self.final.zero_()
        self.propose(0)
        self.detokenise_guess()

    def _look(self) -> None:
        self.see()
        self.embed()
        self.read()

    def _keep(self, first: int, logits: Callable[[], Tensor]) -> None:
        found = logits()
        self.logits[:, first : first + found.shape[1]] = found

    # Passes.

    def look(self) -> None:
        """Inputs -> `context`, `draft_context`."""
        self.run("look", self._look)

    def prefilled(self, blocks: int) -> Tensor:
        """See `prefill`; the logits' buffer."""
        pass_ = functools.partial(self.prefill, blocks)
        self.run(f"prefill {blocks}", functools.partial(self._keep, 0, pass_))
        return self.logits[:, : blocks + 1]

    def extended(self, first: int, count: int) -> Tensor:
        """See `extend`; the logits' buffer."""
        pass_ = functools.partial(self.extend, first, count)
        self.run(f"extend {first} by {count}", functools.partial(self._keep, first, pass_))
        return self.logits[:, first : first + count]

    def alone(self) -> Tensor:
        """See `context_alone`; the hidden states' buffer."""
        self.run("alone", self.context_alone)
        return self.hidden

    # Decodes.

    def load(self, inputs: Inputs) -> None:
        """Copy inputs of the same shapes, from pinned host memory or the device."""
        for ours, theirs in zip(self.inputs, inputs, strict=True):
            if ours is not None and theirs is not None:
                ours.copy_(theirs, non_blocking=True)

    def parallel(self) -> None:
        """All layers from one pass."""
        self.run("parallel", self._parallel)
        self.fetch()

    def regression(self) -> None:
        """Actions from the L1 head."""
        self.run("regression", self._regression)
        self.fetch()

    def autoregressive(self) -> None:
        """One pass a layer, all of them in one program: the host is never asked."""
        self.run("autoregressive", self._autoregressive)
        self.fetch()

    def skip(self) -> None:
        """The draft's guess, acted on without the backbone."""
        self.run("skip", self._skip)
        self.fetch()

    def speculative(self, schedule: list[Tensor] | None = None) -> int:
        """Draft, verify, redraft until all layers are final in every row; the number of passes.

        `schedule` sets `forced` for each round (int64 (B,), on the device): acceptance by plan.
        """
        passes, first = 0, 0
        while first < self.layers:
            if schedule is not None:
                self.forced.copy_(schedule[passes])
            if passes == 0:
                self.run("first", self._first)
            else:
                self.run(f"round {first}", functools.partial(self._round, first))
            first = self._least_final()
            passes += 1
        return passes

    def _least_final(self) -> int:
        """The synchronisation of a round; the actions come along, in case it is the last."""
        self.host_final.copy_(self.final, non_blocking=True)
        self.fetch()
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return int(self.host_final.min())

    def fetch(self) -> None:
        """Actions to the host; they are there after the next synchronisation."""
        self.host_actions.copy_(self.actions, non_blocking=True)

    # Running.

    def run(self, name: str, function: Callable[[], object]) -> None:
        """Call a program, or replay it; the first call of a name captures it."""
        if name not in self._programs:
            self._programs[name] = self._captured(function) if self.graphed else function
        self._programs[name]()

    @torch.no_grad()
    def _captured(self, function: Callable[[], object]) -> Callable[[], object]:
        """A replay of what `function` launches. Buffers are changed by the warm-up, so whoever
        cares for the first result captures before."""
        torch.cuda.synchronize(self.device)
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                function()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            function()
        self._pool = graph.pool()
        return graph.replay

    def prepare(self) -> None:
        """Capture everything that `speculative` may need."""
        self.run("first", self._first)
        for first in range(1, self.layers):
            self.run(f"round {first}", functools.partial(self._round, first))
