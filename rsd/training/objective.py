"""What the phases of training share: cross-entropy, the majority baseline, state to go on from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from rsd.errors import UserError
from rsd.rfsq import RFSQ
from rsd.training.config import TrainConfig

LOADERS = 4  # threads that prepare batches for a GPU


@dataclass
class TrainingState:
    """What a training needs to go on after an interruption; tensors and plain values only."""

    phase: str  # target | draft
    step: int
    model: dict[str, Tensor]
    optimiser: dict[str, Any]
    average: dict[str, Tensor] = field(default_factory=dict)  # target: averaged weights
    schedule: dict[str, Any] = field(default_factory=dict)  # draft: of the learning rate
    seconds: float = 0.0  # of training, all sessions so far


class Lesson(NamedTuple):
    """What a target is taught of a batch of chunks."""

    latent: Tensor  # (B, T, D)
    clean: Tensor  # int64 (B, T, D, L): what heads say that see no codes
    codes: Tensor  # int64 (B, T, D, L), noisy: what it sees
    labels: Tensor  # int64 (B, T, D, L): what it says, which repairs the noise before it


@torch.no_grad()
def lesson(tokeniser: RFSQ, actions: Tensor, shifts: Tensor) -> Lesson:
    """Actions (B, T, 7) and shifts of levels (B, T, D, L); in full precision."""
    with torch.autocast(actions.device.type, enabled=False):
        latent = tokeniser.latent(actions)
        return Lesson(
            latent, tokeniser.quantise(latent), *tokeniser.quantise_noisily(latent, shifts)
        )


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """logits (B, n, T, D, V), labels (B, T, D, n) -> mean over tokens, in nats."""
    return F.cross_entropy(logits.float().flatten(0, -2), labels.permute(0, 3, 1, 2).flatten())


def check_finite(loss: float, phase: str, step: int, remedy: str) -> None:
    """Raises UserError for a training that has diverged, before anything of it is kept."""
    if not math.isfinite(loss):
        raise UserError(
            f"the loss of the {phase} is {loss} at step {step}: it has diverged; start anew with "
            f"another --output and {remedy}"
        )


class Right(NamedTuple):
    """Shares per layer (n,)."""

    tokens: Tensor  # whose argmax is right
    layers: Tensor  # examples in which those of all T D tokens are


def accuracy(logits: Tensor, labels: Tensor) -> Right:
    """logits (B, n, T, D, V), labels (B, T, D, n)."""
    right = (logits.argmax(dim=-1).permute(0, 2, 3, 1) == labels).flatten(1, 2)
    return Right(right.float().mean(dim=(0, 1)), right.all(dim=1).float().mean(dim=0))


def majority_accuracy(codes: Tensor, train: Tensor, validation: Tensor, levels: int) -> Tensor:
    """Share of tokens per layer (L,) that a constant guess gets right: of codes (N, T, D, L), the
    most frequent level of each (step, dim, layer) in rows `train`, against rows `validation`."""
    counts = torch.stack([(codes[train] == level).sum(dim=0) for level in range(levels)])
    return (codes[validation] == counts.argmax(dim=0)).float().mean(dim=(0, 1, 2))


def shares(values: Tensor) -> tuple[float, ...]:
    """A tensor (L,) as a report holds it."""
    return tuple(values.tolist())


def decayed(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices, not vectors."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def copy_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state of a model, for later."""
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def wants_bf16(config: TrainConfig, device: torch.device) -> bool:
    """The precision that a configuration asks for, or the one that pays on this device."""
    if config.bf16 is not None:
        return config.bf16
    can = torch.cpu.get_capabilities()
    return device.type != "cpu" or any(can.get(name) for name in ("amx_bf16", "avx512_bf16"))


@contextmanager
def mixed(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Context of a forward pass in the precision that the configuration asks for."""
    if not wants_bf16(config, device):
        yield
        return
    # a CPU's fused attention goes back in bf16 eight times slower than in fp32
    attention = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
    with attention, torch.autocast(device.type, torch.bfloat16):
        yield


def to(device: torch.device, tensor: Tensor) -> Tensor:
    """Onto a GPU without waiting for it, through pinned memory."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
