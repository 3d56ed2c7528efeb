"""The sessions of a run: when each worked, and what its replicas did."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import pandas as pd

State = Literal["starting", "ready", "restarting", "dead"]
_AFTER: Mapping[str, State] = {  # ReplicaEvent.what -> how the replica is then
    "started": "starting",
    "ready": "ready",
    "died": "restarting",
    "lost": "dead",
}


@dataclass(frozen=True)
class ReplicaLife:
    """A replica in one session, as its driver heard of it: seconds late, by pings."""

    replica: str
    node: str  # where it answered last; empty where it never did
    processor: str  # likewise: what it decides on
    started_at: datetime
    ready: tuple[tuple[datetime, datetime | None], ...]  # from, to; None: as long as its session
    deaths: tuple[tuple[datetime, str], ...]  # with the reason, as far as it is known
    state: State
    since: datetime

    @property
    def ready_at(self) -> datetime | None:
        """When it answered first."""
        return self.ready[0][0] if self.ready else None


@dataclass(frozen=True)
class Session:
    """From a start or resume to the end of that driver."""

    started_at: datetime
    last_at: datetime | None  # when it stored its last episode; None: it stored none
    replicas: tuple[ReplicaLife, ...]  # none of an older run, whose books do not say


def sessions_of(run: Mapping[str, Any], finished: pd.Series) -> list[Session]:
    """Of a run.json, and the times at which the run's episodes were stored."""
    noted = run["sessions"]
    starts = [datetime.fromisoformat(session["started_at"]) for session in noted]
    found = []
    for session, start, end in itertools.zip_longest(noted, starts, starts[1:]):
        inside = finished[(finished >= start) & (finished < end if end else True)]
        last_at = inside.max().to_pydatetime() if len(inside) else None
        found.append(Session(start, last_at, _replicas(session.get("replicas") or [])))
    return found


def _replicas(events: Sequence[Mapping[str, Any]]) -> tuple[ReplicaLife, ...]:
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        by_name.setdefault(event["replica"], []).append(event)
    return tuple(_life(name, own) for name, own in by_name.items())


def _life(name: str, events: Sequence[Mapping[str, Any]]) -> ReplicaLife:
    """Of its events in their order."""
    times = [datetime.fromisoformat(event["at"]) for event in events]
    told = list(itertools.zip_longest(events, times, times[1:]))
    answered = [event for event in events if event["what"] == "ready"]
    last = answered[-1] if answered else {}
    return ReplicaLife(
        replica=name,
        node=last.get("node", ""),
        processor=last.get("processor", ""),
        started_at=times[0],
        ready=tuple((at, until) for event, at, until in told if event["what"] == "ready"),
        deaths=tuple(
            (at, event.get("why", "")) for event, at, _ in told if event["what"] in ("died", "lost")
        ),
        state=_AFTER[events[-1]["what"]],
        since=times[-1],
    )
