"""The draft: guesses codes from what exists before the backbone runs (DESIGN 5).

A little of every patch's tower features, the mean embedding of the instruction, proprioception and
the chunk before become one vector; rsd/models/code_layers.py has what is made of it. About 4.7 M
parameters at full size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsd.models.code_layers import CodeDraft
from rsd.models.openvla_oft.config import PROPRIO_DIM, OFTConfig
from rsd.models.openvla_oft.heads import SummedEmbedding


class OFTDraft(CodeDraft):
    """The draft's layers, and what it reads."""

    def __init__(self, config: OFTConfig) -> None:
        codes, sizes = config.tokeniser, config.draft
        tokens, width = codes.steps * codes.latent_dim, sizes.width
        super().__init__(
            codes, width, SummedEmbedding(tokens, codes.layers - 2, codes.levels, width)
        )
        inputs = config.patches * sizes.patch_width + sizes.text_width + PROPRIO_DIM + tokens + 1
        self.patch = nn.Linear(config.vision_width, sizes.patch_width)
        self.text = nn.Linear(config.llama.width, sizes.text_width)
        self.mix = nn.Sequential(
            nn.Linear(inputs, 2 * width), nn.GELU(approximate="tanh"), nn.Linear(2 * width, width)
        )

    def context(
        self, patches: Tensor, text: Tensor, proprio: Tensor, previous: Tensor, known: Tensor
    ) -> Tensor:
        """Tower features (B, S, F), the instruction's mean embedding (B, W), normalised
        proprioception (B, 8), latents of the chunk before (B, T, D) where bool (B,) -> (B, W')."""
        seen = known[:, None].to(patches.dtype)
        parts = [
            self.patch(patches).flatten(1),
            self.text(text),
            proprio,
            previous.to(patches.dtype).flatten(1) * seen,
            seen,
        ]
        return self.mix(torch.cat(parts, dim=1))
