"""Sizes of an OpenVLA-OFT. No torch, so that a checkpoint can be checked where none is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field

from rsd.rfsq_config import RFSQConfig
from rsd.types import ACTION_DIM, PROPRIO_DIM

PATCH = 14  # pixels of a side, of both towers


@dataclass(frozen=True)
class TowerConfig:
    """A vision transformer of timm; sizes that are None are those of its name."""

    name: str
    width: int
    depth: int  # blocks; features are the output of the last but one
    hidden: int  # of the MLP
    prefix: int  # class and register tokens, which are cut off
    heads: int = 16


@dataclass(frozen=True)
class LlamaSizes:
    """The language model; the defaults are Llama-2-7B with OpenVLA's padded vocabulary."""

    width: int = 4096
    hidden: int = 11008
    depth: int = 32
    heads: int = 32
    vocabulary: int = 32064  # 32000 and 64 of padding
    padding: int = 64  # of the vocabulary; action bins count down from the rest
    epsilon: float = 1e-6  # of the norms, what OpenVLA's configuration leaves at its default


@dataclass(frozen=True)
class OFTDraftConfig:
    """The draft: about 4.7 M parameters at full size."""

    width: int = 176
    patch_width: int = 8  # what it reads of every image patch
    text_width: int = 64  # what it reads of the instruction


@dataclass(frozen=True)
class OFTConfig:
    """Sizes of a whole model; the defaults are those of the published checkpoints."""

    dinov2: TowerConfig = field(
        default_factory=lambda: TowerConfig(
            "vit_large_patch14_reg4_dinov2.lvd142m", 1024, 24, 4096, prefix=5
        )
    )
    siglip: TowerConfig = field(
        default_factory=lambda: TowerConfig(
            "vit_so400m_patch14_siglip_224", 1152, 27, 4304, prefix=0
        )
    )
    llama: LlamaSizes = field(default_factory=LlamaSizes)
    tokeniser: RFSQConfig = field(default_factory=RFSQConfig)
    draft: OFTDraftConfig = field(default_factory=OFTDraftConfig)
    image_size: int = 224  # pixels of a side
    images: int = 2  # third person, wrist
    step_width: int = 1024  # of what the RFSQ heads read of a step
    bins: int = 256  # of the discrete head

    def __post_init__(self) -> None:
        if self.tokeniser.layers < 2:
            raise ValueError(
                f"a policy of {self.tokeniser.layers} layer(s) has nothing to draft; give 2 or more"
            )
        if self.image_size % PATCH:
            raise ValueError(f"images of {self.image_size} pixels: give a multiple of {PATCH}")
        if self.llama.width % self.llama.heads:
            raise ValueError(
                f"width {self.llama.width} does not divide by {self.llama.heads} heads"
            )

    @property
    def patches(self) -> int:
        """Of all images."""
        return self.images * (self.image_size // PATCH) ** 2

    @property
    def placeholders(self) -> int:
        """Positions that the action heads read: one a number of the chunk."""
        return self.tokeniser.steps * ACTION_DIM

    @property
    def vision_width(self) -> int:
        """Of a patch: both towers' features."""
        return self.dinov2.width + self.siglip.width

    def context(self, prompt: int) -> int:
        """Positions of BOS, patches, proprioception, a prompt of so many tokens, placeholders and
        end of sequence."""
        return 1 + self.patches + 1 + prompt + self.placeholders + 1


def openvla_7b() -> OFTConfig:
    """The published sizes."""
    return OFTConfig()


def tiny() -> OFTConfig:
    """The same architecture at a few hundred thousand parameters, for tests."""
    return OFTConfig(
        dinov2=TowerConfig("vit_large_patch14_reg4_dinov2.lvd142m", 32, 3, 128, 5, heads=2),
        siglip=TowerConfig("vit_so400m_patch14_siglip_224", 48, 3, 96, 0, heads=3),
        llama=LlamaSizes(width=64, hidden=96, depth=3, heads=4, vocabulary=512),
        tokeniser=RFSQConfig(steps=4, latent_dim=3, layers=5, levels=5, hidden=16),
        draft=OFTDraftConfig(width=32, patch_width=4, text_width=8),
        image_size=28,
        step_width=48,
    )


SIZES = {"7b": openvla_7b, "tiny": tiny}

__all__ = ["ACTION_DIM", "PROPRIO_DIM", "SIZES", "OFTConfig", "openvla_7b", "tiny"]
