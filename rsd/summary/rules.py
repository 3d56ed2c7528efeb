"""What is counted, pooled and compared: each rule once, with the words that tables show of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rsd.arms import RULES
from rsd.errors import UserError
from rsd.summary.values import Summary

LOOKED_AT = 10  # trials of each task, some of which the policies' development looked at
MARGIN = 0.02  # of success rate: one of a task's 50 trials
BASELINE = "autoregressive"

COVERED = (
    "Intervals of 95 % say what other worlds of these tasks would do to the rates of this "
    "checkpoint; they cover no other tasks and no other training."
)
POOLED = (
    "Pooled are rows of one checkpoint under the same protocol, on the same assets, renderer, "
    "frames, arithmetic and simulator packages; an episode that ended in an error is in no rate "
    "and in no pair."
)
UNSEEN = (
    f"Trials {LOOKED_AT} on: without the first ones of every task, some of which were looked at in "
    "the bundled policies' development (in the expert's, all of libero_spatial 4)."
)
GUESSES = (
    "Guesses are judged where all coarser layers were kept. Constant: the most frequent level of "
    "every (step, dim, layer) in the suite's own chunks, chosen in hindsight, on the same tokens "
    "as the draft. Whole layers: judged ones of which every token was kept."
)


@dataclass(frozen=True)
class Comparisons:
    """Which arms are compared: (first, second) of their names, sorted."""

    description: str
    choose: Callable[[Sequence[str]], list[tuple[str, str]]]


EVERY_TWO = Comparisons(
    "every two arms of the run", lambda arms: list(itertools.combinations(arms, 2))
)


def against(first: str) -> Comparisons:
    """None where there is no such arm."""
    return Comparisons(
        f"every other arm (second) with {first} (first)",
        lambda arms: [(first, arm) for arm in arms if arm != first] if first in arms else [],
    )


AGAINST_BASELINE = against(BASELINE)


def margin_of(points: float) -> float:
    """Percentage points -> share; raises UserError unless between 0 and 100."""
    if not 0 < points < 100:
        raise UserError(f"--margin {points:g}: give points of success rate, between 0 and 100")
    return points / 100


def shared_draws(arms: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Of arms by name, with their decoding: those that sample with the same random numbers.

    Draws are named by seed, world, chunk and what they decide, never by the arm; what is decided
    differs between modes.
    """
    by_mode: dict[str, list[str]] = {}
    for name, decoding in arms.items():
        rule = RULES.get(decoding.get("rule", "").partition("=")[0])
        if rule is not None and rule.samples:
            by_mode.setdefault(decoding["mode"], []).append(name)
    return [tuple(names) for names in by_mode.values() if len(names) > 1]


UNEVEN = (
    "The arms did not do the same episodes: their rates over all of them are of other worlds. "
    "Compare suites that both did whole, or pairs."
)


def uneven(summary: Summary) -> bool:
    """Whether some arm has other tasks than another, or more episodes of one."""
    done = [
        {
            (suite.suite, task.task_id): task.success.finished + task.errors
            for suite in arm.suites
            for task in suite.tasks
        }
        for arm in summary.arms
    ]
    return any(own != done[0] for own in done)


def notes(summary: Summary) -> list[str]:
    """The rules behind the tables of a summary, as far as it has anything that they apply to."""
    layers = [layer for arm in summary.arms for layer in arm.acceptance]
    applies = {
        COVERED: bool(summary.arms),
        POOLED: bool(summary.arms),
        UNEVEN: uneven(summary),
        UNSEEN: any(arm.unseen.finished for arm in summary.arms),
        _compared(summary): any(pair.comparison.pairs for pair in summary.pairs),
        GUESSES: any(layer.drafted for layer in layers),
    }
    return [
        *(note for note, does in applies.items() if does),
        *_imported(summary),
        *(
            f"{' and '.join(arms)} sample with the same random numbers: in a world their outcomes "
            "are not independent."
            for arms in summary.shared_draws
        ),
    ]


def _imported(summary: Summary) -> list[str]:
    """What has to be known of results of other software."""
    if summary.provenance.source is None:
        return []
    theirs = [
        f"{arm.arm} {arm.success.successes}/{arm.success.finished + arm.errors}"
        for arm in summary.arms
        if arm.errors
    ]
    return [
        f"Imported from {summary.provenance.source}: its worlds are not identified, so none is "
        "paired with, or counted as, a world of another run."
    ] + [f"With errors counted as failures, as there: {rate}." for rate in theirs]


def _compared(summary: Summary) -> str:
    return (
        f"Compared: {summary.comparisons}, on the worlds that both finished; unpaired are those "
        "that one alone did. p: exact McNemar test; Holm: adjusted for all comparisons of the "
        "table. Not worse: one-sided p of the score test of paired proportions; below 0.025, the "
        f"second is worse than the first by less than {100 * summary.margin:g} points (--margin; "
        "one of a task's 50 trials is 2), if at all."
    )
