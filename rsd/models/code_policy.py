"""The policy of a model that decodes codes: requests in, action chunks with traces out. Shared by
every family of such models; knows no Ray."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsd.arms import MODES
from rsd.decoding.contracts import Answer, CodeModel, Hear, Job
from rsd.decoding.modes import NonFiniteError, decoder_of
from rsd.decoding.rules import make_rule
from rsd.decoding.stopwatch import Stopwatch
from rsd.errors import UserError
from rsd.types import Chunk, ChunkRequest, DecodeTrace, Decoding, Deliver, ImageSpec


class CodePolicy:
    """Implements rsd.types.Policy.

    With `precise`, the same model in double precision, a greedy request's answer depends on the
    request alone, not on its batch, the processor or torch's build (rsd.decoding.settle).
    """

    def __init__(
        self,
        model: CodeModel,
        images: ImageSpec,
        checkpoint_sha256: str,
        *,
        chunk_steps: int,
        precise: CodeModel | None = None,
    ) -> None:
        self.model = model
        self.precise = precise
        self.images = images
        self.checkpoint_sha256 = checkpoint_sha256
        self.chunk_steps = chunk_steps
        self._leeway = functools.cache(model.leeway)  # of weights that stay as they are

    @torch.inference_mode()
    def act(
        self,
        requests: list[ChunkRequest],
        deliver: Deliver | None = None,
        hear: Hear = lambda drafted: None,
    ) -> list[Chunk]:
        """One chunk per request, all with the same decoding; `deliver` gets each when it is final.

        Raises NonFiniteError for NaN logits, ValueError for frames of another size than the
        checkpoint's, UserError for a layer count or rule that the policy does not have.
        """
        decoding = requests[0].decoding
        job = self._job(requests, decoding, hear)
        chunks: dict[int, Chunk] = {}
        for answer in decoder_of(decoding.mode, self.precise)(job):
            for row, chunk in self._chunks(answer, job):
                chunks[row] = chunk
                if deliver is not None:
                    deliver(row, chunk)
        return [chunks[row] for row in range(len(requests))]

    def _job(self, requests: list[ChunkRequest], decoding: Decoding, hear: Hear) -> Job:
        most = self.model.layers - MODES[decoding.mode].lacks
        layers = most if decoding.layers is None else decoding.layers
        if not 1 <= layers <= most:
            raise UserError(
                f"layers={layers}: this policy has layers 1..{most} in mode {decoding.mode!r}"
            )
        # the last layer comes free with the pass over its coarser ones: no use in drafting it
        drafted = layers - 1 if decoding.draft_layers is None else decoding.draft_layers
        if drafted < 0:
            raise UserError(f"draft_layers={drafted}; give 0..{layers - 1}")
        return Job(
            self.model,
            requests,
            make_rule(decoding.rule, self._leeway),
            decoding.trust,
            layers,
            min(drafted, layers - 1),
            Stopwatch(self.model.device),
            hear,
        )

    def _chunks(self, answer: Answer, job: Job) -> Iterator[tuple[int, Chunk]]:
        """Raises NonFiniteError where actions are not finite."""
        decoded, stopwatch = answer.decoded, job.stopwatch
        with stopwatch("detokenise"):
            actions = answer.actions
            if actions is None:
                actions = self.model.actions(decoded.codes)
            if not bool(torch.isfinite(actions).all()):
                raise NonFiniteError("the tokeniser's decoder gives NaN or infinity")
            executed = actions.float().cpu().numpy()
        codes = self._padded(decoded.codes)
        bound = job.rule.moved(decoded.codes, decoded.off, job.layers)
        moved: Sequence[tuple[float | None, ...]] = [(None, None)] * len(answer.rows)
        if bound is not None:
            moved = bound.tolist()
        seconds: dict[str, Any] = {f"{name}_s": stopwatch.seconds[name] for name in _STAGES}
        rounds: Sequence[_Round] = [(None, None, None)] * len(answer.rows)
        if answer.rounds is not None:
            fast, confidence, reasons, _ = answer.rounds
            rounds = list(zip(fast.tolist(), confidence.tolist(), reasons, strict=True))
        for place, row in enumerate(answer.rows):
            yield (
                row,
                Chunk(
                    actions=executed[place],
                    codes=None if codes is None else codes[place],
                    trace=DecodeTrace(
                        drafted=tuple(decoded.judged[place, 0].tolist()),
                        accepted=tuple(decoded.kept[place, 0].tolist()),
                        redrafted=tuple(decoded.judged[place, 1].tolist()),
                        reaccepted=tuple(decoded.kept[place, 1].tolist()),
                        passes=int(decoded.passes[place]),
                        layers=decoded.codes.shape[-1],
                        batch_size=answer.batch_size,
                        canonical=row in answer.canonical,
                        moved_mm=moved[place][0],
                        moved_degrees=moved[place][1],
                        fast=rounds[place][0],
                        confidence=rounds[place][1],
                        reason=rounds[place][2],
                        **seconds,
                    ),
                ),
            )

    def _padded(self, codes: Tensor) -> np.ndarray | None:
        """Codes (B, T, D, K) with the middle level in layers that were not decoded; None: K = 0."""
        if codes.shape[-1] == 0:
            return None
        padded = torch.full((*codes.shape[:-1], self.model.layers), self.model.levels // 2)
        padded[..., : codes.shape[-1]] = codes
        return padded.numpy()


_Round = tuple[bool | None, float | None, str | None]  # fast, confidence, reason
_STAGES = ("vision", "draft", "target", "detokenise")
