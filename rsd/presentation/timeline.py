"""What the cluster did when: workers from the episodes' own times, replicas from what drivers
noted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from rsd.summary.progress import name_of
from rsd.summary.sessions import ReplicaLife, Session

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
class ReplicaLane:
    """A replica over the whole time; those of one name in several sessions are one."""

    replica: str
    node: str  # of its last session, as the others here
    processor: str
    deaths: int
    dead: bool  # for good
    to_ready_s: float | None  # from its start to its first answer; None: it gave none
    ready: list[float]  # by bin, share of it in which the replica was ready


@dataclass(frozen=True)
class Death:
    """Of a replica."""

    at: datetime
    replica: str
    why: str


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
    replicas: list[ReplicaLane]
    deaths: list[Death]  # of replicas
    sessions: list[datetime]  # when each began

    @property
    def middles(self) -> list[datetime]:
        """Of the bins."""
        return [self.start + timedelta(seconds=(i + 0.5) * self.seconds) for i in range(self.bins)]

    @property
    def bins(self) -> int:
        """How many."""
        return len(self.per_hour)


def timeline(episodes: pd.DataFrame, sessions: Sequence[Session]) -> Timeline | None:
    """Of episodes with worker, node, outcome, attempts, wall_s, finished_at and their key; None of
    none. An episode ends when the driver stored it, and began its wall time before: a retry's
    earlier tries are not in the books. A replica's session ends with its last stored episode."""
    if not len(episodes):
        return None
    finished = episodes["finished_at"].dt.tz_convert("UTC")
    starts = sorted(session.started_at for session in sessions)
    origin = min(finished.min().to_pydatetime(), *starts)
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
    return Timeline(
        start=origin,
        seconds=width,
        per_hour=(3600 * stored / width).tolist(),
        lanes=lanes,
        again=again,
        replicas=_replicas(sessions, origin, edges),
        deaths=[
            Death(at, life.replica, why)
            for session in sessions
            for life in session.replicas
            for at, why in life.deaths
        ],
        sessions=starts,
    )


def _replicas(
    sessions: Iterable[Session], origin: datetime, edges: np.ndarray
) -> list[ReplicaLane]:
    """`edges`: of the bins, seconds since `origin`."""
    lives: dict[str, list[tuple[ReplicaLife, Session]]] = {}
    for session in sessions:
        for life in session.replicas:
            lives.setdefault(life.replica, []).append((life, session))
    lanes = []
    for replica, own in lives.items():
        ready = np.zeros(len(edges))
        for life, session in own:
            for since, until in life.ready:
                end = until or max(since, session.last_at or since)
                begin, over = ((at - origin).total_seconds() for at in (since, end))
                ready += np.clip(edges - begin, 0, over - begin)
        last = own[-1][0]
        first_s = None
        if last.ready_at is not None:
            first_s = (last.ready_at - last.started_at).total_seconds()
        lane = ReplicaLane(
            replica=replica,
            node=last.node,
            processor=last.processor,
            deaths=sum(len(life.deaths) for life, _ in own),
            dead=last.state == "dead",
            to_ready_s=first_s,
            ready=np.clip(np.diff(ready) / edges[1], 0, 1).tolist(),
        )
        lanes.append(lane)
    return lanes
