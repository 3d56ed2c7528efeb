"""Checkpoints of LeRobot's with random weights: as its own `save_pretrained` writes them, and
descriptions alone, for what is read without LeRobot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PIXELS = 64
CHUNK, EXECUTED = 12, 5


def described(folder: Path, **changes: Any) -> Path:
    """The files of a checkpoint, without its weights; `changes` of its configuration."""
    frame = {"type": "VISUAL", "shape": [3, PIXELS, PIXELS]}
    config = {
        "type": "act",
        "n_obs_steps": 1,
        "n_action_steps": EXECUTED,
        "input_features": {
            "observation.images.image": frame,
            "observation.images.image2": frame,
            "observation.state": {"type": "STATE", "shape": [8]},
        },
        "output_features": {"action": {"type": "ACTION", "shape": [7]}},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config | changes))
    (folder / "model.safetensors").write_bytes(b"weights")
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        (folder / name).write_text(json.dumps({"name": name, "steps": []}))
    return folder


def act(folder: Path) -> Path:
    """An ACT on a ResNet-18 of eleven million weights, the smallest that LeRobot has."""
    import torch
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies import get_policy_class, make_pre_post_processors
    from lerobot.policies.act.configuration_act import ACTConfig

    torch.manual_seed(0)
    frame = PolicyFeature(type=FeatureType.VISUAL, shape=(3, PIXELS, PIXELS))
    state = PolicyFeature(type=FeatureType.STATE, shape=(8,))
    images = ("observation.images.image", "observation.images.image2")
    config = ACTConfig(
        input_features={**dict.fromkeys(images, frame), "observation.state": state},
        output_features={"action": PolicyFeature(type=FeatureType.ACTION, shape=(7,))},
        device="cpu",
        chunk_size=CHUNK,
        n_action_steps=EXECUTED,
        dim_model=32,
        n_heads=2,
        dim_feedforward=64,
        n_encoder_layers=1,
        n_vae_encoder_layers=1,
        latent_dim=8,
        pretrained_backbone_weights=None,
    )
    statistics = {
        name: {"mean": torch.rand(shape) / 4, "std": torch.rand(shape) + 0.2}
        for name, shape in {
            "observation.state": (8,),
            "action": (7,),
            **dict.fromkeys(images, (3, 1, 1)),
        }.items()
    }
    policy = get_policy_class("act")(config)
    for part in (policy, *make_pre_post_processors(config, dataset_stats=statistics)):
        part.save_pretrained(folder)
    return folder
