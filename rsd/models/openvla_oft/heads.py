"""Action heads: numbers (the published L1 head), bins (published), residual codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsd.models.code_layers import CodeEmbedding, LayerHeads
from rsd.models.openvla_oft.config import ACTION_DIM, OFTConfig


class ResidualBlock(nn.Module):
    """`MLPResNetBlock` of the published head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(..., width)."""
        return x + self.ffn(x)


class L1Head(nn.Module):
    """`MLPResNet` of the published head (prismatic/models/action_heads.py 38-107): 151 M
    parameters at full size. Parameters are named as in `action_head--*`, below `model.`."""

    def __init__(self, width: int, blocks: int = 2) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(ACTION_DIM * width)
        self.fc1 = nn.Linear(ACTION_DIM * width, width)
        self.mlp_resnet_blocks = nn.ModuleList(ResidualBlock(width) for _ in range(blocks))
        self.layer_norm2 = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, ACTION_DIM)

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states of the placeholders (B, 7 T, W) -> actions (B, T, 7), normalised."""
        x = self.layer_norm1(by_step(hidden))
        x = F.relu(self.fc1(x))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        return self.fc2(self.layer_norm2(x))


def by_step(hidden: Tensor) -> Tensor:
    """(B, 7 T, W) -> (B, T, 7 W)."""
    return hidden.reshape(len(hidden), -1, ACTION_DIM * hidden.shape[2])


def bin_centres(bins: int) -> Tensor:
    """float32 (bins - 1,): centres of the intervals that `bins` points in [-1, 1] leave."""
    edges = torch.linspace(-1.0, 1.0, bins, dtype=torch.float64)
    return ((edges[:-1] + edges[1:]) / 2).float()


def actions_of_bins(logits: Tensor, centres: Tensor, padding: int) -> Tensor:
    """Logits over the vocabulary (B, 7 T, vocabulary) -> actions (B, T, 7), normalised
    (modeling_prismatic.py 937-939): bins count down from the end of the unpadded vocabulary."""
    index = logits.shape[-1] - padding - logits.argmax(dim=-1)
    actions = centres[(index - 1).clamp(0, len(centres) - 1)]
    return actions.reshape(len(logits), -1, ACTION_DIM)


class SummedEmbedding(CodeEmbedding):
    """Looks rows up and adds them: in bfloat16, in graphs and backwards alike."""

    def forward(self, codes: Tensor, first: int) -> Tensor:
        rows = codes + self.offsets[first : first + codes.shape[1], None]
        return F.embedding(rows, self.weight).sum(dim=-2)


class CodeHeads(nn.Module):
    """Residual codes from hidden states: layer 0 and the parallel heads from the placeholders,
    layer l >= 1 from block l; and what the blocks are made of."""

    def __init__(self, config: OFTConfig) -> None:
        super().__init__()
        codes, width = config.tokeniser, config.llama.width
        self.steps, self.latent_dim = codes.steps, codes.latent_dim
        self.layers, self.levels = codes.layers, codes.levels
        token = self.latent_dim * self.levels
        self.norm = nn.LayerNorm(ACTION_DIM * width)
        self.reader = nn.Linear(ACTION_DIM * width, config.step_width)
        self.first = nn.Linear(config.step_width, token)
        self.parallel = nn.Linear(config.step_width, self.layers * token)
        self.rest = LayerHeads(self.layers - 1, width, token)
        self.embedding = SummedEmbedding(self.latent_dim, self.layers - 1, self.levels, width)
        self.block_embedding = nn.Parameter(0.02 * torch.randn(self.layers - 1, self.steps, width))

    def steps_of(self, hidden: Tensor) -> Tensor:
        """Hidden states of the placeholders (B, 7 T, W) -> (B, T, step width)."""
        return F.gelu(self.reader(self.norm(by_step(hidden))))

    def layer_0(self, hidden: Tensor) -> Tensor:
        """Hidden states of the placeholders -> logits (B, 1, T, D, V)."""
        logits = self.first(self.steps_of(hidden))
        return logits.reshape(len(hidden), 1, self.steps, self.latent_dim, self.levels)

    def all_at_once(self, hidden: Tensor) -> Tensor:
        """Hidden states of the placeholders -> logits (B, L, T, D, V)."""
        logits = self.parallel(self.steps_of(hidden)).unflatten(-1, (self.layers, -1))
        shape = (len(hidden), self.layers, self.steps, self.latent_dim, self.levels)
        return logits.transpose(1, 2).reshape(shape)

    def blocks(self, codes: Tensor, first: int) -> Tensor:
        """Codes (B, T, D, n) of layers first - 1.. -> inputs (B, n T, W) of blocks first.."""
        count = codes.shape[-1]
        embedded = self.embedding(codes.permute(0, 3, 1, 2), first - 1)
        embedded = embedded + self.block_embedding[first - 1 : first - 1 + count]
        return embedded.flatten(1, 2)

    def of_blocks(self, hidden: Tensor, first: int) -> Tensor:
        """Hidden states (B, n T, W) of blocks first.. -> logits (B, n, T, D, V)."""
        batch, count = len(hidden), hidden.shape[1] // self.steps
        by_layer = hidden.reshape(batch, count, self.steps, -1).transpose(0, 1).flatten(1, 2)
        logits = self.rest(by_layer, first - 1).unflatten(1, (batch, self.steps))
        shape = (batch, count, self.steps, self.latent_dim, self.levels)
        return logits.transpose(0, 1).reshape(shape)
