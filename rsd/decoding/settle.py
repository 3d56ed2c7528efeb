"""Answers that rounding does not decide: the same in any batch, on any processor and with any
build of torch (docs/decisions.md). Wrappers of decoders, for any model that has a copy of itself in
double precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch

from rsd.decoding.contracts import Answer, CodeModel, Decoder, Job

# Where the two best levels of a token are closer than this, rounding might decide, and a canonical
# computation in double precision settles the chunk. `rsd benchmark decoding` measures how far
# logits are from those of double precision, in any batch and mode, and fails where twice that
# exceeds it: a token that is no near tie has the same best level on every machine.
NEAR_TIE = 1e-4


def near_ties(decode: Decoder, canonical: Decoder, precise: CodeModel) -> Decoder:
    """`decode`, but chunks in which any token is a near tie are decoded once more, alone, by
    `canonical` in double precision, and those codes count. Rules that sample are left alone.

    Under a lossy rule guesses decide codes, so `canonical` must judge the same guesses, and a near
    tie is one of target or draft. What is decided to be another kind of round, or to stop behind
    another layer, is an answer by itself."""

    def settled(job: Job) -> Iterator[Answer]:
        for answer in decode(job):
            close = (answer.decoded.margin < NEAR_TIE).tolist()
            places = [] if job.rule.samples else [i for i, tie in enumerate(close) if tie]
            others = []  # that cannot stand in this answer any more
            for place in places:
                (again,) = canonical(_alone(job, answer.rows[place], precise))
                if _same_kind(answer, place, again):
                    answer.decoded.codes[place] = again.decoded.codes[0]
                    answer.decoded.off[place] = again.decoded.off[0]
                else:
                    others.append((place, again))
            rows = frozenset(answer.rows[place] for place in places)
            yield from _parted(dataclasses.replace(answer, canonical=rows), others)

    return settled


def _same_kind(answer: Answer, place: int, again: Answer) -> bool:
    """Whether a round is fast, or slow, and has as many layers both times."""
    if answer.decoded.codes.shape[-1] != again.decoded.codes.shape[-1]:
        return False
    if answer.rounds is None or again.rounds is None:
        return True
    return bool(answer.rounds.fast[place] == again.rounds.fast[0])


def _parted(answer: Answer, others: Sequence[tuple[int, Answer]]) -> Iterator[Answer]:
    """An answer, but with other ones in some places."""
    for place, other in others:
        yield dataclasses.replace(
            other,
            rows=[answer.rows[place]],
            batch_size=answer.batch_size,
            canonical=frozenset([answer.rows[place]]),
        )
    left = sorted(set(range(len(answer.rows))) - {place for place, _ in others})
    if len(left) == len(answer.rows):
        yield answer
    elif left:
        kept = torch.tensor(left, device=answer.decoded.codes.device)
        yield dataclasses.replace(
            answer,
            rows=[answer.rows[place] for place in left],
            decoded=answer.decoded.of(kept),
            rounds=None if answer.rounds is None else answer.rounds.of(kept),
        )


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
