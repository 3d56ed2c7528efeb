"""How far a run is, from its books alone: what another shell can see of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import pandas as pd

from rsd.books import KEY
from rsd.books.folder import Folder
from rsd.locking import held
from rsd.summary.compute import Run, stored_episodes
from rsd.summary.sessions import ReplicaLife, sessions_of
from rsd.summary.statistics import Proportion, proportion

State = Literal["running", "finished", "stopped", "imported", "unknown"]
WINDOW = timedelta(minutes=15)  # over which a rate is taken
COLUMNS = (*KEY, "outcome", "attempts", "error", "worker", "node", "finished_at")


@dataclass(frozen=True)
class ArmProgress:
    """One arm so far. What solves its task ends early: until the end the rate is too high."""

    arm: str
    success: Proportion
    errors: int


@dataclass(frozen=True)
class WorkerProgress:
    """One environment worker so far."""

    worker: str
    node: str
    episodes: int
    again: int  # of those, tried more than once
    last_at: datetime  # when its newest episode was stored


@dataclass(frozen=True)
class Failure:
    """Episodes that ended in one error."""

    reason: str  # last line of the traceback
    episodes: int
    example: str  # one of them


@dataclass(frozen=True)
class Progress:
    """A run at one moment."""

    output: str
    run_id: str
    state: State  # imported: of other software, which does not say that it is finished; unknown:
    # not finished, and no lock says whether anybody works on it
    planned: int | None  # episodes; None where older runs did not say
    stored: int
    sessions: int
    last_at: datetime | None  # newest stored episode
    per_hour: float | None  # over the last WINDOW of the latest session; None of imported results
    left_s: float | None  # to the end at that rate
    arms: list[ArmProgress]
    workers: list[WorkerProgress]
    replicas: tuple[ReplicaLife, ...]  # of the latest session
    failures: list[Failure]

    @property
    def finished(self) -> bool:
        """Whether every planned episode is stored."""
        return self.state == "finished"


def progress_of(run: Run, now: datetime) -> Progress:
    """Raises UserError for parts that cannot be read and for an episode that is stored twice."""
    return progress(run, stored_episodes(run.output, run.parts, COLUMNS), now)


def progress(run: Run, episodes: pd.DataFrame, now: datetime) -> Progress:
    """Of episodes with COLUMNS, all those of the run."""
    sessions = sessions_of(run.description, episodes["finished_at"])
    started_at = sessions[-1].started_at
    last_at = episodes["finished_at"].max().to_pydatetime() if len(episodes) else None
    state = _state(run, len(episodes))
    end = now if state in ("running", "unknown") else (last_at or started_at)
    imported = run.description.get("source") is not None
    per_hour = None if imported else _per_hour(episodes["finished_at"], started_at, end)
    left = max(0, (run.planned or 0) - len(episodes))
    return Progress(
        output=run.output,
        run_id=run.run_id,
        state=state,
        planned=run.planned,
        stored=len(episodes),
        sessions=len(sessions),
        last_at=last_at,
        per_hour=per_hour,
        left_s=3600 * left / per_hour if per_hour and state != "stopped" and run.planned else None,
        arms=_arms(run.description["config"]["arms"], episodes),
        workers=_workers(episodes),
        replicas=sessions[-1].replicas,
        failures=failures(episodes),
    )


def _state(run: Run, stored: int) -> State:
    if run.planned is not None and stored >= run.planned:
        return "finished"
    if run.description.get("source"):
        return "imported"
    folder = Folder.at(run.output).local
    locked = None if folder is None else held(folder)
    return "unknown" if locked is None else "running" if locked else "stopped"


def _per_hour(finished: pd.Series, started_at: datetime, end: datetime) -> float | None:
    since = max(started_at, end - WINDOW)
    seconds = (end - since).total_seconds()
    count = int(((finished > since) & (finished <= end)).sum())
    return 3600 * count / seconds if count and seconds > 0 else None


def _arms(planned: Mapping[str, Any], episodes: pd.DataFrame) -> list[ArmProgress]:
    counts = episodes.groupby(["arm", "outcome"], observed=True).size().to_dict()

    def of(arm: str) -> ArmProgress:
        solved, lost, errors = (
            int(counts.get((arm, outcome), 0)) for outcome in ("success", "timeout", "error")
        )
        return ArmProgress(arm, proportion(solved, solved + lost), errors)

    return [of(arm) for arm in planned]


def _workers(episodes: pd.DataFrame) -> list[WorkerProgress]:
    return [
        WorkerProgress(
            worker=str(worker),
            node=str(node),
            episodes=len(own),
            again=int((own["attempts"] > 1).sum()),
            last_at=own["finished_at"].max().to_pydatetime(),
        )
        for (node, worker), own in episodes.groupby(["node", "worker"], observed=True)
    ]


def failures(episodes: pd.DataFrame) -> list[Failure]:
    """Episodes that ended in an error, those of one reason together, the most frequent first."""
    lost = episodes[episodes["outcome"] == "error"]
    found = []
    for reason, own in lost.groupby(lost["error"].map(last_line)):
        found.append(Failure(str(reason), len(own), name_of(own.iloc[0])))
    return sorted(found, key=lambda failure: -failure.episodes)


def name_of(episode: Any) -> str:
    """Of a row of episodes: `speculative, libero_goal 3, trial 7`."""
    return f"{episode.arm}, {episode.suite} {episode.task_id}, trial {episode.trial}"


def last_line(traceback: str) -> str:
    """What it says went wrong."""
    lines = traceback.strip().splitlines()
    return lines[-1].strip() if lines else "no reason recorded"
