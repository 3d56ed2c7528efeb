"""What the tensors of a published checkpoint are called and shaped, and where they go. No torch.

vision_backbone, projector, language_model: moojink/openvla-oft@213c5ff,
prismatic/extern/hf/modeling_prismatic.py; action head and proprioception projector:
prismatic/models/. LayerScale is `gamma` in timm and `scale_factor` there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from rsd.models.openvla_oft.config import PATCH, OFTConfig, TowerConfig
from rsd.types import ACTION_DIM, PROPRIO_DIM

Shape = tuple[int, ...]

BACKBONE, ACTION_HEAD, PROPRIO = "backbone", "action head", "proprioception projector"


@dataclass(frozen=True)
class Rule:
    """Tensors of a part whose names begin so are the model's under another beginning."""

    part: str
    on_disk: str
    in_model: str


RULES = (
    Rule(BACKBONE, "vision_backbone.", "vision_backbone."),
    Rule(BACKBONE, "projector.", "projector."),
    Rule(BACKBONE, "language_model.model.", "target.llama."),
    Rule(BACKBONE, "language_model.lm_head.", "target.lm_head."),
    Rule(ACTION_HEAD, "model.", "target.l1_head."),
    Rule(PROPRIO, "", "proprio_projector."),
)
WRAPPED = "module."  # what distributed training puts before every name of a part
COMPUTED = re.compile(r"language_model\.model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")


def in_model(part: str, name: str) -> str | None:
    """A tensor's name in the model; None for one that no rule knows."""
    for rule in RULES:
        if rule.part == part and name.startswith(rule.on_disk):
            renamed = rule.in_model + name.removeprefix(rule.on_disk)
            return re.sub(r"(\.ls\d)\.scale_factor$", r"\1.gamma", renamed)
    return None


def tensors(part: str, config: OFTConfig) -> dict[str, Shape]:
    """All tensors of a part as they are on disk, without `module.`."""
    return dict(_TENSORS[part](config))


def _backbone(config: OFTConfig) -> Iterator[tuple[str, Shape]]:
    patches = (config.image_size // PATCH) ** 2
    yield from _tower("vision_backbone.featurizer.", config.dinov2, patches)
    yield from _tower("vision_backbone.fused_featurizer.", config.siglip, patches)
    vision, width = config.vision_width, config.llama.width
    yield from _linear("projector.fc1", 4 * vision, vision)
    yield from _linear("projector.fc2", width, 4 * vision)
    yield from _linear("projector.fc3", width, width)
    model, sizes = "language_model.model.", config.llama
    yield f"{model}embed_tokens.weight", (sizes.vocabulary, width)
    for index in range(sizes.depth):
        layer = f"{model}layers.{index}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{layer}self_attn.{name}.weight", (width, width)
        yield f"{layer}mlp.gate_proj.weight", (sizes.hidden, width)
        yield f"{layer}mlp.up_proj.weight", (sizes.hidden, width)
        yield f"{layer}mlp.down_proj.weight", (width, sizes.hidden)
        yield f"{layer}input_layernorm.weight", (width,)
        yield f"{layer}post_attention_layernorm.weight", (width,)
    yield f"{model}norm.weight", (width,)
    yield "language_model.lm_head.weight", (sizes.vocabulary, width)


def _tower(prefix: str, config: TowerConfig, patches: int) -> Iterator[tuple[str, Shape]]:
    """timm's vision transformer: DINOv2's with class and register tokens and LayerScale, SigLIP's
    with attention pooling."""
    width, hidden = config.width, config.hidden
    scaled = config.prefix > 0
    if scaled:
        yield f"{prefix}cls_token", (1, 1, width)
        yield f"{prefix}reg_token", (1, config.prefix - 1, width)
    yield f"{prefix}pos_embed", (1, patches, width)
    yield f"{prefix}patch_embed.proj.weight", (width, 3, PATCH, PATCH)
    yield f"{prefix}patch_embed.proj.bias", (width,)
    for index in range(config.depth):
        block = f"{prefix}blocks.{index}."
        yield from _norm(f"{block}norm1", width)
        yield from _linear(f"{block}attn.qkv", 3 * width, width)
        yield from _linear(f"{block}attn.proj", width, width)
        yield from _norm(f"{block}norm2", width)
        yield from _mlp(f"{block}mlp", width, hidden)
        if scaled:
            yield f"{block}ls1.scale_factor", (width,)
            yield f"{block}ls2.scale_factor", (width,)
    yield from _norm(f"{prefix}norm", width)
    if not scaled:
        pool = f"{prefix}attn_pool."
        yield f"{pool}latent", (1, 1, width)
        yield from _linear(f"{pool}q", width, width)
        yield from _linear(f"{pool}kv", 2 * width, width)
        yield from _linear(f"{pool}proj", width, width)
        yield from _norm(f"{pool}norm", width)
        yield from _mlp(f"{pool}mlp", width, hidden)


def _action_head(config: OFTConfig) -> Iterator[tuple[str, Shape]]:
    width = config.llama.width
    yield from _norm("model.layer_norm1", ACTION_DIM * width)
    yield from _linear("model.fc1", width, ACTION_DIM * width)
    for block in range(2):
        yield from _norm(f"model.mlp_resnet_blocks.{block}.ffn.0", width)
        yield from _linear(f"model.mlp_resnet_blocks.{block}.ffn.1", width, width)
    yield from _norm("model.layer_norm2", width)
    yield from _linear("model.fc2", ACTION_DIM, width)


def _proprio(config: OFTConfig) -> Iterator[tuple[str, Shape]]:
    yield from _linear("fc1", config.llama.width, PROPRIO_DIM)
    yield from _linear("fc2", config.llama.width, config.llama.width)


def _linear(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _mlp(name: str, width: int, hidden: int) -> Iterator[tuple[str, Shape]]:
    yield from _linear(f"{name}.fc1", hidden, width)
    yield from _linear(f"{name}.fc2", width, hidden)


_TENSORS = {BACKBONE: _backbone, ACTION_HEAD: _action_head, PROPRIO: _proprio}
