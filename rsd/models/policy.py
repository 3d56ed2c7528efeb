"""The policy of a checkpoint: requests in, action chunks with traces out. Knows no Ray."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors.torch import load_file
from torch import Tensor

from rsd.decoding import modes
from rsd.decoding.modes import Decoded, Part
from rsd.decoding.rules import make_rule
from rsd.decoding.stopwatch import Stopwatch
from rsd.decoding.uniforms import Uniforms
from rsd.errors import UserError, writing
from rsd.models import checkpoint
from rsd.models.small_vla import Features, SmallVLA, word_ids
from rsd.outputs import aside
from rsd.types import Chunk, ChunkRequest, DecodeTrace, Decoding, Deliver, ImageSpec, Mode

# Where the two best levels of a token are closer than this, rounding might decide, and a canonical
# computation settles the chunk. `jobs/benchmark.py decoding` measures how far logits differ between
# batch sizes and modes, and fails where twice that exceeds it.
NEAR_TIE = 1e-4


class NonFiniteError(RuntimeError):
    """The model's logits hold NaN or infinity."""


class SmallVLAPolicy:
    """Implements rsd.types.Policy.

    With `deterministic`, a greedy request's codes depend on the request alone: chunks in which any
    token is a near tie are decoded once more, alone and autoregressively, and that answer counts.
    """

    def __init__(
        self,
        model: SmallVLA,
        images: ImageSpec,
        checkpoint_sha256: str,
        *,
        deterministic: bool = True,
        device: str = "cpu",
    ) -> None:
        self.model = model.eval().to(device)
        self.images = images
        self.checkpoint_sha256 = checkpoint_sha256
        self.chunk_steps = model.config.tokeniser.steps
        self.layers = model.config.tokeniser.layers
        self._deterministic = deterministic
        self._device = device
        self._words: dict[str, list[int]] = {}

    @torch.inference_mode()
    def act(self, requests: list[ChunkRequest], deliver: Deliver | None = None) -> list[Chunk]:
        """One chunk per request, all with the same decoding; `deliver` gets each when it is final.

        Raises NonFiniteError for NaN logits, ValueError for frames of another size than the
        checkpoint's, UserError for a layer count or rule that the policy does not have.
        """
        stopwatch = Stopwatch(self._device)
        if requests[0].decoding.mode == "regression" and self._deterministic:
            return self._one_by_one(requests, deliver or _nobody, stopwatch)
        return self._act(requests, deliver or _nobody, stopwatch)

    def _act(
        self, requests: list[ChunkRequest], deliver: Deliver, stopwatch: Stopwatch
    ) -> list[Chunk]:
        decoding = requests[0].decoding
        chunks: dict[int, Chunk] = {}
        for part in self._decode(requests, decoding, stopwatch):
            rows = part.rows.tolist()
            asked = [requests[row] for row in rows]
            canonical = self._settle(asked, part.decoded, decoding, stopwatch)
            answers = self._answers(part, canonical, len(requests), stopwatch)
            for row, chunk in zip(rows, answers, strict=True):
                chunks[row] = chunk
                deliver(row, chunk)
        return [chunks[row] for row in range(len(requests))]

    def _one_by_one(
        self, requests: list[ChunkRequest], deliver: Deliver, stopwatch: Stopwatch
    ) -> list[Chunk]:
        """Numbers have no ties that could be settled, and rounding depends on the batch. A request
        waits for those before it, so its times hold theirs."""
        chunks: list[Chunk] = []
        for row, request in enumerate(requests):
            chunks += self._act([request], _nobody, stopwatch)
            deliver(row, chunks[row])
        return chunks

    def _settle(
        self,
        requests: list[ChunkRequest],
        decoded: Decoded,
        decoding: Decoding,
        stopwatch: Stopwatch,
    ) -> list[bool]:
        """Decode near ties canonically, in place; tells which rows were."""
        canonical = [False] * len(requests)
        if self._deterministic and not make_rule(decoding.rule).samples:
            for row in self._near_ties(decoded, decoding):
                again = dataclasses.replace(decoding, mode=_CANONICAL_MODE[decoding.mode])
                (alone,) = self._decode([requests[row]], again, stopwatch)
                decoded.codes[row] = alone.decoded.codes[0]
                canonical[row] = True
        return canonical

    def _answers(
        self, part: Part, canonical: list[bool], batch_size: int, stopwatch: Stopwatch
    ) -> list[Chunk]:
        """Actions and traces of decoded rows; raises NonFiniteError where they are not finite."""
        decoded, codes = part.decoded, part.decoded.codes
        with stopwatch("detokenise"):
            if part.latents is None:
                actions = self.model.tokeniser.decode(codes)
            else:
                actions = self.model.tokeniser.actions(part.latents)
            if not bool(torch.isfinite(actions).all()):
                raise NonFiniteError("the tokeniser's decoder gives NaN or infinity")
            actions[..., -1] = torch.where(actions[..., -1] < 0, -1.0, 1.0)  # PROTOCOL 9
        middle = self.model.config.tokeniser.levels // 2  # of layers that were not decoded
        padded = torch.full((*codes.shape[:-1], self.layers), middle)
        padded[..., : codes.shape[-1]] = codes
        seconds = {f"{name}_s": stopwatch.seconds[name] for name in _SECTIONS}
        return [
            Chunk(
                actions=actions[row].float().cpu().numpy(),
                codes=padded[row].numpy(),
                trace=DecodeTrace(
                    drafted=tuple(decoded.judged[row, 0].tolist()),
                    accepted=tuple(decoded.kept[row, 0].tolist()),
                    redrafted=tuple(decoded.judged[row, 1].tolist()),
                    reaccepted=tuple(decoded.kept[row, 1].tolist()),
                    passes=int(decoded.passes[row]),
                    layers=codes.shape[-1],
                    batch_size=batch_size,
                    canonical=canonical[row],
                    **seconds,
                ),
            )
            for row in range(len(codes))
        ]

    @torch.inference_mode()
    def logit_difference(self, requests: list[ChunkRequest]) -> float:
        """Largest difference of any logit between the two extremes of computing it: the whole
        batch with all layers in one pass, and each request alone, layer by layer."""
        target = self.model.target
        context = self.model.target_context(self._features(requests))
        no_codes = torch.zeros(
            len(requests),
            target.steps,
            target.latent_dim,
            0,
            dtype=torch.int64,
            device=self._device,
        )
        logits, cache = target.prefill(context, no_codes)
        codes = logits[:, 0].argmax(dim=-1)[..., None]
        while codes.shape[-1] < self.layers - 1:
            step = target.extend(cache, codes[..., -1:], codes.shape[-1])
            codes = torch.cat([codes, step[:, 0].argmax(dim=-1)[..., None]], dim=-1)
        together, _ = target.prefill(context, codes)
        worst = 0.0
        for row, request in enumerate(requests):
            alone = self.model.target_context(self._features([request]))
            logits, cache = target.prefill(alone, codes[row : row + 1, ..., :0])
            steps = [logits]
            for layer in range(1, self.layers):
                codes_before = codes[row : row + 1, ..., layer - 1 : layer]
                steps.append(target.extend(cache, codes_before, layer))
            difference = torch.cat(steps, dim=1)[0] - together[row]
            worst = max(worst, float(difference.abs().max()))
        return worst

    def _near_ties(self, decoded: Decoded, decoding: Decoding) -> list[int]:
        """Rows to decode canonically; a row that was decoded canonically already needs none."""
        if decoding.mode == _CANONICAL_MODE[decoding.mode] and len(decoded.margin) == 1:
            return []
        return torch.nonzero(decoded.margin < NEAR_TIE)[:, 0].tolist()

    def _decode(
        self, requests: list[ChunkRequest], decoding: Decoding, stopwatch: Stopwatch
    ) -> Iterator[Part]:
        """Rows of the batch as they become final."""
        for part in self._parts(requests, decoding, stopwatch):
            if bool(torch.isnan(part.decoded.margin).any()):
                raise NonFiniteError("the policy's logits hold NaN or infinity")
            yield part

    def _parts(
        self, requests: list[ChunkRequest], decoding: Decoding, stopwatch: Stopwatch
    ) -> Iterator[Part]:
        if decoding.mode == "expert":
            raise ValueError("an expert decides without a policy: this request is for a worker")
        if decoding.mode == "regression":
            yield from self._regressed(requests, stopwatch)
            return
        layers = self._layers(decoding)
        rule = make_rule(decoding.rule)
        with stopwatch("vision"):
            features = self._features(requests)
        uniforms = _uniforms(requests, self._device) if rule.samples else None
        if decoding.mode == "speculative":
            with stopwatch("draft"):
                draft_context = self._draft_context(features, requests)
            with stopwatch("target"):
                context = self.model.target_context(features)
            yield from modes.speculative(
                self.model.target,
                self.model.draft,
                context,
                draft_context,
                rule,
                layers,
                self._draft_layers(decoding, layers),
                uniforms,
                stopwatch,
            )
            return
        with stopwatch("target"):
            context = self.model.target_context(features)
        if decoding.mode == "parallel":
            decoded = modes.parallel(context, self.model.parallel_logits, layers, stopwatch)
        else:
            decoded = modes.autoregressive(
                self.model.target, context, rule, layers, uniforms, stopwatch
            )
        yield Part(torch.arange(len(requests)), decoded)

    def _regressed(self, requests: list[ChunkRequest], stopwatch: Stopwatch) -> Iterator[Part]:
        if not self.model.config.regression:
            raise UserError("this policy was trained without a regression head")
        with stopwatch("vision"):
            features = self._features(requests)
        with stopwatch("target"):
            latents = self.model.regress(self.model.target_context(features))
        with stopwatch("detokenise"):
            part = modes.regression(latents, self.model.tokeniser.quantise)
        yield part

    def _layers(self, decoding: Decoding) -> int:
        layers = self.layers if decoding.layers is None else decoding.layers
        if not 1 <= layers <= self.layers:
            raise UserError(f"layers={layers}: this policy has layers 1..{self.layers}")
        return layers

    def _draft_layers(self, decoding: Decoding, layers: int) -> int:
        """The last layer comes free with the pass over its coarser ones: no use in drafting it."""
        wanted = layers - 1 if decoding.draft_layers is None else decoding.draft_layers
        if wanted < 0:
            raise UserError(f"draft_layers={wanted}; give 0..{layers - 1}")
        return min(wanted, layers - 1)

    def _features(self, requests: list[ChunkRequest]) -> Features:
        observations = [request.observation for request in requests]
        shape = (self.images.height, self.images.width, 3)
        for observation in observations:
            if observation.agentview.shape != shape or observation.wrist.shape != shape:
                raise ValueError(
                    f"frames of {observation.agentview.shape} and {observation.wrist.shape}; "
                    f"this checkpoint reads {shape}"
                )
        images = np.stack([np.stack([o.agentview, o.wrist]) for o in observations])
        words = [self._word_ids(o.instruction) for o in observations]
        proprio = np.stack([o.proprio for o in observations])
        return self.model.features(
            torch.from_numpy(images).to(self._device),
            torch.tensor(words, device=self._device),
            torch.from_numpy(proprio).to(self._device),
        )

    def _draft_context(self, features: Features, requests: list[ChunkRequest]) -> Tensor:
        tokeniser = self.model.config.tokeniser
        nothing = np.zeros(
            (tokeniser.steps, tokeniser.latent_dim, tokeniser.layers), dtype=np.int64
        )
        codes = [nothing if r.previous_codes is None else r.previous_codes for r in requests]
        known = [request.previous_codes is not None for request in requests]
        return self.model.draft_context(
            features,
            torch.from_numpy(np.stack(codes)).to(self._device),
            torch.tensor(known, device=self._device),
        )

    def _word_ids(self, instruction: str) -> list[int]:
        if instruction not in self._words:
            self._words[instruction] = word_ids(instruction, self.model.config.word_buckets)
        return self._words[instruction]


def _nobody(row: int, chunk: Chunk) -> None:
    """Whom answers are delivered to where nobody waits for them."""


_SECTIONS = ("vision", "draft", "target", "detokenise")
_CANONICAL_MODE: dict[Mode, Mode] = {
    "speculative": "autoregressive",
    "autoregressive": "autoregressive",
    "parallel": "parallel",
    "regression": "regression",
}


def _uniforms(requests: list[ChunkRequest], device: str) -> Uniforms:
    names = tuple(
        (r.key.seed, r.key.suite, r.key.task_id, r.key.trial, r.chunk_index) for r in requests
    )
    return Uniforms(names, device)


def load(spec: str, *, deterministic: bool, device: str) -> SmallVLAPolicy:
    """Load a checkpoint: a folder, or a bundled one by name. Raises UserError where it is unfit."""
    info = checkpoint.inspect(spec)
    if deterministic:  # TensorFloat-32 rounds far above NEAR_TIE
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    model = SmallVLA(info.model, info.images.height)
    scales = model.tokeniser.scales.clone()
    try:
        model.load_state_dict(load_file(info.path / checkpoint.WEIGHTS_FILE))
    except RuntimeError as error:
        raise UserError(
            f"{info.path} does not fit its {checkpoint.CONFIG_FILE}: {error}"
        ) from error
    _check_numbers(model, scales, str(info.path))
    return SmallVLAPolicy(
        model, info.images, info.sha256, deterministic=deterministic, device=device
    )


def _check_finite(tensors: dict[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{where}: {name} holds NaN or infinity; copy or train it again")


def _check_numbers(model: SmallVLA, scales: Tensor, where: str) -> None:
    """Raises UserError for weights that are no numbers, and for normalisation statistics or
    tokeniser scales (those of the configuration: `scales`) that cannot be this model's."""
    _check_finite(model.state_dict(), where)
    smallest = float(model.proprio_scale.min())
    if smallest <= 0:
        raise UserError(
            f"{where}: proprio_scale reaches {smallest:g}, a standard deviation is above 0; the "
            "normalisation statistics are another model's: copy or train it again"
        )
    if not torch.allclose(model.tokeniser.scales, scales):
        raise UserError(
            f"{where}: the tokeniser's scales are {model.tokeniser.scales.tolist()}, its settings "
            f"give {scales.tolist()}; it was trained by other code, train it again"
        )


def save(model: SmallVLA, path: Path, images: ImageSpec, origin: dict[str, object]) -> None:
    """Write a checkpoint folder; both files are written aside before either is replaced, the
    weights first.

    Raises UserError for weights that are no numbers, in half precision at the latest, and where
    the folder cannot be written.
    """
    stored = _stored(model)
    _check_finite(stored, f"{path} is not written")
    weights = safetensors.torch.save(stored)
    config = checkpoint.described(model.config, images, origin, weights)
    with (
        writing(path),
        aside(path / checkpoint.CONFIG_FILE) as config_file,
        aside(path / checkpoint.WEIGHTS_FILE) as weights_file,
    ):
        config_file.write(config)
        config_file.flush()
        weights_file.write(weights)


def round_to_storage(model: SmallVLA) -> None:
    """Give a model the weights that it will have after `save` and `load`."""
    model.load_state_dict(_stored(model))


def _stored(model: SmallVLA) -> dict[str, Tensor]:
    """What has two dimensions or more is stored in half precision (computation is in fp32);
    vectors, such as norms and statistics, and the tokeniser, whose reconstruction must not change
    by a bit, in fp32."""
    return {
        name: (
            tensor.half().contiguous()
            if tensor.is_floating_point() and tensor.ndim >= 2 and not name.startswith("tokeniser.")
            else tensor.contiguous()
        )
        for name, tensor in model.state_dict().items()
    }
