"""A summary as Markdown tables, and a page that holds some of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rsd import conditions
from rsd.errors import UserError
from rsd.summary.rules import BASELINE, LOOKED_AT, notes
from rsd.summary.statistics import Proportion
from rsd.summary.values import (
    ArmSummary,
    LayerAcceptance,
    Success,
    SuiteSummary,
    Summary,
    Unpaired,
)

_FIRST = ("expert", "autoregressive", "speculative", "parallel", "regression")  # then by name
_SPECULATIVE = "speculative"


def section(summary: Summary, tasks: bool = False) -> list[str]:
    """What the rows were measured on, and the tables that say something about them."""
    tables = [success_table, paired_table, decoding_table, *([task_table] if tasks else [])]
    lines = [headline(summary)]
    for table in tables:
        made = table(summary)
        if len(made) > len(head([])):
            lines += ["", *made]
    return lines


def headline(summary: Summary) -> str:
    """What made the rows, and how many there are."""
    made_by = summary.provenance
    if made_by.source is not None:
        return (
            f"{', '.join(f'`{name}`' for name in summary.names)}: imported from {made_by.source}; "
            f"{summary.episodes:,} episodes, {summary.errors} errors. Success in percent (95 % "
            "interval):"
        )
    return (
        f"{', '.join(f'`{name}`' for name in summary.names)}: protocol "
        f"{made_by.protocol}, assets {made_by.assets[:12]}, checkpoint "
        f"{str(made_by.checkpoint_sha256)[:12]}, {', '.join(made_by.code)}, renderer "
        f"{made_by.renderer}, arithmetic {made_by.arithmetic}, frames {made_by.frames}, processors "
        f"{made_by.processors}; {summary.episodes:,} episodes, {summary.errors} errors. Success in "
        "percent (95 % interval):"
    )


def all_notes(summaries: Iterable[Summary]) -> list[str]:
    """Each rule behind the tables of several summaries once."""
    return list(dict.fromkeys(note for summary in summaries for note in notes(summary)))


# --- tables --------------------------------------------------------------------------------------


def success_table(summary: Summary) -> list[str]:
    """A row a suite, a column an arm. Below it the same of the trials that no policy's development
    looked at, where there are others."""
    arms = _ordered(summary)
    by_suite: dict[str, list[Success | None]] = {
        suite: [_in_suite(arm, suite) for arm in arms] for suite in _suites(summary)
    }
    if len(by_suite) > 1:
        by_suite["all"] = list(arms)
    lines = head(["suite", *(arm.arm for arm in arms)])
    for name, found in by_suite.items():
        lines.append(row([name, *(_percent(one.success if one else None) for one in found)]))
        if any(one and 0 < one.unseen.finished < one.success.finished for one in found):
            later = [_percent(one.unseen if one else None) for one in found]
            lines.append(row([f"{name}, trials {LOOKED_AT} on", *later]))
    return lines


def unpaired_table(found: Sequence[Unpaired]) -> list[str]:
    """A row a suite and two arms of different runs."""
    lines = head(
        ["first", "second", "suite", "tasks", "first", "second", "points (95 % interval)", "p"]
    )
    for one in found:
        compared = one.comparison
        points, low, high = (
            f"{100 * (value or 0):+.1f}"
            for value in (compared.difference, compared.low, compared.high)
        )
        cells = [
            f"{one.first} of `{one.first_run}`",
            f"{one.second} of `{one.second_run}`",
            one.suite,
            f"{one.tasks}{'' if one.even else '*'}",
            _percent(compared.first),
            _percent(compared.second),
            f"{points} ({low} to {high})",
            f"{compared.p_value:.2g}",
        ]
        lines.append(row(cells))
    return lines


def task_table(summary: Summary) -> list[str]:
    """A row a suite and arm, a column a task; successes of finished episodes, errors apart, nothing
    where nothing ran."""
    arms, suites = _ordered(summary), _suites(summary)
    found = [
        (suite, arm.arm, own) for suite in suites for arm in arms if (own := _in_suite(arm, suite))
    ]
    tasks = sorted({task.task_id for _, _, own in found for task in own.tasks})
    lines = head(["suite", "arm", *map(str, tasks)])
    for suite, arm_name, own in found:
        cells = {task.task_id: _counts(task) for task in own.tasks}
        lines.append(row([suite, arm_name, *(cells.get(task, "") for task in tasks)]))
    return lines


def paired_table(summary: Summary) -> list[str]:
    """Every other arm against the baseline, over all worlds that both have finished; a row an arm,
    none where the baseline did not run."""
    lines = head(
        [
            f"against {BASELINE}",
            "pairs",
            "it alone",
            f"{BASELINE} alone",
            "points (95 % interval)",
            "p",
            "p (Holm)",
            f"not worse, margin {100 * summary.margin:g}: p (Holm)",
            "worlds finished by one only: it, other",
        ]
    )
    by_arm = {pair.second: pair for pair in summary.pairs if pair.first == BASELINE}
    for arm in _ordered(summary):
        pair = by_arm.get(arm.arm)
        if pair is None or not pair.comparison.pairs:
            continue
        found = pair.comparison
        points, low, high = (
            f"{100 * (value or 0):+.1f}" for value in (found.difference, found.low, found.high)
        )
        p_values = (found.p_value, pair.p_adjusted, pair.not_worse_adjusted)
        cells = [
            *map(str, (found.pairs, found.only_second, found.only_first)),
            f"{points} ({low} to {high})",
            *(f"{p_value:.2g}" for p_value in p_values),
            f"{found.second_unpaired}, {found.first_unpaired}",
        ]
        lines.append(row([arm.arm, *cells]))
    return lines


def decoding_table(summary: Summary) -> list[str]:
    """What speculation did; a row a suite that has both exact arms."""
    lines = head(
        [
            "suite",
            "passes a chunk",
            "draft kept by layer, %",
            "constant guess, %",
            "whole layers kept, %",
            "same final state",
        ]
    )
    arms = {arm.arm: arm for arm in summary.arms}
    if not {_SPECULATIVE, BASELINE} <= arms.keys():
        return lines
    states = _same_states(summary)
    for suite in _suites(summary):
        fast, slow = (_in_suite(arms[name], suite) for name in (_SPECULATIVE, BASELINE))
        if not fast or not slow or not fast.cost.chunks or not slow.cost.chunks:
            continue
        cells = [
            f"{_mean_passes(fast)} (median {_median_passes(fast)}) instead of {_mean_passes(slow)}",
            _shares(fast.acceptance, "rate"),
            _shares(fast.acceptance, "majority_rate"),
            _shares(fast.acceptance, "whole_rate"),
            states.get(suite, "0 of 0"),
        ]
        lines.append(row([suite, *cells]))
    return lines


def brief_table(summary: Summary) -> list[str]:
    """Of the arms that most people ask for, a row a suite: success in percent, and what speculation
    did."""
    arms = [arm for arm in _ordered(summary) if arm.arm in _BRIEF]
    lines = head(["suite", *(arm.arm for arm in arms), "passes a chunk", "same final state"])
    states = _same_states(summary)
    for suite in [*_suites(summary), "all"]:
        found = {arm.arm: arm if suite == "all" else _in_suite(arm, suite) for arm in arms}
        fast = found.get(_SPECULATIVE)
        cells = [
            *(_percent(one.success if one else None).partition(" = ")[2] for one in found.values()),
            _mean_passes(fast) if fast else "",
            states.get(suite, ""),
        ]
        lines.append(row([suite, *cells]))
    return lines


_BRIEF = _FIRST[:4]


def _same_states(summary: Summary) -> dict[str, str]:
    """Of the two exact arms: `500 of 500` pairs, by suite and of all."""
    found = [one for one in summary.pairs if (one.first, one.second) == (BASELINE, _SPECULATIVE)]
    return {
        suite: f"{same} of {pairs}"
        for pair in found
        for suite, same, pairs in [
            *((one.suite, one.identical, one.pairs) for one in pair.final_states),
            ("all", pair.identical_final_states, pair.comparison.pairs),
        ]
    }


def _ordered(summary: Summary) -> list[ArmSummary]:
    """The baselines first, then by name."""
    known = {name: place for place, name in enumerate(_FIRST)}
    return sorted(summary.arms, key=lambda arm: (known.get(arm.arm, len(known)), arm.arm))


def _suites(summary: Summary) -> list[str]:
    return sorted({suite.suite for arm in summary.arms for suite in arm.suites})


def _in_suite(arm: ArmSummary, suite: str) -> SuiteSummary | None:
    return next((one for one in arm.suites if one.suite == suite), None)


def _percent(rate: Proportion | None) -> str:
    if rate is None or rate.rate is None:
        return ""
    return (
        f"{rate.successes}/{rate.finished} = {100 * rate.rate:.1f} "
        f"({100 * rate.low:.1f} to {100 * rate.high:.1f})"
    )


def _counts(task: Success) -> str:
    rate = task.success
    parts = [f"{rate.successes}/{rate.finished}"] if rate.finished else []
    parts += [f"{task.errors} error{'s' * (task.errors > 1)}"] if task.errors else []
    return ", ".join(parts)


def _mean_passes(suite: SuiteSummary | ArmSummary) -> str:
    mean = suite.cost.passes_mean
    return conditions.UNKNOWN if mean is None else f"{mean:.2f}"


def _median_passes(suite: SuiteSummary) -> str:
    median = suite.cost.passes_median
    return conditions.UNKNOWN if median is None else f"{median:g}"


def _shares(layers: Sequence[LayerAcceptance], rate: str) -> str:
    """In percent, of the layers that were drafted."""
    shares = [getattr(layer, rate) for layer in layers if layer.drafted]
    if None in shares:
        return conditions.UNKNOWN
    return " ".join(f"{100 * share:.1f}" for share in shares)


def head(cells: Sequence[str]) -> list[str]:
    """The two lines that a table begins with."""
    return [row(cells), "|" + "---|" * len(cells)]


def row(cells: Sequence[str]) -> str:
    """A line of a table."""
    return "| " + " | ".join(cells) + " |"


# --- into a page ---------------------------------------------------------------------------------


def begin(topic: str) -> str:
    """The line of a page behind which its tables are written anew."""
    return f"<!-- {topic}: made by `rsd results table --write` -->"


def end(topic: str) -> str:
    """The line before which they end."""
    return f"<!-- end of {topic} -->"


def filled(page: str, topics: Mapping[str, Sequence[str]]) -> str:
    """A page with the text between the lines of each topic that it has replaced; raises UserError
    where it has none, or one without an end."""
    present = [topic for topic in topics if begin(topic) in page]
    if not present:
        raise UserError(f"the page lacks a line such as {begin(next(iter(topics)))!r}")
    for topic in present:
        before, _, rest = page.partition(begin(topic))
        _, closed, after = rest.partition(end(topic))
        if not closed:
            raise UserError(f"the page lacks the line {end(topic)!r} behind {begin(topic)!r}")
        page = "\n\n".join([before + begin(topic), "\n".join(topics[topic]), closed + after])
    return page
