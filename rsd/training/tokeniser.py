"""The tokeniser: training of its encoder, calibration, and the truncation table (DESIGN 3)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from rsd.models.small_vla.architecture import SmallVLAConfig
from rsd.rfsq import DEGREES_PER_UNIT, RFSQ
from rsd.rfsq_config import RFSQConfig
from rsd.types import METRES_PER_UNIT


def variants(chosen: RFSQConfig) -> dict[str, RFSQConfig]:
    """The published settings, and chosen ones with one thing otherwise at a time."""
    return {
        "published (robust)": RFSQConfig(),
        "published, naive": RFSQConfig(scaled=False),
        "chosen": chosen,
        "chosen, no cosines": dataclasses.replace(chosen, cosine=False),
        "chosen, naive": dataclasses.replace(chosen, scaled=False),
        "chosen, overlap 2": dataclasses.replace(chosen, overlap=2.0),
        "cosines, plain FSQ": dataclasses.replace(chosen, layers=1, levels=255),
    }


CHOSEN = SmallVLAConfig().tokeniser
VARIANTS = variants(CHOSEN)  # what `rsd benchmark tokeniser` compares


@dataclass(frozen=True)
class TruncationRow:
    """Reconstruction error when only the first `layers` layers are kept."""

    layers: int
    position_mm: float  # mean Euclidean error of one step's translation
    position_p99_mm: float
    rotation_degrees: float  # mean Euclidean error of one step's rotation
    gripper_errors: float  # fraction of steps with the wrong sign
    used_levels: float  # mean number of levels of this layer that occur at all
    off_majority: float  # fraction of this layer's tokens that are not their most frequent level


def train_tokeniser(
    config: RFSQConfig, actions: Tensor, *, steps: int, batch_size: int, seed: int
) -> RFSQ:
    """Fit encoder and decoder to chunks (N, T, 7); without an encoder there is nothing to fit."""
    torch.manual_seed(seed)
    tokeniser = RFSQ(config)
    if config.hidden == 0:
        return tokeniser
    optimiser = torch.optim.AdamW(tokeniser.parameters(), lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = actions[torch.randint(len(actions), (batch_size,), generator=generator)]
        latent = tokeniser.encoder(batch)
        outside = (latent.abs() - 1).clamp(min=0).square().mean()
        loss = (tokeniser.training_pass(batch) - batch).square().mean() + outside
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return tokeniser.eval()


@dataclass(frozen=True)
class StepErrors:
    """Of reconstructed chunks (N, T, 7), step by step."""

    position_mm: Tensor  # (N, T): Euclidean, of the translation
    rotation_degrees: Tensor  # (N, T): Euclidean, of the axis-angle
    gripper: Tensor  # bool (N, T): the wrong sign


def step_errors(reconstructed: Tensor, actions: Tensor) -> StepErrors:
    """Both (N, T, 7)."""
    error = reconstructed - actions
    return StepErrors(
        position_mm=error[..., :3].norm(dim=-1) * METRES_PER_UNIT * 1000,
        rotation_degrees=error[..., 3:6].norm(dim=-1) * DEGREES_PER_UNIT,
        gripper=error[..., 6].abs() > 1,
    )


@torch.inference_mode()
def repaired(tokeniser: RFSQ, actions: Tensor, layer: int, generator: torch.Generator) -> Tensor:
    """(N, T, 7) actions after a round trip in which every code of `layer` is off by one level, up
    or down at random, and finer layers say what then is left: what a target repairs at best."""
    latent = tokeniser.latent(actions)
    shifts = torch.zeros((*latent.shape, tokeniser.config.layers), dtype=torch.int64)
    signs = torch.randint(2, latent.shape, generator=generator)
    shifts[..., layer] = 2 * signs - 1
    codes, _ = tokeniser.quantise_noisily(latent, shifts)
    return tokeniser.decode(codes)


@torch.inference_mode()
def truncation_table(tokeniser: RFSQ, actions: Tensor) -> list[TruncationRow]:
    """One row for each K = 1..L over chunks (N, T, 7)."""
    codes = tokeniser.encode(actions)
    usual = codes.mode(dim=0).values  # (T, D, L)
    rows = []
    for layers in range(1, tokeniser.config.layers + 1):
        errors = step_errors(tokeniser.decode(codes[..., :layers]), actions)
        position = errors.position_mm
        level = codes[..., layers - 1].flatten(0, 1)
        used = [level[:, d].unique().numel() for d in range(level.shape[-1])]
        rows.append(
            TruncationRow(
                layers,
                float(position.mean()),
                float(position.flatten().kthvalue(max(1, round(0.99 * position.numel()))).values),
                float(errors.rotation_degrees.mean()),
                float(errors.gripper.float().mean()),
                sum(used) / len(used),
                1 - float((codes[..., layers - 1] == usual[..., layers - 1]).float().mean()),
            )
        )
    return rows


def table_lines(rows: list[TruncationRow]) -> list[str]:
    """The truncation table for people, a heading first."""
    names = (
        "K",
        "position mm",
        "p99 mm",
        "rotation deg",
        "gripper wrong",
        "levels used",
        "off majority",
    )
    lines = ["  ".join(names)]
    for row in rows:
        cells = (
            str(row.layers),
            f"{row.position_mm:.3f}",
            f"{row.position_p99_mm:.3f}",
            f"{row.rotation_degrees:.3f}",
            f"{row.gripper_errors:.2%}",
            f"{row.used_levels:.1f}",
            f"{row.off_majority:.1%}",
        )
        pairs = zip(cells, names, strict=True)
        lines.append("  ".join(cell.rjust(len(name)) for cell, name in pairs))
    return lines
