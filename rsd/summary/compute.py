"""The summary of a run, from its books in one pass over the chunks."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from rsd.books import KEY, Committed, committed, read_run
from rsd.errors import UserError
from rsd.summary.origin import origin_of, provenance
from rsd.summary.rules import EVERY_TWO, LOOKED_AT, MARGIN, Comparisons, shared_draws
from rsd.summary.statistics import (
    PairedComparison,
    Proportion,
    compare_pairs,
    holm,
    not_worse,
    proportion,
)
from rsd.summary.tallies import Counts, acceptance, chunk_cost, tally
from rsd.summary.values import (
    SIMULATOR_PARTS,
    ArmPair,
    ArmSummary,
    EpisodeCost,
    FinalStates,
    Provenance,
    SuiteSummary,
    Summary,
    TaskSummary,
)

WORLD = KEY[1:]  # what a pair of two arms shares
COLUMNS = (
    *KEY,
    "outcome",
    "assets",
    "final_state_sha256",
    "finished_at",
    *(f"{part}_s" for part in (*SIMULATOR_PARTS, "wait", "wall")),
)


@dataclass(frozen=True)
class Rows:
    """Episodes, and what their chunks add up to."""

    episodes: pd.DataFrame  # KEY, outcome, final_state_sha256 or its beginning, *_s as far as known
    counts: Mapping[str, Mapping[str, Counts]]  # by arm and suite


def summarise(output: str, margin: float = MARGIN) -> Summary:
    """Summary of the run in `output` as far as it is stored.

    Memory grows by 40 bytes a chunk: times, for exact medians. Raises UserError for a folder
    without a run, for rows on different assets (DESIGN 7: those are never pooled), and for an
    episode that is stored twice.
    """
    run = read_run(output)
    parts = committed(output)
    episodes = stored_episodes(output, parts)
    made_by = replace(provenance([origin_of(run)]), assets=one_assets(output, episodes))
    counts = {
        arm: {suite: one.counts() for suite, one in suites.items()}
        for arm, suites in tally(parts).items()
    }
    summary = summary_of(
        Rows(episodes, counts), (run["run_id"],), made_by, margin, EVERY_TWO, run["config"]["arms"]
    )
    elapsed_s = _elapsed_s(run["sessions"], episodes)
    rate = 3600 * len(episodes) / elapsed_s if elapsed_s > 0 else None
    return replace(summary, output=output, elapsed_s=elapsed_s, episodes_per_hour=rate)


def stored_episodes(
    output: str, parts: Committed, columns: Sequence[str] = COLUMNS
) -> pd.DataFrame:
    """The episodes of a run; raises UserError for one that is stored twice."""
    episodes = parts.episodes(columns).to_pandas()
    twice = episodes.duplicated(KEY)
    if twice.any():
        raise UserError(
            f"{output} holds {int(twice.sum())} episodes twice, such as "
            f"{tuple(episodes.loc[twice, KEY].iloc[0])}: two runs wrote into it at once; give each "
            "an --output of its own"
        )
    return episodes


def one_assets(output: str, episodes: pd.DataFrame) -> str:
    """What all rows ran on; raises UserError for several. An error row may name none: its
    environment never came to be."""
    found = sorted(set(episodes["assets"]) - {""})
    if len(found) > 1:
        raise UserError(
            f"{output} holds episodes on different assets ({', '.join(found)}); they cannot be "
            "pooled: run each on its own --output"
        )
    return found[0] if found else "none"


def _elapsed_s(sessions: Sequence[dict[str, Any]], episodes: pd.DataFrame) -> float:
    """Time the run was being worked on: from each session's start to its last stored episode."""
    starts = [datetime.fromisoformat(session["started_at"]) for session in sessions]
    finished = episodes["finished_at"]
    elapsed = timedelta()
    for start, end in itertools.zip_longest(starts, starts[1:]):
        inside = finished[(finished >= start) & (finished < end if end else True)]
        if len(inside):
            elapsed += inside.max() - start
    return elapsed.total_seconds()


# --- from rows to what they say ----------------------------------------------------------------


def summary_of(
    rows: Rows,
    names: tuple[str, ...],
    made_by: Provenance,
    margin: float,
    comparisons: Comparisons,
    decodings: Mapping[str, Any],
) -> Summary:
    """Of a run or of published results; `decodings` are those of the arms, by name."""
    episodes = rows.episodes
    by_arm = {str(arm): own for arm, own in episodes.groupby("arm", observed=True)}
    return Summary(
        names=names,
        episodes=len(episodes),
        errors=_errors(episodes),
        provenance=made_by,
        margin=margin,
        comparisons=comparisons.description,
        arms=[_arm(arm, own, rows.counts.get(arm, {})) for arm, own in by_arm.items()],
        pairs=paired(by_arm, comparisons.choose(list(by_arm)), margin),
        shared_draws=shared_draws(decodings),
    )


def _arm(arm: str, episodes: pd.DataFrame, counts: Mapping[str, Counts]) -> ArmSummary:
    all_counts = sum(counts.values(), start=Counts())
    return ArmSummary(
        arm=arm,
        **_success(episodes),
        acceptance=acceptance(all_counts),
        cost=chunk_cost(all_counts),
        simulator=_cost(episodes[episodes["outcome"] != "error"]),
        suites=[
            SuiteSummary(
                suite=str(suite),
                **_success(own),
                acceptance=acceptance(counts.get(str(suite), Counts())),
                cost=chunk_cost(counts.get(str(suite), Counts())),
                tasks=[
                    TaskSummary(task_id=int(task), **_success(of_task))
                    for task, of_task in own.groupby("task_id")
                ],
            )
            for suite, own in episodes.groupby("suite", observed=True)
        ],
    )


def _success(episodes: pd.DataFrame) -> dict[str, Any]:
    """Fields of values.Success."""
    unseen = episodes[episodes["trial"] >= LOOKED_AT]
    return {
        "success": _rate(episodes),
        "unseen": _rate(unseen),
        "errors": _errors(episodes),
    }


def _rate(episodes: pd.DataFrame) -> Proportion:
    solved = int((episodes["outcome"] == "success").sum())
    return proportion(solved, len(episodes) - _errors(episodes))


def _errors(episodes: pd.DataFrame) -> int:
    return int((episodes["outcome"] == "error").sum())


def _cost(finished: pd.DataFrame) -> EpisodeCost:
    parts = {part: _mean(finished, f"{part}_s") for part in SIMULATOR_PARTS}
    known = [mean for mean in parts.values() if mean is not None]
    return EpisodeCost(
        episodes=len(finished),
        parts=parts,
        total=sum(known) if len(known) == len(parts) else None,
        wait=_mean(finished, "wait_s"),
        wall=_mean(finished, "wall_s"),
    )


def _mean(rows: pd.DataFrame, column: str) -> float | None:
    return float(rows[column].mean()) if column in rows and len(rows) else None


def paired(
    by_arm: Mapping[str, pd.DataFrame], chosen: Sequence[tuple[str, str]], margin: float
) -> list[ArmPair]:
    """Those two that were `chosen`, of arms by name with their episodes."""
    finished = {
        arm: rows[rows["outcome"] != "error"].set_index(WORLD) for arm, rows in by_arm.items()
    }
    verdicts = {arm: (rows["outcome"] == "success").to_dict() for arm, rows in finished.items()}
    ends = {arm: rows["final_state_sha256"].to_dict() for arm, rows in finished.items()}
    found = [compare_pairs(verdicts[first], verdicts[second]) for first, second in chosen]
    worse = [not_worse(one.only_first, one.only_second, one.pairs, margin) for one in found]
    different = _adjusted([one.p_value for one in found], found)
    not_worse_adjusted = _adjusted(worse, found)
    pairs = []
    for i, (first, second) in enumerate(chosen):
        states = _final_states(ends[first], ends[second])
        pairs.append(
            ArmPair(
                first=first,
                second=second,
                comparison=found[i],
                identical_final_states=sum(suite.identical for suite in states),
                p_adjusted=different[i],
                not_worse=worse[i],
                not_worse_adjusted=not_worse_adjusted[i],
                final_states=states,
            )
        )
    return pairs


def _adjusted(p_values: Sequence[float], found: Sequence[PairedComparison]) -> list[float]:
    """By Holm, over the pairs that share a world; the others are no tests."""
    tests = [i for i, one in enumerate(found) if one.pairs]
    adjusted = dict(zip(tests, holm([p_values[i] for i in tests]), strict=True))
    return [adjusted.get(i, 1.0) for i in range(len(found))]


def _final_states(first: Mapping[Any, str], second: Mapping[Any, str]) -> list[FinalStates]:
    """By world, as WORLD has it: the suite first."""
    shared = first.keys() & second.keys()
    pairs = Counter(world[0] for world in shared)
    same = Counter(world[0] for world in shared if first[world] == second[world])
    return [FinalStates(str(suite), pairs[suite], same[suite]) for suite in sorted(pairs)]
