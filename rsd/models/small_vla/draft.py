"""The draft of SmallVLA: it guesses from what exists before the target's backbone runs (DESIGN 5).

The context is one vector; rsd/models/code_layers.py has what is made of it. A transformer in its
place cost as much as the passes it saved (docs/decisions.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsd.models.code_layers import CodeDraft, CodeEmbedding
from rsd.models.small_vla.architecture import SmallVLAConfig
from rsd.rfsq_config import RFSQConfig
from rsd.types import PROPRIO_DIM


class DraftContext(nn.Module):
    """Everything the draft reads, as one vector: a little of every image and text token,
    proprioception, the chunk before."""

    def __init__(self, config: SmallVLAConfig, tokens: int) -> None:
        super().__init__()
        tokeniser, width, token_width = (
            config.tokeniser,
            config.draft.width,
            config.draft.token_width,
        )
        previous = tokeniser.steps * tokeniser.latent_dim
        inputs = tokens * token_width + PROPRIO_DIM + previous + 1
        self.reduce = nn.Linear(config.target.width, token_width)
        self.mix = nn.Sequential(
            nn.Linear(inputs, 2 * width), nn.GELU(approximate="tanh"), nn.Linear(2 * width, width)
        )

    def forward(
        self, image: Tensor, text: Tensor, proprio: Tensor, previous: Tensor, has_previous: Tensor
    ) -> Tensor:
        """Tokens (B, S, W), (B, S', W), normalised proprio (B, 8), latents of the chunk before
        (B, T, D) where bool (B,) -> (B, W')."""
        tokens = self.reduce(torch.cat([image, text], dim=1)).flatten(1)
        known = has_previous[:, None].to(tokens.dtype)
        return self.mix(torch.cat([tokens, proprio, previous.flatten(1) * known, known], dim=1))


class Draft(CodeDraft):
    """The draft's layers, with SmallVLA's embedding of codes."""

    def __init__(self, tokeniser: RFSQConfig, width: int) -> None:
        tokens = tokeniser.steps * tokeniser.latent_dim
        embedding = CodeEmbedding(tokens, tokeniser.layers - 2, tokeniser.levels, width)
        super().__init__(tokeniser, width, embedding)
