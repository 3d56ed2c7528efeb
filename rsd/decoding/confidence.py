"""How probable it is that the target would say nearly what the draft says, from what is seen of the
guess alone (docs/temporal.md compares the features; `rsd calibrate` fits their weights).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rsd.types import Confidence


class Drafted(NamedTuple):
    """A batch of drafted chunks, all k layers that a draft has."""

    codes: Tensor  # int64 (B, T, D, k)
    logits: Tensor  # (B, k, T, D, V) that they were taken from
    actions: Tensor  # float32 (B, T, 7): what they mean
    before: Tensor  # float32 (B, 7): the last action of the chunk before; zeros where there is none
    follows: Tensor  # bool (B,): whether there is one


# Features (B,) of a drafted chunk. What is no function of its codes moves by no more than twice as
# much as any logit does: so a decision knows how far it is from another (rsd/decoding/trust.py).
Feature = Callable[[Drafted], Tensor]


def _margins(drafted: Drafted) -> Tensor:
    """(B, k, T D): between the two best levels of each token."""
    best = drafted.logits.topk(2, dim=-1).values
    return (best[..., 0] - best[..., 1]).flatten(2)


def _entropies(drafted: Drafted) -> Tensor:
    """(B, k, T D), nats."""
    p = drafted.logits.log_softmax(dim=-1)
    return -(p.exp() * p).sum(dim=-1).flatten(2)


FEATURES: dict[str, Feature] = {}


def features_of(names: tuple[str, ...], drafted: Drafted) -> Tensor:
    """float64 (B, F)."""
    return torch.stack([FEATURES[name](drafted).double() for name in names], dim=1)


def logit_of(confidence: Confidence, drafted: Drafted) -> Tensor:
    """float64 (B,): of the probability."""
    seen = features_of(confidence.features, drafted)
    return seen @ seen.new_tensor(confidence.weights) + confidence.bias
