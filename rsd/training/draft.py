"""The second phase: the draft, on frozen features, towards the target's own greedy codes.

It learns the target's choices, not the labels, because acceptance is agreement with the target
(DESIGN 5).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rsd.decoding.rules import Exact
from rsd.decoding.sequential import autoregressive
from rsd.decoding.stopwatch import Stopwatch
from rsd.models.small_vla.model import Features, SmallVLA
from rsd.training.config import TrainConfig
from rsd.training.data import Augmentation, Examples, batches, split
from rsd.training.distributed import ALONE, Workers, check_batch
from rsd.training.metrics import Progress, Report, Validation
from rsd.training.objective import (
    TrainingState,
    accuracy,
    check_finite,
    copy_of,
    cross_entropy,
    majority_accuracy,
    shares,
)

AT_ONCE = 256  # examples that the teacher decides together
REPORT_EVERY = 20  # times AT_ONCE, from report to report
BATCHES = 4  # times the target's batch size


class View(NamedTuple):
    """Examples, seen once."""

    features: Features  # half precision, on the CPU
    choices: Tensor  # int64 (N, T, D, L): the target's own greedy codes


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


class DraftTraining:
    """Trains the draft's parameters and leaves all others alone."""

    def __init__(
        self,
        model: SmallVLA,
        examples: Examples,
        config: TrainConfig,
        device: str | torch.device = "cpu",
        workers: Workers = ALONE,
    ) -> None:
        self._batch_size = BATCHES * config.batch_size
        check_batch(self._batch_size, workers.size)
        self._device = torch.device(device)
        self.model = model.to(self._device).eval()
        model.requires_grad_(False)
        self._examples, self._config, self._workers = examples, config, workers
        self._train, self._validation = split(examples.placement, config.held_out)
        both = [*model.draft_reader.parameters(), *model.draft.parameters()]
        self._parameters = [parameter for parameter in both if parameter.numel()]
        for parameter in both:  # of two layers, the draft embeds no codes; DDP would wait for them
            parameter.requires_grad_(bool(parameter.numel()))
        self._optimiser = torch.optim.AdamW(
            self._parameters, lr=config.draft_learning_rate, weight_decay=config.weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, config.draft_learning_rate, total_steps=config.draft_steps
        )
        self._step, self._rate = 0, math.nan  # of the last step

    def run(self, report: Report, every: int = 250) -> Iterator[int]:
        """Train to the end; yields the step number after each report, a place to save or stop."""
        config, workers = self._config, self._workers
        views = [self._teach(view, report) for view in range(config.draft_views)]
        previous = self.model.tokeniser.encode(self._examples.previous.to(self._device)).cpu()
        majority = self._majority(views[0].choices)
        objective = workers.wrap(DraftObjective(self.model))
        order = batches(self._train, self._batch_size, config.seed + 3)
        total, since, started = torch.zeros((), device=self._device), 0, time.monotonic()
        for rows in islice(order, self._step, config.draft_steps):
            self._step += 1
            view = views[self._step % len(views)]
            loss, _ = objective(*self._inputs(workers.share(rows), view, previous))
            total, since = total + self._update(loss * workers.weight(len(rows))), since + 1
            if self._step % every and self._step != config.draft_steps:
                continue
            mean = workers.mean(total) / since
            rate = config.draft_learning_rate
            check_finite(mean, "draft", self._step, f"--train.draft-learning-rate below {rate:g}")
            seconds = time.monotonic() - started
            if workers.leads:
                report(
                    Progress(
                        "draft",
                        self._step,
                        config.draft_steps,
                        mean,
                        self._rate,
                        since * self._batch_size / seconds,
                        self._validate(views[0], previous, majority),
                    )
                )
            yield self._step
            total, since, started = torch.zeros_like(total), 0, time.monotonic()

    def state(self) -> TrainingState:
        """For saving."""
        return TrainingState(
            "draft",
            self._step,
            copy_of(self.model),
            self._optimiser.state_dict(),
            schedule=self._schedule.state_dict(),
        )

    def load(self, state: TrainingState) -> None:
        """Go on from a saved state."""
        self._step = state.step
        self.model.load_state_dict(state.model)
        self._optimiser.load_state_dict(state.optimiser)
        self._schedule.load_state_dict(state.schedule)

    def _update(self, loss: Tensor) -> Tensor:
        """One optimiser step; returns the loss."""
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimiser.step()
        self._rate = self._optimiser.param_groups[0]["lr"]
        self._schedule.step()
        return loss.detach()

    def _inputs(
        self, rows: Tensor, view: View, previous: Tensor
    ) -> tuple[Features, Tensor, Tensor, Tensor]:
        known = Features(*(field[rows].to(self._device).float() for field in view.features))
        has_previous = self._examples.has_previous[rows].to(self._device)
        choices = view.choices[rows].to(self._device)
        return known, previous[rows].to(self._device), has_previous, choices

    @torch.no_grad()
    def _validate(self, view: View, previous: Tensor, majority: tuple[float, ...]) -> Validation:
        inputs = self._inputs(self._validation, view, previous)
        loss, logits = DraftObjective(self.model)(*inputs)
        return Validation(float(loss), shares(accuracy(logits, inputs[-1][..., :-1])), majority)

    def _majority(self, choices: Tensor) -> tuple[float, ...]:
        """Of the target's choices on held-out rows, by its choices in training."""
        levels = self.model.target.levels
        return shares(majority_accuracy(choices[..., :-1], self._train, self._validation, levels))

    @torch.no_grad()
    def _teach(self, index: int, report: Report) -> View:
        """What the target does with every example; the first view shows them as they are. Workers
        take turns, and share what they saw."""
        data, config, workers = self._examples, self._config, self._workers
        generator = torch.Generator().manual_seed((config.seed << 32) + index)
        seen: list[View] = []
        for turn, start in enumerate(range(0, len(data), AT_ONCE)):
            rows = slice(start, start + AT_ONCE)
            images = data.images[rows]
            augmentation = Augmentation.draw(
                images.shape, config.shift, config.jitter, generator
            )  # by everyone: the generator runs on
            if turn % workers.size == workers.rank:
                seen.append(self._view(augmentation.apply(images) if index else images, rows))
            if workers.leads and turn % REPORT_EVERY == 0:
                done, total = index * len(data) + start, config.draft_views * len(data)
                report(Progress("teach", done, total, math.nan))
        parts = workers.interleaved(seen)
        joined = (
            torch.cat(field) for field in zip(*(part.features for part in parts), strict=True)
        )
        return View(Features(*joined), torch.cat([part.choices for part in parts]))

    def _view(self, images: Tensor, rows: slice) -> View:
        model, data = self.model, self._examples
        features = model.features(
            images.to(self._device),
            data.words[rows].to(self._device),
            data.proprio[rows].to(self._device),
        )
        context = model.target_context(features)
        layers = model.config.tokeniser.layers
        decoded = autoregressive(
            model.target, context, Exact(), layers, None, Stopwatch(str(self._device))
        )
        halves = Features(*(field.half().cpu() for field in features))
        return View(halves, decoded.codes.cpu())
