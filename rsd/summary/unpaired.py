"""Arms of several runs beside each other, where no world is known to be the same. No torch, no
ray."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rsd.summary.statistics import Proportion, compare_unpaired, proportion
from rsd.summary.values import ArmSummary, Summary, Unpaired

ALL = "all"

NOTE = (
    "Unpaired: on the tasks that both did, each arm's episodes are a sample of their own, since "
    "nobody knows which of them had the same world. Interval of the difference: Newcombe; p: "
    "Fisher's exact test. They say nothing of what else differs between two programs: images, "
    "seeds, waiting steps, step limits."
)
UNEVEN = (
    "*: one did more episodes of some of these tasks than of others, so that its rate weighs tasks "
    "otherwise."
)


def notes(found: Sequence[Unpaired]) -> list[str]:
    """What has to be known to read these comparisons."""
    return [NOTE, *([] if all(one.even for one in found) else [UNEVEN])]


def compare_runs(pairs: Iterable[tuple[Summary, Summary]]) -> list[Unpaired]:
    """Of each pair every arm of the first with every arm of the second, by suite, and of all where
    they share several."""
    return [
        found
        for one, other in pairs
        for first in one.arms
        for second in other.arms
        for found in _compared(one, first, other, second)
    ]


def one_is_imported(first: Summary, second: Summary) -> bool:
    """Whether exactly one of two summaries is of other software."""
    return (first.provenance.source is None) != (second.provenance.source is None)


def _compared(
    one: Summary, first: ArmSummary, other: Summary, second: ArmSummary
) -> Iterator[Unpaired]:
    left, right = _by_task(first), _by_task(second)
    shared = sorted(left.keys() & right.keys())
    suites = sorted({suite for suite, _ in shared})
    for name in [*suites, *([ALL] if len(suites) > 1 else [])]:
        tasks = [task for task in shared if name in (ALL, task[0])]
        counts = [{task: side[task] for task in tasks} for side in (left, right)]
        yield Unpaired(
            ", ".join(one.names),
            first.arm,
            ", ".join(other.names),
            second.arm,
            name,
            len(tasks),
            all(len({rate.finished for rate in side.values()}) == 1 for side in counts),
            compare_unpaired(_pooled(counts[0]), _pooled(counts[1])),
        )


def _by_task(arm: ArmSummary) -> dict[tuple[str, int], Proportion]:
    """Tasks with a verdict."""
    return {
        (suite.suite, task.task_id): task.success
        for suite in arm.suites
        for task in suite.tasks
        if task.success.finished
    }


def _pooled(rates: Mapping[tuple[str, int], Proportion]) -> Proportion:
    return proportion(
        sum(rate.successes for rate in rates.values()),
        sum(rate.finished for rate in rates.values()),
    )
