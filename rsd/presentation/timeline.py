"""What the cluster did when, from the episodes' own times."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from rsd.summary.progress import name_of

MOST_BINS = 180


@dataclass(frozen=True)
class Lane:
    """A worker over the whole time."""

    worker: str
    node: str
    episodes: int
    again: int  # of those, tried more than once
    errors: int
    busy: list[float]  # by bin, share of it in which the worker ran an episode that was stored

    @property
    def name(self) -> str:
        """Worker and machine."""
        return f"{self.worker} on {self.node}"


@dataclass(frozen=True)
class Again:
    """An episode that was tried more than once."""

    at: datetime
    lane: str
    episode: str
    attempts: int


@dataclass(frozen=True)
class Timeline:
    """Bins of one length, from `start`."""

    start: datetime
    seconds: float  # of a bin
    per_hour: list[float]  # by bin, episodes stored
    lanes: list[Lane]
    again: list[Again]
    sessions: list[datetime]  # when each began

    @property
    def middles(self) -> list[datetime]:
        """Of the bins."""
        return [self.start + timedelta(seconds=(i + 0.5) * self.seconds) for i in range(self.bins)]

    @property
    def bins(self) -> int:
        """How many."""
        return len(self.per_hour)


def timeline(episodes: pd.DataFrame, sessions: list[datetime]) -> Timeline | None:
    """Of episodes with worker, node, outcome, attempts, wall_s, finished_at and their key; None of
    none. An episode ends when the driver stored it, and began its wall time before: a retry's
    earlier tries are not in the books."""
    if not len(episodes):
        return None
    finished = episodes["finished_at"].dt.tz_convert("UTC")
    origin = min(finished.min().to_pydatetime(), *sessions)
    end = (finished - origin).dt.total_seconds().to_numpy()
    begin = np.maximum(0.0, end - episodes["wall_s"].to_numpy())
    bins = int(min(MOST_BINS, max(1, np.ceil(end.max()))))
    edges = np.linspace(0, max(end.max(), 1.0), bins + 1)
    width = float(edges[1])
    stored = np.histogram(end, edges)[0]
    lanes, again = [], []
    rows = episodes.assign(begin=begin, end=end)
    for (node, worker), own in rows.groupby(["node", "worker"], observed=True, sort=True):
        done = np.clip(edges[:, None] - own["begin"].to_numpy(), 0, None)
        done = np.minimum(done, (own["end"] - own["begin"]).to_numpy()).sum(axis=1)
        lane = Lane(
            worker=str(worker),
            node=str(node),
            episodes=len(own),
            again=int((own["attempts"] > 1).sum()),
            errors=int((own["outcome"] == "error").sum()),
            busy=np.clip(np.diff(done) / width, 0, 1).tolist(),
        )
        lanes.append(lane)
        for row in own[own["attempts"] > 1].itertuples():
            at = row.finished_at.to_pydatetime()
            again.append(Again(at, lane.name, name_of(row), int(row.attempts)))
    return Timeline(origin, width, (3600 * stored / width).tolist(), lanes, again, sessions)
