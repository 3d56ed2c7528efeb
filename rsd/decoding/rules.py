"""Acceptance rules: which drafted tokens are kept; and rules of when to stop refining (DESIGN 6).
Pure functions of tensors.

Tokens of one layer are conditionally independent given the coarser layers, so every acceptance rule
judges token by token and replaces only what it rejects.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from rsd.arms import rule_and_value
from rsd.rfsq import MM_AND_DEGREES, Leeway, Rest


class Case(NamedTuple):
    """n guessed layers and what they are judged by. A rule that does not sample gets neither draft
    logits nor uniforms: where a guess came from does not matter to it."""

    guess: Tensor  # int64 (B, n, T, D)
    target_logits: Tensor  # (B, n, T, D, V)
    draft_logits: Tensor | None  # likewise
    u_accept: Tensor | None  # float64 (B, n, T, D) in [0, 1)
    u_choose: Tensor | None  # likewise
    off: Tensor  # int64 (B, m, T, D): what a lossy rule has kept of all m coarser layers, as below


class Verdict(NamedTuple):
    """Judged layers."""

    accepted: Tensor  # bool (B, n, T, D)
    codes: Tensor  # int64 (B, n, T, D): the guess where accepted, the rule's replacement elsewhere
    off: Tensor  # int64 (B, n, T, D): levels by which codes are above the target's choice


class Choice(Protocol):
    """What any decode asks of a rule."""

    @property
    def samples(self) -> bool:
        """Whether it draws: then it gets uniforms."""

    @property
    def lossless(self) -> bool:
        """Whether it decides nothing but passes: codes are those that the target gives layer by
        layer, or distributed as they are."""

    def take(self, logits: Tensor, u: Tensor | None) -> Tensor:
        """A token from a distribution (..., V): the draft's guess, or the target's free choice."""

    def moved(self, codes: Tensor, off: Tensor, layers: int) -> Tensor | None:
        """(B, 2): mm and degrees that it moved any step of decoded chunks by at most; None where it
        is lossless. Codes (B, T, D, k) of `layers` that were asked for, and what they are `off`."""


class Rule(Choice, Protocol):
    """What a speculative decode asks of a rule."""

    def judge(self, case: Case) -> Verdict:
        """Keep or replace each token of a guess."""


class Greedy:
    """What takes a distribution's most probable level."""

    samples = False

    def take(self, logits: Tensor, u: Tensor | None) -> Tensor:
        return logits.argmax(dim=-1)


class Lossless:
    """What moves nothing."""

    lossless = True

    def moved(self, codes: Tensor, off: Tensor, layers: int) -> Tensor | None:
        return None


@dataclass(frozen=True)
class Exact(Greedy, Lossless):
    """Keeps a token that equals the target's argmax: the codes of greedy decoding, losslessly."""

    def judge(self, case: Case) -> Verdict:
        best = case.target_logits.argmax(dim=-1)
        return Verdict(case.guess == best, best, torch.zeros_like(best))


class Lossy(Greedy, ABC):
    """Keeps what `Exact` keeps, and of the other tokens those that it tolerates; the gripper's
    never, whose least deviation may open it."""

    leeway: Leeway

    @property
    @abstractmethod
    def lossless(self) -> bool: ...

    def moved(self, codes: Tensor, off: Tensor, layers: int) -> Tensor | None:
        return None if self.lossless else self.leeway.bound(off)

    @abstractmethod
    def tolerates(self, off: Tensor) -> Tensor:
        """Levels (B, m, T, D) that tokens of the m coarsest layers are off the target's choices ->
        bool, likewise. Layers that are final show what was kept of them."""

    def judge(self, case: Case) -> Verdict:
        best = case.target_logits.argmax(dim=-1)
        off = case.guess - best
        tolerated = self.tolerates(torch.cat([case.off, off], dim=1))[:, case.off.shape[1] :]
        kept = (off == 0) | (tolerated & ~self.leeway.gripper)
        return Verdict(kept, torch.where(kept, case.guess, best), off.masked_fill(~kept, 0))


@dataclass(frozen=True)
class Relaxed(Lossy):
    """Tolerates tokens up to so many levels off (Spec-VLA, arXiv:2507.22424)."""

    tolerance: float  # levels
    leeway: Leeway

    @property
    def lossless(self) -> bool:
        return self.tolerance == 0

    def tolerates(self, off: Tensor) -> Tensor:
        return off.abs() <= self.tolerance


@dataclass(frozen=True)
class Agreement(Lossy):
    """Tolerates a whole layer in which at least so large a share of the tokens is the target's (the
    published experiment's rule, there 0.7)."""

    threshold: float
    leeway: Leeway

    @property
    def lossless(self) -> bool:
        return self.threshold == 1

    def tolerates(self, off: Tensor) -> Tensor:
        share = (off == 0).double().mean(dim=(-2, -1), keepdim=True)
        return (share >= self.threshold).expand_as(off)


@dataclass(frozen=True)
class ActionTolerance(Lossy):
    """Tolerates tokens, coarse ones first, as long as all of them together move no number of the
    action by more than so many mm or degrees in any step."""

    most: float  # mm of translation along an axis, degrees of rotation about one
    leeway: Leeway

    @property
    def lossless(self) -> bool:
        return self.most == 0

    def tolerates(self, off: Tensor) -> Tensor:
        moved = self.leeway.moved(off)
        # sums hold rejected tokens, too: what is behind those is replaced, or judged anew
        total = moved.flatten(-3, -2).cumsum(dim=-2).view_as(moved)
        return total <= self.most * (1 + 1e-9)  # whatever the sum's rounding


@dataclass(frozen=True)
class Sampling(Lossless):
    """Speculative sampling: keep x ~ q with probability min(1, p/q), else draw from
    norm(max(0, p - q)); the kept or drawn token is distributed as p (Leviathan et al. 2023,
    Chen et al. 2023). Both at one temperature."""

    temperature: float = 1.0

    samples = True

    def take(self, logits: Tensor, u: Tensor | None) -> Tensor:
        return inverse_cdf(self._probabilities(logits), u)

    def judge(self, case: Case) -> Verdict:
        assert case.u_accept is not None and case.draft_logits is not None
        p = self._probabilities(case.target_logits)
        q = self._probabilities(case.draft_logits)
        p_guess = p.gather(-1, case.guess[..., None])[..., 0]
        q_guess = q.gather(-1, case.guess[..., None])[..., 0]
        accepted = case.u_accept * q_guess < p_guess
        residual = (p - q).clamp(min=0)
        codes = torch.where(accepted, case.guess, inverse_cdf(residual, case.u_choose))
        return Verdict(accepted, codes, torch.zeros_like(codes))

    def _probabilities(self, logits: Tensor) -> Tensor:
        return (logits.double() / self.temperature).softmax(dim=-1)


def inverse_cdf(weights: Tensor, u: Tensor | None) -> Tensor:
    """(..., V) non-negative weights, (...) uniforms -> int64 (...) tokens drawn in proportion."""
    assert u is not None, "this rule samples: it needs uniforms"
    cumulative = weights.cumsum(dim=-1)
    level = (cumulative <= u[..., None] * cumulative[..., -1:]).sum(dim=-1)
    return level.clamp(max=weights.shape[-1] - 1)


# --- when to stop refining -----------------------------------------------------------------------


class Seen(NamedTuple):
    """Chunks of which some layers are decoded."""

    codes: Tensor  # int64 (B, T, D, k)
    actions: Tensor  # (B, T, 7): what they decode to
    before: Tensor | None  # likewise, without the finest of these layers; None: there is one only
    layers: int  # that are asked for, more than k


class Stop(Greedy, ABC):
    """Takes the target's argmax, and leaves out the layers behind the first at which a chunk is
    `enough` and its gripper settled: those that are decoded are those of `autoregressive`. Codes
    alone decide, so that rounding does not."""

    leeway: Leeway

    @property
    @abstractmethod
    def lossless(self) -> bool: ...

    @abstractmethod
    def enough(self, seen: Seen, rest: Rest) -> Tensor:
        """bool (B,): whether layers behind, which can still do the `rest`, hardly matter."""

    def stops(self, seen: Seen) -> Tensor:
        """bool (B,)"""
        rest = self.leeway.rest(seen.codes, seen.layers)
        return self.enough(seen, rest) & rest.settled

    def moved(self, codes: Tensor, off: Tensor, layers: int) -> Tensor | None:
        if self.lossless:
            return None
        rest = self.leeway.rest(codes, layers)
        return torch.tensor([[rest.mm, rest.degrees]], dtype=torch.float64).repeat(len(codes), 1)


@dataclass(frozen=True)
class Converged(Stop):
    """Stops behind a layer that moved no number of the plan by so many mm or degrees: what is
    behind it moves less, by experience. One that moved nothing still says no more than that what is
    left of a token is within half a level of its own, which has to be less, too. The coarsest layer
    refines nothing, so two are decoded. A plan that stands still until then may be a slow one,
    which finer layers hold: of that counts what the codes of one token behind can do."""

    least: float  # mm of translation along an axis, degrees of rotation about one
    leeway: Leeway

    @property
    def lossless(self) -> bool:
        return self.least == 0

    def enough(self, seen: Seen, rest: Rest) -> Tensor:
        plan = seen.actions[..., :6].double()
        if seen.before is None:
            return torch.zeros(len(plan), dtype=torch.bool, device=plan.device)
        unit = plan.new_tensor(MM_AND_DEGREES)
        moved = ((plan - seen.before[..., :6].double()).abs() * unit).flatten(1).amax(dim=1)
        half = float(self.leeway.level[seen.codes.shape[-1] - 1].max()) / 2
        stands = (plan == 0).flatten(1).all(dim=1)
        return moved.clamp(min=half).masked_fill(stands, rest.one) < self.least


PLAIN: dict[str, Callable[..., Rule]] = {"exact": Exact, "sampling": Sampling}
LOSSY: dict[str, Callable[[float, Leeway], Rule]] = {
    "relaxed": Relaxed,
    "agreement": Agreement,
    "action_tolerance": ActionTolerance,
}
STOPS: dict[str, Callable[[float, Leeway], Stop]] = {"converged": Converged}


def make_rule(spec: str, leeway: Callable[[], Leeway]) -> Choice:
    """A rule as arms name it, `exact` or `relaxed=2`; one with a number asks for the `leeway`.

    Raises UserError with the nearest name for an unknown rule, and what `leeway` raises.
    """
    name, value = rule_and_value(spec)
    tolerant = LOSSY | STOPS
    if name in tolerant:
        assert value is not None, "a lossy rule says what it tolerates"
        return tolerant[name](value, leeway())
    return PLAIN[name]() if value is None else PLAIN[name](value)
