"""Training of SmallVLA: target and parallel heads on demonstrations, then the draft on the target.

The target learns to repair coarse codes that are slightly off: its prefix codes carry noise, and
the labels of finer layers are re-encoded after it (DESIGN 4). The draft learns the target's own
greedy codes, not the labels, because acceptance is agreement with the target (DESIGN 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsd.decoding.modes import autoregressive
from rsd.decoding.rules import Exact
from rsd.decoding.stopwatch import Stopwatch
from rsd.models.small_vla import Features, SmallVLA
from rsd.training.data import Examples, augment, batches, split


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the weights, besides data and sizes."""

    steps: int = 6000
    """Optimiser steps of the target"""

    draft_steps: int = 3000
    """Optimiser steps of the draft, on features that are computed once; batches are four times
    as large"""

    draft_views: int = 4
    """Times that the draft's teacher looks at every example, each but the first augmented anew"""

    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.05
    code_noise: float = 0.1
    """Probability that a prefix token is shifted by one level"""

    parallel_weight: float = 0.25
    """Weight of the independent heads' loss"""

    shift: int = 2
    """Augmentation: pixels of random shift"""

    jitter: float = 0.15
    """Augmentation: brightness and contrast"""

    average: float = 0.998
    """Decay of the exponential moving average whose weights are kept"""

    held_out: float = 0.04
    """Fraction of demonstrations kept for validation"""

    bf16: bool = False
    """Mixed precision; pays on GPUs and on CPUs with bf16 units"""

    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """One report of a running training."""

    phase: str  # target | draft
    step: int
    of: int
    loss: float  # nats per token, mean since the last report
    validation: dict[str, float]  # empty between validations


Report = Callable[[Progress], None]


@dataclass
class TrainingState:
    """What a training needs to go on after an interruption; tensors and numbers only."""

    step: int
    model: dict[str, Tensor]
    average: dict[str, Tensor]
    optimiser: dict[str, object]


class TargetTraining:
    """The first phase: towers, text encoder, target and parallel heads."""

    def __init__(
        self, model: SmallVLA, examples: Examples, config: TrainConfig, device: str = "cpu"
    ) -> None:
        self.model = model.to(device)
        self._examples, self._config, self._device = examples, config, device
        self._train, self._validation = split(examples.episode, config.held_out, config.seed)
        proprio = examples.proprio[self._train]
        model.proprio_mean.copy_(proprio.mean(dim=0))
        model.proprio_scale.copy_(proprio.std(dim=0).clamp(min=1e-3))
        self._average = _copy(model)
        self._optimiser = torch.optim.AdamW(
            _decayed(model, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.95)
        )
        self._step = 0

    def run(self, report: Report, every: int = 50, validate_every: int = 500) -> Iterator[int]:
        """Train to the end; yields the step number after each report, a place to save or stop."""
        config = self._config
        order = iter(batches(self._train, config.batch_size, config.seed + 1))
        generator = torch.Generator()
        for _ in range(self._step):  # an interrupted training goes on with the batches it missed
            next(order)
        total, count = 0.0, 0
        self.model.train()
        while self._step < config.steps:
            for group in self._optimiser.param_groups:
                group["lr"] = config.learning_rate * _schedule(self._step, config)
            generator.manual_seed((config.seed << 32) + self._step)
            loss = self._loss(next(order), generator, training=True)["loss"]
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self._optimiser.step()
            decay = min(config.average, (1 + self._step) / (10 + self._step))
            _average_into(self._average, self.model, decay)
            self._step += 1
            total, count = total + float(loss.detach()), count + 1
            if self._step % every == 0 or self._step == config.steps:
                last = self._step == config.steps
                at_validation = self._step % validate_every == 0 or last
                validation = self.validate() if at_validation else {}
                report(Progress("target", self._step, config.steps, total / count, validation))
                total, count = 0.0, 0
                yield self._step
        self.model.load_state_dict(self._average)
        self.model.eval()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Losses and token accuracies per layer of the averaged weights on held-out episodes."""
        own = _copy(self.model)
        self.model.load_state_dict(self._average)
        self.model.eval()
        generator = torch.Generator().manual_seed(0)
        chosen = self._validation[torch.randperm(len(self._validation), generator=generator)[:512]]
        sums: dict[str, float] = {}
        for rows in chosen.split(64):
            for name, value in self._loss(rows, generator, training=False).items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(rows) / len(chosen)
        self.model.load_state_dict(own)
        self.model.train()
        return sums

    def state(self) -> TrainingState:
        """For saving."""
        return TrainingState(
            self._step, _copy(self.model), self._average, self._optimiser.state_dict()
        )

    def load(self, state: TrainingState) -> None:
        """Go on from a saved state."""
        self._step, self._average = state.step, state.average
        self.model.load_state_dict(state.model)
        self._optimiser.load_state_dict(state.optimiser)

    def _loss(
        self, rows: Tensor, generator: torch.Generator, *, training: bool
    ) -> dict[str, Tensor]:
        data, config, model = self._examples, self._config, self.model
        images = data.images[rows]
        if training:
            images = augment(images, config.shift, config.jitter, generator)
        actions = data.actions[rows].to(self._device)
        with torch.no_grad():
            latent = model.tokeniser.latent(actions)
            clean = model.tokeniser.quantise(latent)
            shifts = _code_noise(clean.shape, config.code_noise if training else 0.0, generator)
            codes, labels = model.tokeniser.quantise_noisily(latent, shifts.to(self._device))
        with torch.autocast(self._device, torch.bfloat16, enabled=config.bf16):
            features = model.features(
                images.to(self._device),
                data.words[rows].to(self._device),
                data.proprio[rows].to(self._device),
            )
            context = model.target_context(features)
            logits, hidden = model.target(context, codes[..., :-1])
            independent = model.independent_heads(hidden)
        loss = _cross_entropy(logits, labels)
        parallel = _cross_entropy(independent, clean)
        measured = {"loss": loss + config.parallel_weight * parallel, "parallel_loss": parallel}
        if not training:
            right = logits.argmax(dim=-1).permute(0, 2, 3, 1) == labels
            for layer in range(right.shape[-1]):
                measured[f"accuracy_{layer}"] = right[..., layer].float().mean()
        return measured


class _View(NamedTuple):
    """All examples, seen once."""

    features: Features  # half precision, on the CPU
    choices: Tensor  # int64 (N, T, D, L): the target's own greedy codes


class DraftTraining:
    """The second phase: the draft, on frozen features, towards the target's greedy codes."""

    def __init__(
        self, model: SmallVLA, examples: Examples, config: TrainConfig, device: str = "cpu"
    ) -> None:
        self.model = model.to(device).eval()
        self._examples, self._config, self._device = examples, config, device
        self._train, self._validation = split(examples.episode, config.held_out, config.seed)

    def run(self, report: Report, every: int = 250) -> None:
        """Train to the end; only the draft's parameters change."""
        config, model = self._config, self.model
        views = [self._teach(view, report) for view in range(config.draft_views)]
        previous = model.tokeniser.encode(self._examples.previous.to(self._device))
        parameters = [*model.draft_reader.parameters(), *model.draft.parameters()]
        optimiser = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, 2e-3, total_steps=config.draft_steps
        )
        order = iter(batches(self._train, 4 * config.batch_size, config.seed + 3))
        total, count = 0.0, 0
        for step in range(1, config.draft_steps + 1):
            loss, _ = self._loss(next(order), views[step % len(views)], previous)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            schedule.step()
            total, count = total + float(loss.detach()), count + 1
            if step % every == 0 or step == config.draft_steps:
                with torch.no_grad():
                    _, right = self._loss(self._validation, views[0], previous)
                agreement = {f"agreement_{i}": float(value) for i, value in enumerate(right)}
                report(Progress("draft", step, config.draft_steps, total / count, agreement))
                total, count = 0.0, 0

    def _loss(self, rows: Tensor, view: _View, previous: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy, and the fraction of tokens that agree, per layer (L - 1,)."""
        model, seen = self.model, view.features
        known = Features(
            seen.image[rows].to(self._device).float(),
            seen.text[rows].to(self._device).float(),
            seen.proprio[rows].to(self._device).float(),
        )
        has_previous = self._examples.has_previous[rows].to(self._device)
        context = model.draft_context(known, previous[rows], has_previous)
        codes = view.choices[rows].to(self._device)
        logits = model.draft(context, codes[..., :-2])
        right = (logits.argmax(dim=-1).permute(0, 2, 3, 1) == codes[..., :-1]).float()
        return _cross_entropy(logits, codes[..., :-1]), right.mean(dim=(0, 1, 2))

    @torch.no_grad()
    def _teach(self, index: int, report: Report) -> _View:
        """What the target does with every example; the first view shows them as they are."""
        data, model, config = self._examples, self.model, self._config
        generator = torch.Generator().manual_seed((config.seed << 32) + index)
        parts: list[Features] = []
        choices = []
        layers = model.config.tokeniser.layers
        for start in range(0, len(data), 256):
            rows = slice(start, start + 256)
            images = data.images[rows]
            if index:
                images = augment(images, config.shift, config.jitter, generator)
            features = model.features(
                images.to(self._device),
                data.words[rows].to(self._device),
                data.proprio[rows].to(self._device),
            )
            context = model.target_context(features)
            decoded = autoregressive(
                model.target, context, Exact(), layers, None, Stopwatch(self._device)
            )
            parts.append(Features(*(field.half().cpu() for field in features)))
            choices.append(decoded.codes.cpu())
            done, total = index * len(data) + start, config.draft_views * len(data)
            report(Progress("teach", done, total, math.nan, {}))
        joined = Features(*(torch.cat(field) for field in zip(*parts, strict=True)))
        return _View(joined, torch.cat(choices))


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """logits (B, n, T, D, V), labels (B, T, D, n) -> mean over tokens, in nats."""
    return F.cross_entropy(logits.float().flatten(0, -2), labels.permute(0, 3, 1, 2).flatten())


def _code_noise(shape: torch.Size, probability: float, generator: torch.Generator) -> Tensor:
    """int64 shifts of one level up or down, each token with `probability`."""
    hit = torch.rand(shape, generator=generator) < probability
    sign = torch.randint(0, 2, shape, generator=generator) * 2 - 1
    return hit * sign


def _schedule(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then cosine decay to 2 %."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _decayed(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Decay matrices, not vectors."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def _average_into(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor, 1 - decay)
        else:
            average[name].copy_(tensor)
