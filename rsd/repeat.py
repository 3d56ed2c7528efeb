"""Whether recorded results come out again: a sample of a run, evaluated here and compared row by
row. Pure of Ray and torch; `rsd repeat` runs the sample."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rsd import conditions, results
from rsd.arms import described
from rsd.books import read_chunks, read_episodes, read_run
from rsd.config import EpisodesConfig, EvaluateConfig, PolicyConfig
from rsd.errors import UserError
from rsd.models import bundled, inspect_policy
from rsd.plan import resolve_arms, with_confidence
from rsd.types import Arm, EpisodeKey

COLUMNS = [*results.KEY, "outcome", "steps", "final_state", "near_ties"]


@dataclass(frozen=True)
class Kept:
    """Recorded episodes that finished, and what made them."""

    origin: dict[str, Any]  # as run.json says it
    rows: pd.DataFrame  # COLUMNS; final_state is the beginning of a hex digest, or all of it


def load(source: str) -> Kept:
    """A run's folder or address, or a file of `rsd results keep`; raises UserError."""
    if source.endswith(results.SUFFIX):
        origin, rows = results.read(Path(source))
        rows = rows.astype({"arm": "str", "suite": "str", "outcome": "str", "final_state": "str"})
    else:
        origin = read_run(source)
        rows = _rows(source)
    conditions.require_own(origin, source, "it names no policy and no world to evaluate again")
    return Kept(origin, rows.loc[rows["outcome"] != "error", COLUMNS])


def _rows(run: str) -> pd.DataFrame:
    told = [*results.KEY, "outcome", "steps", "final_state_sha256"]
    episodes = read_episodes(run, told).to_pandas()
    chunks = read_chunks(run, [*results.KEY, "canonical"]).to_pandas()
    ties = chunks.groupby(results.KEY)["canonical"].sum().rename("near_ties")
    rows = episodes.rename(columns={"final_state_sha256": "final_state"}).join(ties, on=results.KEY)
    return rows.fillna({"near_ties": 0})


def worlds_of(kept: Kept, arms: Sequence[str], worlds: int, seed: int) -> list[EpisodeKey]:
    """Keys to evaluate again: of each suite so many worlds (task, trial), drawn by `seed` from
    those that every one of `arms` (all, if empty) has recorded.

    Raises UserError for an arm that was not recorded, or where no world is left.
    """
    rows = kept.rows
    recorded = list(dict.fromkeys(rows["arm"]))
    missing = [arm for arm in arms if arm not in recorded]
    if missing:
        raise UserError(
            f"no episodes of {', '.join(missing)} are recorded there; it holds "
            f"{', '.join(recorded)}"
        )
    chosen = list(arms) or recorded
    keys = []
    for suite, of_suite in rows.groupby("suite", sort=True):
        present = [
            set(of_suite.loc[of_suite["arm"] == arm, ["task_id", "trial"]].itertuples(index=False))
            for arm in chosen
        ]
        common = sorted(tuple(map(int, world)) for world in set.intersection(*present))
        drawn = random.Random(f"{seed} {suite}").sample(common, min(worlds, len(common)))
        keys += [
            EpisodeKey(arm, str(suite), task, trial, kept.origin["config"]["seed"])
            for task, trial in sorted(drawn)
            for arm in chosen
        ]
    if not keys:
        raise UserError(f"no world is recorded for all of {', '.join(chosen)}; name fewer --arms")
    return keys


def lateness_of(
    source: str, keys: Sequence[EpisodeKey], arms: Mapping[str, Arm]
) -> dict[EpisodeKey, tuple[int, ...]]:
    """How late each chunk of the episodes was, in control steps, where that was measured: decoding
    takes another time here, so they are repeated as late as they were.

    Raises UserError for a file of results, which does not hold it.
    """
    late = {name for name, arm in arms.items() if arm.delay is not None and arm.delay.steps is None}
    wanted = [key for key in keys if key.arm in late]
    if not wanted:
        return {}
    if source.endswith(results.SUFFIX):
        raise UserError(
            f"{', '.join(sorted(late))}: chunks were as late as decoding took on that machine, "
            f"chunk by chunk, which no other run repeats, and {source} does not hold how late each "
            "was; give the folder of the run, whose chunks say it, or name other --arms"
        )
    chunks = read_chunks(source, [*results.KEY, "chunk_index", "delay_steps"]).to_pandas()
    chunks = chunks[chunks["arm"].isin(late)].sort_values("chunk_index")
    by_key = dict(list(chunks.groupby(results.KEY)["delay_steps"]))
    return {
        key: tuple(map(int, by_key[key.arm, key.suite, key.task_id, key.trial])) for key in wanted
    }


def config_of(kept: Kept, arms: Sequence[str], policy: str | None) -> EvaluateConfig:
    """The evaluation that made these rows, with `arms` of it.

    Raises UserError where the policy is not at hand: bundled ones are found by their hash.
    """
    config = kept.origin["config"]
    names = list(dict.fromkeys(arms)) or list(dict.fromkeys(kept.rows["arm"]))
    wanted = str(kept.origin["checkpoint_sha256"])
    spec = policy or next(
        (name for name in bundled() if inspect_policy(name).sha256 == wanted), None
    )
    if spec is None:
        raise UserError(
            f"the policy of these rows (sha256 {wanted[:12]}) is no bundled one; name it with "
            "--policy"
        )
    asked = EvaluateConfig(
        episodes=EpisodesConfig(
            task_suite=tuple(sorted(set(kept.rows["suite"]))),
            arms=tuple(names),
            seed=config["seed"],
            protocol=conditions.protocol(kept.origin),
        ),
        policy=PolicyConfig(policy=spec, deterministic=config["deterministic"]),
    )
    for plain in resolve_arms(asked).values():
        arm = with_confidence(plain, spec, inspect_policy(spec))
        recorded = config["arms"][arm.name]
        if recorded != described(arm):
            raise UserError(
                f"arm {arm.name} was decoded by {recorded}, this code decodes it by "
                f"{described(arm)}"
            )
    return asked


def assets_for(origin: Mapping[str, Any], named: str | None) -> str:
    """The assets to simulate recorded episodes on: those that the user `named`, else the recorded
    ones. Raises UserError where those were a folder, which nobody named."""
    recorded = origin["assets"]
    if named is None and recorded not in ("lite", "official", "none"):
        raise UserError(
            f"the results are on the assets with sha256 {recorded[:12]}; name their folder with "
            "--assets"
        )
    return named or recorded


@dataclass(frozen=True)
class Agreement:
    """Of one arm on one suite: episodes that came out as they were recorded."""

    arm: str
    suite: str
    episodes: int  # that finished both times
    outcomes: int
    steps: int
    states: int
    near_ties: int  # episodes in which a near tie was settled, then or now
    parted: tuple[tuple[int, int], ...]  # (task, trial) of those that end in another state


def compare(kept: Kept, again: Kept) -> list[Agreement]:
    """Row by row, over the episodes that both hold; an arm and suite a line."""
    pairs = kept.rows.merge(again.rows, on=results.KEY)
    lines = []
    for (arm, suite), rows in pairs.groupby(["arm", "suite"], sort=True):
        states = [
            new.startswith(old)
            for old, new in zip(rows["final_state_x"], rows["final_state_y"], strict=True)
        ]
        parted = rows.loc[[not same for same in states], ["task_id", "trial"]]
        lines.append(
            Agreement(
                arm=str(arm),
                suite=str(suite),
                episodes=len(rows),
                outcomes=int((rows["outcome_x"] == rows["outcome_y"]).sum()),
                steps=int((rows["steps_x"] == rows["steps_y"]).sum()),
                states=sum(states),
                near_ties=int(((rows["near_ties_x"] > 0) | (rows["near_ties_y"] > 0)).sum()),
                parted=tuple((int(task), int(trial)) for task, trial in parted.to_numpy()),
            )
        )
    return lines


def differences(kept: Kept, here: dict[str, Any]) -> list[str]:
    """What made the rows and is otherwise here, a line each: what decides a row first, then what
    must not."""
    return conditions.then_and_here(_facts(kept.origin), _facts(here))


def _facts(origin: dict[str, Any]) -> dict[str, object]:
    torch = {"torch's build": origin["packages"].get("torch")}
    return conditions.of_rows(origin) | torch | conditions.of_machine(origin)
