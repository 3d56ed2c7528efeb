"""Sizes of SmallVLA: the part of a checkpoint's description that shapes its tensors. No torch, so
that a checkpoint can be checked where none is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rsd.errors import brief
from rsd.rfsq_config import RFSQConfig
from rsd.types import ACTION_DIM, PROPRIO_DIM, ImageSpec

CAMERAS = 2
MAX_WORDS = 24  # of an instruction that are read
TEXT_HEADS = 4  # of the text encoder's attention


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

    def __post_init__(self) -> None:
        if min(self.width, self.token_width) < 1:
            raise ValueError(
                f"a draft of width {self.width} and token width {self.token_width}: give 1 or more"
            )


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
        for name, least in (("keypoints", 1), ("word_buckets", 2), ("text_tokens", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)}: give {least} or more")
        if self.target.width % TEXT_HEADS:
            raise ValueError(
                f"width {self.target.width} is not a multiple of the {TEXT_HEADS} heads that read "
                "the instruction"
            )


SMALLEST_IMAGE, LARGEST_IMAGE, MOST_SAMPLES = 8, 2048, 64


def check_images(images: ImageSpec) -> None:
    """Raises ValueError for frames that no renderer draws or SmallVLA does not read."""
    for name in ("height", "width"):
        size = getattr(images, name)
        if not SMALLEST_IMAGE <= size <= LARGEST_IMAGE:
            raise ValueError(
                f"images of {brief(images.height)} x {brief(images.width)} pixels: {name} is "
                f"{SMALLEST_IMAGE} to {LARGEST_IMAGE}"
            )
    if images.height != images.width:
        raise ValueError(f"images of {images.height} x {images.width} pixels: it reads square ones")
    if not 0 <= images.samples <= MOST_SAMPLES:
        raise ValueError(f"{brief(images.samples)} samples of a pixel: give 0 to {MOST_SAMPLES}")


def tensors(config: SmallVLAConfig, images: ImageSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors of a SmallVLA (model.py; the tests compare),
    one at a time: sizes out of a file may ask for more than fits anywhere."""
    tokeniser, target, draft = config.tokeniser, config.target, config.draft
    steps, dims, layers, levels = (
        *(tokeniser.steps, tokeniser.latent_dim),
        *(tokeniser.layers, tokeniser.levels),
    )
    width, group = target.width, steps // target.positions
    first, second, third = config.channels
    cells = _cells(images.height) ** 2 + 1

    def affine(name: str, outputs: int, *inputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", (outputs, *inputs)
        yield f"{name}.bias", (outputs,)

    def attention(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.in_proj_weight", (3 * width, width)
        yield f"{name}.in_proj_bias", (3 * width,)
        yield from affine(f"{name}.out_proj", width, width)

    def heads(name: str, count: int, inputs: int, outputs: int) -> Iterator[Any]:
        yield f"{name}.weight", (count, inputs, outputs)
        yield f"{name}.bias", (count, 1, outputs)

    yield "tokeniser.scales", (layers,)
    if tokeniser.hidden:
        for name, ins, outs in (("encoder", ACTION_DIM, dims), ("decoder", dims, ACTION_DIM)):
            yield from affine(f"tokeniser.{name}.0", tokeniser.hidden, ins)
            yield from affine(f"tokeniser.{name}.2", outs, tokeniser.hidden)
    if tokeniser.cosine:
        yield "tokeniser.basis", (steps, steps)
    for camera in range(CAMERAS):
        tower = f"towers.{camera}"
        yield from affine(f"{tower}.stem.0", first, 3, 6, 6)
        yield from affine(f"{tower}.stem.1", first)
        yield from affine(f"{tower}.stem.3", second, first, 3, 3)
        yield from affine(f"{tower}.stem.4", second)
        yield from affine(f"{tower}.stem.6", second, second, 3, 3)
        yield from affine(f"{tower}.stem.7", second)
        yield from affine(f"{tower}.grid.0", third, second, 3, 3)
        yield from affine(f"{tower}.grid.1", third)
        yield from affine(f"{tower}.grid.3", width, third, 3, 3)
        yield from affine(f"{tower}.points", config.keypoints, second, 1, 1)
        yield from affine(f"{tower}.point_token", width, 2 * config.keypoints)
    yield "text.words.weight", (config.word_buckets, width)
    yield "text.position", (MAX_WORDS, width)
    yield from attention("text.mix.self_attn")
    yield from affine("text.mix.linear1", 2 * width, width)
    yield from affine("text.mix.linear2", width, 2 * width)
    yield from affine("text.mix.norm1", width)
    yield from affine("text.mix.norm2", width)
    yield "text.queries", (config.text_tokens, width)
    yield from attention("text.attention")
    yield "proprio_mean", (PROPRIO_DIM,)
    yield "proprio_scale", (PROPRIO_DIM,)
    yield from affine("target_context.proprio.0", width, PROPRIO_DIM)
    yield from affine("target_context.proprio.2", width, width)
    yield "target_context.position", (CAMERAS * cells + config.text_tokens + 1, width)
    yield "target.code_embedding.weight", ((layers - 1) * group * dims * levels, width)
    yield "target.block_embedding", (layers, target.positions, width)
    for layer in range(target.depth):
        block = f"target.trunk.{layer}"
        yield from affine(f"{block}.norm1", width)
        yield from affine(f"{block}.qkv", 3 * width, width)
        yield from affine(f"{block}.out", width, width)
        yield from affine(f"{block}.norm2", width)
        yield from affine(f"{block}.up", target.expansion * width, width)
        yield from affine(f"{block}.down", width, target.expansion * width)
    yield from affine("target.norm", width)
    yield from heads("target.heads", layers, width, group * dims * levels)
    yield from affine("parallel_heads", layers * dims * levels * group, width)
    if config.regression:
        yield from affine("regression_head", group * dims, width)
    read = (CAMERAS * cells + config.text_tokens) * draft.token_width
    inputs = read + PROPRIO_DIM + steps * dims + 1
    yield from affine("draft_reader.reduce", draft.token_width, width)
    yield from affine("draft_reader.mix.0", 2 * draft.width, inputs)
    yield from affine("draft_reader.mix.2", draft.width, 2 * draft.width)
    yield "draft.code_embedding.weight", ((layers - 2) * steps * dims * levels, draft.width)
    yield from affine("draft.norm", draft.width)
    yield from heads("draft.up", layers - 1, draft.width, 2 * draft.width)
    yield from heads("draft.down", layers - 1, 2 * draft.width, draft.width)
    yield from heads("draft.heads", layers - 1, draft.width, steps * dims * levels)


def _cells(pixels: int) -> int:
    """Of a side of the image tower's grid: convolutions of strides 3, 2, 2, 2."""
    side = (pixels - 2) // 3 + 1
    for _ in range(3):
        side = (side - 1) // 2 + 1
    return side
