"""What draft and target both say along a rollout, whoever of them acts (`rsd calibrate`)."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from rsd.calibration import Observed
from rsd.decoding.confidence import Drafted, all_features
from rsd.decoding.trust import decide
from rsd.models.code_policy import CodePolicy
from rsd.types import METRES_PER_UNIT, RADIANS_PER_UNIT, Chunk, ChunkRequest, Decoding, Trust

DRAFT = Decoding("temporal", trust=Trust("random=1"))  # the mode draft, which tells what it saw
TARGET = Decoding("autoregressive")


class Witness:
    """Decides as an arm `temporal-random=N` of all layers does, and notes every chunk. Draft and
    target are asked once each."""

    def __init__(self, policy: CodePolicy) -> None:
        self._policy = policy
        self._names: tuple[str, ...] = ()
        self._features: list[np.ndarray] = []
        self._apart: list[np.ndarray] = []  # float32 (T, 7), in units of actions

    @torch.inference_mode()
    def decide(self, request: ChunkRequest) -> Chunk:
        trust, heard = request.decoding.trust, list[Drafted]()
        assert trust is not None, "who acts is a matter of trust"
        asked = [dataclasses.replace(request, decoding=decoding) for decoding in (DRAFT, TARGET)]
        draft, target = (self._policy.act([each], hear=heard.append)[0] for each in asked)
        drafted = heard[-1]  # as it was settled
        self._names, features = all_features(drafted)
        self._features.append(features[0].cpu().numpy())
        self._apart.append(np.abs(draft.actions - target.actions))
        return draft if decide(trust, drafted, [request]).fast[0] else target

    def observed(self) -> Observed:
        """All chunks until now."""
        apart = np.stack(self._apart).astype(np.float64)
        return Observed(
            self._names,
            features=np.stack(self._features),
            apart_mm=1000 * METRES_PER_UNIT * apart[..., :3].max(axis=(1, 2)),
            apart_degrees=np.degrees(RADIANS_PER_UNIT * apart[..., 3:6].max(axis=(1, 2))),
            gripper=(apart[..., 6] == 0).all(axis=1),
            placement=np.zeros(len(apart), np.int64),
        )
