"""The second phase: the draft, towards the target's own greedy codes.

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
from rsd.training.config import TrainConfig
from rsd.training.data import Augmentation, Examples, batches, split
from rsd.training.distributed import ALONE, Workers, check_batch
from rsd.training.learner import Learner
from rsd.training.metrics import Progress, Report, Validation
from rsd.training.objective import (
    TrainingState,
    accuracy,
    check_finite,
    copy_of,
    majority_accuracy,
    shares,
)

AT_ONCE = 256  # held-out examples
REPORT_EVERY = 20  # times the examples that the teacher decides together
BATCHES = 4  # times the target's batch size


class View(NamedTuple):
    """Examples, seen once."""

    known: tuple[Tensor, ...]  # what the learner keeps of them, on the CPU
    choices: Tensor  # int64 (N, T, D, L): the target's own greedy codes


class DraftTraining:
    """Trains the draft's parameters and leaves all others alone."""

    def __init__(
        self,
        learner: Learner,
        examples: Examples,
        config: TrainConfig,
        device: str | torch.device = "cpu",
        workers: Workers = ALONE,
    ) -> None:
        self._batch_size = BATCHES * config.batch_size
        check_batch(self._batch_size, workers.size)
        self._device = torch.device(device)
        self.learner = learner
        self.model = learner.model.to(self._device).eval()
        self._examples, self._config, self._workers = examples, config, workers
        self._train, self._validation = split(examples.placement, config.held_out)
        self._objective = learner.draft_objective()
        self._parameters = [each for each in self.model.parameters() if each.requires_grad]
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
        count = config.draft_views if self._examples.drawn else 1  # features always look alike
        views = [self._teach(view, report) for view in range(count)]
        previous = self.learner.tokeniser.encode(self._examples.previous.to(self._device)).cpu()
        majority = self._majority(views[0].choices)
        objective = workers.wrap(self._objective)
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
            copy_of(self.learner.state()),
            self._optimiser.state_dict(),
            schedule=self._schedule.state_dict(),
        )

    def load(self, state: TrainingState) -> None:
        """Go on from a saved state."""
        self._step = state.step
        self.learner.load(state.model)
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
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor, Tensor]:
        known = tuple(_widened(field[rows].to(self._device)) for field in view.known)
        has_previous = self._examples.has_previous[rows].to(self._device)
        choices = view.choices[rows].to(self._device)
        return known, previous[rows].to(self._device), has_previous, choices

    @torch.no_grad()
    def _validate(self, view: View, previous: Tensor, majority: tuple[float, ...]) -> Validation:
        total, tokens, layers = 0.0, *torch.zeros(2, self.learner.tokeniser.config.layers - 1)
        for rows in self._validation.split(AT_ONCE):
            inputs = self._inputs(rows, view, previous)
            loss, logits = self._objective(*inputs)
            share = len(rows) / len(self._validation)
            total += share * float(loss)
            right = accuracy(logits, inputs[-1][..., :-1])
            tokens += share * right.tokens.cpu()
            layers += share * right.layers.cpu()
        return Validation(total, shares(tokens), majority, survival=shares(layers))

    def _majority(self, choices: Tensor) -> tuple[float, ...]:
        """Of the target's choices on held-out rows, by its choices in training."""
        levels = self.learner.tokeniser.config.levels
        return shares(majority_accuracy(choices[..., :-1], self._train, self._validation, levels))

    @torch.no_grad()
    def _teach(self, index: int, report: Report) -> View:
        """What the target does with every example; the first view shows them as they are. Workers
        take turns, and share what they saw."""
        data, config, workers = self._examples, self._config, self._workers
        generator = torch.Generator().manual_seed((config.seed << 32) + index)
        seen: list[View] = []
        for turn, start in enumerate(range(0, len(data), self.learner.at_once)):
            rows = slice(start, start + self.learner.at_once)
            images = data.images[rows]
            if index and data.drawn:
                augmentation = Augmentation.draw(
                    images.shape, config.shift, config.jitter, generator
                )  # by everyone: the generator runs on
                images = augmentation.apply(images)
            if turn % workers.size == workers.rank:
                seen.append(self._view(images, rows))
            if workers.leads and turn % REPORT_EVERY == 0:
                done, total = index * len(data) + start, config.draft_views * len(data)
                report(Progress("teach", done, total, math.nan))
        parts = workers.interleaved(seen)
        known = zip(*(part.known for part in parts), strict=True)
        choices = torch.cat([part.choices for part in parts])
        return View(tuple(torch.cat(field) for field in known), choices)

    def _view(self, images: Tensor, rows: slice) -> View:
        learner, data = self.learner, self._examples
        seen = (images, data.words[rows], data.proprio[rows])
        known, context = learner.look(*(each.to(self._device) for each in seen))
        decoded = autoregressive(
            learner.target,
            context,
            Exact(),
            learner.tokeniser.config.layers,
            None,
            Stopwatch(str(self._device)),
        )
        return View(tuple(_narrowed(field).cpu() for field in known), decoded.codes.cpu())


def _narrowed(known: Tensor) -> Tensor:
    """Numbers in half precision, to be kept."""
    return known.half() if known.is_floating_point() else known


def _widened(kept: Tensor) -> Tensor:
    return kept.float() if kept.is_floating_point() else kept
