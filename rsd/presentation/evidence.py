"""What there is to show of runs, read from their books: a summary, and what one leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from rsd.presentation.parting import Chunks, Difference, Parting, World, differences
from rsd.presentation.timeline import Timeline, timeline
from rsd.presentation.videos import videos_of
from rsd.summary.compute import (
    COLUMNS,
    WORLD,
    Rows,
    Run,
    open_runs,
    own_rows,
    read_rows_of,
    summary_of_runs,
)
from rsd.summary.progress import Failure, Progress, failures, progress
from rsd.summary.rules import BASELINE, EVERY_TWO, Comparisons
from rsd.summary.sessions import sessions_of
from rsd.summary.statistics import Proportion, proportion
from rsd.summary.values import STAGES, Summary
from rsd.types import EpisodeKey

MOST_WORLDS = 200  # told one by one
PERCENTILES = tuple(range(101))
_EPISODE_COLUMNS = (*COLUMNS, "instruction", "chunks", "attempts", "error", "worker", "node")


@dataclass(frozen=True)
class Latency:
    """A chunk's time of one arm, from its arrival at a replica to its actions, s."""

    percentiles: list[float]  # of the total, by PERCENTILES
    stages: dict[str, float]  # means, by STAGES


@dataclass(frozen=True)
class Story:
    """A world that not every arm solved."""

    world: World
    outcomes: Mapping[str, str]  # by arm; an arm that did not run here is absent
    parted: tuple[str, str, int] | None  # two arms, and the chunk in which they part
    difference: Difference | None
    videos: Mapping[str, Path]  # by what they show: an arm, or `one vs other`


@dataclass(frozen=True)
class Evidence:
    """Of runs whose rows may stand in one table."""

    runs: Sequence[Run]
    progress: Sequence[Progress]  # of each run
    summary: Summary
    instructions: Mapping[tuple[str, int], str]  # by suite and task
    latencies: Mapping[str, Latency]  # by arm, of those that decoded
    shared: Mapping[str, Proportion]  # success by arm in the worlds that all of them finished
    partings: Sequence[Parting]
    timeline: Timeline | None  # None: no episode, or of imported ones, which ran nobody knows when
    failures: Sequence[Failure]
    stories: Sequence[Story]  # disagreements first; MOST_WORLDS of them at most
    unsolved: int  # worlds that not every arm solved
    disagreements: int  # of those, worlds that one arm solved and another did not
    made_at: datetime

    @property
    def arms(self) -> list[str]:
        """In the summary's order."""
        return [arm.arm for arm in self.summary.arms]

    @property
    def suites(self) -> list[str]:
        """By name."""
        return sorted({suite for suite, _ in self.instructions})


def read_evidence(
    outputs: Sequence[str], margin: float, now: datetime, comparisons: Comparisons = EVERY_TWO
) -> Evidence:
    """Raises UserError as `open_runs`, and for parts that cannot be read. Memory grows by 48 bytes
    a chunk and about 1 kB an episode."""
    runs = open_runs(outputs)
    rows = read_rows_of(runs, _EPISODE_COLUMNS)
    episodes = rows.episodes
    sessions = [
        session
        for run in runs
        for session in sessions_of(run.description, own_rows(run, runs, episodes)["finished_at"])
    ]
    summary = summary_of_runs(runs, rows, margin, comparisons)
    latencies = _latencies(rows)
    chunks = Chunks(runs, episodes)
    partings = [chunks.parting(pair.first, pair.second) for pair in summary.pairs]
    partings = [parting for parting in partings if parting.worlds]
    outcomes = _outcomes(episodes)
    unsolved = outcomes[((outcomes != "success") & outcomes.notna()).any(axis=1)]
    apart = (unsolved == "success").any(axis=1) & (unsolved == "timeout").any(axis=1)
    told = pd.concat([unsolved[apart], unsolved[~apart]]).head(MOST_WORLDS)
    return Evidence(
        runs=runs,
        progress=[progress(run, own_rows(run, runs, episodes), now) for run in runs],
        summary=summary,
        instructions=_instructions(episodes),
        latencies=latencies,
        shared=_shared(outcomes),
        partings=partings,
        timeline=None if summary.provenance.source else timeline(episodes, sessions),
        failures=failures(episodes),
        stories=_stories(runs, told, partings),
        unsolved=len(unsolved),
        disagreements=int(apart.sum()),
        made_at=now,
    )


def _instructions(episodes: pd.DataFrame) -> dict[tuple[str, int], str]:
    """The longest of each task: "" where an error came first."""
    found = episodes.groupby(["suite", "task_id"], observed=True)["instruction"].max()
    return {(str(suite), int(task)): str(text) for (suite, task), text in found.items()}


def _latencies(rows: Rows) -> dict[str, Latency]:
    found = {}
    for arm, suites in rows.counts.items():
        stages = {
            stage: np.concatenate([times for one in suites.values() for times in one.stages[stage]])
            for stage in STAGES
        }
        total = np.sum(list(stages.values()), axis=0)
        if total.any():
            found[arm] = Latency(
                np.percentile(total, PERCENTILES).tolist(),
                {stage: float(times.mean()) for stage, times in stages.items()},
            )
    return dict(sorted(found.items()))


def _outcomes(episodes: pd.DataFrame) -> pd.DataFrame:
    """A row a world, a column an arm; null where it did not run."""
    return episodes.pivot(index=WORLD, columns="arm", values="outcome").sort_index()


def _shared(outcomes: pd.DataFrame) -> dict[str, Proportion]:
    finished = outcomes[outcomes.isin(["success", "timeout"]).all(axis=1)]
    return {
        str(arm): proportion(int((finished[arm] == "success").sum()), len(finished))
        for arm in finished.columns
    }


def _stories(runs: Sequence[Run], told: pd.DataFrame, partings: Sequence[Parting]) -> list[Story]:
    where = {(one.first, one.second): one.chunk for one in partings}
    outcomes = {
        world: {str(arm): str(end) for arm, end in row.items() if isinstance(end, str)}
        for world, row in told.to_dict("index").items()
    }
    parted = {world: _pair(world, ends, where) for world, ends in outcomes.items()}
    wanted = {
        (_key(pair[0], world), _key(pair[1], world)): pair[2]
        for world, pair in parted.items()
        if pair
    }
    found = differences(runs, wanted) if wanted else {}
    stories = []
    for world, ends in outcomes.items():
        pair = parted[world]
        stories.append(
            Story(
                world=world,
                outcomes=ends,
                parted=pair,
                difference=found[_key(pair[0], world), _key(pair[1], world)] if pair else None,
                videos=videos_of(runs, [_key(arm, world) for arm in ends]),
            )
        )
    return stories


def _pair(
    world: World,
    outcomes: Mapping[str, str],
    where: Mapping[tuple[str, str], Mapping[World, int]],
) -> tuple[str, str, int] | None:
    """The two arms whose parting is told: those with different verdicts before others, the baseline
    before others."""
    pairs = [
        (first, second, chunks[world])
        for (first, second), chunks in where.items()
        if world in chunks and first in outcomes and second in outcomes
    ]

    def rank(pair: tuple[str, str, int]) -> tuple[bool, bool]:
        return outcomes[pair[0]] == outcomes[pair[1]], BASELINE not in pair

    return min(pairs, key=rank, default=None)


def _key(arm: str, world: World) -> EpisodeKey:
    return EpisodeKey(arm, *world)
