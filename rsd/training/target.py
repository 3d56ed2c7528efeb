"""The first phase: all that a learner trains but its draft, on demonstrations.

The target learns to repair coarse codes that are slightly off: its prefix codes carry noise, and
the labels of finer layers are re-encoded after it (DESIGN 4).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rsd.training.config import TrainConfig
from rsd.training.data import Augmentation, Examples, ahead, batches, split
from rsd.training.distributed import (
    ALONE,
    Workers,
    check_batch,
    fill,
    hollow,
    local,
    shard_as,
)
from rsd.training.learner import Learner, Outputs
from rsd.training.metrics import Progress, Report, Validation
from rsd.training.objective import (
    LOADERS,
    TrainingState,
    accuracy,
    check_finite,
    copy_of,
    decayed,
    majority_accuracy,
    mixed,
    shares,
    to,
)


class Batch(NamedTuple):
    """A worker's share of a batch, on the CPU."""

    images: Tensor  # uint8 (B, cameras, H, W, 3), augmented; or features of them
    words: Tensor  # int64 (B, words)
    proprio: Tensor  # float32 (B, 8)
    actions: Tensor  # float32 (B, T, 7)
    shifts: Tensor  # int64 (B, T, D, L): code noise, in levels
    weight: float  # of this share's mean loss


Objective = Callable[..., Outputs]


class TargetTraining:
    """Trains everything but the draft; the averaged weights are kept."""

    def __init__(
        self,
        learner: Learner,
        examples: Examples,
        config: TrainConfig,
        device: str | torch.device = "cpu",
        workers: Workers = ALONE,
    ) -> None:
        check_batch(config.batch_size, workers.size)
        self._device = torch.device(device)
        self.learner = learner
        self.model = learner.model.to(self._device)
        self._examples, self._config, self._workers = examples, config, workers
        self._train, self._validation = split(examples.placement, config.held_out)
        self._plain = learner.target_objective(examples.proprio[self._train])
        self._whole = hollow(self.model) if workers.sharded else self.model
        objective = workers.split(self._plain, learner.parts())
        self._objective: Objective = torch.compile(objective) if config.compile else objective
        self._average = copy_of(learner.state())
        self._optimiser = torch.optim.AdamW(
            decayed(self.model, config.weight_decay),
            lr=config.learning_rate,
            betas=(0.9, 0.95),
            fused=True,
        )
        self._step = 0

    def run(self, report: Report, every: int = 50, validate_every: int = 500) -> Iterator[int]:
        """Train to the end; yields the step number after each report, a place to save or stop."""
        config, workers = self._config, self._workers
        order = batches(self._train, config.batch_size, config.seed + 1)
        # an interrupted training goes on with the batches it missed
        numbered = islice(enumerate(order), self._step, config.steps)
        threads = LOADERS if self._device.type == "cuda" else 0
        total, since, started = torch.zeros((), device=self._device), 0, time.monotonic()
        self.model.train()
        for batch in ahead(self._prepare, numbered, threads):
            total, since = total + self._update(batch), since + 1
            if self._step % every and self._step != config.steps:
                continue
            loss = workers.mean(total) / since
            rate = config.learning_rate
            check_finite(loss, "target", self._step, f"--train.learning-rate below {rate:g}")
            seconds = time.monotonic() - started
            due = self._step % validate_every == 0 or self._step == config.steps
            due = due and (workers.leads or workers.sharded)  # none computes alone with its part
            validation = self.validate() if due else None
            if workers.leads:
                report(
                    Progress(
                        "target",
                        self._step,
                        config.steps,
                        loss,
                        self._optimiser.param_groups[0]["lr"],
                        since * config.batch_size / seconds,
                        validation,
                    )
                )
            yield self._step
            total, since, started = torch.zeros_like(total), 0, time.monotonic()
        self.learner.load(self._average)
        if workers.sharded:
            fill(self._whole, self.model)
            self.learner.model = self.model = self._whole
        self.model.eval()

    @torch.no_grad()
    def validate(self) -> Validation:
        """The averaged weights on held-out episodes."""
        own = copy_of(self.learner.state())
        self.learner.load(self._average)
        self.model.eval()
        generator = torch.Generator().manual_seed(0)
        chosen = self._validation[torch.randperm(len(self._validation), generator=generator)[:512]]
        loss = parallel = regression = 0.0
        right = torch.zeros(self.learner.tokeniser.config.layers)
        for rows in chosen.split(64):
            outputs = self._forward(self._plain, self._as_they_are(rows))
            share = len(rows) / len(chosen)
            loss += share * float(outputs.loss)
            parallel += share * float(outputs.parallel_loss)
            regression += share * float(outputs.regression_loss)
            right += share * accuracy(outputs.logits, outputs.labels).tokens.cpu()
        majority = self._majority(chosen)
        self.learner.load(own)
        self.model.train()
        if not self.learner.regresses:
            regression = math.nan
        return Validation(loss, shares(right), majority, parallel, regression)

    def state(self) -> TrainingState:
        """For saving; sharded where the target is."""
        return TrainingState(
            "target",
            self._step,
            copy_of(self.learner.state()),
            self._optimiser.state_dict(),
            average=self._average,
        )

    def load(self, state: TrainingState) -> None:
        """Go on from a saved state."""
        self._step = state.step
        places = self.learner.state()
        self._average, model = (
            {name: shard_as(tensor.to(self._device), places[name]) for name, tensor in of.items()}
            for of in (state.average, state.model)
        )
        self.learner.load(model)
        self._optimiser.load_state_dict(self._sharded(state.optimiser))

    def _sharded(self, optimiser: dict[str, Any]) -> dict[str, Any]:
        """A whole state of the optimiser, its numbers sharded like the parameters they are of."""
        parameters = [each for group in self._optimiser.param_groups for each in group["params"]]
        of_each = {
            place: {
                name: shard_as(value, parameters[place]) if value.ndim else value
                for name, value in held.items()
            }
            for place, held in optimiser["state"].items()
        }
        return {**optimiser, "state": of_each}

    def _update(self, batch: Batch) -> Tensor:
        """One optimiser step; returns the batch's cross-entropy."""
        for group in self._optimiser.param_groups:
            group["lr"] = self._config.learning_rate * _schedule(self._step, self._config)
        outputs = self._forward(self._objective, batch)
        loss = (
            outputs.loss
            + self._config.parallel_weight * outputs.parallel_loss
            + self._config.regression_weight * outputs.regression_loss
        ) * batch.weight
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimiser.step()
        decay = min(self._config.average, (1 + self._step) / (10 + self._step))
        _average_into(self._average, self.learner.state(), decay)
        self._step += 1
        return outputs.loss.detach() * batch.weight

    def _forward(self, objective: Objective, batch: Batch) -> Outputs:
        with mixed(self._config, self._device):
            return objective(*(to(self._device, tensor) for tensor in batch[:-1]))

    def _prepare(self, numbered: tuple[int, Tensor]) -> Batch:
        """This worker's share of a step's batch. Noise is drawn for the whole batch, from the step
        alone: neither the number of workers nor an interruption changes it."""
        step, rows = numbered
        config, data = self._config, self._examples
        generator = torch.Generator().manual_seed((config.seed << 32) + step)
        part = slice(self._workers.rank, None, self._workers.size)
        mine = rows[part]
        images = data.images[mine]
        if data.drawn:
            frames = torch.Size((len(rows), *images.shape[1:]))
            augmentation = Augmentation.draw(frames, config.shift, config.jitter, generator)
            images = augmentation.of(part).apply(images)
        shifts = _code_noise(self._codes_shape(len(rows)), config.code_noise, generator)
        return Batch(
            images,
            data.words[mine],
            data.proprio[mine],
            data.actions[mine],
            shifts[part],
            self._workers.weight(len(rows)),
        )

    def _as_they_are(self, rows: Tensor) -> Batch:
        data = self._examples
        no_shifts = torch.zeros(self._codes_shape(len(rows)), dtype=torch.int64)
        return Batch(
            data.images[rows],
            data.words[rows],
            data.proprio[rows],
            data.actions[rows],
            no_shifts,
            1.0,
        )

    def _codes_shape(self, count: int) -> torch.Size:
        sizes = self.learner.tokeniser.config
        return torch.Size((count, sizes.steps, sizes.latent_dim, sizes.layers))

    def _majority(self, validation: Tensor) -> tuple[float, ...]:
        """Of the labels of held-out rows, by the training labels."""
        rows = torch.cat([self._train, validation])
        codes = self.learner.tokeniser.encode(self._examples.actions[rows].to(self._device)).cpu()
        known = torch.arange(len(rows))
        train, held_out = known[: len(self._train)], known[len(self._train) :]
        return shares(
            majority_accuracy(codes, train, held_out, self.learner.tokeniser.config.levels)
        )


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


@torch.no_grad()
def _average_into(average: dict[str, Tensor], now: dict[str, Tensor], decay: float) -> None:
    numbers = [name for name, tensor in now.items() if tensor.is_floating_point()]
    torch._foreach_lerp_(
        [local(average[name]) for name in numbers],
        [local(now[name]) for name in numbers],
        1 - decay,
    )
