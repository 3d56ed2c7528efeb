"""Least work of each stage of an OpenVLA-OFT: floating-point operations, bytes of device memory,
kernels.

Counted as the matrix products need them: two operations a weight and position, each weight read
once a pass, keys and values read once. Elementwise work counts as nothing but its kernels, so that
without these a floor is one. Kernels are those of fused layers, as `Operations` (torch operations
that are no views) counted them in a block, a layer and the draft.
"""

from __future__ import annotations

from rsd.models.calls import Call
from rsd.models.costs import Cost, Device, Work
from rsd.models.openvla_oft.config import ACTION_DIM, PROPRIO_DIM, OFTConfig, TowerConfig

BYTES = 2  # of a bf16 number
TOWER_KERNELS = {"dinov2": 12, "siglip": 10}  # a block; the first scales its layers
TRUNK_KERNELS, BLOCK_KERNELS = 9, 2  # a layer; and those that code blocks behind a context add
PASS_KERNELS = 23  # around the layers: embeddings, angles, the last norm, heads
PROJECTOR_KERNELS = 5
DRAFT_CONTEXT_KERNELS, DRAFT_KERNELS = 13, 17  # the latter a layer
DETOKENISE_KERNELS = 210  # of the published tokeniser
PROMPT = 25  # tokens behind BOS: of an instruction of LIBERO about so many

MEASURED = {  # as docs/openvla_oft.md measured them, in graphs: products of 8192 x 8192, copies of
    # 2 GB, and the time of a kernel of the draft's, which has hardly any work
    "H200": Device("H200 as measured", 688e12, 4.25e12, 2.1e-6),
    "H100": Device("H100 as measured", 692e12, 2.98e12, 2.1e-6),
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
    kernels = sum(
        TOWER_KERNELS[name] * (each.depth - 1)
        for name, each in (("dinov2", config.dinov2), ("siglip", config.siglip))
    )
    both = tower(config.dinov2, tokens, images) + tower(config.siglip, tokens, images)
    return both + Cost(dispatches=kernels)


def projector(config: OFTConfig, batch: int) -> Cost:
    """Patches to positions."""
    inputs, width = config.vision_width, config.llama.width
    weights = 4 * inputs * inputs + 4 * inputs * width + width * width
    return linear(weights, batch * config.patches) + Cost(dispatches=PROJECTOR_KERNELS)


def trunk_weights(config: OFTConfig) -> float:
    """Of the language model's layers; its table of embeddings is not read in full."""
    llama = config.llama
    return float(llama.depth * (4 * llama.width**2 + 3 * llama.width * llama.hidden))


def trunk(config: OFTConfig, batch: int, positions: int, keys: int) -> Cost:
    """One pass of the language model over `positions` that attend to `keys` each."""
    llama = config.llama
    attention = 4.0 * llama.depth * llama.width * batch * positions * keys
    cache = 2.0 * BYTES * llama.depth * llama.width * batch * keys
    kernels = TRUNK_KERNELS * llama.depth + PASS_KERNELS
    return linear(trunk_weights(config), batch * positions) + Cost(attention, cache, kernels)


def prefill(config: OFTConfig, batch: int, prompt: int, blocks: int) -> Cost:
    """The context with so many blocks behind it."""
    context = config.context(prompt)
    behind = blocks * config.tokeniser.steps
    own = trunk(config, batch, context, context)
    rest = trunk(config, batch, behind, context + behind)
    kernels = own.dispatches + (BLOCK_KERNELS * config.llama.depth if blocks else 0)
    # weights are read once, and the context's keys are those of the blocks
    once = Cost(own.flops + rest.flops, own.bytes, kernels)
    return once + code_heads(config, batch, blocks + 1)


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


def draft_context(config: OFTConfig, batch: int) -> Cost:
    """What the draft reads."""
    codes, sizes = config.tokeniser, config.draft
    tokens = codes.steps * codes.latent_dim
    inputs = config.patches * sizes.patch_width + sizes.text_width + PROPRIO_DIM + tokens + 1
    mixed = linear(2 * sizes.width * (inputs + sizes.width), batch)
    text = linear(config.llama.width * sizes.text_width, batch)
    patches = linear(config.vision_width * sizes.patch_width, batch * config.patches)
    return patches + text + mixed + Cost(dispatches=DRAFT_CONTEXT_KERNELS)


def draft(config: OFTConfig, batch: int, layers: int) -> Cost:
    """So many layers of it, at once."""
    codes, width = config.tokeniser, config.draft.width
    weights = width * (4 * width + codes.steps * codes.latent_dim * codes.levels)
    return linear(layers * weights, batch) + Cost(dispatches=DRAFT_KERNELS)


def called(config: OFTConfig, call: Call, prompt: int = PROMPT) -> Work:
    """What a decode loop's call takes of a model of these sizes."""
    rows, blocks = call.rows, call.blocks
    match call.what:
        case "inputs":
            return (towers(config, rows),)
        case "context":
            return (projector(config, rows),)
        case "prefill":
            return (prefill(config, rows, prompt, blocks - 1),)
        case "extend":
            return (extend(config, rows, prompt, call.first, blocks),)
        case "parallel":
            return (prefill(config, rows, prompt, 0),)
        case "numbers":
            return (prefill(config, rows, prompt, 0), l1_head(config, rows))
        case "draft context":
            return (draft_context(config, rows),)
        case "draft prefill" | "draft extend":
            return (draft(config, rows, blocks),)
        case "actions":
            return (Cost(dispatches=DETOKENISE_KERNELS),)
