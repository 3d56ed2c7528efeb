"""Tiny checkpoints of exactly the published layout (openvla-oft, vla-scripts/finetune.py 605-661;
a folder of moojink/openvla-7b-oft-finetuned-libero-*): names, files and descriptions are theirs,
sizes are not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from rsd.models.openvla_oft import names
from rsd.models.openvla_oft.config import OFTConfig, tiny
from rsd.rfsq_config import RFSQConfig

STEP = 150000
CONFIG = replace(tiny(), tokeniser=RFSQConfig(steps=8, latent_dim=3, layers=5, levels=5, hidden=16))
ACTION = {  # q01, q99 of dxyz, daxis-angle, gripper
    "q01": [-0.74, -0.66, -0.93, -0.11, -0.18, -0.13, 0.0],
    "q99": [0.93, 0.82, 0.93, 0.16, 0.19, 0.34, 1.0],
    "mask": [True] * 6 + [False],
}
PROPRIO = {
    "q01": [-0.4, -0.25, 0.01, 2.8, -1.3, -0.4, 0.0, -0.041],
    "q99": [0.13, 0.37, 0.52, 3.5, 0.56, 0.65, 0.04, 0.0],
}


@dataclass(frozen=True)
class Written:
    """What was written, by the names on disk."""

    folder: Path
    backbone: dict[str, Tensor]
    action_head: dict[str, Tensor]
    proprio: dict[str, Tensor]


def make(
    folder: Path,
    config: OFTConfig = CONFIG,
    *,
    suites: Sequence[str] = ("libero_spatial",),
    shards: int = 3,
    dtype: torch.dtype = torch.bfloat16,
    action_head: bool = True,
    seed: int = 0,
) -> Written:
    """Write a checkpoint with random weights; with one shard there is no index."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    parts = {
        part: {
            name: random_tensor(name, shape, generator).to(dtype)
            for name, shape in names.tensors(part, config).items()
        }
        for part in (names.BACKBONE, names.ACTION_HEAD, names.PROPRIO)
    }
    backbone, head, proprio = parts.values()
    write_shards(folder, backbone, shards)
    if action_head:
        save_part(folder / f"action_head--{STEP}_checkpoint.pt", head)
    save_part(folder / f"proprio_projector--{STEP}_checkpoint.pt", proprio)
    write_json(folder / "config.json", description(config))
    write_json(folder / "dataset_statistics.json", statistics(suites))
    write_json(folder / "preprocessor_config.json", PREPROCESSOR)
    write_tokeniser(folder / "tokenizer.json")
    return Written(folder, backbone, head, proprio)


def random_tensor(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Of a size that keeps activations of order 1."""
    noise = torch.randn(shape, generator=generator)
    if name.endswith("norm.weight") or ("norm" in name and name.endswith("weight")):
        return 1 + 0.1 * noise
    if len(shape) == 1:
        return 0.1 * noise
    return noise / np.sqrt(np.prod(shape[1:]))


def write_shards(folder: Path, tensors: dict[str, Tensor], shards: int) -> None:
    """As `save_pretrained` of transformers does."""
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    order = sorted(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        held = order[shard * len(order) // shards : (shard + 1) * len(order) // shards]
        save_file({n: tensors[n] for n in held}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(held, file)
    size = sum(each.numel() * each.element_size() for each in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)


def save_part(path: Path, tensors: dict[str, Tensor]) -> None:
    """As a part wrapped for distributed training is saved."""
    torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, path)


def write_adapter(
    folder: Path, base: str, modules: dict[str, tuple[int, int]], rank: int = 4, seed: int = 0
) -> dict[str, Tensor]:
    """`lora_adapter/` as peft writes it, for linear maps of these (outputs, inputs)."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for module, (outputs, inputs) in modules.items():
        name = f"base_model.model.{module}"
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator)
    (folder / "lora_adapter").mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "lora_adapter" / "adapter_model.safetensors")
    told = {
        "base_model_name_or_path": base,
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_dora": False,
        "use_rslora": False,
        "fan_in_fan_out": False,
        "init_lora_weights": "gaussian",
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": sorted({module.split(".")[-1] for module in modules}),
        "task_type": None,
    }
    write_json(folder / "lora_adapter" / "adapter_config.json", told)
    return tensors


def description(config: OFTConfig) -> dict[str, Any]:
    """config.json; `timm_model_args` and the sizes of the language model are what the published
    ones leave at their defaults."""
    llama = config.llama
    return {
        "architectures": ["OpenVLAForActionPrediction"],
        "arch_specifier": "no-align+fused-gelu-mlp",
        "hf_llm_id": "meta-llama/Llama-2-7b-hf",
        "image_resize_strategy": "resize-naive",
        "image_sizes": [config.image_size] * 2,
        "llm_backbone_id": "llama2-7b-pure",
        "llm_max_length": 2048,
        "model_type": "openvla",
        "n_action_bins": config.bins,
        "norm_stats": {},
        "output_projector_states": False,
        "pad_to_multiple_of": llama.padding,
        "pad_token_id": 32000,
        "text_config": {
            "model_type": "llama",
            "pad_token_id": 32000,
            "torch_dtype": "bfloat16",
            "vocab_size": llama.vocabulary,
            "hidden_size": llama.width,
            "intermediate_size": llama.hidden,
            "num_hidden_layers": llama.depth,
            "num_attention_heads": llama.heads,
        },
        "timm_model_ids": [config.dinov2.name, config.siglip.name],
        "timm_model_args": [
            {
                "embed_dim": tower.width,
                "depth": tower.depth,
                "mlp_hidden": tower.hidden,
                "num_heads": tower.heads,
            }
            for tower in (config.dinov2, config.siglip)
        ],
        "timm_override_act_layers": [None, None],
        "torch_dtype": "bfloat16",
        "transformers_version": "4.40.1",
        "use_fused_vision_backbone": True,
        "vision_backbone_id": "dinosiglip-vit-so-224px",
    }


PREPROCESSOR = {
    "image_processor_type": "PrismaticImageProcessor",
    "image_resize_strategy": "resize-naive",
    "input_sizes": [[3, 224, 224], [3, 224, 224]],
    "interpolations": ["bicubic", "bicubic"],
    "means": [[0.485, 0.456, 0.406], [0.5, 0.5, 0.5]],
    "processor_class": "PrismaticProcessor",
    "stds": [[0.229, 0.224, 0.225], [0.5, 0.5, 0.5]],
    "tvf_normalize_params": [
        {
            "inplace": False,
            "mean": [0.484375, 0.455078125, 0.40625],
            "std": [0.228515625, 0.2236328125, 0.224609375],
        },
        {"inplace": False, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    ],
    "use_fused_vision_backbone": True,
}


def statistics(suites: Sequence[str]) -> dict[str, Any]:
    """dataset_statistics.json; each suite's numbers are its own."""
    return {
        f"{suite}_no_noops": {
            "action": {**ACTION, "q99": [q * (1 + 0.1 * place) for q in ACTION["q99"]]},
            "proprio": PROPRIO,
            "num_transitions": 52970,
            "num_trajectories": 432,
        }
        for place, suite in enumerate(suites)
    }


def write_tokeniser(path: Path) -> None:
    """Llama's kind: byte pairs over pieces that begin with ▁, bytes for what is unknown, BOS in
    front, padding and truncation left switched on by whoever saved it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    merges = [("▁", "I"), ("▁I", "n"), ("▁", "t"), ("h", "e"), ("▁t", "he"), ("O", "u")]
    merges += [("Ou", "t"), ("▁", "p"), ("i", "c"), ("ic", "k"), ("▁p", "ick")]
    pieces += [a + b for a, b in merges]
    pieces += ["▁", *"abcdefghijklmnopqrstuvwxyz", *"IOW", ":", "?", "_"]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    tokeniser = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokeniser.add_special_tokens(
        [AddedToken(token, special=True) for token in ("<unk>", "<s>", "</s>")]
    )
    tokeniser.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokeniser.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokeniser.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokeniser.enable_truncation(8)
    tokeniser.enable_padding(length=64)
    tokeniser.save(str(path))


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2))
