"""Chunk latency of arms, same weights and inputs, and its prediction (`rsd benchmark decoding`)."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rsd.decoding.contracts import Backbone, CodeModel, Context
from rsd.decoding.sequential import no_codes
from rsd.delay import STAGES
from rsd.errors import UserError
from rsd.models.calls import Call, watched
from rsd.models.code_policy import CodePolicy
from rsd.models.costs import Cost, Device, sheet_named
from rsd.models.openvla_oft import costs
from rsd.models.openvla_oft.config import openvla_7b
from rsd.models.operations import Kind, Operations, Primitives
from rsd.rfsq_config import RFSQConfig
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
class Predicted:
    """Of a request's answer, means: what torch dispatches until it is there, counted in the same
    calls, and how long this machine should take for that."""

    device: Device  # its rates are those of primitive calls, timed between those of the arms
    ms: float
    cost: Cost


@dataclass(frozen=True)
class Latency:
    """One arm at one batch size; times in ms, means where the name says so, else medians."""

    name: str
    batch: int
    answer_ms: float  # from the call to the request's own answer, numpy in to numpy out
    answer_mean_ms: float
    answer_p95_ms: float
    processor_mean_ms: float  # of this process, until then
    batch_ms: float  # from the call to the last answer of its batch
    vision_mean_ms: float  # until the request's own answer, as those that follow
    draft_mean_ms: float
    target_mean_ms: float
    detokenise_mean_ms: float
    other_mean_ms: float  # what no stage holds of answer_mean_ms
    predicted: Predicted | None  # of processor_mean_ms; None: not asked for
    passes: float  # mean
    fast: float  # fraction of chunks in no pass: the draft's, unjudged
    acceptance: tuple[float, ...]  # of the draft's own guesses, accepted / drafted, per layer
    reacceptance: tuple[float, ...]  # of the guesses after a rejection, likewise
    canonical: float  # fraction of chunks with a near tie
    same_codes: float  # fraction of chunks whose codes equal the first arm's
    apart_mm: float  # largest distance of any step's translation, along an axis, to the first arm's
    apart_mean_mm: float  # mean over chunks of the largest in each
    bound_mm: float | None  # largest that the books would have of it; None: nothing is lost


class Answered(NamedTuple):
    """A chunk, and seconds from the call to it."""

    chunk: Chunk
    wall_s: float
    processor_s: float


class Counted(NamedTuple):
    """What one call dispatched, and where in that its requests were answered."""

    kinds: list[Kind]
    ends: list[int]  # by row


def benchmark(
    policy: CodePolicy,
    observations: Sequence[Asked],
    decodings: dict[str, Decoding],
    batches: Sequence[int],
    repeats: int,
    *,
    predict: bool = True,
    told: Callable[[int, int], None] = lambda done, planned: None,
) -> list[Latency]:
    """Time every decoding at every batch size on the same observations, in the order in which they
    were made, and what was known of the chunk before. `predict` where torch on a CPU computes.
    `told` is, after every turn of the arms, how many there were, and will have been.

    The modes take turns batch by batch, and with them the primitive calls that predict them, so
    that a noisy machine hits all of them alike.
    """
    rows = []
    followed = _followed_by_all(policy, observations, decodings, batches)
    for name, decoding in decodings.items():  # so that what is kept of instructions is there
        for index, each in enumerate(followed[name]):
            policy.act(requests([each], decoding, index))
    done, planned = 0, (1 + repeats) * sum(len(observations) // batch for batch in batches)
    for batch in batches:
        starts = range(0, len(observations) - batch + 1, batch)
        turns = [
            {
                name: requests(followed[name][start : start + batch], decoding, start)
                for name, decoding in decodings.items()
            }
            for start in starts
        ]
        operations = Operations()  # counting warms up, too
        counted: dict[str, list[Counted]] = {name: [] for name in decodings}
        for turn in turns:
            for name, asked in turn.items():
                counted[name].append(_count(policy, asked, operations))
            told(done := done + 1, planned)
        all_kinds = chain.from_iterable(c.kinds for each in counted.values() for c in each)
        primitives = Primitives(operations.operations, all_kinds)
        answers: dict[str, list[list[Answered]]] = {name: [] for name in decodings}
        for _ in range(repeats):
            for turn in turns:
                for name, asked in turn.items():
                    answers[name].append(_ask(policy, asked))
                if predict:
                    primitives.take_turn()
                told(done := done + 1, planned)
        first = next(iter(decodings))
        device = primitives.device(f"this machine, batch {batch}") if predict else None
        for name in decodings:
            predicted = _predicted(device, counted[name], operations) if device else None
            rows.append(_latency(name, batch, answers[name], answers[first], predicted))
    return rows


def _ask(policy: CodePolicy, asked: list[ChunkRequest]) -> list[Answered]:
    arrived: dict[int, tuple[float, float]] = {}

    def deliver(row: int, _: Chunk) -> None:
        arrived[row] = time.perf_counter() - started, time.process_time() - began

    started, began = time.perf_counter(), time.process_time()
    chunks = policy.act(asked, deliver)
    return [Answered(chunk, *arrived[row]) for row, chunk in enumerate(chunks)]


def _count(policy: CodePolicy, asked: list[ChunkRequest], operations: Operations) -> Counted:
    ends: dict[int, int] = {}
    kinds = operations.kinds = []
    with operations:
        policy.act(asked, lambda row, _: ends.__setitem__(row, len(kinds)))
    return Counted(kinds, [ends[row] for row in range(len(asked))])


def _predicted(device: Device, counted: Sequence[Counted], operations: Operations) -> Predicted:
    costs_of = {kind: each.cost for kind, each in operations.operations.items()}
    each_of = {
        kind: (device.seconds(cost), *dataclasses.astuple(cost)) for kind, cost in costs_of.items()
    }
    until = [
        np.cumsum([each_of[kind] for kind in kinds], axis=0)[np.array(ends) - 1]
        for kinds, ends in counted
    ]
    seconds, *cost = np.concatenate(until).mean(axis=0).tolist()
    return Predicted(device, 1000 * seconds, Cost(*cost))


def _followed_by_all(
    policy: CodePolicy,
    observations: Sequence[Asked],
    decodings: dict[str, Decoding],
    batches: Sequence[int],
) -> dict[str, Sequence[Asked]]:
    if max(batches) > len(observations):
        raise UserError(f"a batch of {max(batches)} needs as many chunks, not {len(observations)}")
    return {name: _followed(policy, observations, each) for name, each in decodings.items()}


@dataclass(frozen=True)
class Elsewhere:
    """One arm at one batch size, of OpenVLA-OFT at 7B with the same codes on a GPU: the decode loop
    asks the same of it, answer by answer. Mean ms until the request's own answer."""

    name: str
    batch: int
    predicted_ms: float | None  # by the rates measured there; None: nothing was
    floor_ms: float  # by the data sheet
    passes: float
    fast: float
    draft_calls: float  # until the answer


def elsewhere(
    policy: CodePolicy,
    observations: Sequence[Asked],
    decodings: dict[str, Decoding],
    batches: Sequence[int],
    gpu: str,
) -> list[Elsewhere]:
    """Predict; nothing is timed. Raises UserError for a GPU that is not known."""
    sheet, measured = sheet_named(gpu), costs.MEASURED.get(gpu)
    model, calls = policy.model, list[Call]()
    codes = RFSQConfig(model.target.steps, model.target.latent_dim, model.layers, model.levels)
    config = dataclasses.replace(openvla_7b(), tokeniser=codes)
    asks = watched(policy, calls)
    followed = _followed_by_all(policy, observations, decodings, batches)
    rows = []
    for batch in batches:
        for name, decoding in decodings.items():
            found, chunks = [], []
            for start in range(0, len(observations) - batch + 1, batch):
                ends: list[int] = []
                calls.clear()
                asked = requests(followed[name][start : start + batch], decoding, start)
                chunks += asks.act(asked, lambda *_, ends=ends: ends.append(len(calls)))
                found += [calls[:end] for end in ends]
            works = [
                [cost for call in each for cost in costs.called(config, call)] for each in found
            ]
            rows.append(
                Elsewhere(
                    name,
                    batch,
                    statistics.fmean(map(measured.ms, works)) if measured else None,
                    statistics.fmean(map(sheet.ms, works)),
                    passes=statistics.fmean(chunk.trace.passes for chunk in chunks),
                    fast=statistics.fmean(chunk.trace.passes == 0 for chunk in chunks),
                    draft_calls=statistics.fmean(
                        sum(call.what.startswith("draft") for call in each) for each in found
                    ),
                )
            )
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
    answers: list[list[Answered]],
    reference: list[list[Answered]],
    predicted: Predicted | None,
) -> Latency:
    seconds = [[each.wall_s for each in turn] for turn in answers]
    traces = [each.chunk.trace for turn in answers for each in turn]
    pairs = [
        (ours.chunk, theirs.chunk)
        for turn, other in zip(answers, reference, strict=True)
        for ours, theirs in zip(turn, other, strict=True)
    ]
    apart_mm = [_apart_mm(ours, theirs) for ours, theirs in pairs]
    stages = {
        stage: 1000 * statistics.fmean(getattr(trace, stage) for trace in traces)
        for stage in STAGES
    }
    answer_mean_ms = 1000 * float(np.mean(seconds))
    return Latency(
        name=name,
        batch=batch,
        answer_ms=1000 * float(np.median(seconds)),
        answer_mean_ms=answer_mean_ms,
        answer_p95_ms=1000 * float(np.quantile(seconds, 0.95)),
        processor_mean_ms=1000 * statistics.fmean(e.processor_s for turn in answers for e in turn),
        batch_ms=1000 * float(np.median(np.max(seconds, axis=1))),
        **{stage.replace("_s", "_mean_ms"): ms for stage, ms in stages.items()},
        other_mean_ms=answer_mean_ms - sum(stages.values()),
        predicted=predicted,
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
