"""SmallVLA in training: small enough that all of it is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsd.demos import Demonstration
from rsd.errors import UserError
from rsd.models.small_vla import checkpoint, weights
from rsd.models.small_vla.architecture import DraftConfig, SmallVLAConfig, check_images
from rsd.models.small_vla.model import Features, SmallVLA, word_ids
from rsd.models.small_vla.transformer import CodeTransformer
from rsd.rfsq import RFSQ
from rsd.training.config import OFTTrainConfig, TrainJob
from rsd.training.data import Examples, load_examples
from rsd.training.learner import Outputs, outputs
from rsd.training.objective import cross_entropy, lesson
from rsd.types import ImageSpec


class SmallVLAReader:
    """Implements rsd.training.data.Reader: frames as they are, words hashed."""

    def __init__(self, word_buckets: int) -> None:
        self._buckets = word_buckets

    def check(self, demo: Demonstration, spec: ImageSpec) -> None:
        try:
            check_images(spec)
        except ValueError as error:
            raise ValueError(f"{error}; crop, scale or draw them anew") from error

    def __call__(self, demo: Demonstration, frames: np.ndarray) -> dict[str, np.ndarray]:
        at = demo.frame_steps[frames]
        return {
            "images": np.stack([demo.agentview[frames], demo.wrist[frames]], axis=1),
            "words": np.tile(np.array(word_ids(demo.instruction, self._buckets)), (len(at), 1)),
            "proprio": demo.proprio[at],
        }


class SmallVLALearner:
    """Implements rsd.training.learner.Learner."""

    at_once = 256

    def __init__(
        self, model: SmallVLA, *, known_proprio: bool = False, knows_tokeniser: bool = False
    ) -> None:
        """With `known_proprio` the model keeps its statistics of proprioception."""
        self.model: SmallVLA = model
        self.regresses = model.config.regression
        self.knows_tokeniser = knows_tokeniser
        self._known_proprio = known_proprio

    @property
    def tokeniser(self) -> RFSQ:
        return self.model.tokeniser

    @property
    def target(self) -> CodeTransformer:
        return self.model.target

    def state(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def load(self, state: dict[str, Tensor]) -> None:
        self.model.load_state_dict(state)

    def round_to_storage(self) -> None:
        weights.round_to_storage(self.model)

    def parts(self) -> Sequence[nn.Module]:
        return list(self.model.target.trunk)

    def target_objective(self, proprio: Tensor) -> nn.Module:
        model = self.model
        for part in (model.draft, model.draft_reader, model.tokeniser):
            part.requires_grad_(False)
        if not self._known_proprio:
            model.proprio_mean.copy_(proprio.mean(dim=0))
            model.proprio_scale.copy_(proprio.std(dim=0).clamp(min=1e-3))
        return TargetObjective(model)

    def draft_objective(self) -> nn.Module:
        self.model.requires_grad_(False)
        for part in (self.model.draft_reader, self.model.draft):
            for parameter in part.parameters():
                # of two layers, the draft embeds no codes; DDP would wait for them
                parameter.requires_grad_(bool(parameter.numel()))
        return DraftObjective(self.model)

    def look(self, images: Tensor, words: Tensor, proprio: Tensor) -> tuple[Features, Tensor]:
        features = self.model.features(images, words, proprio)
        context: Tensor = self.model.target_context(features)
        return features, context


class TargetObjective(nn.Module):
    """The losses as one module, so that its gradients can be averaged over workers."""

    def __init__(self, model: SmallVLA) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, images: Tensor, words: Tensor, proprio: Tensor, actions: Tensor, shifts: Tensor
    ) -> Outputs:
        """A batch's tensors, on the model's device."""
        model = self.model
        taught = lesson(model.tokeniser, actions, shifts)
        context = model.target_context(model.features(images, words, proprio))
        logits, hidden = model.target(context, taught.codes[..., :-1])
        regression = None
        if model.config.regression:
            regression = F.l1_loss(model.regressed(hidden).float(), taught.latent)
        return outputs(taught, logits, model.independent_heads(hidden), regression)


class DraftObjective(nn.Module):
    """The loss as one module, so that its gradients can be averaged over workers."""

    def __init__(self, model: SmallVLA) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, known: Features, previous: Tensor, has_previous: Tensor, codes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features, codes (B, T, D, L) of the chunk before, the target's -> loss in nats per token,
        logits (B, L - 1, T, D, V)."""
        context = self.model.draft_context(Features(*known), previous, has_previous)
        logits = self.model.draft(context, codes[..., :-2])
        return cross_entropy(logits, codes[..., :-1]), logits


def check(job: TrainJob) -> None:
    """Raises UserError for a request that no training could carry out."""
    if job.base is not None or job.oft != OFTTrainConfig():
        raise UserError(
            "--base and --oft.* are for --target openvla-oft; add it, or leave them out"
        )
    if job.draft_only and job.start_from:
        raise UserError(
            "--start-from starts a target, --draft-only keeps the one in --output: give one of them"
        )
    if job.start_from:
        checkpoint.inspect(job.start_from)
    if job.draft_only:
        checkpoint.inspect(str(job.output))


def decided(job: TrainJob) -> TrainJob:
    """With the sizes of the checkpoint that it builds on, if it builds on one. Raises UserError for
    sizes that this checkpoint does not have."""
    base = str(job.output) if job.draft_only else job.start_from
    if base is None:
        return job
    model = checkpoint.inspect(base).model
    if job.start_from:
        model = _started(model, job.model, base)
    if job.draft_only and job.model.draft != DraftConfig():  # of its own sizes, begun anew
        model = dataclasses.replace(model, draft=job.model.draft)
    short = SmallVLAConfig()  # with what can be asked for beside a checkpoint's own sizes
    alike = _with_steps(short, model.tokeniser.steps)
    if job.model not in (short, SmallVLAConfig(draft=model.draft), alike, model):
        own = "--model.draft.*" if job.draft_only else "--model.tokeniser.steps"
        raise UserError(
            f"{base} has sizes of its own; leave out --model.*, but for {own}, or start anew"
        )
    return dataclasses.replace(job, model=model)


def _started(model: SmallVLAConfig, asked: SmallVLAConfig, name: str) -> SmallVLAConfig:
    """Sizes of what starts from the checkpoint `name` of sizes `model`: its own, but for a
    regression head that it lacks and for chunks of another length. Raises UserError."""
    if not model.regression:
        model = dataclasses.replace(model, regression=asked.regression)
    if asked.tokeniser.steps == SmallVLAConfig().tokeniser.steps:  # as good as not said
        return model
    try:
        return _with_steps(model, asked.tokeniser.steps)
    except ValueError as error:
        raise UserError(f"--model.tokeniser.steps: {name} has {error}") from error


def _with_steps(model: SmallVLAConfig, steps: int) -> SmallVLAConfig:
    """For chunks of `steps` control steps."""
    return dataclasses.replace(model, tokeniser=dataclasses.replace(model.tokeniser, steps=steps))


def examples(job: TrainJob) -> Examples:
    """What the demonstrations show. Raises UserError."""
    reader = SmallVLAReader(job.model.word_buckets)
    return load_examples(job.data, job.model.tokeniser.steps, reader, labelled=not job.draft_only)


def learner(
    job: TrainJob, examples: Examples, device: torch.device
) -> tuple[SmallVLALearner, Examples]:
    """The model that training starts from."""
    if job.draft_only:
        model = _start(str(job.output), examples, job.train.held_out)
        if model.config != job.model:
            model = _with_new_draft(model, job.model, examples.spec.height)
        return SmallVLALearner(model, knows_tokeniser=True), examples
    model = SmallVLA(job.model, examples.spec.height)
    if not job.start_from:
        return SmallVLALearner(model), examples
    start = _start(job.start_from, examples, job.train.held_out)
    same_chunks = start.config.tokeniser.steps == job.model.tokeniser.steps
    _take_over(model, start, () if same_chunks else OF_CHUNKS)
    return SmallVLALearner(model, known_proprio=True, knows_tokeniser=same_chunks), examples


OF_DRAFT = ("draft.", "draft_reader.")
OF_CHUNKS = (  # what has the length of a chunk in it, or means other codes with another length
    *OF_DRAFT,
    "tokeniser.",
    "target.code_embedding.",
    "target.heads.",
    "parallel_heads.",
    "regression_head.",
)


def _take_over(model: SmallVLA, start: SmallVLA, but: tuple[str, ...]) -> None:
    """The weights of `start`; those whose names begin with one of `but` stay as they are."""
    taken = {k: v for k, v in start.state_dict().items() if not k.startswith(but)}
    model.load_state_dict(model.state_dict() | taken)


def _with_new_draft(start: SmallVLA, config: SmallVLAConfig, pixels: int) -> SmallVLA:
    """The same target beside a draft of other sizes, from random weights."""
    made = SmallVLA(config, pixels)
    _take_over(made, start, OF_DRAFT)
    return made


FAR = 10.0  # of the checkpoint's standard deviations: another unit or convention, no other task


def _start(name: str, examples: Examples, held_out: float) -> SmallVLA:
    """The model to go on from. Raises UserError for frames drawn otherwise than the checkpoint's,
    for proprioception that its statistics of normalisation cannot be of, and for a validation on
    what it has seen."""
    model, info = weights.load_model(name)
    least = min(_held_out(info.origin), default=held_out)
    if held_out > least:
        raise UserError(
            f"--train.held-out {held_out:g}: {name} has been trained with {least:g}, so that some "
            f"of what would be held out is known to it; give {least:g} or less"
        )
    if info.images != examples.spec:
        raise UserError(
            f"{name} reads frames drawn as {info.images}, the demonstrations hold "
            f"{examples.spec}; train it on its own kind of frames"
        )
    mean, scale = model.proprio_mean, model.proprio_scale
    seen, spread = examples.proprio.mean(dim=0), examples.proprio.std(dim=0)
    for dim in range(len(mean)):
        if abs(seen[dim] - mean[dim]) > FAR * scale[dim] or spread[dim] > FAR * scale[dim]:
            raise UserError(
                f"proprio dimension {dim} is {seen[dim]:.3g} +- {spread[dim]:.3g} in the "
                f"demonstrations, {name} was trained on {mean[dim]:.3g} +- {scale[dim]:.3g}: "
                "other units or conventions, or another model's statistics; train without "
                "--start-from, or on its own kind of data"
            )
    return model


def _held_out(origin: dict[str, Any]) -> Iterator[float]:
    """Of a checkpoint's trainings, and of those of what it started from."""
    share = origin.get("training", {}).get("held_out")
    if share is not None:
        yield share
    for earlier in ("target", "started_from"):
        if earlier in origin:
            yield from _held_out(origin[earlier])


def identity(job: TrainJob, learner: SmallVLALearner) -> dict[str, Any]:
    """Settings that must be the same for a state to go on."""
    return {
        "model": dataclasses.asdict(job.model),
        "conventions": checkpoint.CONVENTIONS,
        "start_from": checkpoint.inspect(job.start_from).sha256 if job.start_from else None,
    }


def earlier(job: TrainJob, learner: SmallVLALearner) -> dict[str, Any]:
    """Where it comes from, for config.json."""
    if job.draft_only:
        return {"target": checkpoint.inspect(str(job.output)).origin}
    if not job.start_from:
        return {}
    start = checkpoint.inspect(job.start_from)
    return {"started_from": {"sha256": start.sha256, **start.origin}}


def save(
    learner: SmallVLALearner, job: TrainJob, examples: Examples, origin: dict[str, Any]
) -> None:
    """Write the checkpoint."""
    weights.save(learner.model.cpu(), job.output, examples.spec, origin)
