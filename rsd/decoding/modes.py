"""The decode modes: how each is decoded, and how its answers are settled.

Adding a mode is one entry in `MODES` (and its name in `rsd.types.Mode`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from rsd.decoding import sequential, settle
from rsd.decoding.confidence import Drafted
from rsd.decoding.contracts import Answer, CodeModel, Context, Decoded, Decoder, Inputs, Job, Part
from rsd.decoding.rules import Exact, Rule
from rsd.decoding.sequential import smallest_margin, unspeculated
from rsd.decoding.speculative import Begun, begin, speculative
from rsd.decoding.trust import decide
from rsd.types import ACTION_DIM, ChunkRequest, Mode


class NonFiniteError(RuntimeError):
    """The model's logits hold NaN or infinity."""


def _parallel(job: Job) -> Iterator[Answer]:
    context = _context(job, _inputs(job))
    yield _whole(
        job, sequential.parallel(context, job.model.parallel_logits, job.layers, job.stopwatch)
    )


def _autoregressive(job: Job) -> Iterator[Answer]:
    context = _context(job, _inputs(job))
    for rows, decoded in sequential.refined(
        job.model.target,
        context,
        job.rule,
        job.layers,
        job.uniforms,
        job.stopwatch,
        actions=job.model.actions,
    ):
        yield Answer(rows.tolist(), decoded, len(job.requests))


def _speculative(job: Job) -> Iterator[Answer]:
    model, inputs = job.model, _inputs(job)
    with job.stopwatch("draft"):
        draft_context = model.draft_context(inputs)
    for rows, decoded in speculative(
        model.target,
        model.draft,
        _context(job, inputs),
        draft_context,
        _judge(job),
        job.layers,
        job.draft_layers,
        job.uniforms,
        job.stopwatch,
    ):
        yield Answer(rows.tolist(), decoded, len(job.requests))


def _judge(job: Job) -> Rule:
    """Arms name no other rule where something is guessed."""
    return cast(Rule, job.rule)


def _settled_speculative(job: Job) -> Iterator[Answer]:
    """What `_speculative` comes to: codes that no guess decides, or else itself."""
    return (_autoregressive if job.rule.lossless else _speculative)(job)


def _draft(job: Job) -> Iterator[Answer]:
    """The draft in the target's place: no pass. Greedy."""
    inputs = _inputs(job)
    with job.stopwatch("draft"):
        context = job.model.draft_context(inputs)
    decoded = sequential.autoregressive(
        job.model.draft, context, Exact(), job.layers, None, job.stopwatch, stage="draft"
    )
    yield _whole(job, decoded._replace(passes=torch.zeros_like(decoded.passes)))


def _temporal(job: Job) -> Iterator[Answer]:
    """What the draft says where it may be trusted, at once; then the other rows, whose passes judge
    what it said of them."""
    return _temporally(job, _judged)


def _settled_temporal(job: Job) -> Iterator[Answer]:
    """What `_temporal` comes to."""
    return _temporally(job, _unguessed)


Slow = Callable[[Job, Context, Tensor, Begun], Iterator[Part]]  # contexts of target and draft


def _temporally(job: Job, decode_slow: Slow) -> Iterator[Answer]:
    model, inputs = job.model, _inputs(job)
    assert job.trust is not None, "this mode has to know what it trusts"
    with job.stopwatch("draft"):
        context = model.draft_context(inputs)
        begun = begin(model.draft, context, model.layers - 1)  # as it was calibrated
        drafted = _drafted(model, begun, job.requests)
        rounds = decide(job.trust, drafted, job.requests)
        margin = smallest_margin(begun.logits).amin(dim=1).minimum(rounds.gap.float())
        fast, slow = (torch.nonzero(kind)[:, 0] for kind in (rounds.fast, ~rounds.fast))
    job.hear(drafted)
    count = len(job.requests)
    if len(fast):
        codes = begun.codes[fast][..., : job.layers]
        decoded = unspeculated(codes, torch.zeros_like(fast), margin[fast])
        yield Answer(fast.tolist(), decoded, count, rounds=rounds.of(fast))
    if len(slow):
        target_context = _context(job, inputs)[slow]
        for place, decoded in decode_slow(job, target_context, context[slow], begun.of(slow)):
            rows = slow[place]
            decoded = decoded._replace(margin=decoded.margin.minimum(margin[rows]))
            yield Answer(rows.tolist(), decoded, count, rounds=rounds.of(rows))


def _drafted(model: CodeModel, begun: Begun, requests: Sequence[ChunkRequest]) -> Drafted:
    """A guess, and what it would go on from."""
    actions = model.actions(begun.codes)
    before = [request.past.actions for request in requests]
    last = [np.zeros(ACTION_DIM, np.float32) if each is None else each[-1] for each in before]
    return Drafted(
        begun.codes,
        begun.logits,
        actions,
        torch.from_numpy(np.stack(last)).to(actions.device),
        torch.tensor([each is not None for each in before], device=actions.device),
        torch.from_numpy(np.stack([each.observation.proprio for each in requests])).to(
            actions.device
        ),
    )


def _judged(job: Job, context: Context, draft_context: Tensor, begun: Begun) -> Iterator[Part]:
    return speculative(
        job.model.target,
        job.model.draft,
        context,
        draft_context,
        _judge(job),
        job.layers,
        job.draft_layers,
        None,
        job.stopwatch,
        begun,
    )


def _unguessed(job: Job, context: Context, draft_context: Tensor, begun: Begun) -> Iterator[Part]:
    decoded = sequential.autoregressive(
        job.model.target, context, job.rule, job.layers, None, job.stopwatch
    )
    yield Part(torch.arange(len(decoded.codes), device=decoded.codes.device), decoded)


def _regression(job: Job) -> Iterator[Answer]:
    """Actions from one pass that decodes nothing; their codes are for the records."""
    context = _context(job, _inputs(job))
    with job.stopwatch("target"):
        actions, codes = job.model.numbers(context)
    finite = torch.isfinite(actions).flatten(1).all(dim=1)
    margin = torch.where(finite, torch.inf, torch.nan)
    ones = torch.ones(len(codes), dtype=torch.int64, device=codes.device)
    yield _whole(job, unspeculated(codes, ones, margin), actions)


def _inputs(job: Job) -> Inputs:
    with job.stopwatch("vision"):
        return job.model.inputs(job.requests)


def _context(job: Job, inputs: Inputs) -> Context:
    with job.stopwatch("target"):
        return job.model.target_context(inputs)


def _whole(job: Job, decoded: Decoded, actions: Tensor | None = None) -> Answer:
    """All rows at once."""
    count = len(job.requests)
    return Answer(list(range(count)), decoded, count, actions)


@dataclass(frozen=True)
class DecodeMode:
    """How one mode is decoded."""

    decode: Decoder
    settled: Callable[[Decoder, CodeModel], Decoder]  # makes its answers double precision's


def _settled_by(canonical: Decoder) -> Callable[[Decoder, CodeModel], Decoder]:
    """Near ties are decoded once more by `canonical`."""
    return lambda decode, precise: settle.near_ties(decode, checked(canonical), precise)


MODES: dict[Mode, DecodeMode] = {
    "parallel": DecodeMode(_parallel, _settled_by(_parallel)),
    "autoregressive": DecodeMode(_autoregressive, _settled_by(_autoregressive)),
    "speculative": DecodeMode(_speculative, _settled_by(_settled_speculative)),
    "draft": DecodeMode(_draft, _settled_by(_draft)),
    "temporal": DecodeMode(_temporal, _settled_by(_settled_temporal)),
    "regression": DecodeMode(_regression, settle.one_by_one),
    "bins": DecodeMode(_regression, settle.one_by_one),
}


def decoder_of(mode: Mode, precise: CodeModel | None) -> Decoder:
    """How a mode is decoded; with the same model in double precision, such that an answer depends
    on its request alone.

    Raises ValueError for a mode that decodes nothing.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is not decoded by a policy of codes")
    entry = MODES[mode]
    return checked(entry.decode if precise is None else entry.settled(entry.decode, precise))


def checked(decode: Decoder) -> Decoder:
    """`decode` that raises NonFiniteError where a logit is NaN or infinite."""

    def decoded(job: Job) -> Iterator[Answer]:
        for answer in decode(job):
            if bool(torch.isnan(answer.decoded.margin).any()):
                raise NonFiniteError("the policy's logits hold NaN or infinity")
            yield answer

    return decoded
