"""Arms of several runs and kept results: paired where they acted in the same worlds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rsd import conditions, results
from rsd.books import holds_a_run
from rsd.errors import UserError
from rsd.summary.compute import open_runs, paired, read_rows_of, summary_of_runs
from rsd.summary.origin import origin_of
from rsd.summary.rules import MARGIN
from rsd.summary.values import ArmPair, Summary


@dataclass(frozen=True)
class Source:
    """A run, or a file of `rsd results keep`."""

    name: str
    summary: Summary
    episodes: pd.DataFrame  # KEY, outcome, and the first digits of final_state_sha256
    world: dict[str, Any] | None  # conditions.of_world


def read(path: str) -> Source:
    """Raises UserError for what is neither, or cannot be read."""
    if path.endswith(results.SUFFIX):
        (group,) = results.published([Path(path)])
        return _source(results.summary(group), results.episodes(group), group.origins[0])
    if not holds_a_run(path):
        raise UserError(
            f"{path} is neither a run (it has no run.json) nor a file of `rsd results keep` (it "
            f"does not end in {results.SUFFIX}); name the folder that --output named"
        )
    runs = open_runs([path])
    rows = read_rows_of(runs)
    summary = summary_of_runs(runs, rows, MARGIN)
    return _source(summary, rows.episodes, origin_of(runs[0].description))


def _source(summary: Summary, episodes: pd.DataFrame, origin: dict[str, Any]) -> Source:
    state = episodes["final_state_sha256"].str[: results.STATE_DIGITS]
    shortened = episodes.assign(final_state_sha256=state)
    return Source(", ".join(summary.names), summary, shortened, conditions.of_world(origin))


def same_worlds(first: Source, second: Source) -> bool:
    """Whether a (suite, task, trial) is known to be the same world in both."""
    return first.world is not None and first.world == second.world


def compare(sources: Sequence[Source], margin: float = MARGIN) -> list[ArmPair]:
    """Every two arms that share worlds, of one source or of two; p-values are adjusted over all.

    An arm is called `source: arm` where there are several sources. Raises UserError for two of
    one name.
    """
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise UserError(f"sources {', '.join(names)}: give each once")
    arms = {
        name(sources, source, str(arm)): (source, own)
        for source in sources
        for arm, own in source.episodes.groupby("arm", observed=True)
    }
    chosen = [
        (first, second)
        for (first, (one, _)), (second, (other, _)) in itertools.combinations(arms.items(), 2)
        if one is other or same_worlds(one, other)
    ]
    return paired({arm: own for arm, (_, own) in arms.items()}, chosen, margin)


def name(sources: Sequence[Source], source: Source, arm: str) -> str:
    """Of an arm among those of all sources."""
    return arm if len(sources) == 1 else f"{source.name}: {arm}"
