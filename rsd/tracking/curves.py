"""What is drawn of a run while it goes on: points over the number of recorded episodes."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rsd.types import Outcome

if TYPE_CHECKING:
    from rsd.summary.values import Summary


class Finished(NamedTuple):
    """An episode that is over, with its chunks that a policy decoded: an expert's has none, and an
    error's may have none."""

    arm: str
    suite: str
    outcome: Outcome
    passes: Sequence[int] = ()  # of each chunk
    latencies_s: Sequence[float] = ()  # likewise


class Curves:
    """Counts since the run began, and what chunks cost since the last point."""

    def __init__(self, recorded: Iterable[tuple[str, str, Outcome]] = ()) -> None:
        """`recorded`: (arm, suite, outcome) of what earlier sessions of the run recorded."""
        self._outcomes: Counter[tuple[str, str, str]] = Counter(recorded)
        self._passes: dict[str, list[int]] = defaultdict(list)  # by arm, a chunk each
        self._latencies_s: dict[str, list[float]] = defaultdict(list)

    @property
    def step(self) -> int:
        """Episodes so far."""
        return self._outcomes.total()

    def add(self, episode: Finished) -> None:
        self._outcomes[episode.arm, episode.suite, episode.outcome] += 1
        if episode.passes:
            self._passes[episode.arm] += episode.passes
            self._latencies_s[episode.arm] += episode.latencies_s

    def point(self) -> dict[str, float]:
        """Values at this step, by name; the chunks since the last point go into this one alone."""
        values: dict[str, float] = {
            "episodes/done": self.step,
            "episodes/errors": sum(
                count for (*_, outcome), count in self._outcomes.items() if outcome == "error"
            ),
        }
        finished, solved = self._rates()
        for name, count in finished.items():
            values[f"success/{name}"] = solved[name] / count
        for arm, passes in self._passes.items():
            values[f"passes_a_chunk/{arm}"] = statistics.fmean(passes)
        for arm, latencies in self._latencies_s.items():
            values[f"chunk_latency_ms/{arm}"] = 1000 * statistics.median(latencies)
        self._passes.clear()
        self._latencies_s.clear()
        return values

    def _rates(self) -> tuple[Counter[str], Counter[str]]:
        """(finished, solved) of arms, and of an arm's suites where it has several."""
        finished: Counter[str] = Counter()
        solved: Counter[str] = Counter()
        suites = {suite for _, suite, _ in self._outcomes}
        for (arm, suite, outcome), count in self._outcomes.items():
            for name in [arm, *([f"{arm}/{suite}"] if len(suites) > 1 else [])]:
                if outcome != "error":
                    finished[name] += count
                if outcome == "success":
                    solved[name] += count
        return finished, solved


def summary_values(summary: Summary) -> dict[str, float]:
    """A run's summary as numbers by name: rates with their 95 % intervals, and the pairs."""
    values: dict[str, float] = {}
    for arm in summary.arms:
        named = {arm.arm: arm} | {f"{arm.arm}/{suite.suite}": suite for suite in arm.suites}
        for name, found in named.items():
            rate = found.success
            values |= {
                f"result/{name}/success": rate.rate if rate.rate is not None else float("nan"),
                f"result/{name}/low": rate.low,
                f"result/{name}/high": rate.high,
                f"result/{name}/finished": rate.finished,
                f"result/{name}/errors": found.errors,
            }
    for pair in summary.pairs:
        if pair.comparison.difference is not None:
            name = f"result/{pair.second} minus {pair.first}"
            values |= {
                f"{name}/difference": pair.comparison.difference,
                f"{name}/low": pair.comparison.low,
                f"{name}/high": pair.comparison.high,
                f"{name}/p": pair.comparison.p_value,
            }
    return values
