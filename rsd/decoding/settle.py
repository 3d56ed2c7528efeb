"""Answers that rounding does not decide: the same in any batch, on any processor and with any
build of torch (docs/decisions.md). Wrappers of decoders, for any model that has a copy of itself in
double precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from rsd.decoding.contracts import Answer, CodeModel, Decoded, Decoder, Job

# Where the two best levels of a token are closer than this, rounding might decide, and a canonical
# computation in double precision settles the chunk. `rsd benchmark decoding` measures how far
# logits are from those of double precision, in any batch and mode, and fails where twice that
# exceeds it: a token that is no near tie has the same best level on every machine.
NEAR_TIE = 1e-4


def near_ties(decode: Decoder, canonical: Decoder, precise: CodeModel) -> Decoder:
    """`decode`, but chunks in which any token is a near tie are decoded once more, alone, by
    `canonical` in double precision, and those codes count. Rules that sample are left alone.

    Under a lossy rule guesses decide codes, so `canonical` must judge the same guesses, and a near
    tie is one of target or draft. Where the rule stops refining there may be other layers then, so
    a settled chunk is answered by itself, the others of its answer before it."""

    def settled(job: Job) -> Iterator[Answer]:
        for answer in decode(job):
            close = answer.decoded.margin < (-torch.inf if job.rule.samples else NEAR_TIE)
            if not bool(close.all()):
                yield _part(answer, torch.nonzero(~close)[:, 0])
            for place in torch.nonzero(close)[:, 0]:
                part = _part(answer, place[None])
                (again,) = canonical(_alone(job, part.rows[0], precise))
                decoded = _with_codes(part.decoded, again.decoded)
                yield dataclasses.replace(part, decoded=decoded, canonical=frozenset(part.rows))

    return settled


def _with_codes(decoded: Decoded, again: Decoded) -> Decoded:
    """What the first decode cost, and the codes of the other."""
    deeper = again.codes.shape[-1] - decoded.codes.shape[-1]
    judged, kept = (F.pad(counts, (0, deeper)) for counts in (decoded.judged, decoded.kept))
    return decoded._replace(codes=again.codes, off=again.off, judged=judged, kept=kept)


def _part(answer: Answer, places: Tensor) -> Answer:
    """Some rows of an answer."""
    rows = [answer.rows[place] for place in places.tolist()]
    actions = None if answer.actions is None else answer.actions[places]
    decoded = Decoded(*(field[places] for field in answer.decoded))
    return dataclasses.replace(answer, rows=rows, decoded=decoded, actions=actions)


def one_by_one(decode: Decoder, precise: CodeModel) -> Decoder:
    """`decode` in double precision, each request alone: numbers have no ties that could be settled,
    and rounding depends on the batch. A request waits for those before it, so its times hold
    theirs."""

    def settled(job: Job) -> Iterator[Answer]:
        for row in range(len(job.requests)):
            (answer,) = decode(_alone(job, row, precise))
            yield dataclasses.replace(answer, rows=[row])

    return settled


def _alone(job: Job, row: int, model: CodeModel) -> Job:
    return dataclasses.replace(job, model=model, requests=[job.requests[row]])
