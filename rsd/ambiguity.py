"""Where demonstrations have two modes: which plan a chunk follows, or whether it is between both
(docs/ambiguity.md). No torch, no Ray.

Chunks are compared by their paths: where the translations of their steps lead, summed up, in mm as
commanded. The arm goes less far than that, on either way alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rsd.experts import make_expert, read_state
from rsd.suites import Task
from rsd.summary.statistics import Proportion, proportion
from rsd.types import (
    METRES_PER_UNIT,
    ChunkRequest,
    Decoding,
    EpisodeKey,
    Observation,
    Policy,
    draws_of,
)

if TYPE_CHECKING:
    from rsd.envs.libero import LiberoEnvironment

MIXED = (0.25, 0.75)  # of the way from plan to plan: nearer to the middle than to either


@dataclass(frozen=True)
class Plans:
    """What an expert does from one state, in either of two ways."""

    own: np.ndarray  # float32 (T, 7)
    other: np.ndarray  # likewise

    @property
    def apart_mm(self) -> float:
        """Distance of both."""
        return _mm(path_mm(self.other) - path_mm(self.own))


@dataclass(frozen=True)
class Leaning:
    """Where a chunk lies between two plans."""

    side: float  # along the line from the own plan (0) to the other (1)
    nearest_mm: float  # to the nearer plan

    @property
    def mixed(self) -> bool:
        """Whether it is neither plan's: nearer to the middle of both than to either."""
        return MIXED[0] < self.side < MIXED[1]

    @property
    def other(self) -> bool:
        """Whether the other plan is the nearer one."""
        return self.side > 0.5


def path_mm(actions: np.ndarray) -> np.ndarray:
    """float64 (T, 3): where T actions (T, 7) lead, step by step."""
    return 1000 * METRES_PER_UNIT * np.cumsum(actions[:, :3].astype(np.float64), axis=0)


def leaning(actions: np.ndarray, plans: Plans) -> Leaning:
    """Of a chunk (T, 7). Raises ValueError where both plans are one."""
    own, other, path = (path_mm(each) for each in (plans.own, plans.other, actions))
    between = other - own
    if not between.any():
        raise ValueError("the two plans are the same: nothing is ambiguous")
    side = float(((path - own) * between).sum() / (between**2).sum())
    return Leaning(side, min(_mm(path - own), _mm(path - other)))


def _mm(difference: np.ndarray) -> float:
    """Of two paths (T, 3): root mean square over the steps."""
    return float(np.sqrt((difference**2).sum(axis=1).mean()))


@dataclass(frozen=True)
class Answered:
    """A chunk that was asked for, and where it lies."""

    arm: str
    task: int
    trial: int
    apart_mm: float  # the two plans
    leaning: Leaning


def ask(
    policy: Policy,
    observation: Observation,
    plans: Plans,
    decodings: Mapping[str, Decoding],
    task: int,
    trial: int,
) -> list[Answered]:
    """The chunk of every decoding, by arm, of a world's first observation."""
    answers = []
    for arm, decoding in decodings.items():
        draws = draws_of(EpisodeKey(arm, "ambiguity", task, trial), 0)
        (chunk,) = policy.act([ChunkRequest(observation, decoding, draws, 0)])
        answers.append(Answered(arm, task, trial, plans.apart_mm, leaning(chunk.actions, plans)))
    return answers


def first_look(
    env: LiberoEnvironment, task: Task, trial: int, steps: int
) -> tuple[Observation, Plans]:
    """What is seen of an evaluation's world before anything has moved, and the `steps` actions with
    which the expert sets out for either rim."""
    env.reset(trial)
    other = _sets_out(env, task, steps, other_rim=True)
    env.reset(trial)
    observation = env.observe()
    return observation, Plans(_sets_out(env, task, steps, other_rim=False), other)


def _sets_out(env: LiberoEnvironment, task: Task, steps: int, other_rim: bool) -> np.ndarray:
    """float32 (steps, 7): what the expert does from the simulator's present state on."""
    expert = make_expert(task.suite, task.task_id, other_rim)
    actions = []
    for _ in range(steps):
        actions.append(expert.act(read_state(env.simulator)))
        env.step(actions[-1])
    return np.stack(actions)


@dataclass(frozen=True)
class Summary:
    """What the chunks of an arm come to."""

    arm: str
    mixed: Proportion  # of all chunks
    other: Proportion  # of those that are not mixed
    nearest_mm_median: float
    nearest_mm_p90: float


def summarise(answers: Sequence[Answered]) -> list[Summary]:
    """Arm by arm, in their order."""
    return [
        _summary(arm, [answer.leaning for answer in answers if answer.arm == arm])
        for arm in dict.fromkeys(answer.arm for answer in answers)
    ]


def _summary(arm: str, found: Sequence[Leaning]) -> Summary:
    mixed = [each.mixed for each in found]
    others = [each.other for each in found if not each.mixed]
    nearest = [each.nearest_mm for each in found]
    return Summary(
        arm,
        proportion(sum(mixed), len(mixed)),
        proportion(sum(others), len(others)),
        float(np.median(nearest)),
        float(np.quantile(nearest, 0.9)),
    )
