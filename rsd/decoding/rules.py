"""Acceptance rules: which drafted tokens are kept (DESIGN 6). Pure functions of tensors.

Tokens of one layer are conditionally independent given the coarser layers, so every rule judges
token by token and replaces only what it rejects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from rsd.errors import unknown


class Verdict(NamedTuple):
    """A judged layer."""

    accepted: Tensor  # bool (..., T, D)
    codes: Tensor  # int64 (..., T, D): the guess where accepted, the rule's replacement elsewhere


class Rule(Protocol):
    """What a speculative decode asks of a rule; logits are (..., T, D, V), any number of layers."""

    @property
    def samples(self) -> bool:
        """Whether it draws: then `u` is float64 (..., T, D) in [0, 1), else it is None."""

    def take(self, logits: Tensor, u: Tensor | None) -> Tensor:
        """A token from a distribution: the draft's guess, or the target's free choice."""

    def judge(
        self,
        guess: Tensor,
        draft_logits: Tensor | None,
        target_logits: Tensor,
        u_accept: Tensor | None,
        u_choose: Tensor | None,
    ) -> Verdict:
        """Keep or replace each token of a guess (..., T, D). A rule that does not sample gets no
        draft logits: where a guess came from does not matter to it."""


@dataclass(frozen=True)
class Exact:
    """Keeps a token that equals the target's argmax: the codes of greedy decoding, losslessly."""

    samples: bool = False

    def take(self, logits: Tensor, u: Tensor | None) -> Tensor:
        return logits.argmax(dim=-1)

    def judge(
        self,
        guess: Tensor,
        draft_logits: Tensor | None,
        target_logits: Tensor,
        u_accept: Tensor | None,
        u_choose: Tensor | None,
    ) -> Verdict:
        best = target_logits.argmax(dim=-1)
        return Verdict(guess == best, best)


@dataclass(frozen=True)
class Sampling:
    """Speculative sampling: keep x ~ q with probability min(1, p/q), else draw from
    norm(max(0, p - q)); the kept or drawn token is distributed as p (Leviathan et al. 2023,
    Chen et al. 2023)."""

    samples: bool = True

    def take(self, logits: Tensor, u: Tensor | None) -> Tensor:
        return inverse_cdf(logits.double().softmax(dim=-1), u)

    def judge(
        self,
        guess: Tensor,
        draft_logits: Tensor | None,
        target_logits: Tensor,
        u_accept: Tensor | None,
        u_choose: Tensor | None,
    ) -> Verdict:
        assert u_accept is not None and draft_logits is not None
        p = target_logits.double().softmax(dim=-1)
        q = draft_logits.double().softmax(dim=-1)
        p_guess = p.gather(-1, guess[..., None])[..., 0]
        q_guess = q.gather(-1, guess[..., None])[..., 0]
        accepted = u_accept * q_guess < p_guess
        residual = (p - q).clamp(min=0)
        codes = torch.where(accepted, guess, inverse_cdf(residual, u_choose))
        return Verdict(accepted, codes)


def inverse_cdf(weights: Tensor, u: Tensor | None) -> Tensor:
    """(..., V) non-negative weights, (...) uniforms -> int64 (...) tokens drawn in proportion."""
    assert u is not None, "this rule samples: it needs uniforms"
    cumulative = weights.cumsum(dim=-1)
    level = (cumulative <= u[..., None] * cumulative[..., -1:]).sum(dim=-1)
    return level.clamp(max=weights.shape[-1] - 1)


RULES: dict[str, Callable[[], Rule]] = {"exact": Exact, "sampling": Sampling}


def make_rule(name: str) -> Rule:
    """Raises UserError with the nearest name for an unknown rule."""
    if name not in RULES:
        raise unknown("acceptance rule", name, RULES)
    return RULES[name]()
