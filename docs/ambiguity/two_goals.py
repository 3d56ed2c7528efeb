"""Two goals of equal right: train a small policy on them and measure every way of decoding it.

A point starts in the middle between two goals, half a metre to either side in a direction that
every world draws anew. Demonstrations go straight to one of them: from the start to either, half
and half, from elsewhere to the nearer one. One training gives one trunk with all heads. Makes
two_goals.json and two_goals.svg beside this file, in a few minutes of one core.

python docs/ambiguity/two_goals.py
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import rsd  # noqa: F401, I001  before numpy
import numpy as np
import torch

from rsd.ambiguity import Answered, Plans, ask, summarise
from rsd.arms import read_arm
from rsd.episode import run_episode
from rsd.models.small_vla.architecture import DraftConfig, SmallVLAConfig, TransformerConfig
from rsd.models.small_vla.model import SmallVLA, word_ids
from rsd.models.small_vla.weights import policy_of
from rsd.outputs import write_file
from rsd.presentation.ambiguity import picture
from rsd.summary.statistics import Proportion, proportion
from rsd.training.config import TrainConfig
from rsd.training.data import Examples
from rsd.training.draft import DraftTraining
from rsd.training.small_vla import SmallVLALearner
from rsd.training.target import TargetTraining
from rsd.types import (
    ACTION_DIM,
    METRES_PER_UNIT,
    EpisodeKey,
    ImageSpec,
    Observation,
    SimTimings,
)

HERE = Path(__file__).parent
AWAY, REACH = 0.5, 0.03  # m from the start to either goal; at which it counts as reached
STEPS, MOST_STEPS = 8, 24  # of a chunk; of an episode, which takes an expert 10
WORLDS = 200
ARMS = (
    "regression",
    "parallel",
    "autoregressive",
    "speculative",
    "autoregressive-sampling=0.5",
    "autoregressive-sampling",
    "speculative-sampling",
)
IMAGES = ImageSpec(16, 16, 0, False)
BLANK = np.full((16, 16, 3), 127, np.uint8)
INSTRUCTION = "go to a goal"
MODEL = SmallVLAConfig(
    target=TransformerConfig(64, 2, 4),
    draft=DraftConfig(32, 8),
    channels=(8, 8, 8),
    keypoints=2,
    word_buckets=16,
    text_tokens=1,
)
TRAINING = TrainConfig(
    steps=3000,
    draft_steps=200,
    draft_views=1,
    batch_size=64,
    learning_rate=4e-3,
    warmup=100,
    weight_decay=0.0,
    code_noise=0.0,
    parallel_weight=1.0,
    average=0.99,
    shift=0,
    jitter=0,
    bf16=False,
)
DIAGONAL = np.radians(30)  # from the nearest axis on: both coordinates say which goal it is


def direction(world: int) -> np.ndarray:
    """float64 (2,): of the goal that the worlds' list names first; the other is opposite."""
    angle = np.random.default_rng(world).uniform(0, np.pi)
    return np.array([np.cos(angle), np.sin(angle)])


def towards(goal: np.ndarray, at: np.ndarray) -> np.ndarray:
    """float32 (STEPS, 7): straight there, then still."""
    actions = np.zeros((STEPS, ACTION_DIM), np.float32)
    actions[:, 6] = -1
    for action in actions:
        way = (goal - at) / METRES_PER_UNIT
        action[:2] = way / max(1.0, float(np.linalg.norm(way)))
        at = at + METRES_PER_UNIT * action[:2]
    return actions


def proprio(at: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """float32 (8,): where it is, and where the goals are."""
    return np.array([*at, 0, *goal, 0, 0, 0], np.float32)


class TwoGoals:
    """Implements rsd.types.Environment."""

    instruction, assets, renderer = INSTRUCTION, "none", "none"

    def __init__(self) -> None:
        self.timings = SimTimings()

    def reset(self, trial: int) -> None:
        self._goal, self._at, self._steps = AWAY * direction(trial), np.zeros(2), 0

    def step(self, action: np.ndarray) -> bool:
        self._at = self._at + METRES_PER_UNIT * action[:2].astype(np.float64)
        self._steps += 1
        return any(np.linalg.norm(self._at - side * self._goal) < REACH for side in (1, -1))

    def observe(self) -> Observation:
        return Observation(BLANK, BLANK, proprio(self._at, self._goal), INSTRUCTION)

    def state(self) -> np.ndarray:
        return np.array([self._steps * 0.05, *self._at, *self._goal])

    def close(self) -> None: ...

    def plans(self) -> Plans:
        """Of either goal, from here."""
        return Plans(towards(self._goal, self._at), towards(-self._goal, self._at))


def examples(count: int, rng: np.random.Generator) -> Examples:
    """Two of five at the start, two on the way to a goal, one anywhere."""
    seen, actions = [], []
    for number in range(count):
        goal = AWAY * direction(10**6 + number)  # no world of the evaluation
        at, chosen = np.zeros(2), goal * rng.choice([-1, 1])
        if number % 5 in (2, 3):
            at = rng.uniform(0, 1) * chosen + rng.normal(0, 0.02, 2)
        elif number % 5 == 4:
            at = rng.uniform(-0.6, 0.6, 2)
            chosen = goal if at @ goal > 0 else -goal
        seen.append(proprio(at, goal))
        actions.append(towards(chosen, at))
    chunks = torch.from_numpy(np.stack(actions))
    return Examples(
        images=torch.from_numpy(BLANK).expand(count, 2, *BLANK.shape),
        words=torch.tensor(word_ids(INSTRUCTION, MODEL.word_buckets)).expand(count, -1),
        proprio=torch.from_numpy(np.stack(seen)),
        actions=chunks,
        previous=chunks,
        has_previous=torch.zeros(count, dtype=torch.bool),
        task=torch.zeros(count, dtype=torch.int64),
        placement=torch.from_numpy(rng.uniform(0, 1, count)),
        spec=IMAGES,
        origin={},
    )


def trained() -> SmallVLA:
    """Target and draft, by the phases of `rsd train`."""
    torch.manual_seed(0)
    learner = SmallVLALearner(SmallVLA(MODEL, IMAGES.height))
    shown = examples(8_000, np.random.default_rng(0))
    for phase in (TargetTraining, DraftTraining):
        for _ in phase(learner, shown, TRAINING).run(
            lambda progress: print(progress.line(), flush=True), 250
        ):
            pass
    return learner.model.eval()


def main() -> None:
    torch.set_num_threads(1)
    policy = policy_of(trained(), IMAGES)
    env, arms = TwoGoals(), [read_arm(name) for name in ARMS]
    answers: list[Answered] = []
    solved: dict[str, list[bool]] = {arm.name: [] for arm in arms}
    for world in range(WORLDS):
        env.reset(world)
        decodings = {arm.name: arm.decoding for arm in arms}
        answers += ask(policy, env.observe(), env.plans(), decodings, task=0, trial=world)
        for arm in arms:
            key = EpisodeKey(arm.name, "two_goals", 0, world)
            result = run_episode(
                env, key, arm, lambda request: policy.act([request])[0], MOST_STEPS
            )
            solved[arm.name].append(result.outcome == "success")
    content = {
        "command": "python docs/ambiguity/two_goals.py",
        "training": dataclasses.asdict(TRAINING),
        "model": dataclasses.asdict(MODEL),
        "worlds": WORLDS,
        "arms": [
            dataclasses.asdict(each)
            | {
                "mixed_by_axes": {
                    name: dataclasses.asdict(mixed) for name, mixed in by_axes(answers, each.arm)
                },
                "success": dataclasses.asdict(proportion(sum(solved[each.arm]), WORLDS)),
            }
            for each in summarise(answers)
        ],
    }
    write_file(HERE / "two_goals.json", json.dumps(content, indent=2) + "\n")
    write_file(HERE / "two_goals.svg", picture(answers, "svg", ("a goal", "the other")))
    for each in content["arms"]:
        print(json.dumps(each))


def by_axes(answers: list[Answered], arm: str) -> Iterator[tuple[str, Proportion]]:
    """The share of mixed chunks where one coordinate says which goal it is, and where both do."""
    for name, wanted in (("along an axis", False), ("diagonal", True)):
        mixed = [
            each.leaning.mixed
            for each in answers
            if each.arm == arm and is_diagonal(direction(each.trial)) is wanted
        ]
        yield name, proportion(sum(mixed), len(mixed))


def is_diagonal(way: np.ndarray) -> bool:
    """Whether a direction (2,) is far from both axes."""
    return bool(np.abs(way).min() > np.sin(DIAGONAL))


if __name__ == "__main__":
    main()
