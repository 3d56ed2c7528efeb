"""Sizes of tokeniser and models: the part of a checkpoint's description that shapes its tensors.
No torch, so that a checkpoint can be checked where none is loaded."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from typing import Any

from rsd.types import ACTION_DIM


@dataclass(frozen=True)
class RFSQConfig:
    """Residual finite scalar quantisation (DESIGN 3). The defaults are the published settings; the
    bundled policy uses fewer (docs/decisions.md)."""

    steps: int = 8  # T, steps of a chunk
    latent_dim: int = 16  # D
    layers: int = 8  # L
    levels: int = 7  # V
    hidden: int = 64  # width of the per-step encoder and decoder; 0: the action is the latent
    overlap: float = 2.0  # reach of layer l+1 in half steps of layer l
    scaled: bool = True  # False: every layer spans [-1, 1] (`naive`, shows dead layers)
    cosine: bool = False  # motion as cosine coefficients over the chunk, gripper step by step

    def __post_init__(self) -> None:
        if self.hidden == 0 and self.latent_dim != ACTION_DIM:
            raise ValueError(f"without an encoder latent_dim is {ACTION_DIM}: {self.latent_dim}")
        if min(self.steps, self.latent_dim, self.layers) < 1 or self.levels < 2 or self.hidden < 0:
            raise ValueError(
                f"{self.steps} steps, {self.latent_dim} dimensions, {self.layers} layers, "
                f"{self.levels} levels, hidden {self.hidden}: give 1 or more (levels: 2, hidden: 0)"
            )
        if self.overlap < 1:
            raise ValueError(f"overlap {self.overlap} < 1 leaves gaps between layers")


@dataclass(frozen=True)
class TransformerConfig:
    """Size of a code transformer."""

    width: int
    depth: int
    heads: int
    expansion: int = 3  # hidden width of the MLP over width
    positions: int = 1  # of a block: each holds T / positions steps; must divide T

    def __post_init__(self) -> None:
        sizes = dataclasses.asdict(self)
        if min(sizes.values()) < 1:
            raise ValueError(f"a transformer of sizes {sizes}: give 1 or more each")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")


@dataclass(frozen=True)
class DraftConfig:
    """Size of the draft."""

    width: int = 160
    token_width: int = 24  # what it reads of every image and text token


@dataclass(frozen=True)
class SmallVLAConfig:
    """Sizes of SmallVLA; the defaults are those of the bundled policy."""

    tokeniser: RFSQConfig = field(
        default_factory=lambda: RFSQConfig(
            latent_dim=ACTION_DIM, layers=6, hidden=0, overlap=3.0, cosine=True
        )
    )
    target: TransformerConfig = field(default_factory=lambda: TransformerConfig(192, 8, 4))
    draft: DraftConfig = field(default_factory=DraftConfig)
    channels: tuple[int, ...] = (32, 64, 128)  # of the image tower's first convolutions
    keypoints: int = 32  # spatial-softmax points per camera
    word_buckets: int = 512  # words are hashed: any instruction can be read
    text_tokens: int = 2
    regression: bool = True  # a head that says actions as numbers, for comparison

    def __post_init__(self) -> None:
        if self.tokeniser.layers < 2:
            raise ValueError(
                f"a policy of {self.tokeniser.layers} layer(s) has nothing to draft; give 2 or "
                "more, and decode fewer with @K"
            )
        if self.tokeniser.steps % self.target.positions:
            raise ValueError(
                f"{self.target.positions} positions do not divide the {self.tokeniser.steps} steps "
                "of a chunk"
            )
        widths = self.channels
        if len(widths) != 3 or min(widths) < 1 or widths[0] % 4 or widths[1] % 8 or widths[2] % 8:
            raise ValueError(
                f"channels {widths}: give three widths, the first a multiple of 4 and the others "
                "of 8, like 32 64 128"
            )
        for name in ("keypoints", "word_buckets", "text_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: give 1 or more")


def from_json(kind: type, content: dict[str, Any]) -> Any:
    """Rebuild a (nested) config dataclass from `dataclasses.asdict` after a trip through JSON.

    Raises ValueError for fields that are missing or that the class does not have.
    """
    hints = typing.get_type_hints(kind)
    names = {entry.name for entry in dataclasses.fields(kind)}
    if set(content) != names:
        difference = ", ".join(sorted(set(content) ^ names))
        raise ValueError(f"{kind.__name__} has other fields than the file: {difference}")
    values = {}
    for name, value in content.items():
        if dataclasses.is_dataclass(hints[name]):
            values[name] = from_json(typing.cast(type, hints[name]), value)
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
