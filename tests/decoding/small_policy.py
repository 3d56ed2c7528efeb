"""A small untrained policy and made-up observations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rsd.models.code_policy import CodePolicy
from rsd.models.small_vla import weights
from rsd.models.small_vla.architecture import DraftConfig, SmallVLAConfig, TransformerConfig
from rsd.models.small_vla.model import SmallVLA
from rsd.rfsq_config import RFSQConfig
from rsd.types import ChunkRequest, Decoding, EpisodeKey, ImageSpec, Observation, Past, draws_of

IMAGES = ImageSpec(48, 48, 0, False)
CONFIG = SmallVLAConfig(
    tokeniser=RFSQConfig(latent_dim=7, layers=4, hidden=0, overlap=3.0, cosine=True),
    target=TransformerConfig(32, 2, 2),
    draft=DraftConfig(32, 8),
    channels=(8, 16, 16),
    keypoints=4,
    word_buckets=64,
)


def untrained_model(seed: int = 0) -> SmallVLA:
    """As training starts with it."""
    torch.manual_seed(seed)
    return SmallVLA(CONFIG, IMAGES.height)


def small_model(seed: int = 0) -> SmallVLA:
    """Random weights; code embeddings enlarged so that finer layers depend on coarser codes."""
    model = untrained_model(seed)
    with torch.no_grad():
        model.target.code_embedding.weight.mul_(20)
        model.target.heads.weight.mul_(10)
    return model


def small_checkpoint(path: Path, seed: int = 0) -> Path:
    weights.save(small_model(seed), path, IMAGES, {"data": "none"})
    return path


def policy_of_a_tied_draft() -> CodePolicy:
    """Of a draft whose levels are tied in single precision, 5 ahead of all in double precision."""
    model = small_model()
    with torch.no_grad():
        model.draft.heads.weight.zero_()
        model.draft.heads.bias.fill_(1.0)
    policy = weights.policy_of(model, IMAGES, "none")
    bias = policy.precise.model.draft.heads.bias.data
    bias[..., 5 :: CONFIG.tokeniser.levels] += 1e-9
    return policy


def requests(count: int, decoding: Decoding, seed: int = 0) -> list[ChunkRequest]:
    rng = np.random.default_rng(seed)
    size = (IMAGES.height, IMAGES.width, 3)
    return [
        ChunkRequest(
            Observation(
                rng.integers(0, 256, size, dtype=np.uint8),
                rng.integers(0, 256, size, dtype=np.uint8),
                rng.normal(size=8).astype(np.float32),
                f"pick up the bowl number {index}",
            ),
            decoding,
            draws_of(EpisodeKey("arm", "suite", index, 0), 1),
            chunk_index=1,
            past=Past(rng.integers(0, 7, (8, 7, 4)) if index % 2 else None),
        )
        for index in range(count)
    ]
