"""A run as far as it is recorded, to be simulated again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rsd import conditions
from rsd.books import KEY, Committed, committed, read_run
from rsd.errors import UserError
from rsd.replay.again import actions_of
from rsd.replay.choice import Take
from rsd.types import EpisodeKey, EpisodeResult


@dataclass(frozen=True)
class Recording:
    """The episodes that a run held when it was opened, a run in progress among them."""

    run: Mapping[str, Any]  # run.json
    outcomes: Mapping[EpisodeKey, str]
    homes: Mapping[EpisodeKey, Committed]

    @classmethod
    def of(cls, source: str) -> Recording:
        """The run in a folder or at an address. Raises UserError where there is none, or only what
        `rsd results keep` keeps of one."""
        if source.endswith(".parquet"):
            raise UserError(
                f"{source} is a kept table, which holds no actions; give the folder of a run, or "
                "run the policy again with `rsd repeat`"
            )
        run, parts = read_run(source), committed(source)
        conditions.require_own(run, source, "it holds no actions to simulate again")
        rows = parts.episodes([*KEY, "outcome"])
        keys = map(EpisodeKey, *(rows[name].to_pylist() for name in KEY))
        return cls(run, dict(zip(keys, rows["outcome"].to_pylist(), strict=True)), parts.homes())

    def read(self, take: Take) -> list[EpisodeResult]:
        """Its episodes. Raises UserError where they cannot be simulated from the books."""
        recorded = [self.homes[key].result(key) for key in take.keys]
        for each in recorded:
            actions_of(each)
        return recorded

    def unfinished(self) -> str:
        """In words, where not all that was planned is recorded; else empty."""
        planned = self.run.get("planned_episodes")
        if planned is None or planned <= len(self.outcomes):
            return ""
        return f"{len(self.outcomes)} of {planned} planned episodes are recorded by now"
