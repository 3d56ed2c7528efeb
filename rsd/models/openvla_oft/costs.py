"""Least work of each stage: floating-point operations and bytes of device memory.

Counted as the matrix products need them: two operations a weight and position, each weight read
once a pass, keys and values read once. Elementwise work counts as nothing, so that a floor is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rsd.models.openvla_oft.config import ACTION_DIM, OFTConfig, TowerConfig

BYTES = 2  # of a bf16 number


@dataclass(frozen=True)
class Cost:
    """Of one call."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def times(self, share: float) -> Cost:
        """Of a share of the calls."""
        return Cost(share * self.flops, share * self.bytes)


Work = Sequence[Cost]  # one after the other: each waits for the one before


@dataclass(frozen=True)
class Device:
    """What a device can do at best."""

    name: str
    flops: float  # a second, dense bf16
    bandwidth: float  # bytes a second

    def floor_ms(self, work: Work) -> float:
        """No version runs faster."""
        return 1000 * sum(max(c.flops / self.flops, c.bytes / self.bandwidth) for c in work)


DEVICES = {  # by a part of the name that the driver gives: data sheets, SXM parts
    "H200": Device("H200 data sheet", 989e12, 4.8e12),
    "H100": Device("H100 SXM data sheet", 989e12, 3.35e12),
    "A100": Device("A100 SXM data sheet", 312e12, 2.04e12),
}


def linear(weights: float, positions: float) -> Cost:
    """Matrix products of so many weights in all."""
    return Cost(2 * weights * positions, BYTES * weights)


def tower(config: TowerConfig, tokens: int, images: int) -> Cost:
    """All blocks but the last, of one tower."""
    blocks, width = config.depth - 1, config.width
    weights = blocks * (4 * width * width + 2 * width * config.hidden) + 3 * 14 * 14 * width
    positions = tokens + config.prefix
    attention = blocks * 4 * positions**2 * width * images
    return linear(weights, positions * images) + Cost(attention)


def towers(config: OFTConfig, batch: int) -> Cost:
    """Both of them, over all images of a batch."""
    tokens, images = config.patches // config.images, config.images * batch
    return tower(config.dinov2, tokens, images) + tower(config.siglip, tokens, images)


def projector(config: OFTConfig, batch: int) -> Cost:
    """Patches to positions."""
    inputs, width = config.vision_width, config.llama.width
    weights = 4 * inputs * inputs + 4 * inputs * width + width * width
    return linear(weights, batch * config.patches)


def trunk_weights(config: OFTConfig) -> float:
    """Of the language model's layers; its table of embeddings is not read in full."""
    llama = config.llama
    return float(llama.depth * (4 * llama.width**2 + 3 * llama.width * llama.hidden))


def trunk(config: OFTConfig, batch: int, positions: int, keys: int) -> Cost:
    """One pass of the language model over `positions` that attend to `keys` each."""
    llama = config.llama
    attention = 4.0 * llama.depth * llama.width * batch * positions * keys
    cache = 2.0 * BYTES * llama.depth * llama.width * batch * keys
    return linear(trunk_weights(config), batch * positions) + Cost(attention, cache)


def prefill(config: OFTConfig, batch: int, prompt: int, blocks: int) -> Cost:
    """The context with so many blocks behind it."""
    context = config.context(prompt)
    behind = blocks * config.tokeniser.steps
    own = trunk(config, batch, context, context)
    rest = trunk(config, batch, behind, context + behind)
    # weights are read once, and the context's keys are those of the blocks
    return Cost(own.flops + rest.flops, own.bytes) + code_heads(config, batch, blocks + 1)


def extend(config: OFTConfig, batch: int, prompt: int, first: int, count: int) -> Cost:
    """Blocks first.. of a cached sequence."""
    steps = config.tokeniser.steps
    keys = config.context(prompt) + (first - 1 + count) * steps
    return trunk(config, batch, count * steps, keys) + code_heads(config, batch, count)


def code_heads(config: OFTConfig, batch: int, layers: int) -> Cost:
    """Logits of so many layers; layer 0's reader counts as one of them."""
    codes, width = config.tokeniser, config.llama.width
    weights = layers * width * codes.latent_dim * codes.levels
    return linear(weights, batch * codes.steps / layers) if layers else Cost()


def l1_head(config: OFTConfig, batch: int) -> Cost:
    """The published head."""
    width = config.llama.width
    weights = ACTION_DIM * width * width + 2 * width * width + width * ACTION_DIM
    return linear(weights, batch * config.tokeniser.steps)


def one_pass(config: OFTConfig, batch: int, prompt: int, blocks: int) -> Work:
    """A whole chunk from one pass."""
    first = prefill(config, batch, prompt, blocks)
    return (towers(config, batch), projector(config, batch), first)


def autoregressive(config: OFTConfig, batch: int, prompt: int) -> Work:
    """A whole chunk, one pass a layer."""
    rest = (extend(config, batch, prompt, layer, 1) for layer in range(1, config.tokeniser.layers))
    return (*one_pass(config, batch, prompt, 0), *rest)
