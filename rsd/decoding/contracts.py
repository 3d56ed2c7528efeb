"""What decoding asks of a model, and what it gives back.

A backbone predicts layer l from its block l, whose input are the codes of layer l - 1 (block 0:
query positions), so codes of K layers need K - 1 of them as input. Shapes: codes (B, T, D, K),
logits (B, n, T, D, V) for n consecutive layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from rsd.decoding.confidence import Drafted
from rsd.decoding.rules import Choice
from rsd.decoding.stopwatch import Stopwatch
from rsd.decoding.trust import Rounds
from rsd.decoding.uniforms import Uniforms
from rsd.rfsq import Leeway
from rsd.types import ChunkRequest, Trust

Cache = Any  # a backbone's own: `blocks` valid blocks, `select(rows)` for some rows of the batch
Inputs = Any  # a model's own: what exists before any backbone runs
Context = Any  # a backbone's own: `len` rows on a `device`; `[rows]` for the mode temporal


class Backbone(Protocol):
    """Target or draft: a coarse-to-fine model over a context of its own kind."""

    steps: int  # T
    latent_dim: int  # D

    def prefill(self, context: Context, codes: Tensor) -> tuple[Tensor, Cache]:
        """Context with k layers of codes appended -> logits of layers 0..k, cache."""

    def extend(self, cache: Cache, codes: Tensor, first: int) -> Tensor:
        """Recompute blocks first.. from codes of layers first - 1.. (B, T, D, n) -> logits of
        layers first..first + n - 1. Overwriting the blocks from `first` on is the rollback."""


class Numbers(NamedTuple):
    """Actions that no codes were decoded for."""

    actions: Tensor  # (B, T, 7), as they are executed
    codes: Tensor  # int64 (B, T, D, L): the nearest ones; L = 0 where the model has none


class CodeModel(Protocol):
    """What a family of policies brings to the decode loops, which it shares with all others."""

    device: str
    layers: int  # L
    levels: int  # V

    @property
    def target(self) -> Backbone: ...

    @property
    def draft(self) -> Backbone: ...

    def inputs(self, requests: Sequence[ChunkRequest]) -> Inputs:
        """What target and draft read. Raises ValueError for frames of another size."""

    def target_context(self, inputs: Inputs) -> Context: ...

    def draft_context(self, inputs: Inputs) -> Tensor: ...

    def parallel_logits(self, context: Context) -> Tensor:
        """The target's context -> logits (B, L, T, D, V) of heads that see no codes."""

    def numbers(self, context: Context) -> Numbers:
        """The target's context -> what a head says that knows no codes. Raises UserError where the
        model has none."""

    def leeway(self) -> Leeway:
        """How far actions move where codes are off. Raises UserError where no token is the
        gripper's alone."""

    def actions(self, codes: Tensor) -> Tensor:
        """Codes (B, T, D, K) of the first K layers -> actions (B, T, 7) as they are executed."""


class Decoded(NamedTuple):
    """A decoded batch."""

    codes: Tensor  # int64 (B, T, D, K)
    passes: Tensor  # int64 (B,): forwards of the target that each row took part in
    judged: Tensor  # int64 (B, 2, K): guessed tokens judged by the first pass, and by later ones
    kept: Tensor  # int64 (B, 2, K): of those, tokens kept
    margin: Tensor  # float (B,): smallest gap between the two best logits of any token that decided
    # the codes: the target's, under a lossy rule the draft's, too; NaN where one gave NaN or
    # infinity
    off: Tensor  # int64 (B, T, D, K): levels by which a lossy rule's codes are above the target's
    # own choices behind the same coarser codes

    def of(self, rows: Tensor) -> Decoded:
        """Some rows."""
        return Decoded(*(field[rows] for field in self))


class Part(NamedTuple):
    """Some rows of a batch."""

    rows: Tensor  # int64: which ones
    decoded: Decoded


# Is told what the draft says in the mode temporal; once more where a near tie is settled
Hear = Callable[[Drafted], None]


@dataclass(frozen=True)
class Job:
    """A batch of requests to decode, and how."""

    model: CodeModel
    requests: Sequence[ChunkRequest]
    rule: Choice
    trust: Trust | None  # of the mode temporal
    layers: int  # K
    draft_layers: int  # of these, before the first pass
    stopwatch: Stopwatch
    hear: Hear

    @property
    def uniforms(self) -> Uniforms | None:
        """The draws of a rule that samples."""
        if not self.rule.samples:
            return None
        return Uniforms(tuple(request.draws for request in self.requests), self.model.device)


@dataclass(frozen=True)
class Answer:
    """Some rows of a job, as they became final."""

    rows: list[int]  # of the job's requests
    decoded: Decoded
    batch_size: int  # requests that were computed together
    actions: Tensor | None = None  # (rows, T, 7) where numbers, not codes, are executed
    canonical: frozenset[int] = frozenset()  # rows whose near ties were settled
    rounds: Rounds | None = None  # of the mode temporal


Decoder = Callable[[Job], Iterator[Answer]]
