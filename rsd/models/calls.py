"""What a decode loop asks of its model, call by call: the same whatever the model's size, so that
the calls of one are priced as those of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from rsd.decoding.contracts import Backbone, Cache, CodeModel, Context, Inputs, Numbers
from rsd.models.code_policy import CodePolicy
from rsd.rfsq import Leeway
from rsd.types import ChunkRequest

What = Literal[
    "inputs",  # towers
    "context",  # of the target
    "prefill",
    "extend",
    "parallel",  # a pass, and heads that see no codes
    "numbers",  # a pass, and a head that knows none
    "draft context",
    "draft prefill",
    "draft extend",
    "actions",
]


@dataclass(frozen=True)
class Call:
    """One of them, on `rows` of a batch; of a backbone blocks first..first + blocks - 1."""

    what: What
    rows: int
    first: int = 0
    blocks: int = 0


def watched(policy: CodePolicy, calls: list[Call]) -> CodePolicy:
    """The same policy, but it appends what is asked of its model to `calls`, and settles nothing:
    as on a GPU."""
    return CodePolicy(
        _Watched(policy.model, calls),
        policy.images,
        policy.checkpoint_sha256,
        chunk_steps=policy.chunk_steps,
    )


class _WatchedBackbone:
    """Implements Backbone."""

    def __init__(self, backbone: Backbone, calls: list[Call], names: tuple[What, What]) -> None:
        self._backbone, self._calls, self._names = backbone, calls, names
        self.steps, self.latent_dim = backbone.steps, backbone.latent_dim

    def prefill(self, context: Context, codes: Tensor) -> tuple[Tensor, Cache]:
        self._calls.append(Call(self._names[0], len(context), 0, codes.shape[-1] + 1))
        return self._backbone.prefill(context, codes)

    def extend(self, cache: Cache, codes: Tensor, first: int) -> Tensor:
        self._calls.append(Call(self._names[1], len(codes), first, codes.shape[-1]))
        return self._backbone.extend(cache, codes, first)


class _Watched:
    """Implements CodeModel."""

    def __init__(self, model: CodeModel, calls: list[Call]) -> None:
        self._model, self._calls = model, calls
        self.device, self.layers, self.levels = model.device, model.layers, model.levels
        self.target = _WatchedBackbone(model.target, calls, ("prefill", "extend"))
        self.draft = _WatchedBackbone(model.draft, calls, ("draft prefill", "draft extend"))

    def inputs(self, requests: Sequence[ChunkRequest]) -> Inputs:
        self._rows = len(requests)
        self._calls.append(Call("inputs", self._rows))
        return self._model.inputs(requests)

    def target_context(self, inputs: Inputs) -> Context:
        self._calls.append(Call("context", self._rows))
        return self._model.target_context(inputs)

    def draft_context(self, inputs: Inputs) -> Any:
        self._calls.append(Call("draft context", self._rows))
        return self._model.draft_context(inputs)

    def parallel_logits(self, context: Context) -> Tensor:
        self._calls.append(Call("parallel", len(context)))
        return self._model.parallel_logits(context)

    def numbers(self, context: Context) -> Numbers:
        self._calls.append(Call("numbers", len(context)))
        return self._model.numbers(context)

    def leeway(self) -> Leeway:
        return self._model.leeway()

    def actions(self, codes: Tensor) -> Tensor:
        self._calls.append(Call("actions", len(codes)))
        return self._model.actions(codes)
