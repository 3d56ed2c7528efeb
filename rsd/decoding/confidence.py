"""How probable it is that the target would say nearly what the draft says, from what is seen of the
guess alone (docs/temporal.md compares the features; `rsd calibrate` fits their weights).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rsd.calibration import numbered, places
from rsd.types import Confidence


class Drafted(NamedTuple):
    """A batch of drafted chunks, all k layers that a draft has."""

    codes: Tensor  # int64 (B, T, D, k)
    logits: Tensor  # (B, k, T, D, V) that they were taken from
    actions: Tensor  # float32 (B, T, 7): what they mean
    before: Tensor  # float32 (B, 7): the last action of the chunk before; zeros where there is none
    follows: Tensor  # bool (B,): whether there is one
    proprio: Tensor  # float32 (B, 8): that it was decided on


class Seen(NamedTuple):
    """What features are made from."""

    margins: Tensor  # (B, k, T, D): between the two best levels of each token
    entropies: Tensor  # (B, k, T, D), nats; the last latent is the gripper's without an encoder
    actions: Tensor  # float32 (B, T, 7)
    jump: Tensor  # (B, 7): of the first action from the last one of the chunk before, or zeros
    proprio: Tensor  # float32 (B, 8)


Feature = Callable[[Seen], Tensor]  # (B,), or (B, n) of several that are numbered from 0

# What is no function of a draft's codes moves by no more than twice as much as any logit does: so a
# decision knows how far it is from another (rsd/decoding/trust.py).
FEATURES: dict[str, Feature] = {
    "smallest margin": lambda seen: seen.margins.amin(dim=(1, 2, 3)),
    "mean margin": lambda seen: seen.margins.mean(dim=(1, 2, 3)),
    "entropy": lambda seen: seen.entropies.mean(dim=(1, 2, 3)),
    "coarse entropy": lambda seen: seen.entropies[:, 0].mean(dim=(1, 2)),
    "worst coarse entropy": lambda seen: seen.entropies[:, 0].amax(dim=(1, 2)),
    "entropy of the last latent": lambda seen: seen.entropies[..., -1].mean(dim=(1, 2)),
    "jump": lambda seen: seen.jump[:, :3].norm(dim=1),
    "speed": lambda seen: seen.actions[..., :3].norm(dim=2).mean(dim=1),
    "turn": lambda seen: seen.actions[..., 3:6].norm(dim=2).mean(dim=1),
    "entropy of layer": lambda seen: seen.entropies.mean(dim=(2, 3)),
    "entropy of latent": lambda seen: seen.entropies.mean(dim=(1, 2)),
    "jump of number": lambda seen: seen.jump,
    "mean of number": lambda seen: seen.actions.mean(dim=1),
    "size of number": lambda seen: seen.actions.abs().mean(dim=1),
    "proprio": lambda seen: seen.proprio,
}


def _see(drafted: Drafted) -> Seen:
    best = drafted.logits.topk(2, dim=-1).values
    log_p = drafted.logits.log_softmax(dim=-1)
    jump = (drafted.actions[:, 0] - drafted.before).masked_fill(~drafted.follows[:, None], 0)
    return Seen(
        best[..., 0] - best[..., 1],
        -(log_p.exp() * log_p).sum(dim=-1),
        drafted.actions,
        jump,
        drafted.proprio,
    )


def all_features(drafted: Drafted) -> tuple[tuple[str, ...], Tensor]:
    """The names of all that are seen of such a draft, and they: float64 (B, F)."""
    seen = _see(drafted)
    names, columns = list[str](), list[Tensor]()
    for name, feature in FEATURES.items():
        found = feature(seen).double()
        if found.ndim == 1:
            names.append(name)
            columns.append(found[:, None])
        else:
            names += numbered(name, found.shape[1])
            columns.append(found)
    return tuple(names), torch.cat(columns, dim=1)


def features_of(names: tuple[str, ...], drafted: Drafted) -> Tensor:
    """float64 (B, F). Raises UserError for what is not seen of such a draft."""
    every, features = all_features(drafted)
    if names == every:
        return features
    return features[:, places(names, every)]


def logit_of(confidence: Confidence, drafted: Drafted) -> Tensor:
    """float64 (B,): of the probability."""
    features = features_of(confidence.features, drafted)
    return features @ features.new_tensor(confidence.weights) + confidence.bias
