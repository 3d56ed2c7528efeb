"""What a family of policies brings to training, whose phases all families share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from rsd.decoding.contracts import Backbone, Context
from rsd.rfsq import RFSQ
from rsd.training.config import TrainJob
from rsd.training.data import Examples
from rsd.training.objective import Lesson, cross_entropy


class Outputs(NamedTuple):
    """What the target says, and what it should have."""

    logits: Tensor  # (B, L, T, D, V)
    labels: Tensor  # int64 (B, T, D, L), after the noise
    loss: Tensor  # nats per token
    parallel_loss: Tensor  # of the independent heads
    regression_loss: Tensor  # of the regression head: mean L1 of what it says; 0 without one


def outputs(
    taught: Lesson, logits: Tensor, independent: Tensor, regression_loss: Tensor | None
) -> Outputs:
    """Of what the target says after a lesson, and its heads that see no codes: (B, L, T, D, V)."""
    return Outputs(
        logits,
        taught.labels,
        cross_entropy(logits, taught.labels),
        cross_entropy(independent, taught.clean),
        logits.new_zeros(()) if regression_loss is None else regression_loss,
    )


class Learner(Protocol):
    """A model in training. What requires gradients is what the phase in progress trains."""

    model: nn.Module
    regresses: bool  # whether a head that says numbers is trained, too
    at_once: int  # examples that fit where they are decoded together
    knows_tokeniser: bool  # from the checkpoint that it started from

    @property
    def tokeniser(self) -> RFSQ: ...

    @property
    def target(self) -> Backbone: ...

    def state(self) -> dict[str, Tensor]:
        """All that training changes, by name: the model's own tensors."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over a `state`."""

    def round_to_storage(self) -> None:
        """Give the model the weights that its checkpoint will have."""

    def parts(self) -> Sequence[nn.Module]:
        """Of the model, in the order in which they compute: what is whole one after the other where
        weights are sharded."""

    def target_objective(self, proprio: Tensor) -> nn.Module:
        """The target's losses as a module, so that its gradients can be averaged over workers:
        images, words, proprio, actions (B, T, 7), code noise (B, T, D, L; levels) -> Outputs.
        `proprio` (N, 8) is that of all training examples."""

    def draft_objective(self) -> nn.Module:
        """The draft's, likewise: what is known of examples (`look`), codes (B, T, D, L) of the
        chunk before, whether there is one, the target's choices -> loss in nats per token, logits
        (B, L - 1, T, D, V)."""

    def look(
        self, images: Tensor, words: Tensor, proprio: Tensor
    ) -> tuple[tuple[Tensor, ...], Context]:
        """What the draft's objective reads of examples, and the target's context."""


class Recipe(Protocol):
    """How a family of policies is trained: a module of this package, by `TrainJob.target`."""

    def check(self, job: TrainJob) -> None:
        """Raises UserError for a request that no training could carry out."""

    def decided(self, job: TrainJob) -> TrainJob:
        """With the sizes of the checkpoint that it builds on. Raises UserError for others."""

    def examples(self, job: TrainJob) -> Examples:
        """What the demonstrations show. Raises UserError."""

    def learner(
        self, job: TrainJob, examples: Examples, device: torch.device
    ) -> tuple[Learner, Examples]:
        """The model that training starts from, and the examples as it reads them."""

    def identity(self, job: TrainJob, learner: Learner) -> dict[str, Any]:
        """Settings, besides those of all families, that must be the same for a state to go on."""

    def earlier(self, job: TrainJob, learner: Learner) -> dict[str, Any]:
        """Where it comes from, for the checkpoint's description."""

    def save(
        self, learner: Learner, job: TrainJob, examples: Examples, origin: dict[str, Any]
    ) -> None:
        """Write the checkpoint."""
