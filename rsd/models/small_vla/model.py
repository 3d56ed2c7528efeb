"""SmallVLA: a vision-language-action model of a few million parameters that runs on a CPU.

Two cameras, the instruction's words and proprioception become context positions; a block-causal
transformer predicts residual action codes over them (DESIGN 4). The draft reads the same towers, so
everything it needs exists before the target's backbone runs (DESIGN 5).
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rsd.models.small_vla.architecture import CAMERAS, MAX_WORDS, TEXT_HEADS, SmallVLAConfig
from rsd.models.small_vla.draft import Draft, DraftContext
from rsd.models.small_vla.transformer import CodeTransformer
from rsd.rfsq import RFSQ
from rsd.types import PROPRIO_DIM

PADDING_WORD = 0


class Features(NamedTuple):
    """What exists before any backbone runs."""

    image: Tensor  # (B, cameras (cells + 1), W): a grid of cells and one keypoint token a camera
    text: Tensor  # (B, text_tokens, W)
    proprio: Tensor  # (B, 8), normalised


def word_ids(instruction: str, buckets: int) -> list[int]:
    """MAX_WORDS hashed word ids in 1..buckets - 1, padded with 0. Words are lower-cased."""
    words = instruction.lower().split()[:MAX_WORDS]
    ids = [1 + zlib.crc32(word.encode()) % (buckets - 1) for word in words]
    return ids + [PADDING_WORD] * (MAX_WORDS - len(ids))


class ImageTower(nn.Module):
    """One camera: uint8 images -> a grid of cells and one token of spatial-softmax keypoints
    (Levine et al. 2016), which keeps positions finer than a cell."""

    def __init__(self, config: SmallVLAConfig) -> None:
        super().__init__()
        first, second, third = config.channels
        width = config.target.width
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 6, stride=3, padding=2),
            nn.GroupNorm(4, first),
            nn.GELU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1),
            nn.GroupNorm(8, second),
            nn.GELU(),
            nn.Conv2d(second, second, 3, padding=1),
            nn.GroupNorm(8, second),
            nn.GELU(),
        )
        self.grid = nn.Sequential(
            nn.Conv2d(second, third, 3, stride=2, padding=1),
            nn.GroupNorm(8, third),
            nn.GELU(),
            nn.Conv2d(third, width, 3, stride=2, padding=1),
        )
        self.points = nn.Conv2d(second, config.keypoints, 1)
        self.point_token = nn.Linear(2 * config.keypoints, width)

    def forward(self, image: Tensor) -> Tensor:
        """float (B, 3, H, W) in [-1, 1] -> (B, cells + 1, width)."""
        features = self.stem(image)
        cells = self.grid(features).flatten(2).transpose(1, 2)
        return torch.cat([cells, self.point_token(self._keypoints(features))[:, None]], dim=1)

    def _keypoints(self, features: Tensor) -> Tensor:
        """Expected (x, y) in [-1, 1] of each softmax map: (B, 2 keypoints)."""
        maps = self.points(features)
        height, width = maps.shape[-2:]
        weights = maps.flatten(2).softmax(dim=-1)
        ys = torch.linspace(-1, 1, height, device=maps.device, dtype=weights.dtype)
        xs = torch.linspace(-1, 1, width, device=maps.device, dtype=weights.dtype)
        grid = torch.stack(torch.meshgrid(ys, xs, indexing="ij"), dim=-1).flatten(0, 1)
        return (weights @ grid).flatten(1)


class TextEncoder(nn.Module):
    """Hashed words -> a few tokens, by attention of learned queries over the words."""

    def __init__(self, config: SmallVLAConfig) -> None:
        super().__init__()
        width = config.target.width
        self.words = nn.Embedding(config.word_buckets, width, padding_idx=PADDING_WORD)
        self.position = nn.Parameter(0.02 * torch.randn(MAX_WORDS, width))
        self.mix = nn.TransformerEncoderLayer(
            width, TEXT_HEADS, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.queries = nn.Parameter(0.02 * torch.randn(config.text_tokens, width))
        self.attention = nn.MultiheadAttention(width, TEXT_HEADS, batch_first=True)

    def forward(self, words: Tensor) -> Tensor:
        """int64 (B, MAX_WORDS) -> (B, text_tokens, W)."""
        padding = words == PADDING_WORD
        hidden = self.mix(self.words(words) + self.position, src_key_padding_mask=padding)
        queries = self.queries.expand(len(words), -1, -1)
        return self.attention(queries, hidden, hidden, padding, need_weights=False)[0]


class TargetContext(nn.Module):
    """Context positions of the target: image cells, keypoints, text, proprioception."""

    def __init__(self, config: SmallVLAConfig, image_positions: int) -> None:
        super().__init__()
        width = config.target.width
        self.proprio = _two_layers(PROPRIO_DIM, width)
        self.position = nn.Parameter(
            0.02 * torch.randn(image_positions + config.text_tokens + 1, width)
        )

    def forward(self, features: Features) -> Tensor:
        """(B, S, W)."""
        proprio = self.proprio(features.proprio)[:, None]
        return torch.cat([features.image, features.text, proprio], dim=1) + self.position


class SmallVLA(nn.Module):
    """Tokeniser, towers, target, draft and the parallel heads of one checkpoint."""

    cameras = CAMERAS
    proprio_mean: Tensor  # float32 (8,)
    proprio_scale: Tensor  # float32 (8,)

    def __init__(self, config: SmallVLAConfig, image_size: int) -> None:
        super().__init__()
        tokeniser = config.tokeniser
        sizes = (tokeniser.steps, tokeniser.latent_dim, tokeniser.layers, tokeniser.levels)
        self.config, self.image_size = config, image_size
        self.tokeniser = RFSQ(tokeniser)
        self.towers = nn.ModuleList(ImageTower(config) for _ in range(self.cameras))
        self.text = TextEncoder(config)
        self.register_buffer("proprio_mean", torch.zeros(PROPRIO_DIM))
        self.register_buffer("proprio_scale", torch.ones(PROPRIO_DIM))
        with torch.no_grad():
            cells = self.towers[0](torch.zeros(1, 3, image_size, image_size)).shape[1]
        self.target_context = TargetContext(config, self.cameras * cells)
        self.target = CodeTransformer(config.target, *sizes)
        self.parallel_heads = nn.Linear(
            config.target.width,
            tokeniser.layers * tokeniser.latent_dim * tokeniser.levels * self.target.group,
        )
        if config.regression:
            self.regression_head = nn.Linear(
                config.target.width, self.target.group * tokeniser.latent_dim
            )
        self.draft_reader = DraftContext(config, self.cameras * cells + config.text_tokens)
        self.draft = Draft(tokeniser, config.draft.width)

    def features(self, images: Tensor, words: Tensor, proprio: Tensor) -> Features:
        """uint8 (B, cameras, H, W, 3), int64 (B, MAX_WORDS), float32 (B, 8) -> Features."""
        return Features(self.vision(images), self.text(words), self.normalise(proprio))

    def vision(self, images: Tensor) -> Tensor:
        """uint8 (B, cameras, H, W, 3) -> (B, cameras (cells + 1), W)."""
        scaled = images.permute(0, 1, 4, 2, 3).to(self.proprio_mean.dtype) / 127.5 - 1.0
        return torch.cat([tower(scaled[:, i]) for i, tower in enumerate(self.towers)], dim=1)

    def normalise(self, proprio: Tensor) -> Tensor:
        """float32 (B, 8), PROTOCOL 8 -> zero mean and unit scale over the demonstrations."""
        return (proprio - self.proprio_mean) / self.proprio_scale

    def draft_context(self, features: Features, previous: Tensor, has_previous: Tensor) -> Tensor:
        """previous int64 (B, T, D, L) codes of the chunk before, bool (B,) -> (B, W')."""
        latents = self.tokeniser.dequantise(previous)
        return self.draft_reader(
            features.image, features.text, features.proprio, latents, has_previous
        )

    def parallel_logits(self, context: Tensor) -> Tensor:
        """Context (B, S, W) -> logits (B, L, T, D, V) of independent heads."""
        return self.independent_heads(self._first_block(context))

    def regress(self, context: Tensor) -> Tensor:
        """Context (B, S, W) -> latents (B, T, D) of the regression head."""
        return self.regressed(self._first_block(context))

    def _first_block(self, context: Tensor) -> Tensor:
        """Block 0's output (B, P, W): what the trunk knows before any code."""
        no_codes = torch.zeros(
            len(context), self.target.steps, self.target.latent_dim, 0, dtype=torch.int64
        ).to(context.device)
        _, hidden = self.target(context, no_codes)
        return hidden

    def independent_heads(self, hidden: Tensor) -> Tensor:
        """Block 0's output (B, P, W) -> logits (B, L, T, D, V)."""
        target = self.target
        logits = self.parallel_heads(hidden).unflatten(-1, (target.layers, -1)).transpose(1, 2)
        shape = (len(hidden), target.layers, target.steps, target.latent_dim, target.levels)
        return logits.reshape(shape)

    def regressed(self, hidden: Tensor) -> Tensor:
        """Block 0's output (B, P, W) -> latents (B, T, D)."""
        latents: Tensor = self.regression_head(hidden)
        return latents.reshape(len(hidden), self.target.steps, self.target.latent_dim)


def _two_layers(inputs: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))
