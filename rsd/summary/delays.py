"""Success against delay: what a run of late arms says, as values and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rsd import conditions
from rsd.arms import name_of, read_arm
from rsd.books import KEY, read_run
from rsd.errors import UserError
from rsd.latency import CHUNK_COLUMNS, decoded_alone_s
from rsd.suites import CONTROL_HZ
from rsd.summary.compute import open_runs, rows_of_all
from rsd.summary.statistics import PairedComparison, Proportion, compare_pairs, proportion

STEP_MS = 1000 // CONTROL_HZ
_COLUMNS = (*KEY, "outcome", "assets")


@dataclass(frozen=True)
class Point:
    """One arm of the run."""

    steps: int  # of its delay
    success: Proportion
    against: PairedComparison  # second minus first: this delay against none, or the curve's least


@dataclass(frozen=True)
class Curve:
    """One way to decode, and what the robot does while it waits."""

    arm: str  # without its delay
    waiting: str
    points: list[Point]  # by delay
    decode_ms: float | None  # of a chunk alone, median; None: none was decoded alone

    @property
    def worth_of_10_ms(self) -> tuple[float, float, float] | None:
        """Points of success that every 10 ms add from the least delay to the largest, and their
        interval; None of a single point or no pairs."""
        first, last = self.points[0], self.points[-1]
        share = 10 / STEP_MS / (last.steps - first.steps) if last.steps > first.steps else 0.0
        change = last.against
        if not share or change.difference is None:
            return None
        difference, low, high = (
            100 * share * value for value in (change.difference, change.low, change.high)
        )
        return difference, low, high


def curves(*outputs: str) -> list[Curve]:
    """Of a run, or of several that can stand in one table, finished or going on. An arm without a
    delay is the first point of both of its curves; delays that were measured have no place on an
    axis.

    Raises UserError for a folder without a run, where no arm is late, and as `open_runs` and
    `rows_of_all` do.
    """
    for output in outputs:
        conditions.require_own(read_run(output), output, "how late its chunks were, nobody knows")
    runs = open_runs(outputs)
    episodes = rows_of_all(runs, _COLUMNS)
    finished = episodes[episodes["outcome"] != "error"]
    verdicts: dict[tuple[str, str], dict[int, Mapping[Any, bool]]] = {}
    on_time: dict[str, Mapping[Any, bool]] = {}
    for name, rows in finished.groupby("arm"):
        arm = read_arm(str(name))
        base = name_of(arm.decoding)
        own = (rows.set_index(KEY[1:])["outcome"] == "success").to_dict()
        if arm.delay is None:
            on_time[base] = own
        elif arm.delay.steps is not None:
            verdicts.setdefault((base, arm.delay.waiting), {})[arm.delay.steps] = own
    if not verdicts:
        raise UserError(
            f"{', '.join(outputs)}: no episode of a late arm, such as speculative+delay=3; "
            "`rsd delay` runs some"
        )
    chunks = pd.concat([run.parts.all_chunks(CHUNK_COLUMNS).to_pandas() for run in runs])
    latencies = decoded_alone_s(chunks)
    return [
        Curve(base, waiting, _points(on_time.get(base), by_steps), _ms(latencies.get(base)))
        for (base, waiting), by_steps in sorted(verdicts.items())
    ]


def _ms(seconds: float | None) -> float | None:
    """None also of a policy that takes no time, such as the toy."""
    return 1000 * seconds if seconds else None


def _points(
    on_time: Mapping[Any, bool] | None, by_steps: Mapping[int, Mapping[Any, bool]]
) -> list[Point]:
    known = {**({} if on_time is None else {0: on_time}), **by_steps}
    first = known[min(known)]
    return [
        Point(steps, proportion(sum(own.values()), len(own)), compare_pairs(first, own))
        for steps, own in sorted(known.items())
    ]


def sentences(found: Sequence[Curve]) -> list[str]:
    """What 10 ms are worth, a line a curve."""
    lines = []
    for curve in found:
        worth = curve.worth_of_10_ms
        if worth is None:
            continue
        last = curve.points[-1]
        lines.append(
            f"{curve.arm}, {curve.waiting}: 10 ms of delay are worth {worth[0]:+.2f} points of "
            f"success (95 % interval {worth[1]:+.2f} to {worth[2]:+.2f}), from "
            f"{curve.points[0].steps * STEP_MS} to {last.steps * STEP_MS} ms on "
            f"{last.against.pairs} {'world' if last.against.pairs == 1 else 'worlds'}"
        )
    return lines
