"""The decode modes: how each is decoded, and how its answers are settled.

Adding a mode is one entry in `MODES` (and its name in `rsd.types.Mode`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from rsd.decoding import sequential, settle
from rsd.decoding.contracts import Answer, CodeModel, Context, Decoded, Decoder, Inputs, Job
from rsd.decoding.rules import Exact, Rule
from rsd.decoding.sequential import unspeculated
from rsd.decoding.speculative import speculative
from rsd.types import Mode


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
    rule = cast(Rule, job.rule)  # arms name no other for this mode
    with job.stopwatch("draft"):
        draft_context = model.draft_context(inputs)
    for rows, decoded in speculative(
        model.target,
        model.draft,
        _context(job, inputs),
        draft_context,
        rule,
        job.layers,
        job.draft_layers,
        job.uniforms,
        job.stopwatch,
    ):
        yield Answer(rows.tolist(), decoded, len(job.requests))


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
