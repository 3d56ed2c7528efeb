"""Policies by name. Importing this package imports no torch; loading a policy may.

A new kind of policy is one entry in `POLICIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rsd.types import ImageSpec, Policy


@dataclass(frozen=True)
class PolicyInfo:
    """What is known of a policy before it is loaded."""

    sha256: str  # of the checkpoint
    chunk_steps: int  # T
    layers: int  # L
    images: ImageSpec
    regresses: bool  # has a regression head
    suites: tuple[str, ...]  # that it was trained on; empty: not known


@dataclass(frozen=True)
class PolicyKind:
    """How one kind of policy is checked without torch, and loaded."""

    inspect: Callable[[str], PolicyInfo]
    load: Callable[[str, bool, str], Policy]  # spec, deterministic, device


def _inspect_toy(spec: str) -> PolicyInfo:
    from rsd.models import toy

    return PolicyInfo(toy.sha256(spec), toy.CHUNK_STEPS, toy.LAYERS, toy.IMAGES, False, ())


def _load_toy(spec: str, deterministic: bool, device: str) -> Policy:
    from rsd.models.toy import ToyPolicy

    return ToyPolicy(spec)


def _inspect_checkpoint(spec: str) -> PolicyInfo:
    from rsd.models.checkpoint import inspect

    info = inspect(spec)
    return PolicyInfo(
        info.sha256,
        info.chunk_steps,
        info.layers,
        info.images,
        info.model.regression,
        info.suites,
    )


def _load_checkpoint(spec: str, deterministic: bool, device: str) -> Policy:
    from rsd.models.policy import load

    return load(spec, deterministic=deterministic, device=device)


_TOY = PolicyKind(_inspect_toy, _load_toy)
_CHECKPOINT = PolicyKind(_inspect_checkpoint, _load_checkpoint)

POLICIES: dict[str, PolicyKind] = {
    "toy": _TOY,
    "toy-nan": _TOY,
    "toy-crash": _TOY,
    "toy-hang": _TOY,
}


def inspect_policy(spec: str) -> PolicyInfo:
    """Check a policy (a name in `POLICIES`, a bundled checkpoint's, or a folder) without torch.

    Raises UserError for a checkpoint that is missing, truncated or of another architecture.
    """
    return POLICIES.get(spec, _CHECKPOINT).inspect(spec)


def load_policy(spec: str, *, deterministic: bool, device: str) -> Policy:
    """Load a policy onto `device` (`cpu`, `cuda`)."""
    return POLICIES.get(spec, _CHECKPOINT).load(spec, deterministic, device)
