"""The summary of runs, from their books in one pass over the chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pandas as pd

from rsd import conditions
from rsd.books import KEY, Committed, committed, read_run
from rsd.errors import UserError
from rsd.summary.origin import decodings, origin_of, provenance
from rsd.summary.rules import EVERY_TWO, LOOKED_AT, MARGIN, Comparisons, shared_draws
from rsd.summary.sessions import Session, sessions_of
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
    "run_id",
    *KEY,
    "outcome",
    "assets",
    "final_state_sha256",
    "finished_at",
    "source",
    *(f"{part}_s" for part in (*SIMULATOR_PARTS, "wait", "wall")),
)


@dataclass(frozen=True)
class Rows:
    """Episodes, and what their chunks add up to."""

    episodes: pd.DataFrame  # KEY, outcome, final_state_sha256 or its beginning, *_s as far as known
    counts: Mapping[str, Mapping[str, Counts]]  # by arm and suite


@dataclass(frozen=True)
class Run:
    """A run as far as it is stored at one moment."""

    output: str  # as the user spelt it
    description: Mapping[str, Any]  # run.json
    parts: Committed

    @property
    def run_id(self) -> str:
        """As its rows name it."""
        name: str = self.description["run_id"]
        return name

    @property
    def planned(self) -> int | None:
        """Episodes; None where older runs did not say."""
        return self.description.get("planned_episodes")


def open_runs(outputs: Sequence[str]) -> list[Run]:
    """Runs whose rows may stand in one table.

    Raises UserError for a folder without a run, and for runs that were made under other conditions
    (`conditions.of_rows`) or whose arms of one name decode differently: it names each field.
    """
    runs = [Run(output, read_run(output), committed(output)) for output in outputs]
    first = runs[0]
    for run in runs[1:]:
        conditions.require_same(
            conditions.of_rows(first.description),
            conditions.of_rows(run.description),
            f"{first.output} and {run.output} cannot be compared, their rows were made under other "
            "conditions; report them apart",
        )
    decodings({run.output: run.description for run in runs})
    return runs


def tables_of(outputs: Sequence[str]) -> list[tuple[str, ...]]:
    """Which runs stand in one table: our own together, each of another software's by itself.

    Raises UserError for one of another software that is there twice.
    """
    runs = {output: read_run(output) for output in outputs}
    own = tuple(output for output in outputs if runs[output].get("source") is None)
    others = [output for output in outputs if output not in own]
    known = [runs[output]["run_id"] for output in others]
    if twice := [output for output in others if known.count(runs[output]["run_id"]) > 1]:
        raise UserError(f"{', '.join(twice)} hold the same results; report them once")
    return [*([own] if own else []), *((output,) for output in others)]


def summarise(
    *outputs: str, margin: float = MARGIN, comparisons: Comparisons = EVERY_TWO
) -> Summary:
    """Summary of one run as far as it is stored, or of several whose rows may stand in one table.

    Memory grows by 40 bytes a chunk: times, for exact medians. Raises UserError as `open_runs` and
    `read_rows_of` do.
    """
    runs = open_runs(outputs)
    return summary_of_runs(runs, read_rows_of(runs), margin, comparisons)


def read_rows_of(runs: Sequence[Run], columns: Sequence[str] = COLUMNS) -> Rows:
    """Episodes, and what their chunks add up to. Raises UserError as `rows_of_all` does."""
    episodes = rows_of_all(runs, columns)
    tallies = tally(run.parts for run in runs)
    counts = {
        arm: {suite: one.counts() for suite, one in suites.items()}
        for arm, suites in tallies.items()
    }
    return Rows(episodes, counts)


def rows_of_all(runs: Sequence[Run], columns: Sequence[str]) -> pd.DataFrame:
    """The episodes. Raises UserError for rows on different assets (DESIGN 7: those are never
    pooled), and for an episode that is stored twice."""
    found = [stored_episodes(run.output, run.parts, columns) for run in runs]
    episodes = pd.concat(found, ignore_index=True) if len(found) > 1 else found[0]
    twice = episodes.duplicated(KEY)
    if twice.any():
        raise UserError(
            f"{int(twice.sum())} episodes are in two of {', '.join(run.output for run in runs)}, "
            f"such as {first_key(episodes[twice])}; report each once"
        )
    one_assets(_outputs(runs), episodes)
    return episodes


def summary_of_runs(
    runs: Sequence[Run], rows: Rows, margin: float, comparisons: Comparisons = EVERY_TWO
) -> Summary:
    """What the rows of these runs say, and how long they took."""
    episodes = rows.episodes
    descriptions = {run.output: run.description for run in runs}
    made_by = provenance([origin_of(run) for run in descriptions.values()])
    if made_by.source is None:
        made_by = replace(made_by, assets=one_assets(_outputs(runs), episodes))
    summary = summary_of(
        rows,
        tuple(run.run_id for run in runs),
        made_by,
        margin,
        comparisons,
        decodings(descriptions),
    )
    if made_by.source is not None:  # nobody knows when it ran
        return replace(summary, output=_outputs(runs))
    elapsed_s = sum(
        _elapsed_s(sessions_of(run.description, own_rows(run, runs, episodes)["finished_at"]))
        for run in runs
    )
    rate = 3600 * len(episodes) / elapsed_s if elapsed_s > 0 else None
    return replace(summary, output=_outputs(runs), elapsed_s=elapsed_s, episodes_per_hour=rate)


def own_rows(run: Run, runs: Sequence[Run], episodes: pd.DataFrame) -> pd.DataFrame:
    """Those of one of the runs, of the rows of all."""
    return episodes if len(runs) == 1 else episodes[episodes["run_id"] == run.run_id]


def _outputs(runs: Sequence[Run]) -> str:
    return ", ".join(run.output for run in runs)


def stored_episodes(
    output: str, parts: Committed, columns: Sequence[str] = COLUMNS
) -> pd.DataFrame:
    """The episodes of a run; raises UserError for one that is stored twice."""
    episodes = parts.episodes(columns).to_pandas()
    twice = episodes.duplicated(KEY)
    if twice.any():
        raise UserError(
            f"{output} holds {int(twice.sum())} episodes twice, such as "
            f"{first_key(episodes[twice])}: two runs wrote into it at once; give each an --output "
            "of its own"
        )
    return episodes


def first_key(rows: pd.DataFrame, key: Sequence[str] = KEY) -> tuple[Any, ...]:
    """Of some rows, as a message shows it: words and numbers, none of numpy's."""
    first: tuple[Any, ...] = next(rows[list(key)].itertuples(index=False, name=None))
    return first


def one_assets(output: str, episodes: pd.DataFrame) -> str:
    """What all rows ran on; raises UserError for several. An error row may name none: its
    environment never came to be."""
    found = sorted(set(episodes["assets"].dropna()) - {""})
    if len(found) > 1:
        raise UserError(
            f"{output} holds episodes on different assets ({', '.join(found)}); they cannot be "
            "pooled: run each on its own --output"
        )
    return found[0] if found else "none"


def _elapsed_s(sessions: Sequence[Session]) -> float:
    """Time the run was being worked on: from each session's start to its last stored episode."""
    elapsed = [one.last_at - one.started_at for one in sessions if one.last_at is not None]
    return sum(elapsed, timedelta()).total_seconds()


# --- from rows to what they say ----------------------------------------------------------------


def summary_of(
    rows: Rows,
    names: tuple[str, ...],
    made_by: Provenance,
    margin: float,
    comparisons: Comparisons,
    decoded: Mapping[str, Any],
) -> Summary:
    """Of a run or of published results; `decoded` says how each arm does, by name."""
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
        shared_draws=shared_draws(decoded),
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
    unseen = episodes[(episodes["trial"] >= LOOKED_AT) & episodes["source"].isna()]
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
    return float(rows[column].mean()) if column in rows and rows[column].notna().any() else None


def paired(
    by_arm: Mapping[str, pd.DataFrame], chosen: Sequence[tuple[str, str]], margin: float
) -> list[ArmPair]:
    """Those two that were `chosen`, of arms by name with their episodes."""
    finished = {
        arm: rows[(rows["outcome"] != "error") & rows["source"].isna()].set_index(WORLD)
        for arm, rows in by_arm.items()
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
