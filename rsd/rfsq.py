"""Residual finite scalar quantisation (RFSQ) of action chunks (DESIGN 3).

An encoder maps each step of a chunk to a latent z in [-1, 1]^D. With r_0 = z, layer l takes the
nearest of V values that span +-s_l and hands on what is left: r_(l+1) = r_l - value(c_l). The
scales s_l are buffers of the checkpoint, never statistics of a sample, so codes alone decode.
With `cosine` the encoder reads the chunk's motion as cosine coefficients: position t of the T axis
is then a frequency, for the motion, and a step for the gripper.

What is executed is computed in double precision, product by product and sum by sum in a fixed
order, and rounded to single at the end: a matrix product's rounding depends on its shape, on the
processor and on torch's build, and actions must depend on none of them (DESIGN 7).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rsd.errors import UserError
from rsd.rfsq_config import RFSQConfig
from rsd.types import ACTION_DIM, METRES_PER_UNIT, RADIANS_PER_UNIT

DEGREES_PER_UNIT = math.degrees(RADIANS_PER_UNIT)
# Of an action's numbers, the gripper's left out
MM_AND_DEGREES = (*[1000 * METRES_PER_UNIT] * 3, *[DEGREES_PER_UNIT] * 3)


class Rest(NamedTuple):
    """What layers that are not decoded yet can still do to chunks, whatever their codes."""

    mm: float  # at most, to a step's translation along any axis; reached by some codes
    degrees: float  # likewise, to its rotation about any axis
    one: float  # mm or degrees, at most, that codes of one token do to a step
    settled: Tensor  # bool (B,): they turn no step's gripper


class Leeway(NamedTuple):
    """How far codes move an action."""

    level: Tensor  # float64 (L, T, D): mm or degrees, in the step that a level of the code moves
    # most; 0 for the gripper's
    gripper: Tensor  # bool (D,): which codes are its own
    layer: Tensor  # float64 (L, 2): mm and degrees that all codes of a layer together move a step
    # by at most, up or down
    latent: Tensor  # float64 (L,): half of what a layer's codes span
    levels: int  # V

    def moved(self, off: Tensor) -> Tensor:
        """Levels (..., m, T, D) that codes of the m coarsest layers are off -> mm or degrees."""
        return off.abs() * self.level[: off.shape[-3]]

    def bound(self, off: Tensor) -> Tensor:
        """Levels (B, T, D, K) that codes are off -> (B, 2): mm and degrees by which all of them
        together move any step at most, along the axis that they move most."""
        moved = self.moved(off.permute(0, 3, 1, 2)).sum(dim=(1, 2))
        return torch.stack([moved[:, :3].amax(dim=1), moved[:, 3:6].amax(dim=1)], dim=1)

    def rest(self, codes: Tensor, layers: int) -> Rest:
        """What the layers behind codes (B, T, D, k) can still do, where `layers` of them are
        decoded."""
        behind = slice(codes.shape[-1], layers)
        mm, degrees = self.layer[behind].sum(dim=0).tolist()
        middle = (self.levels - 1) / 2
        one = float(middle * self.level[behind].amax(dim=(1, 2)).sum())
        values = (codes[..., self.gripper, :] / middle - 1) * self.latent[: codes.shape[-1]]
        reach = self.latent[behind].sum() + 1e-6  # whatever rounding a sum of them has seen
        settled = (values.sum(dim=-1).abs() > reach).flatten(1).all(dim=1)
        return Rest(mm, degrees, one, settled)


class RFSQ(nn.Module):
    """The tokeniser. Codes are int64 (..., T, D, L), layer 0 coarsest."""

    scales: Tensor  # float32 (L,)
    basis: Tensor  # float32 (T, T): cosines along the chunk, with `cosine` only

    def __init__(self, config: RFSQConfig) -> None:
        super().__init__()
        self.config = config
        ratio = config.overlap / (config.levels - 1) if config.scaled else 1.0
        self.register_buffer(
            "scales", torch.tensor([ratio**layer for layer in range(config.layers)])
        )
        self.encoder = _per_step(ACTION_DIM, config.hidden, config.latent_dim)
        self.decoder = _per_step(config.latent_dim, config.hidden, ACTION_DIM)
        if config.cosine:
            self.register_buffer("basis", _cosine_basis(config.steps))

    def latent(self, actions: Tensor) -> Tensor:
        """(..., T, 7) actions -> (..., T, D) latents in [-1, 1]."""
        if self.config.cosine:
            actions = _along_steps(self.basis / self.config.steps, actions).to(self.scales.dtype)
        return self.encoder(actions).clamp(-1.0, 1.0)

    def nearest(self, residual: Tensor, layer: int) -> Tensor:
        """Code of `layer` nearest to a residual of any shape."""
        half = (self.config.levels - 1) / 2
        level = torch.round(residual / self.scales[layer] * half + half)
        return level.clamp(0, self.config.levels - 1).to(torch.int64)

    def quantise(self, latent: Tensor) -> Tensor:
        """(..., T, D) latents -> (..., T, D, L) codes."""
        codes, _ = self.quantise_noisily(latent, None)
        return codes

    def quantise_noisily(self, latent: Tensor, shifts: Tensor | None) -> tuple[Tensor, Tensor]:
        """Codes with `shifts` (..., T, D, L; levels) added layer by layer, and the labels.

        The label of a layer is its nearest level given the shifted coarser ones: what a target has
        to say to repair them. Without shifts both are the plain codes.
        """
        residual = latent
        codes, labels = [], []
        for layer in range(self.config.layers):
            label = self.nearest(residual, layer)
            code = label
            if shifts is not None:
                code = (label + shifts[..., layer]).clamp(0, self.config.levels - 1)
            residual = residual - self._value(code, layer)
            codes.append(code)
            labels.append(label)
        return torch.stack(codes, dim=-1), torch.stack(labels, dim=-1)

    def _value(self, code: Tensor, layer: int | slice) -> Tensor:
        """Of codes of one layer, or of those of several along the last axis."""
        grid = 2.0 / (self.config.levels - 1)
        return (code.to(self.scales.dtype) * grid - 1.0) * self.scales[layer]

    def dequantise(self, codes: Tensor) -> Tensor:
        """(..., T, D, K) codes of the first K layers -> (..., T, D) latents, coarse to fine."""
        latent = torch.zeros(codes.shape[:-1], dtype=self.scales.dtype, device=codes.device)
        for value in self._value(codes, slice(codes.shape[-1])).unbind(dim=-1):
            latent = latent + value
        return latent

    def encode(self, actions: Tensor) -> Tensor:
        """(..., T, 7) actions -> (..., T, D, L) codes."""
        return self.quantise(self.latent(actions))

    def decode(self, codes: Tensor) -> Tensor:
        """(B, T, D, K) codes -> (B, T, 7) actions in [-1, 1]."""
        return self.actions(self.dequantise(codes))

    def actions(self, latents: Tensor) -> Tensor:
        """(B, T, D) latents -> float32 (B, T, 7) actions in [-1, 1]: the same bits in any batch, on
        any processor. With an encoder the GELU's own last bits, in double precision, may differ;
        they vanish in the rounding but for a chance of about 1e-8 a number."""
        actions = _by_terms(self.decoder, latents.double())
        if self.config.cosine:
            actions = _along_steps(self.basis.T, actions)
        return actions.clamp(-1.0, 1.0).float()

    def leeway(self) -> Leeway:
        """Raises UserError where no code is the gripper's alone."""
        if self.config.hidden:
            raise UserError(
                "this policy's tokeniser has an encoder, so that no token is the gripper's alone, "
                "and a lossy rule could turn it: choose exact or sampling, or train with a "
                "tokeniser of latent_dim 7 and hidden 0"
            )
        level = 2 * self.scales.double() / (self.config.levels - 1)
        unit = level.new_tensor([*MM_AND_DEGREES, 0.0])
        gain = unit.repeat(self.config.steps, 1)
        together = 1.0  # steps' codes that move one step, by how much of it each
        if self.config.cosine:
            basis = self.basis.double().abs()
            gain = gain * basis.amax(dim=1, keepdim=True)
            together = float(basis.sum(dim=0).max())
        latent = self.scales.double()
        return Leeway(
            level[:, None, None] * gain,
            unit == 0,
            layer=latent[:, None] * unit[[0, 3]] * together,
            latent=latent,
            levels=self.config.levels,
        )

    def reconstruct(self, actions: Tensor, layers: int) -> Tensor:
        """(B, T, 7) actions after a round trip through the first `layers` layers."""
        return self.decode(self.encode(actions)[..., :layers])

    def training_pass(self, actions: Tensor) -> Tensor:
        """(B, T, 7) reconstruction with straight-through gradients through the quantiser."""
        latent = self.latent(actions)
        quantised = self.dequantise(self.quantise(latent.detach()))
        decoded = self.decoder(latent + (quantised - latent).detach())
        if self.config.cosine:
            decoded = _along_steps(self.basis.T, decoded).float()
        return decoded.clamp(-1.0, 1.0)


def _cosine_basis(steps: int) -> Tensor:
    """(T, T): row k is the k-th cosine of the DCT-II, scaled so that basis @ basis.T = T I: then
    coefficients `basis @ a / T` of actions in [-1, 1] lie in [-1, 1], and the first is their mean.
    """
    step = torch.arange(steps, dtype=torch.float64)
    basis = torch.cos(torch.pi / steps * (step + 0.5) * step[:, None])
    basis[1:] *= 2**0.5
    return basis.float()


def _along_steps(matrix: Tensor, actions: Tensor) -> Tensor:
    """Transform the motion of (..., T, 7) along T; the gripper, which jumps, stays as it is.
    float64, whatever came in."""
    actions = actions.double()
    motion = _sum_of_terms(matrix.double(), actions[..., :-1].mT).mT
    return torch.cat([motion, actions[..., -1:]], dim=-1)


def _sum_of_terms(matrix: Tensor, x: Tensor) -> Tensor:
    """Matrix (outputs, inputs) times x (..., inputs), one input after the other."""
    total, *others = (matrix * x[..., None, :]).unbind(dim=-1)
    for term in others:
        total = total + term
    return total


def _by_terms(module: nn.Module, x: Tensor) -> Tensor:
    """What `_per_step` made, applied to float64 (..., inputs) without a matrix product."""
    if isinstance(module, nn.Sequential):
        for layer in module:
            x = _by_terms(layer, x)
        return x
    if isinstance(module, nn.Linear):
        return _sum_of_terms(module.weight.double(), x) + module.bias.double()
    return module(x)


def _per_step(inputs: int, hidden: int, outputs: int) -> nn.Module:
    if hidden == 0:
        return nn.Identity()
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))
