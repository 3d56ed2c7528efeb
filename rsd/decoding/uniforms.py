"""Uniform random numbers named by what they decide, so that draws never depend on the batch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class Purpose(IntEnum):
    """What a draw decides; part of its name."""

    PROPOSE = 0  # which token the draft (or a redraft) guesses
    ACCEPT = 1  # whether a guess is kept
    CHOOSE = 2  # which token the target takes where nothing was kept or guessed
    TRUST = 3  # whether a drafted chunk is executed unjudged


@dataclass(frozen=True)
class Uniforms:
    """Uniforms in [0, 1) for a batch; row i is named by `names[i]` alone."""

    names: tuple[str, ...]  # of every row: `rsd.types.draws_of`
    device: torch.device | str = "cpu"

    def draw(self, purpose: Purpose, layer: int, round_: int, shape: tuple[int, ...]) -> Tensor:
        """float64 (B, *shape) for one decision about `layer` in pass `round_`."""
        rows = [self._row(name, purpose, layer, round_, shape) for name in self.names]
        return torch.from_numpy(np.stack(rows)).to(self.device)

    def _row(
        self,
        name: str,
        purpose: Purpose,
        layer: int,
        round_: int,
        shape: tuple[int, ...],
    ) -> np.ndarray:
        digest = hashlib.sha256(repr((name, int(purpose), layer, round_)).encode()).digest()
        key = np.frombuffer(digest[:16], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key)).random(shape)

    def rows(self, kept: list[int]) -> Uniforms:
        """The uniforms of some rows."""
        return Uniforms(tuple(self.names[row] for row in kept), self.device)
