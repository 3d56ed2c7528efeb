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
    """(B, k, T, D): between the two best levels of each token."""
    best = drafted.logits.topk(2, dim=-1).values
    return best[..., 0] - best[..., 1]


def _entropies(drafted: Drafted) -> Tensor:
    """(B, k, T, D), nats; the last latent is the gripper's where the tokeniser has no encoder."""
    p = drafted.logits.log_softmax(dim=-1)
    return -(p.exp() * p).sum(dim=-1)


FEATURES: dict[str, Feature] = {
    "smallest margin": lambda drafted: _margins(drafted).amin(dim=(1, 2, 3)),
    "mean margin": lambda drafted: _margins(drafted).mean(dim=(1, 2, 3)),
    "entropy": lambda drafted: _entropies(drafted).mean(dim=(1, 2, 3)),
    "coarse entropy": lambda drafted: _entropies(drafted)[:, 0].mean(dim=(1, 2)),
    "worst coarse entropy": lambda drafted: _entropies(drafted)[:, 0].amax(dim=(1, 2)),
    "entropy of the last latent": lambda drafted: _entropies(drafted)[..., -1].mean(dim=(1, 2)),
    "jump": lambda drafted: _jump(drafted, slice(0, 3)),
    "speed": lambda drafted: drafted.actions[..., :3].norm(dim=2).mean(dim=1),
    "turn": lambda drafted: drafted.actions[..., 3:6].norm(dim=2).mean(dim=1),
}


def _jump(drafted: Drafted, numbers: slice) -> Tensor:
    """(B,): how far the first action is from the last one of the chunk before."""
    apart = (drafted.actions[:, 0] - drafted.before)[:, numbers].norm(dim=1)
    return apart.masked_fill(~drafted.follows, 0)


def features_of(names: tuple[str, ...], drafted: Drafted) -> Tensor:
    """float64 (B, F)."""
    return torch.stack([FEATURES[name](drafted).double() for name in names], dim=1)


def logit_of(confidence: Confidence, drafted: Drafted) -> Tensor:
    """float64 (B,): of the probability."""
    seen = features_of(confidence.features, drafted)
    return seen @ seen.new_tensor(confidence.weights) + confidence.bias
