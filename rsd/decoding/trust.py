"""When a drafted chunk is executed and the target not asked: the arm `temporal` (docs/temporal.md).

Pure: a decision follows from one request and the draft's guess for it. What it knows of the chunks
before comes with the request (`rsd.types.Past`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from rsd.arms import TRUSTS, rule_and_value
from rsd.decoding.confidence import Drafted, logit_of
from rsd.decoding.uniforms import Purpose, Uniforms
from rsd.types import ChunkRequest, Confidence, Trust

REASONS = {  # for a round's kind, as the books have them
    "confident": "fast: the draft's confidence was high enough",
    "unsure": "slow: it was not",
    "drawn": "fast: by lot",
    "not drawn": "slow: by lot",
    "refresh": "slow: enough chunks in a row were not judged",
    "gripper": "slow: the gripper would switch",
    "stall": "slow: the hand had hardly moved since the chunk before",
}


class Rounds(NamedTuple):
    """What was decided of each row of a batch."""

    fast: Tensor  # bool (B,): the drafted chunk is executed
    confidence: Tensor  # float64 (B,)
    reasons: tuple[str, ...]  # of REASONS
    gap: Tensor  # (B,): how far logits may be off before a row is decided otherwise; inf: for ever

    def of(self, rows: Tensor) -> Rounds:
        """Those of some rows."""
        kept = tuple(self.reasons[row] for row in rows.tolist())
        return Rounds(self.fast[rows], self.confidence[rows], kept, self.gap[rows])


class Weighed(NamedTuple):
    """How much a rule trusts each row."""

    confidence: Tensor  # float64 (B,)
    enough: Tensor  # bool (B,)
    gap: Tensor  # (B,), as in Rounds


class TrustRule(Protocol):
    """Which drafted chunks are trusted, guards aside."""

    @property
    def always(self) -> bool:
        """Whether all, the guarded ones included."""

    @property
    def reasons(self) -> tuple[str, str]:
        """For a fast round and for a slow one."""

    def weigh(self, drafted: Drafted, requests: Sequence[ChunkRequest]) -> Weighed: ...


@dataclass(frozen=True)
class Confident:
    """Those of a calibrated confidence of so much or more; it lies between 0 and 1, both ends
    excluded."""

    least: float
    confidence: Confidence
    reasons = ("confident", "unsure")

    @property
    def always(self) -> bool:
        return self.least == 0

    def weigh(self, drafted: Drafted, requests: Sequence[ChunkRequest]) -> Weighed:
        logit = logit_of(self.confidence, drafted)
        above = logit - _logit(self.least)
        return Weighed(logit.sigmoid(), above >= 0, above.abs() / self._gain)

    @property
    def _gain(self) -> float:
        """By how much of a difference of two logits of the draft the confidence's moves, at most:
        every feature that is no function of codes moves by as much as that (confidence.py)."""
        return sum(map(abs, self.confidence.weights)) or 1.0


@dataclass(frozen=True)
class ByLot:
    """A share of them, whatever they are."""

    share: float
    reasons = ("drawn", "not drawn")

    @property
    def always(self) -> bool:
        return self.share == 1

    def weigh(self, drafted: Drafted, requests: Sequence[ChunkRequest]) -> Weighed:
        uniforms = Uniforms(tuple(r.draws for r in requests), drafted.codes.device)
        u = uniforms.draw(Purpose.TRUST, 0, 0, ())
        return Weighed(1 - u, u < self.share, torch.full_like(u, torch.inf))


def _logit(probability: float) -> float:
    if probability in (0, 1):
        return math.inf if probability else -math.inf
    return math.log(probability) - math.log1p(-probability)


def make_trust_rule(trust: Trust) -> TrustRule:
    """Raises ValueError where the confidence is missing that the plan puts into an arm."""
    name, value = rule_and_value(trust.by, TRUSTS, "trust")
    assert value is not None
    if name == "random":
        return ByLot(value)
    if trust.confidence is None:
        raise ValueError(f"{trust.by}: the decoding has no confidence (rsd.plan.with_confidence)")
    return Confident(value, trust.confidence)


def decide(trust: Trust, drafted: Drafted, requests: Sequence[ChunkRequest]) -> Rounds:
    """Which rows' drafted chunks are executed. What a guard holds back counts as of no confidence
    at all: only a rule that trusts always trusts it."""
    rule = make_trust_rule(trust)
    weighed = rule.weigh(drafted, requests)
    actions = drafted.actions.cpu().numpy()
    guards = [_guard(trust, actions[i], request) for i, request in enumerate(requests)]
    held = torch.tensor([guard is not None for guard in guards], device=drafted.codes.device)
    if rule.always:
        held = torch.zeros_like(held)
    fast = weighed.enough & ~held
    reasons = tuple(
        guard if is_held and guard else rule.reasons[0 if is_fast else 1]
        for guard, is_held, is_fast in zip(guards, held.tolist(), fast.tolist(), strict=True)
    )
    return Rounds(fast, weighed.confidence, reasons, weighed.gap.masked_fill(held, torch.inf))


def _guard(trust: Trust, actions: np.ndarray, request: ChunkRequest) -> str | None:
    """What keeps a drafted chunk, actions float32 (T, 7), from being trusted."""
    past = request.past
    if trust.refresh and past.fast_rounds >= trust.refresh:
        return "refresh"
    before = actions[:1] if past.actions is None else past.actions[-1:]
    if trust.gripper and bool((actions[:, -1] != before[:, -1]).any()):
        return "gripper"
    if trust.stall and past.proprio is not None:
        moved = request.observation.proprio[:3] - past.proprio[:3]
        if 1000 * float(np.linalg.norm(moved)) < trust.stall:
            return "stall"
    return None
