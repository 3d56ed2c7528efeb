"""What runs say, in sentences."""

from __future__ import annotations

from rsd.console import duration
from rsd.presentation.evidence import Evidence
from rsd.summary.progress import Progress
from rsd.summary.rules import BASELINE
from rsd.summary.statistics import Proportion
from rsd.summary.values import ArmPair, ArmSummary, Summary

ALPHA = 0.05  # two-sided, of an adjusted p
ONE_SIDED = ALPHA / 2
MOST_PAIRS = 6  # that are told in sentences


def headline(evidence: Evidence) -> str:
    """The verdict in a sentence: that of the pair that most people ask for, or of the arms."""
    pairs = _told(evidence.summary)
    if pairs:
        return pair_sentence(pairs[0], evidence.summary)
    arms = [arm for arm in evidence.summary.arms if arm.success.finished]
    if not arms:
        return "No episode has a verdict yet."
    return "; ".join(f"{arm.arm} solved {counts(arm.success)}" for arm in arms) + "."


def sentences(evidence: Evidence) -> list[str]:
    """What else is to be said of the pairs, one each."""
    return [pair_sentence(pair, evidence.summary) for pair in _told(evidence.summary)[1:MOST_PAIRS]]


def _told(summary: Summary) -> list[ArmPair]:
    """Pairs that share a world, those with the baseline where it ran; the lossless ones first."""
    found = [pair for pair in summary.pairs if pair.comparison.pairs]
    with_it = [pair for pair in found if BASELINE in (pair.first, pair.second)]
    return sorted(
        with_it or found, key=lambda pair: -pair.identical_final_states / pair.comparison.pairs
    )


def pair_sentence(pair: ArmPair, summary: Summary) -> str:
    """How the second arm does against the first."""
    found = pair.comparison
    first, second = found.both + found.only_first, found.both + found.only_second
    worlds = plural(found.pairs, "shared world")
    if pair.identical_final_states == found.pairs:
        said = f"{pair.second} ends in the same simulator state as {pair.first} in all {worlds}"
        return f"{said} ({second:,} solved){_passes(pair, summary)}."
    against = (
        f"{second:,} against {first:,} of {worlds}, {_points(found.difference or 0)} points "
        f"({_points(found.low)} to {_points(found.high)})"
    )
    margin = f"{100 * summary.margin:g} points"
    if pair.p_adjusted < ALPHA:
        more = "more" if (found.difference or 0) > 0 else "less"
        told = f"{pair.second} succeeds {more} often than {pair.first}"
        p_value = f"McNemar, Holm: p = {pair.p_adjusted:.2g}"
    elif pair.not_worse_adjusted < ONE_SIDED:
        told = f"{pair.second} is not worse than {pair.first} by {margin} or more"
        p_value = f"Holm: p = {pair.not_worse_adjusted:.2g}"
    else:
        told = (
            f"no difference between {pair.second} and {pair.first} is shown, nor that the former "
            f"is less than {margin} worse"
        )
        p_value = f"p = {pair.p_adjusted:.2g} and {pair.not_worse_adjusted:.2g}"
    return f"{told}: {against}; {p_value}{_passes(pair, summary)}."


def _passes(pair: ArmPair, summary: Summary) -> str:
    """Where both arms decode layers."""
    arms = {arm.arm: arm for arm in summary.arms}
    first, second = (_decoded(arms[name]) for name in (pair.first, pair.second))
    if first is None or second is None:
        return ""
    return f"; it takes {second:.2f} passes a chunk instead of {first:.2f}"


def _decoded(arm: ArmSummary) -> float | None:
    return arm.cost.passes_mean if arm.acceptance else None


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def counts(rate: Proportion) -> str:
    """`467 of 500 (93.4 %, 90.9 to 95.3)`."""
    if rate.rate is None:
        return "0 of 0"
    interval = f"{100 * rate.low:.1f} to {100 * rate.high:.1f}"
    return f"{rate.successes:,} of {rate.finished:,} ({100 * rate.rate:.1f} %, {interval})"


def what_ran(evidence: Evidence) -> str:
    """Arms, suites, tasks and episodes in a sentence."""
    summary = evidence.summary
    tasks = len(evidence.instructions)
    if not summary.episodes:
        return "No episode is stored yet."
    return (
        f"{plural(summary.episodes, 'episode')} of {plural(len(summary.arms), 'arm')} "
        f"({', '.join(evidence.arms)}) on {plural(tasks, 'task')} of {', '.join(evidence.suites)}, "
        f"{plural(summary.errors, 'error')}."
    )


def plural(count: int, noun: str) -> str:
    """`1 world`, `2,000 worlds`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def standing(run: Progress, made_at: str) -> str | None:
    """Of a run that is not finished; None of one that is, or that does not say."""
    if run.finished or run.planned is None:
        return None
    state = {
        "running": f"is going on: as of {made_at},",
        "stopped": "was stopped and can be resumed:",
        "imported": "was imported in part:",
        "unknown": "is not finished:",
    }[run.state]
    left = "" if run.left_s is None else f", about {duration(run.left_s)} left"
    return f"{run.run_id} {state} {run.stored:,} of {run.planned:,} episodes are stored{left}."


UNFINISHED = (
    "What solves its task ends early, and suites come one after the other: rates of a part are no "
    "rates of the whole."
)
