"""What the descriptions in a checkpoint's folder say, as values. No torch.

config.json: PrismaticConfig (prismatic/extern/hf/configuration_prismatic.py), whose language model
names only what differs from transformers' LlamaConfig.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rsd.errors import UserError, brief
from rsd.foreign import expanded, from_json
from rsd.models.openvla_oft import hub
from rsd.models.openvla_oft.config import LlamaSizes, OFTConfig, OFTDraftConfig, TowerConfig
from rsd.rfsq_config import RFSQConfig

CONFIG = "config.json"
ARCHITECTURE = "openvla_oft"  # of what RSD trains; published checkpoints are of model_type openvla
MODEL_TYPE = "openvla"
FORMAT = 1


@dataclass(frozen=True)
class Backbone:
    """A published config.json."""

    config: OFTConfig
    longest: int  # positions


@dataclass(frozen=True)
class Normalisation:
    """Of pixels in [0, 1]: (x - mean) / deviation."""

    mean: tuple[float, float, float]  # red, green, blue
    deviation: tuple[float, float, float]


@dataclass(frozen=True)
class LowRank:
    """An adapter_config.json."""

    rank: int
    scale: float


@dataclass(frozen=True)
class Trained:
    """A config.json of RSD's own."""

    base: str  # folder or hub id
    base_sha256: str
    tokeniser: RFSQConfig
    draft: OFTDraftConfig
    step_width: int
    origin: dict[str, Any] = field(default_factory=dict)


def is_trained(told: dict[str, Any]) -> bool:
    """Whether a config.json is of RSD's own."""
    return told.get("architecture") == ARCHITECTURE


def backbone(told: dict[str, Any], path: Path) -> Backbone:
    """Raises UserError for another model than OpenVLA with DINOv2, SigLIP and a Llama."""
    try:
        if told.get("model_type") != MODEL_TYPE:
            raise ValueError(f"model_type is {brief(told.get('model_type'))}, not {MODEL_TYPE!r}")
        if told.get("use_fused_vision_backbone") is not True:
            raise ValueError("its vision backbone is not DINOv2 and SigLIP together")
        (dinov2, siglip), sizes = _towers(told), told.get("image_sizes")
        if not isinstance(sizes, list) or len(set(sizes)) != 1 or type(sizes[0]) is not int:
            raise ValueError(f"image_sizes is {brief(sizes)}, expected one size for both towers")
        config = OFTConfig(
            dinov2,
            siglip,
            _llama(told),
            image_size=sizes[0],
            bins=_number(told, "n_action_bins", 256),
        )
        return Backbone(config, _number(told, "llm_max_length", 2048))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path}: {error}; this reads OpenVLA-OFT's checkpoints on "
            f"{', '.join(_PUBLISHED)} and a Llama"
        ) from error


_DEFAULTS = OFTConfig()
_PUBLISHED = [_DEFAULTS.dinov2.name, _DEFAULTS.siglip.name]
_FIELDS = {"width": "embed_dim", "depth": "depth", "hidden": "mlp_hidden", "heads": "num_heads"}


def _towers(told: dict[str, Any]) -> list[TowerConfig]:
    if told.get("timm_model_ids") != _PUBLISHED:
        raise ValueError(f"timm_model_ids is {brief(told.get('timm_model_ids'))}")
    changed = told.get("timm_model_args", [{}, {}])  # ours, for models of other sizes
    if not isinstance(changed, list) or len(changed) != len(_PUBLISHED):
        raise ValueError(f"timm_model_args is {brief(changed)}, expected one entry a tower")
    towers = zip((_DEFAULTS.dinov2, _DEFAULTS.siglip), changed, strict=True)
    return [dataclasses.replace(tower, **_sizes(tower, args)) for tower, args in towers]


def _sizes(tower: TowerConfig, args: Any) -> dict[str, Any]:
    if not isinstance(args, dict) or not set(args) <= set(_FIELDS.values()):
        raise ValueError(f"timm_model_args is {brief(args)}, it may name {[*_FIELDS.values()]}")
    return {name: _number(args, key, getattr(tower, name)) for name, key in _FIELDS.items()}


def _llama(told: dict[str, Any]) -> LlamaSizes:
    text = told.get("text_config")
    if not isinstance(text, dict) or text.get("model_type") != "llama":
        raise ValueError(f"text_config is {brief(text)}, expected that of a Llama")
    default = LlamaSizes()
    heads = _number(text, "num_attention_heads", default.heads)
    if text.get("num_key_value_heads", heads) != heads:
        raise ValueError("its language model shares keys between heads")
    if text.get("rope_theta", 10000.0) != 10000.0 or text.get("rope_scaling") is not None:
        raise ValueError("its language model has other rotary positions than Llama 2")
    epsilon = text.get("rms_norm_eps", default.epsilon)
    if type(epsilon) is not float or not 0 < epsilon < 1:
        raise ValueError(f"rms_norm_eps is {brief(epsilon)}")
    return LlamaSizes(
        width=_number(text, "hidden_size", default.width),
        hidden=_number(text, "intermediate_size", default.hidden),
        depth=_number(text, "num_hidden_layers", default.depth),
        heads=heads,
        vocabulary=_number(text, "vocab_size", 32000),
        padding=_number(told, "pad_to_multiple_of", default.padding),
        epsilon=epsilon,
    )


def _number(told: dict[str, Any], name: str, default: int) -> int:
    value = told.get(name, default)
    if type(value) is not int or not 0 < value < 2**31:
        raise ValueError(f"{name} is {brief(value)}, expected a positive integer")
    return value


def normalisations(told: Any) -> tuple[Normalisation, ...]:
    """From preprocessor_config.json. `tvf_normalize_params` counts where it is there, as in the
    published processor, whose own attribute it replaces: in the published files it holds
    `means` and `stds` rounded to bfloat16. Raises ValueError."""
    if not isinstance(told, dict):
        raise ValueError(f"it holds {brief(told)}, expected settings by name")
    resized = told.get("image_resize_strategy")
    if resized != "resize-naive":
        raise ValueError(f"image_resize_strategy is {brief(resized)}, only 'resize-naive' is known")
    found = told.get("tvf_normalize_params")
    if found is None:
        means, deviations = told.get("means"), told.get("stds")
        if not isinstance(means, list) or not isinstance(deviations, list):
            raise ValueError("it has neither tvf_normalize_params nor means and stds")
        found = [{"mean": m, "std": s} for m, s in zip(means, deviations, strict=True)]
    if not isinstance(found, list) or len(found) != len(_PUBLISHED):
        raise ValueError(f"its normalisations are {brief(found)}, expected one a tower")
    return tuple(
        Normalisation(_colours(each, "mean", -10), _colours(each, "std", 1e-6)) for each in found
    )


def _colours(told: Any, name: str, least: float) -> tuple[float, float, float]:
    values = told.get(name) if isinstance(told, dict) else None
    if not isinstance(values, list) or len(values) != 3:
        raise ValueError(f"{name} of a normalisation is {brief(values)}, expected three numbers")
    red, green, blue = values
    if not all(type(each) in (int, float) and least < each < 10 for each in values):
        raise ValueError(f"{name} of a normalisation is {brief(values)}")
    return red, green, blue


def base_of(told: dict[str, Any], path: Path) -> str:
    """What an adapter was trained on: a folder, or a hub id."""
    base = told.get("base_model_name_or_path")
    if isinstance(base, str) and base:
        if expanded(base).is_dir():
            return base
        if re.fullmatch(r"[\w.-]+/[\w.-]+", base):
            return f"{hub.SCHEME}://{base}"
    raise UserError(
        f"{path}: the base of the adapter is {brief(base)}, which is neither a folder here nor an "
        "id of the hub; put the merged weights beside it, or correct base_model_name_or_path in a "
        "copy"
    )


def adapter(told: dict[str, Any], path: Path) -> LowRank:
    """Raises UserError for one that is more than plain LoRA."""
    plain = {
        "peft_type": "LORA",
        "bias": "none",
        "use_dora": False,
        "fan_in_fan_out": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
    }
    for name, value in plain.items():
        if told.get(name, value) != value:
            raise UserError(
                f"{path}: {name} is {brief(told[name])}; only plain LoRA is merged here: merge it "
                "with peft and give the merged weights"
            )
    rank, alpha = told.get("r"), told.get("lora_alpha")
    if type(rank) is not int or rank < 1 or not isinstance(alpha, int | float):
        raise UserError(f"{path}: r is {brief(rank)} and lora_alpha {brief(alpha)}")
    return LowRank(rank, alpha / (math.sqrt(rank) if told.get("use_rslora") else rank))


def trained(told: dict[str, Any], path: Path) -> Trained:
    """Raises UserError for a description of another format."""
    content = {name: told[name] for name in told if name not in ("architecture", "format")}
    try:
        if told.get("format") != FORMAT:
            raise ValueError(
                f"format {brief(told.get('format'))}, this version reads {FORMAT}; train it again, "
                "or use the code that wrote it"
            )
        if set(content) != {each.name for each in dataclasses.fields(Trained)}:
            raise ValueError(f"it has {brief(sorted(content))}")
        base, sha256, origin = content["base"], content["base_sha256"], content["origin"]
        if not isinstance(base, str) or not isinstance(sha256, str) or not isinstance(origin, dict):
            raise ValueError(f"base, base_sha256, origin are {brief([base, sha256, origin])}")
        return Trained(
            base,
            sha256,
            from_json(RFSQConfig, content["tokeniser"]),
            from_json(OFTDraftConfig, content["draft"]),
            _number(content, "step_width", 0),
            origin,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error


def written(trained: Trained) -> dict[str, Any]:
    """The content of the config.json that `trained` reads."""
    return {"architecture": ARCHITECTURE, "format": FORMAT, **dataclasses.asdict(trained)}
