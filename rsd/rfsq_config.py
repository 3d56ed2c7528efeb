"""Sizes of the tokeniser. No torch, so that a checkpoint can be checked where none is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rsd.errors import brief
from rsd.types import ACTION_DIM

MAX_LEVELS = 256  # of a code, which records hold in a byte


@dataclass(frozen=True)
class RFSQConfig:
    """Residual finite scalar quantisation (DESIGN 3). The defaults are the published settings; the
    bundled policy uses fewer (docs/decisions.md)."""

    steps: int = 8  # T, steps of a chunk
    latent_dim: int = 16  # D
    layers: int = 8  # L
    levels: int = 7  # V
    hidden: int = 64  # width of the per-step encoder and decoder; 0: the action is the latent
    overlap: float = 2.0  # reach of layer l+1 in half steps of layer l
    scaled: bool = True  # False: every layer spans [-1, 1] (`naive`, shows dead layers)
    cosine: bool = False  # motion as cosine coefficients over the chunk, gripper step by step

    def __post_init__(self) -> None:
        if self.hidden == 0 and self.latent_dim != ACTION_DIM:
            raise ValueError(f"without an encoder latent_dim is {ACTION_DIM}: {self.latent_dim}")
        if self.levels > MAX_LEVELS:
            raise ValueError(f"{brief(self.levels)} levels: at most {MAX_LEVELS} (a byte a code)")
        if min(self.steps, self.latent_dim, self.layers) < 1 or self.levels < 2 or self.hidden < 0:
            raise ValueError(
                f"{self.steps} steps, {self.latent_dim} dimensions, {self.layers} layers, "
                f"{self.levels} levels, hidden {self.hidden}: give 1 or more (levels: 2, hidden: 0)"
            )
        if not 1 <= self.overlap < math.inf:
            raise ValueError(f"overlap {self.overlap} < 1 leaves gaps between layers")
        try:
            (self.overlap / (self.levels - 1)) ** self.layers
        except OverflowError:
            raise ValueError(
                f"overlap {self.overlap:g} with {brief(self.levels)} levels and "
                f"{brief(self.layers)} layers: the scales leave what numbers hold"
            ) from None
