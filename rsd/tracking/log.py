"""A run or a training in several trackers at once, each behind a thread and a queue of its own."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rsd.books import KEY, committed, read_episodes, read_run
from rsd.delay import STAGES
from rsd.foreign import expanded
from rsd.outputs import is_address
from rsd.tracking.curves import Curves, Finished, summary_values
from rsd.tracking.trackers import TRACKERS, Tracked, Tracker

if TYPE_CHECKING:
    from rsd.summary.values import Summary

FOLDER = "log"  # in an output folder: what trackers keep on the disk
PERIOD_S = 5.0  # between two points
BACKLOG = 1000  # points that may wait for a tracker that is slow or away
PATIENCE_S = 60.0  # at the end, for what waits
HURRY_S = 2.0  # the same where the user wants to leave

Say = Callable[[str], None]
_Work = Callable[[Tracker], None]


class _Behind:
    """A tracker in its thread. What it raises ends it, and nothing else."""

    def __init__(self, name: str, tracked: Tracked) -> None:
        self.name = name
        self.over = False
        self._tracked = tracked
        self._work: queue.Queue[_Work | None] = queue.Queue(BACKLOG)
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._follow, name=f"log-{name}", daemon=True)
        self._thread.start()

    def put(self, work: _Work) -> None:
        """Never waits: a tracker that is this far behind is given up."""
        if self.over:
            return
        try:
            self._work.put_nowait(work)
        except queue.Full:
            self._end(f"it is {BACKLOG} points behind")

    def news(self) -> list[str]:
        """Why it was given up, once."""
        return [self._news.get() for _ in range(self._news.qsize())]

    def wait(self, deadline: float) -> None:
        """Until it has taken everything, failed, or the deadline (monotonic seconds) has come; not
        at all for one that was given up before."""
        if self.over:
            return
        with contextlib.suppress(queue.Full):  # it is given up below
            self._work.put_nowait(None)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._end("it has not taken everything in time")

    def _end(self, why: str) -> None:
        if not self.over:
            self.over = True
            self._news.put(
                f"--log {self.name}: nothing more is logged there: {why}; what is logged goes on"
            )

    def _follow(self) -> None:
        try:
            tracker = TRACKERS[self.name](self._tracked)
            while (work := self._work.get()) is not None and not self.over:
                work(tracker)
        except BaseException as error:  # whatever a package of somebody else's raises, exits too
            self._end(f"{type(error).__name__}: {str(error).strip() or 'no reason given'}")


class Trackers:
    """All that one thing is logged to. One thread uses it; none of its calls waits but `close`."""

    def __init__(self, names: Sequence[str], tracked: Tracked | None) -> None:
        """`tracked`: None where there are no names."""
        self.behind = [_Behind(name, tracked) for name in names if tracked is not None]

    def __bool__(self) -> bool:
        return bool(self.behind)

    def point(self, step: int, values: Mapping[str, float]) -> None:
        """Values of curves at a step."""
        self._send(lambda tracker: tracker.point(step, values))

    def results(self, step: int, values: Mapping[str, float]) -> None:
        """What came of it."""
        self._send(lambda tracker: tracker.results(step, values))

    def news(self) -> list[str]:
        """What happened to trackers since the last call, a sentence each."""
        return [line for tracker in self.behind for line in tracker.news()]

    def close(self, *, over: bool, hurry: bool = False) -> list[str]:
        """Returns the last news. Waits for trackers, but not for long; `over`: nothing is left to
        be resumed."""
        self._send(lambda tracker: tracker.close(over=over))
        deadline = time.monotonic() + (HURRY_S if hurry else PATIENCE_S)
        for tracker in self.behind:
            tracker.wait(deadline)
        return self.news()

    def _send(self, work: _Work) -> None:
        for tracker in self.behind:
            tracker.put(work)


@dataclass
class RunLog:
    """What is logged of one session of a run. One thread uses it; none of its calls waits but
    `close`."""

    trackers: Trackers = field(default_factory=lambda: Trackers((), None))
    curves: Curves = field(default_factory=Curves)
    clock: Callable[[], float] = time.monotonic
    _last: float = float("-inf")  # when the last point was made
    _shown: int = -1  # and its step

    @classmethod
    def open(cls, names: Sequence[str], output: str) -> RunLog:
        """Of the run in `output`, whose books are open; goes on where its last session stopped."""
        if not names:
            return UNLOGGED
        rows = read_episodes(output, ["arm", "suite", "outcome"]).to_pylist()
        recorded = ((row["arm"], row["suite"], row["outcome"]) for row in rows)
        return cls(Trackers(names, tracked_run(output)), Curves(recorded))

    def add(self, episode: Finished) -> None:
        if self.trackers:
            self.curves.add(episode)

    def show(
        self, standing: Callable[[], Mapping[str, float]] = dict, *, now: bool = False
    ) -> None:
        """A point, if episodes came since the last one and that is some seconds old; `standing`:
        values beside the curves'."""
        step = self.curves.step
        due = now or self.clock() - self._last >= PERIOD_S
        if self.trackers and step != self._shown and due:
            self._last, self._shown = self.clock(), step
            self.trackers.point(step, {**self.curves.point(), **standing()})

    def news(self) -> list[str]:
        """What happened to trackers since the last call, a sentence each."""
        return self.trackers.news()

    def close(self, summary: Summary | None, *, over: bool, hurry: bool = False) -> list[str]:
        """Log the summary and end; returns the last news. Waits for trackers, but not for long."""
        if not self.trackers:
            return []
        self.show(now=True)
        if summary is not None:
            self.trackers.results(self.curves.step, summary_values(summary))
        return self.trackers.close(over=over, hurry=hurry)


UNLOGGED = RunLog()  # of a run that nobody asked to log


def tracked_run(output: str) -> Tracked:
    """The run in `output`. What trackers keep on the disk lies beside its books, or where the run
    would be were its books no address."""
    run = read_run(output)
    folder = expanded(f"results/{run['run_id']}" if is_address(output) else output)
    return Tracked(run["run_id"], run, folder / FOLDER, over="episodes/done")


def replay(output: str, names: Sequence[str], summary: Summary) -> list[str]:
    """Log a stored run from its first episode on, a point for every hundredth part of it; returns
    what went wrong."""
    from rsd.summary.tallies import decodes  # scipy takes a second, which no live run needs here

    parts = committed(output)
    episodes = parts.episodes([*KEY, "outcome", "finished_at"]).sort_by("finished_at").to_pylist()
    chunks: dict[tuple[object, ...], list[dict[str, Any]]] = {}
    waited = ("queue_s", *STAGES)
    for batch in map(decodes, parts.chunks([*KEY, "passes", "layers", *waited])):
        for row in batch.to_pylist():
            chunks.setdefault(tuple(row[name] for name in KEY), []).append(row)
    log = RunLog(Trackers(names, tracked_run(output)))
    for number, row in enumerate(episodes, start=1):
        own = chunks.get(tuple(row[name] for name in KEY), [])
        passes = [chunk["passes"] for chunk in own]
        latencies_s = [sum(chunk[stage] for stage in waited) for chunk in own]
        log.add(Finished(row["arm"], row["suite"], row["outcome"], passes, latencies_s))
        if number * 100 // len(episodes) > (number - 1) * 100 // len(episodes):
            log.show(now=True)
    return log.close(summary, over=True)
