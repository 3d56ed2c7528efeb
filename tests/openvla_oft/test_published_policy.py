"""From a published folder and the simulator's frames to actions: against timm's and transformers'
models filled from the folder's own tensors here, with nothing of rsd's in between."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from openvla_oft import published
from openvla_oft.published import Written
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("timm", reason="the vision towers are timm's")
pytest.importorskip("torchvision", reason="timm imports torchvision", exc_type=Exception)
pytest.importorskip("simplejpeg", reason="JPEG as TensorFlow reads it needs simplejpeg")

import timm
from transformers import LlamaConfig, LlamaModel

from rsd.models.openvla_oft import folder
from rsd.models.openvla_oft.inputs import ImagePath, Preparation, Prepared
from rsd.models.openvla_oft.loading import load_model
from rsd.models.openvla_oft.model import Inputs, OpenVLAOFT
from rsd.types import ImageSpec, Observation

CONFIG = published.CONFIG
INSTRUCTIONS = ["pick up the bowl", "pick it up"]


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def tower_features(written: Written, name: str, images: Tensor) -> Tensor:
    """timm's tower with a forward of its own: all blocks but the last, patches alone."""
    told = CONFIG.dinov2 if name == "featurizer" else CONFIG.siglip
    tower = timm.create_model(
        told.name,
        num_classes=0,
        img_size=CONFIG.image_size,
        embed_dim=told.width,
        depth=told.depth,
        num_heads=told.heads,
        mlp_ratio=told.hidden / told.width,
    ).eval()
    stored = below(written.backbone, f"vision_backbone.{name}.")
    tower.load_state_dict({n.replace("scale_factor", "gamma"): t for n, t in stored.items()})
    x = tower.norm_pre(tower._pos_embed(tower.patch_embed(images)))
    for block in tower.blocks[:-1]:
        x = block(x)
    return x[:, tower.num_prefix_tokens :]


def mapped(x: Tensor, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def by_hand(
    written: Written, row: int, prepared: Prepared, *, causal: bool = False, swapped: bool = False
) -> Tensor:
    """Normalised actions (T, 7) of one row of a batch, padding left out."""
    patches = []
    for pixels in prepared.pixels[row].split(6):
        for_dino, for_siglip = (pixels[None, 3:], pixels[None, :3])[:: 1 if swapped else -1]
        both = [
            tower_features(written, "featurizer", for_dino),
            tower_features(written, "fused_featurizer", for_siglip),
        ]
        patches.append(torch.cat(both, dim=2))
    x = torch.cat(patches, dim=1)
    for name in ("projector.fc1", "projector.fc2"):
        x = F.gelu(mapped(x, written.backbone, name))
    x = mapped(x, written.backbone, "projector.fc3")
    proprio = F.gelu(mapped(prepared.proprio[row], written.proprio, "fc1"))
    proprio = mapped(proprio, written.proprio, "fc2")
    prompt = prepared.prompt[row]
    prompt = prompt if prepared.valid is None else prompt[prepared.valid[row]]
    words = written.backbone["language_model.model.embed_tokens.weight"]
    width = CONFIG.llama.width
    sequence = torch.cat(
        [words[1:2], x[0], proprio[None], words[prompt], torch.zeros(56, width), words[2:3]]
    )
    llama = LlamaModel(
        LlamaConfig(
            vocab_size=CONFIG.llama.vocabulary,
            hidden_size=width,
            intermediate_size=CONFIG.llama.hidden,
            num_hidden_layers=CONFIG.llama.depth,
            num_attention_heads=CONFIG.llama.heads,
            attn_implementation="eager",
        )
    ).eval()
    llama.load_state_dict(below(written.backbone, "language_model.model."))
    mask = torch.zeros(1, 1, len(sequence), len(sequence))
    if causal:
        mask = mask.masked_fill(torch.ones_like(mask, dtype=torch.bool).triu(1), -torch.inf)
    hidden = llama(inputs_embeds=sequence[None], attention_mask=mask, use_cache=False)[0][0]
    first = len(sequence) - 1 - 56 - 1  # the prompt's last token
    return l1_head(hidden[first : first + 56].reshape(8, -1), below(written.action_head, "model."))


def l1_head(x: Tensor, head: Mapping[str, Tensor]) -> Tensor:
    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], head[f"{name}.weight"], head[f"{name}.bias"])

    x = mapped(norm(x, "layer_norm1"), head, "fc1").relu()
    for block in ("mlp_resnet_blocks.0.ffn", "mlp_resnet_blocks.1.ffn"):
        x = x + mapped(norm(x, f"{block}.0"), head, f"{block}.1").relu()
    return mapped(norm(x, "layer_norm2"), head, "fc2")


def ours(model: OpenVLAOFT, prepared: Prepared) -> Tensor:
    codes, batch = model.config.tokeniser, len(prepared.prompt)
    inputs = Inputs(
        prepared.pixels,
        prepared.prompt,
        prepared.valid,
        prepared.proprio,
        torch.zeros(batch, codes.steps, codes.latent_dim, codes.layers, dtype=torch.int64),
        torch.zeros(batch, dtype=torch.bool),
    )
    context = model.context(model.vision_backbone(inputs.pixels), inputs)
    return model.target.l1_head(model.target.placeholders(context))


def observations() -> list[Observation]:
    draw = np.random.default_rng(0)
    frames = draw.integers(0, 256, (2, 2, 16, 16, 3), dtype=np.uint8).repeat(16, 2).repeat(16, 3)
    proprio = draw.uniform(-0.3, 0.3, (2, 8)).astype(np.float32)
    return [Observation(*frames[i], proprio[i], INSTRUCTIONS[i]) for i in range(2)]


@torch.inference_mode()
def test_a_published_folder_acts_as_its_parts_put_together_by_hand(tmp_path: Path) -> None:
    written = published.make(tmp_path, dtype=torch.float32)
    checkpoint = folder.describe(str(tmp_path))
    prepare = Preparation(checkpoint, ImageSpec())
    prepared = prepare(observations())
    assert prepared.valid is not None, "the rows are to be ragged"
    said = ours(load_model(checkpoint, "cpu", torch.float32).model, prepared)
    for row in range(2):
        torch.testing.assert_close(said[row], by_hand(written, row, prepared), rtol=1e-4, atol=5e-5)
    actions = prepare.units.actions(said, prepared.suites)
    assert actions.shape == (2, 8, 7)
    assert set(actions[..., 6].flatten().tolist()) <= {-1.0, 1.0}


@torch.inference_mode()
@pytest.mark.parametrize("wrong", ["causal", "swapped", "uncropped"])
def test_a_causal_mask_swapped_towers_or_a_missing_crop_would_be_noticed(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = published.make(tmp_path, dtype=torch.float32)
    checkpoint = folder.describe(str(tmp_path))
    prepare = Preparation(checkpoint, ImageSpec())
    said = ours(load_model(checkpoint, "cpu", torch.float32).model, prepare(observations()))
    if wrong == "uncropped":
        monkeypatch.setattr(ImagePath, "cropped", lambda self, images: images)
        other = by_hand(written, 0, prepare(observations()))
    else:
        prepared = prepare(observations())
        other = by_hand(written, 0, prepared, causal=wrong == "causal", swapped=wrong == "swapped")
    assert float((said[0] - other).abs().max()) > 1e-3
