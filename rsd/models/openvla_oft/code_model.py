"""OpenVLA-OFT as the decode loops see it: requests in, contexts, logits and actions out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rsd.decoding.contracts import Backbone, Numbers
from rsd.models.openvla_oft.folder import Checkpoint
from rsd.models.openvla_oft.inputs import Preparation
from rsd.models.openvla_oft.model import Context, Inputs, OpenVLAOFT
from rsd.models.openvla_oft.quantised import doubled
from rsd.rfsq import Leeway
from rsd.types import ChunkRequest, ImageSpec


class Seen(NamedTuple):
    """What exists before the language model runs."""

    inputs: Inputs
    patches: Tensor  # (B, patches, F): features of both towers
    suites: Tensor  # int64 (B,): whose statistics each row goes by


@dataclass(frozen=True)
class SuitedContext(Context):
    """Block 0, and whose units its rows are in."""

    suites: Tensor  # int64 (B,)


class OFTEnds:
    """What the model reads, and what its answers mean; how its passes are launched is a subclass's.
    Codes decode to actions as they are executed; the published heads speak in quantiles of their
    suite."""

    def __init__(
        self, model: OpenVLAOFT, checkpoint: Checkpoint, images: ImageSpec, device: str = "cpu"
    ) -> None:
        self.model = model
        self.target: Backbone = model.target
        self.draft = model.draft
        self.layers = model.config.tokeniser.layers
        self.levels = model.config.tokeniser.levels
        self.device = device
        self._checkpoint, self._images = checkpoint, images
        self._prepare = Preparation(checkpoint, images, device)
        target = model.target
        self._published = target.l1_head if checkpoint.regresses else target.bins

    def doubled(self) -> OFTCodeModel:
        """A copy in double precision."""
        return OFTCodeModel(doubled(self.model), self._checkpoint, self._images, self.device)

    def read(self, requests: Sequence[ChunkRequest]) -> tuple[Inputs, Tensor]:
        """What the model reads, and whose statistics each row goes by, int64 (B,)."""
        prepared = self._prepare([request.observation for request in requests])
        dtype = self.model.projector.fc1.weight.dtype
        previous, known = self._previous([request.past.codes for request in requests])
        inputs = Inputs(
            prepared.pixels.to(dtype),
            prepared.prompt,
            prepared.valid,
            prepared.proprio.to(dtype),
            previous,
            known,
        )
        return inputs, prepared.suites

    def numbers_of(self, placeholders: Tensor, suites: Tensor) -> Numbers:
        """Of hidden states (B, 7 T, W)."""
        actions = self._prepare.units.actions(self._published(placeholders), suites)
        codes = self.model.target.no_codes(len(actions), actions.device)
        if self._checkpoint.heads:
            codes = self.model.tokeniser.encode(actions.nan_to_num())
        return Numbers(actions, codes)

    def leeway(self) -> Leeway:
        """Raises UserError for a tokeniser with an encoder."""
        leeway: Leeway = self.model.tokeniser.leeway()
        return leeway

    def actions(self, codes: Tensor) -> Tensor:
        """(B, T, D, K) -> (B, T, 7), the gripper opening (-1) or closing (+1)."""
        actions = self.model.tokeniser.decode(codes)
        gripper = actions[..., -1:]
        closed = torch.where(gripper < 0, -1.0, 1.0).to(actions.dtype)
        closed = closed.masked_fill(torch.isnan(gripper), torch.nan)
        return torch.cat([actions[..., :-1], closed], dim=-1)

    def _previous(self, codes: Sequence[np.ndarray | None]) -> tuple[Tensor, Tensor]:
        sizes = self.model.config.tokeniser
        nothing = np.zeros((sizes.steps, sizes.latent_dim, sizes.layers), dtype=np.int64)
        previous = np.stack([nothing if each is None else each for each in codes])
        known = [each is not None for each in codes]
        return (
            torch.from_numpy(previous).to(self.device),
            torch.tensor(known, device=self.device),
        )


class OFTCodeModel(OFTEnds):
    """Implements rsd.decoding.contracts.CodeModel: passes of any shape, one operation after the
    other."""

    def inputs(self, requests: Sequence[ChunkRequest]) -> Seen:
        """Raises UserError for what `Preparation` refuses."""
        inputs, suites = self.read(requests)
        return Seen(inputs, self.model.vision_backbone(inputs.pixels), suites)

    def target_context(self, inputs: Seen) -> SuitedContext:
        """Block 0 of the language model."""
        context = self.model.context(inputs.patches, inputs.inputs)
        return SuitedContext(context.embeddings, context.valid, inputs.suites)

    def draft_context(self, inputs: Seen) -> Tensor:
        """(B, W')."""
        return self.model.draft_context(inputs.patches, inputs.inputs)

    def parallel_logits(self, context: Context) -> Tensor:
        """-> (B, L, T, D, V)."""
        return self.model.target.parallel_logits(context)

    def numbers(self, context: SuitedContext) -> Numbers:
        """What the published head of the checkpoint says: regressed, or the middle of a bin."""
        return self.numbers_of(self.model.target.placeholders(context), context.suites)
