"""Chunk latency of arms, same weights and inputs (`rsd benchmark decoding`)."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rsd.decoding.contracts import Backbone, CodeModel, Context
from rsd.decoding.sequential import no_codes
from rsd.errors import UserError
from rsd.models.code_policy import CodePolicy
from rsd.types import (
    METRES_PER_UNIT,
    Chunk,
    ChunkRequest,
    Decoding,
    EpisodeKey,
    Observation,
    Past,
    draws_of,
    past_after,
)

Asked = tuple[Observation, Past]


@dataclass(frozen=True)
class Latency:
    """One arm at one batch size; times in ms, medians unless said otherwise."""

    name: str
    batch: int
    answer_ms: float  # from the call to the request's own answer, numpy in to numpy out
    answer_mean_ms: float
    answer_p95_ms: float
    batch_ms: float  # from the call to the last answer of its batch
    vision_ms: float
    draft_ms: float
    target_ms: float
    detokenise_ms: float
    passes: float  # mean
    fast: float  # fraction of chunks in no pass: the draft's, unjudged
    acceptance: tuple[float, ...]  # of the draft's own guesses, accepted / drafted, per layer
    reacceptance: tuple[float, ...]  # of the guesses after a rejection, likewise
    canonical: float  # fraction of chunks with a near tie
    same_codes: float  # fraction of chunks whose codes equal the first arm's
    apart_mm: float  # largest distance of any step's translation, along an axis, to the first arm's
    apart_mean_mm: float  # mean over chunks of the largest in each
    bound_mm: float | None  # largest that the books would have of it; None: nothing is lost


def benchmark(
    policy: CodePolicy,
    observations: Sequence[Asked],
    decodings: dict[str, Decoding],
    batches: Sequence[int],
    repeats: int,
) -> list[Latency]:
    """Time every decoding at every batch size on the same observations, in the order in which they
    were made, and what was known of the chunk before.

    The modes take turns batch by batch, so that a noisy machine hits all of them alike.
    """
    rows = []
    if max(batches) > len(observations):
        raise UserError(f"a batch of {max(batches)} needs as many chunks, not {len(observations)}")
    followed = {name: _followed(policy, observations, decodings[name]) for name in decodings}
    for batch in batches:
        starts = range(0, len(observations) - batch + 1, batch)
        seconds: dict[str, list[list[float]]] = {name: [] for name in decodings}
        answers: dict[str, list[list[Chunk]]] = {name: [] for name in decodings}
        for repeat in range(repeats + 1):  # the first round warms up
            for start in starts:
                for name, decoding in decodings.items():
                    asked = requests(followed[name][start : start + batch], decoding, start)
                    arrived: list[float] = []
                    started = time.perf_counter()
                    chunks = policy.act(asked, lambda *_, a=arrived: a.append(time.perf_counter()))
                    if repeat:
                        seconds[name].append([at - started for at in arrived])
                        answers[name].append(chunks)
        first = next(iter(decodings))
        for name in decodings:
            rows.append(_latency(name, batch, seconds[name], answers[name], answers[first]))
    return rows


def _followed(
    policy: CodePolicy, observations: Sequence[Asked], decoding: Decoding
) -> Sequence[Asked]:
    """The same, as if the decoding had answered all of them: a chunk knows how many before it were
    not judged."""
    if decoding.trust is None:
        return observations
    found: list[Asked] = []
    fast_rounds = 0
    for index, (observation, past) in enumerate(observations):
        fast_rounds = 0 if past.codes is None else fast_rounds
        asked = (observation, dataclasses.replace(past, fast_rounds=fast_rounds))
        (request,) = requests([asked], decoding, index)
        found.append(asked)
        fast_rounds = past_after(request, policy.act([request])[0]).fast_rounds
    return found


def requests(group: Sequence[Asked], decoding: Decoding, offset: int = 0) -> list[ChunkRequest]:
    """Requests for recorded observations; the chunk index is their place in the recording."""
    key = EpisodeKey("benchmark", "benchmark", 0, 0)
    return [
        ChunkRequest(observation, decoding, draws_of(key, offset + index), offset + index, past)
        for index, (observation, past) in enumerate(group)
    ]


def _latency(
    name: str,
    batch: int,
    seconds: list[list[float]],
    answers: list[list[Chunk]],
    reference: list[list[Chunk]],
) -> Latency:
    traces = [chunk.trace for chunks in answers for chunk in chunks]
    pairs = [
        (ours, theirs)
        for chunks, others in zip(answers, reference, strict=True)
        for ours, theirs in zip(chunks, others, strict=True)
    ]
    apart_mm = [_apart_mm(ours, theirs) for ours, theirs in pairs]
    return Latency(
        name=name,
        batch=batch,
        answer_ms=1000 * float(np.median(seconds)),
        answer_mean_ms=1000 * float(np.mean(seconds)),
        answer_p95_ms=1000 * float(np.quantile(seconds, 0.95)),
        batch_ms=1000 * float(np.median(np.max(seconds, axis=1))),
        vision_ms=1000 * statistics.median(trace.vision_s for trace in traces),
        draft_ms=1000 * statistics.median(trace.draft_s for trace in traces),
        target_ms=1000 * statistics.median(trace.target_s for trace in traces),
        detokenise_ms=1000 * statistics.median(trace.detokenise_s for trace in traces),
        passes=float(np.mean([trace.passes for trace in traces])),
        fast=float(np.mean([trace.passes == 0 for trace in traces])),
        acceptance=_rates([t.accepted for t in traces], [t.drafted for t in traces]),
        reacceptance=_rates([t.reaccepted for t in traces], [t.redrafted for t in traces]),
        canonical=float(np.mean([trace.canonical for trace in traces])),
        same_codes=float(np.mean([_same(ours.codes, theirs.codes) for ours, theirs in pairs])),
        apart_mm=max(apart_mm),
        apart_mean_mm=statistics.fmean(apart_mm),
        bound_mm=max((t.moved_mm for t in traces if t.moved_mm is not None), default=None),
    )


def _same(ours: np.ndarray | None, theirs: np.ndarray | None) -> bool:
    return ours is not None and theirs is not None and np.array_equal(ours, theirs)


def _apart_mm(ours: Chunk, theirs: Chunk) -> float:
    apart = np.abs(ours.actions - theirs.actions)[:, :3]
    return 1000 * METRES_PER_UNIT * float(apart.max())


def _rates(kept: Sequence[tuple[int, ...]], judged: Sequence[tuple[int, ...]]) -> tuple[float, ...]:
    """Kept of judged tokens, by layer, for the layers in which any was judged. A draft's chunk has
    a layer less than a target's."""
    k, n = (np.sum([*zip_longest(*each, fillvalue=0)], axis=1) for each in (kept, judged))
    return tuple((k[n > 0] / n[n > 0]).tolist())


@torch.inference_mode()
def logit_difference(policy: CodePolicy, asked: Sequence[ChunkRequest]) -> float:
    """Largest distance of any logit, of target and draft, from double precision's, at both extremes
    of computing it: the whole batch with all layers in one pass, and each request alone, layer by
    layer. The policy is a deterministic one."""
    return max(_difference(policy, asked, part) for part in (_target, _draft))


class _Part(NamedTuple):
    """Target or draft, and what it reads."""

    backbone: Backbone
    context: Context
    layers: int


_PartOf = Callable[[CodeModel, Sequence[ChunkRequest]], _Part]


def _target(model: CodeModel, asked: Sequence[ChunkRequest]) -> _Part:
    return _Part(model.target, model.target_context(model.inputs(asked)), model.layers)


def _draft(model: CodeModel, asked: Sequence[ChunkRequest]) -> _Part:
    return _Part(model.draft, model.draft_context(model.inputs(asked)), model.layers - 1)


def _difference(policy: CodePolicy, asked: Sequence[ChunkRequest], part: _PartOf) -> float:
    assert policy.precise is not None, "nothing in double precision to compare with"
    codes = _layer_by_layer(part(policy.model, asked))[0]
    exact = _in_one_pass(part(policy.precise, asked), codes)
    together = _in_one_pass(part(policy.model, asked), codes)
    worst = float((together - exact).abs().max())
    for row, request in enumerate(asked):
        _, alone = _layer_by_layer(part(policy.model, [request]), codes[row : row + 1])
        worst = max(worst, float((alone[0] - exact[row]).abs().max()))
    return worst


def _in_one_pass(part: _Part, codes: Tensor) -> Tensor:
    """Logits (B, L, T, D, V) of all layers given codes (B, T, D, L - 1)."""
    return part.backbone.prefill(part.context, codes)[0]


def _layer_by_layer(part: _Part, codes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Codes (B, T, D, L - 1), given or else the best ones, and the logits of all layers."""
    taken = no_codes(part.backbone, part.context, 0)
    logits, cache = part.backbone.prefill(part.context, taken)
    steps = [logits]
    for layer in range(1, part.layers):
        best = steps[-1][:, 0].argmax(dim=-1)[..., None]
        before = best if codes is None else codes[..., layer - 1 : layer]
        taken = torch.cat([taken, before], dim=-1)
        steps.append(part.backbone.extend(cache, before, layer))
    return taken, torch.cat(steps, dim=1)
