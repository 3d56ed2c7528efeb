"""What draft and target both say along a rollout, whoever of them acts (`rsd calibrate`)."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from rsd.calibration import FEATURES, Observed
from rsd.decoding.confidence import features_of
from rsd.decoding.modes import drafted
from rsd.models.code_policy import CodePolicy
from rsd.types import METRES_PER_UNIT, RADIANS_PER_UNIT, Chunk, ChunkRequest, Decoding


class Witness:
    """Decides as it is asked, and notes every chunk."""

    def __init__(self, policy: CodePolicy) -> None:
        self._policy = policy
        self._features: list[np.ndarray] = []
        self._apart: list[np.ndarray] = []  # float32 (T, 7), in units of actions

    @torch.inference_mode()
    def decide(self, request: ChunkRequest) -> Chunk:
        said = [self._say(request, Decoding(mode)) for mode in ("draft", "autoregressive")]
        seen = drafted(self._policy.model, [request])
        self._features.append(features_of(tuple(FEATURES), seen)[0].cpu().numpy())
        self._apart.append(np.abs(said[0].actions - said[1].actions))
        return self._say(request, request.decoding)

    def _say(self, request: ChunkRequest, decoding: Decoding) -> Chunk:
        (chunk,) = self._policy.act([dataclasses.replace(request, decoding=decoding)])
        return chunk

    def observed(self) -> Observed:
        """All chunks until now."""
        apart = np.stack(self._apart).astype(np.float64)
        return Observed(
            features=np.stack(self._features),
            apart_mm=1000 * METRES_PER_UNIT * apart[..., :3].max(axis=(1, 2)),
            apart_degrees=np.degrees(RADIANS_PER_UNIT * apart[..., 3:6].max(axis=(1, 2))),
            gripper=(apart[..., 6] == 0).all(axis=1),
            placement=np.zeros(len(apart), np.int64),
        )
