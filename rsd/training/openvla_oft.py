"""OpenVLA-OFT in training: heads of residual codes and a draft on a base, whose backbone is frozen,
changed by LoRA, or trained whole."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsd.demos import Demonstration
from rsd.errors import UserError, writing
from rsd.models.openvla_oft import description, folder
from rsd.models.openvla_oft.description import Trained
from rsd.models.openvla_oft.folder import Checkpoint
from rsd.models.openvla_oft.inputs import ImagePath, Units
from rsd.models.openvla_oft.options import DEFAULT
from rsd.models.openvla_oft.prompts import Prompts
from rsd.models.small_vla.architecture import SmallVLAConfig
from rsd.outputs import aside, write_file
from rsd.rfsq import RFSQ
from rsd.training.config import OFTTrainConfig, TrainJob
from rsd.training.data import Examples, load_examples
from rsd.training.learner import Outputs, outputs
from rsd.training.objective import cross_entropy, lesson
from rsd.types import ImageSpec

WORDS = 128  # tokens of a prompt, at most
NOTHING = -1  # stands where a prompt has not begun
LORA_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class OFTReader:
    """Implements rsd.training.data.Reader: frames at the towers' size and uncropped, prompts padded
    on the left with `NOTHING`, proprioception by the statistics of its suite."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        config = checkpoint.config
        self._pixels = ImagePath(config.image_size, checkpoint.normalisations)
        self._prompts = Prompts.of(checkpoint, WORDS)
        self._units = Units(checkpoint.statistics)
        self._suites = list(checkpoint.statistics)

    def check(self, demo: Demonstration, spec: ImageSpec) -> None:
        if demo.suite not in self._suites:
            raise ValueError(
                f"it is of {demo.suite}, and the base has statistics of {', '.join(self._suites)} "
                "only; train on those suites, or on a base of this one"
            )

    def __call__(self, demo: Demonstration, frames: np.ndarray) -> dict[str, np.ndarray]:
        seen = np.stack([demo.agentview[frames], demo.wrist[frames]], axis=1)
        sized = self._pixels.sized(seen.reshape(-1, *seen.shape[2:])).numpy()
        prompt, _ = self._prompts([demo.instruction])
        words = np.full((len(seen), WORDS), NOTHING)
        words[:, -prompt.shape[1] :] = prompt
        suites = np.full(len(seen), self._suites.index(demo.suite))
        proprio = self._units.proprio(demo.proprio[demo.frame_steps[frames]], suites)
        images = sized.reshape(*seen.shape[:2], *sized.shape[1:])
        return {"images": images, "words": words, "proprio": proprio}


class OFTLearner:
    """Implements rsd.training.learner.Learner."""

    at_once = 16

    def __init__(
        self, checkpoint: Checkpoint, how: OFTTrainConfig, suites: list[str], device: torch.device
    ) -> None:
        """Loads the base, described with what is new, onto the device: in float32 where all of it
        is trained, and on a CPU."""
        from rsd.models.openvla_oft.loading import load_model

        on_gpu = device.type == "cuda"
        self._kept_dtype = torch.bfloat16 if on_gpu else torch.float32  # that it will run in
        dtype = torch.float32 if how.backbone == "all" else self._kept_dtype
        loaded = load_model(checkpoint, device, dtype)
        self.model = loaded.model
        self.model.vision_backbone.side_by_side = False  # gradients keep to one stream
        self.checkpoint, self.base_sha256 = checkpoint, loaded.sha256
        self.how, self.regresses, self.knows_tokeniser = how, how.l1_head, False
        self._keeps_features = False
        self.pixels = ImagePath(checkpoint.config.image_size, checkpoint.normalisations, device)
        self.units, self.suite = Units(checkpoint.statistics, device), suites[0]
        _begin_anew(self.model, device, fresh_l1=how.l1_head and not checkpoint.regresses)
        if how.backbone == "lora":
            _add_lora(self.model.target.llama, how.lora_rank)
        for name, parameter in self.model.named_parameters():
            if self._learns(name):
                parameter.data = parameter.data.float()
        self.changed = frozenset(n for n, _ in self.model.named_parameters() if self._learns(n))

    @property
    def tokeniser(self) -> RFSQ:
        return self.model.tokeniser

    @property
    def target(self) -> Any:
        return self.model.target

    def state(self) -> dict[str, Tensor]:
        return {
            name: tensor
            for name, tensor in self.model.state_dict().items()
            if name.startswith(folder.OWN) or name in self.changed
        }

    def load(self, state: dict[str, Tensor]) -> None:
        _, unknown = self.model.load_state_dict(state, strict=False)
        assert not unknown, f"a state of another model: {unknown[0]}"

    def round_to_storage(self) -> None:
        """As a replica on this kind of device loads it: its choices teach the draft."""
        for name, parameter in self.model.named_parameters():
            if not name.startswith("tokeniser.") and not name.startswith("draft."):
                parameter.data = parameter.data.to(self._kept_dtype)

    def parts(self) -> Sequence[nn.Module]:
        """Layers of towers and language model, where these learn."""
        vision = self.model.vision_backbone
        layers = [
            *vision.featurizer.get_submodule("blocks").children(),
            *vision.fused_featurizer.get_submodule("blocks").children(),
            *self.model.target.llama.layers,
        ]
        return [each for each in layers if any(p.requires_grad for p in each.parameters())]

    def target_objective(self, proprio: Tensor) -> nn.Module:
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in self.changed)
        return TargetObjective(self)

    def draft_objective(self) -> nn.Module:
        self.round_to_storage()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name.startswith("draft.") and bool(parameter.numel()))
        return DraftObjective(self)

    def look(
        self, images: Tensor, words: Tensor, proprio: Tensor
    ) -> tuple[tuple[Tensor, ...], Any]:
        patches, inputs = self.seen(images, words, proprio)
        known = patches if self._keeps_features else images
        return (known, words, proprio), self.model.context(patches, inputs)

    def seen(self, images: Tensor, words: Tensor, proprio: Tensor) -> tuple[Tensor, Any]:
        """Tower features and the model's other inputs, in the towers' precision."""
        from rsd.models.openvla_oft.model import Inputs

        dtype = self.model.projector.fc1.weight.dtype
        trained = any(n.startswith("vision_backbone.") for n in self.changed)
        with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
            patches = self.patches(images, dtype)
        words = words[:, int((words == NOTHING).all(dim=0).sum()) :]
        valid = None if bool((words != NOTHING).all()) else words != NOTHING
        sizes = self.model.config.tokeniser
        nothing = words.new_zeros(len(words), sizes.steps, sizes.latent_dim, sizes.layers)
        return patches, Inputs(
            patches,  # pixels are not read behind the towers
            words.clamp(min=0),
            valid,
            proprio.to(dtype),
            nothing,
            torch.zeros(len(words), dtype=torch.bool, device=words.device),
        )

    def patches(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """Frames uint8 (B, 2, S, S, 3), uncropped, or what was computed of them before."""
        if images.dtype != torch.uint8:
            return images.to(dtype)
        flat = self.pixels.cropped(images.flatten(0, 1))
        pixels = self.pixels.normalised(flat).unflatten(0, images.shape[:2]).flatten(1, 2)
        features: Tensor = self.model.vision_backbone(pixels.to(dtype))
        return features

    @torch.no_grad()
    def with_features(self, examples: Examples) -> Examples:
        """Frames replaced by features of the towers, where these stay as they are and fit."""
        config = self.model.config
        size = 2 * len(examples) * config.patches * config.vision_width
        self._keeps_features = size <= self.how.cache_gb * 1e9
        if self.how.backbone == "all" or not self._keeps_features:
            return examples
        dtype, device = (
            self.model.projector.fc1.weight.dtype,
            self.model.projector.fc1.weight.device,
        )
        kept = torch.empty(len(examples), config.patches, config.vision_width, dtype=torch.bfloat16)
        for start in range(0, len(examples), self.at_once):
            rows = slice(start, start + self.at_once)
            kept[rows] = self.patches(examples.images[rows].to(device), dtype).cpu()
        return replace(examples, images=kept)

    def _learns(self, name: str) -> bool:
        """Whether a parameter is trained in the target's phase."""
        if name.startswith("target.code_heads."):
            return True
        if name.startswith(folder.L1_HEAD):
            return self.how.l1_head
        if self.how.backbone == "lora":
            return ".lora_" in name
        if self.how.backbone == "all":
            return name.startswith(_BACKBONE) and not name.startswith(self._unused())
        return False

    def _unused(self) -> tuple[str, ...]:
        """Of the towers what the model does not compute: the last block and what follows it."""
        towers = []
        for name, sizes in (
            ("featurizer", self.model.config.dinov2),
            ("fused_featurizer", self.model.config.siglip),
        ):
            tower = f"vision_backbone.{name}."
            towers += [f"{tower}norm.", f"{tower}attn_pool.", f"{tower}blocks.{sizes.depth - 1}."]
        return tuple(towers)


_BACKBONE = ("vision_backbone.", "projector.", "proprio_projector.", "target.llama.")


def _begin_anew(model: Any, device: torch.device, fresh_l1: bool) -> None:
    """Random weights for what the base does not have (`load_model` leaves it zero), in float32."""
    from rsd.models.openvla_oft import heads
    from rsd.models.openvla_oft.draft import OFTDraft

    config = model.config
    model.target.code_heads = heads.CodeHeads(config).to(device)
    model.draft = OFTDraft(config).to(device)
    model.tokeniser = RFSQ(config.tokeniser).to(device)
    if fresh_l1:
        model.target.l1_head = heads.L1Head(config.llama.width).to(device)


def _add_lora(llama: nn.Module, rank: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(
        LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=LORA_MODULES), llama
    )


class TargetObjective(nn.Module):
    """The losses as one module, so that its gradients can be averaged over workers."""

    def __init__(self, learner: OFTLearner) -> None:
        super().__init__()
        self.model = learner.model
        self._learner = learner

    def forward(
        self, images: Tensor, words: Tensor, proprio: Tensor, actions: Tensor, shifts: Tensor
    ) -> Outputs:
        """A batch's tensors, on the model's device."""
        model, learner = self.model, self._learner
        taught = lesson(model.tokeniser, actions, shifts)
        context = model.context(*learner.seen(images, words, proprio))
        logits, placeholders = model.target.taught(context, taught.codes[..., :-1])
        independent = model.target.code_heads.all_at_once(placeholders)
        regression = None
        if learner.regresses:
            said = model.target.l1_head(placeholders).float()
            regression = F.l1_loss(said, learner.units.numbers(actions, learner.suite))
        return outputs(taught, logits, independent, regression)


class DraftObjective(nn.Module):
    """The loss as one module, so that its gradients can be averaged over workers."""

    def __init__(self, learner: OFTLearner) -> None:
        super().__init__()
        self.draft = learner.model.draft
        self._learner = learner

    def forward(
        self, known: tuple[Tensor, ...], previous: Tensor, has_previous: Tensor, codes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What `look` keeps, codes (B, T, D, L) of the chunk before, the target's -> loss in nats
        per token, logits (B, L - 1, T, D, V)."""
        model = self._learner.model
        with torch.no_grad():
            patches, inputs = self._learner.seen(*known)
            patches, words = patches.float(), model.text(inputs).float()
            latents = model.tokeniser.dequantise(previous)
        context = self.draft.context(patches, words, inputs.proprio.float(), latents, has_previous)
        logits, _ = self.draft.prefill(context, codes[..., :-2])
        return cross_entropy(logits, codes[..., :-1]), logits


# --- the recipe ----------------------------------------------------------------------------------


def check(job: TrainJob) -> None:
    """Raises UserError for a request that no training could carry out."""
    if job.base is None:
        raise UserError(
            "--target openvla-oft needs --base, a checkpoint of OpenVLA-OFT: a folder, or "
            "hf://owner/name"
        )
    if job.draft_only or job.start_from or job.train.compile or job.model != SmallVLAConfig():
        raise UserError(
            "--draft-only, --start-from, --train.compile and --model.* are for --target small-vla; "
            "sizes of this one are --oft.*"
        )
    for module, why in (("timm", "its towers"), ("simplejpeg", "its frames")):
        _require(module, why)
    if job.oft.backbone == "lora":
        _require("peft", "--oft.backbone lora")
    base = _described(job)
    if base.heads:
        raise UserError(f"{job.base} has heads already; give what they were trained on as --base")
    if base.options != DEFAULT:
        raise UserError(
            f"--base {job.base}: {base.options.suffix!r} is for evaluation; leave it out"
        )


def _require(module: str, why: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise UserError(f"{why} need{'s' * why.startswith('--')} {module}: pip install {module}")


def decided(job: TrainJob) -> TrainJob:
    """With a base that is named for good: a branch of the hub may move while it is trained on.
    Raises UserError for sizes that no policy has."""
    return replace(job, base=_described(job).spec)


def _described(job: TrainJob) -> Checkpoint:
    """The base with the sizes that the job adds. Raises UserError for those that no policy has."""
    assert job.base is not None, "checked"
    base, how = folder.describe(job.base), job.oft
    try:
        config = replace(
            base.config, tokeniser=how.tokeniser, draft=how.draft, step_width=how.step_width
        )
    except ValueError as error:
        raise UserError(f"--oft.tokeniser: {error}") from error
    return replace(base, config=config)


def examples(job: TrainJob) -> Examples:
    """What the demonstrations show. Raises UserError."""
    return load_examples(job.data, job.oft.tokeniser.steps, OFTReader(_described(job)))


def learner(job: TrainJob, examples: Examples, device: torch.device) -> tuple[OFTLearner, Examples]:
    """The base with new heads, and the examples with features of its towers if these are kept."""
    checkpoint = _described(job)
    suites: Any = examples.origin["suites"]
    kinds = {checkpoint.statistics[suite].action for suite in suites}
    if job.oft.l1_head and len(kinds) > 1:
        raise UserError(
            f"--oft.l1-head: {', '.join(suites)} differ in their statistics; train it on one suite"
        )
    made = OFTLearner(checkpoint, job.oft, suites, device)
    return made, made.with_features(examples)


def identity(job: TrainJob, learner: OFTLearner) -> dict[str, Any]:
    """Settings that must be the same for a state to go on."""
    return {"base": learner.base_sha256, "oft": dataclasses.asdict(job.oft)}


def earlier(job: TrainJob, learner: OFTLearner) -> dict[str, Any]:
    """Where it comes from: `base` and `base_sha256` of the description say it."""
    return {}


def save(learner: OFTLearner, job: TrainJob, examples: Examples, origin: dict[str, Any]) -> None:
    """Write heads, low-rank changes and the description, that one last."""
    checkpoint, output = learner.checkpoint, job.output
    plain = {n: t for n, t in learner.state().items() if ".lora_" not in n}
    for name, tensor in plain.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{output} is not written: {name} holds NaN or infinity")
    trained = Trained(
        base=checkpoint.spec if "://" in checkpoint.spec else str(Path(checkpoint.spec).absolute()),
        base_sha256=learner.base_sha256,
        tokeniser=job.oft.tokeniser,
        draft=job.oft.draft,
        step_width=job.oft.step_width,
        origin={**origin, "oft": dataclasses.asdict(job.oft)},
    )
    if job.oft.backbone == "lora":
        _save_adapter(learner, output, trained.base)
    heads = safetensors.torch.save({n: t.contiguous().cpu() for n, t in plain.items()})
    with writing(output), aside(output / folder.HEADS) as stream:
        stream.write(heads)
    write_file(
        output / description.CONFIG, json.dumps(description.written(trained), indent=2) + "\n"
    )


def _save_adapter(learner: OFTLearner, output: Path, base: str) -> None:
    """As peft does (names.py has what the published model calls the language model)."""
    tensors = {
        "base_model.model.language_model.model."
        + name.removeprefix("target.llama.").replace(".default.", "."): tensor.contiguous().cpu()
        for name, tensor in learner.state().items()
        if ".lora_" in name
    }
    (output / folder.ADAPTER).parent.mkdir(exist_ok=True)
    write_file(output / folder.ADAPTER, safetensors.torch.save(tensors))
    told = {
        "base_model_name_or_path": base,
        "peft_type": "LORA",
        "r": learner.how.lora_rank,
        "lora_alpha": learner.how.lora_rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": LORA_MODULES,
    }
    write_file(output / folder.ADAPTER_CONFIG, json.dumps(told, indent=2) + "\n")
