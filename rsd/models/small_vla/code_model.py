"""SmallVLA as the decode loops see it: requests in, contexts, logits and actions out."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rsd.decoding.contracts import Numbers
from rsd.errors import UserError
from rsd.models.small_vla.model import Features, SmallVLA, word_ids
from rsd.rfsq import Leeway
from rsd.types import ChunkRequest, ImageSpec


class Inputs(NamedTuple):
    """What exists before any backbone runs."""

    features: Features
    previous: Tensor  # int64 (B, T, D, L): codes of the chunk before
    has_previous: Tensor  # bool (B,)


class SmallVLACodeModel:
    """Implements rsd.decoding.contracts.CodeModel."""

    def __init__(self, model: SmallVLA, images: ImageSpec, device: str = "cpu") -> None:
        self.model = model.eval().to(device)
        _lay_out(self.model)
        self.target, self.draft = model.target, model.draft
        self.layers = model.config.tokeniser.layers
        self.levels = model.config.tokeniser.levels
        self.device = device
        self._images = images
        # of weights that stay as they are; episodes have few instructions, foreign callers any
        self._text = functools.lru_cache(maxsize=1024)(self._read)

    def doubled(self) -> SmallVLACodeModel:
        """A copy in double precision."""
        return SmallVLACodeModel(copy.deepcopy(self.model).double(), self._images, self.device)

    def inputs(self, requests: Sequence[ChunkRequest]) -> Inputs:
        observations = [request.observation for request in requests]
        shape = (self._images.height, self._images.width, 3)
        for observation in observations:
            if observation.agentview.shape != shape or observation.wrist.shape != shape:
                raise ValueError(
                    f"frames of {observation.agentview.shape} and {observation.wrist.shape}; "
                    f"this checkpoint reads {shape}"
                )
        images = np.stack([np.stack([o.agentview, o.wrist]) for o in observations])
        proprio = np.stack([o.proprio for o in observations])
        features = Features(
            self.model.vision(torch.from_numpy(images).to(self.device)),
            torch.stack([self._text(o.instruction) for o in observations]),
            self.model.normalise(torch.from_numpy(proprio).to(self.device)),
        )
        return Inputs(features, *self._previous([r.past.codes for r in requests]))

    def target_context(self, inputs: Inputs) -> Tensor:
        """(B, S, W)."""
        context: Tensor = self.model.target_context(inputs.features)
        return context

    def draft_context(self, inputs: Inputs) -> Tensor:
        """(B, W')."""
        return self.model.draft_context(*inputs)

    def parallel_logits(self, context: Tensor) -> Tensor:
        """(B, S, W) -> (B, L, T, D, V)."""
        return self.model.parallel_logits(context)

    def numbers(self, context: Tensor) -> Numbers:
        """(B, S, W) -> what the regression head says."""
        if not self.model.config.regression:
            raise UserError("this policy was trained without a regression head")
        latents = self.model.regress(context)
        broken = ~torch.isfinite(latents)
        latents = latents.nan_to_num().clamp(-1, 1)
        codes = self.model.tokeniser.quantise(latents)
        actions = self.model.tokeniser.actions(latents.masked_fill(broken, torch.nan))
        return Numbers(_with_gripper(actions), codes)

    def leeway(self) -> Leeway:
        """Raises UserError for a tokeniser with an encoder."""
        leeway: Leeway = self.model.tokeniser.leeway()
        return leeway

    def actions(self, codes: Tensor) -> Tensor:
        """(B, T, D, K) -> (B, T, 7)."""
        return _with_gripper(self.model.tokeniser.decode(codes))

    def _previous(self, codes: Sequence[np.ndarray | None]) -> tuple[Tensor, Tensor]:
        tokeniser = self.model.config.tokeniser
        shape = (tokeniser.steps, tokeniser.latent_dim, tokeniser.layers)
        nothing = np.zeros(shape, dtype=np.int64)
        previous = np.stack([nothing if each is None else each for each in codes])
        known = [each is not None for each in codes]
        return (
            torch.from_numpy(previous).to(self.device),
            torch.tensor(known, device=self.device),
        )

    def _read(self, instruction: str) -> Tensor:
        """(text_tokens, W)."""
        words = word_ids(instruction, self.model.config.word_buckets)
        tokens: Tensor = self.model.text(torch.tensor([words], device=self.device))[0]
        return tokens


def _lay_out(model: nn.Module) -> None:
    """Weights in memory input by input: a product with a few rows, which all passes but the first
    are, reads them faster so."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = module.weight.data.T.contiguous().T


def _with_gripper(actions: Tensor) -> Tensor:
    """The gripper opens or closes, nothing in between (PROTOCOL 9). NaN stays."""
    gripper = actions[..., -1]
    closed = torch.where(gripper < 0, -1.0, 1.0).to(actions.dtype)
    actions[..., -1] = closed.masked_fill(torch.isnan(gripper), torch.nan)
    return actions
