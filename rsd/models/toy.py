"""Policies for the toy simulator: for testing the cluster, never for results. Numpy only.

`toy`        walks to the target
`toy-nan`    the same, with NaN actions in odd trials
`toy-crash`  the same, with an exception in odd trials
`toy-hang`   the same, but every process hangs for good when it decodes for the 30th time
"""

from __future__ import annotations

import hashlib
import time
import zlib

import numpy as np

from rsd.arms import MODES
from rsd.envs.toy import SPEED
from rsd.models.seam import Family, PolicyInfo
from rsd.types import (
    ACTION_DIM,
    Chunk,
    ChunkRequest,
    DecodeTrace,
    Deliver,
    ImageSpec,
    Mode,
    Policy,
)

VARIANTS = ("toy", "toy-nan", "toy-crash", "toy-hang")
HANGS_AT = 30  # decodes of a process
CHUNK_STEPS = 8
LAYERS = 3
LATENTS = 2
IMAGES = ImageSpec(height=16, width=16)


class ToyPolicy:
    """Implements `types.Policy`. Every decoding gives the same codes; the traces differ as a real
    policy's would, and follow from what names the draws alone."""

    chunk_steps = CHUNK_STEPS
    images = IMAGES

    def __init__(self, variant: str = "toy") -> None:
        self.variant = variant
        self.checkpoint_sha256 = sha256(variant)
        self._decoded = 0

    def act(self, requests: list[ChunkRequest], deliver: Deliver | None = None) -> list[Chunk]:
        self._decoded += 1
        while self.variant == "toy-hang" and self._decoded >= HANGS_AT:
            time.sleep(1)
        chunks = [self._decode(request, len(requests)) for request in requests]
        for index, chunk in enumerate(chunks):
            if deliver is not None:
                deliver(index, chunk)
        return chunks

    def _decode(self, request: ChunkRequest, batch_size: int) -> Chunk:
        odd = request.observation.proprio[5] % 2 == 1  # the trial, which the toy's world shows
        if odd and self.variant == "toy-crash":
            raise RuntimeError("the toy policy has crashed")
        at = request.observation.proprio[0:2].astype(np.float64)
        target = request.observation.proprio[3:5].astype(np.float64)
        actions = np.zeros((CHUNK_STEPS, ACTION_DIM), np.float32)
        actions[:, -1] = -1.0
        for step in range(CHUNK_STEPS):
            move = np.clip((target - at) / SPEED, -1, 1)
            actions[step, :2] = move
            at = at + SPEED * move
        if odd and self.variant == "toy-nan":
            actions[-1, 0] = np.nan
        levels = np.round(np.nan_to_num(actions[:, :LATENTS]) * 3).astype(np.int64) + 3
        codes = np.repeat(levels[:, :, None], LAYERS, axis=2)
        return Chunk(actions, codes, _trace(request, batch_size))


def sha256(variant: str) -> str:
    """Stands in for the hash of a checkpoint file."""
    return hashlib.sha256(variant.encode()).hexdigest()


def _trace(request: ChunkRequest, batch_size: int) -> DecodeTrace:
    decoding = request.decoding
    layers = decoding.layers or LAYERS - MODES[decoding.mode].lacks
    drafted_layers = min(decoding.draft_layers or layers, layers)
    luck = zlib.crc32(request.draws.encode())
    passes = {
        "parallel": 1,
        "autoregressive": layers,
        "speculative": 1 + luck % layers,
        "draft": 0,
    }[decoding.mode]
    tokens = CHUNK_STEPS * LATENTS
    guesses = drafted_layers if decoding.mode == "speculative" else 0
    drafted = tuple(tokens if layer < guesses else 0 for layer in range(layers))
    accepted = tuple(max(0, count - (passes - 1)) for count in drafted)
    nothing = (0,) * layers
    return DecodeTrace(drafted, accepted, passes, layers, nothing, nothing, batch_size)


_MODES: tuple[Mode, ...] = ("speculative", "autoregressive", "parallel", "draft")


def _inspect(spec: str) -> PolicyInfo:
    return PolicyInfo(sha256(spec), _MODES, CHUNK_STEPS, LAYERS, IMAGES, lossy_rules=True)


def _load(spec: str, deterministic: bool, device: str) -> Policy:
    return ToyPolicy(spec)


FAMILY = Family(
    f"one that tests the cluster with the toy simulator ({', '.join(VARIANTS)})", _inspect, _load
)
