"""Which recorded episodes are simulated again: one by one, or two arms of a world beside each
other."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rsd.errors import UserError
from rsd.types import EpisodeKey


@dataclass(frozen=True)
class Take:
    """What one video shows: an episode, or two arms in the same world."""

    keys: tuple[EpisodeKey, ...]

    @property
    def key(self) -> EpisodeKey:
        """Names it: that of its episode; of two, with an arm that names both."""
        return dataclasses.replace(self.keys[0], arm=" vs ".join(key.arm for key in self.keys))

    @property
    def file(self) -> str:
        """Such as `libero_spatial-3-07-speculative.mp4`; of a seed other than 0 with it."""
        key = self.key
        seed = f"-seed{key.seed}" if key.seed else ""
        arm = re.sub(r"[^\w@.()+=-]+", "_", key.arm)
        return f"{key.suite}-{key.task_id}-{key.trial:02d}-{arm}{seed}.mp4"

    def __str__(self) -> str:
        return f"{self.key.suite} {self.key.task_id} {self.key.trial} {self.key.arm}"


@dataclass(frozen=True)
class Filter:
    """Which of the recorded episodes; each left out: all."""

    suite: tuple[str, ...] = ()
    """Those of these suites"""

    task: tuple[int, ...] = ()
    """Those of these tasks, from 0"""

    trial: tuple[int, ...] = ()
    """Those of these trials, from 0"""

    arm: tuple[str, ...] = ()
    """Those of these arms"""

    def __bool__(self) -> bool:
        return any(vars(self).values())

    def of(self, outcomes: Mapping[EpisodeKey, str]) -> dict[EpisodeKey, str]:
        """Those that it lets pass. Raises UserError for a name that none of them has, and tells
        which there are."""
        left = dict(outcomes)
        if not left:
            raise UserError("no episode is recorded there yet")
        for name, field in (("suite",) * 2, ("arm",) * 2, ("task", "task_id"), ("trial",) * 2):
            wanted = getattr(self, name)
            there = sorted({getattr(key, field) for key in left})
            for value in wanted:
                if value not in there:
                    raise UserError(
                        f"--{name} {value}: no such episode is recorded there; there are "
                        f"{ranges(there)}"
                    )
            if wanted:
                left = {key: out for key, out in left.items() if getattr(key, field) in wanted}
        return left


def ranges(values: Sequence[object]) -> str:
    """`0 to 9, 12` of sorted numbers; names one by one."""
    if not all(isinstance(value, int) for value in values):
        return ", ".join(map(str, values))
    found = []
    for _, run in itertools.groupby(enumerate(values), lambda at: int(str(at[1])) - at[0]):
        numbers = [number for _, number in run]
        found.append(f"{numbers[0]}" + (f" to {numbers[-1]}" if len(numbers) > 1 else ""))
    return ", ".join(found)


def each(outcomes: Mapping[EpisodeKey, str]) -> list[Take]:
    """Those that came to a verdict, one by one; an error leaves no actions."""
    return [Take((key,)) for key in _ordered(outcomes) if outcomes[key] != "error"]


def failures(outcomes: Mapping[EpisodeKey, str]) -> list[Take]:
    """Those in which the policy failed."""
    return [Take((key,)) for key in _ordered(outcomes) if outcomes[key] == "timeout"]


def disagreements(outcomes: Mapping[EpisodeKey, str]) -> list[Take]:
    """Every two arms of a world of which one succeeds and the other fails."""
    worlds = itertools.groupby(_ordered(outcomes), lambda key: dataclasses.replace(key, arm=""))
    return [
        Take(pair)
        for _, arms in worlds
        for pair in itertools.combinations(arms, 2)
        if {outcomes[key] for key in pair} == {"success", "timeout"}
    ]


def sample(outcomes: Mapping[EpisodeKey, str], count: int, seed: int) -> list[Take]:
    """So many of those that came to a verdict, or all where there are fewer."""
    takes = each(outcomes)
    drawn = random.Random(seed).sample(range(len(takes)), min(count, len(takes)))
    return [takes[place] for place in sorted(drawn)]


def _ordered(keys: Mapping[EpisodeKey, str]) -> list[EpisodeKey]:
    """By task, so that a simulator serves many, then world by world."""
    return sorted(keys, key=lambda key: (key.suite, key.task_id, key.trial, key.seed, key.arm))
