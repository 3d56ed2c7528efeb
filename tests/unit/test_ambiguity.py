"""Which of two plans a chunk follows: known answers."""

from __future__ import annotations

import io

import numpy as np
import pyarrow.parquet as pq
import pytest

from rsd.ambiguity import Answered, Leaning, Plans, ask, leaning, path_mm, summarise
from rsd.arms import read_arm
from rsd.presentation.ambiguity import as_rows, picture
from rsd.types import Chunk, ChunkRequest, DecodeTrace, ImageSpec, Observation

STEPS = 8


def moving(x: float, y: float, z: float = 0.0) -> np.ndarray:
    """float32 (8, 7): the same step again and again."""
    return np.tile(np.array([x, y, z, 0, 0, 0, -1], np.float32), (STEPS, 1))


SOUTH, NORTH = moving(0.5, -0.5), moving(0.5, 0.5)
PLANS = Plans(own=SOUTH, other=NORTH)


def test_each_plan_is_itself_and_neither_is_mixed() -> None:
    for actions, side in ((SOUTH, 0.0), (NORTH, 1.0)):
        found = leaning(actions, PLANS)
        assert (found.side, found.nearest_mm, found.mixed) == (side, 0.0, False)
        assert found.other is bool(side)


def test_the_mean_of_both_plans_is_mixed() -> None:
    found = leaning((SOUTH + NORTH) / 2, PLANS)
    assert found.mixed and found.side == pytest.approx(0.5)
    # 25 mm a step from either: 25, 50, ..., 200 mm
    assert found.nearest_mm == pytest.approx(np.sqrt(np.mean((25 * np.arange(1, 9)) ** 2)))
    assert found.nearest_mm == pytest.approx(PLANS.apart_mm / 2)


@pytest.mark.parametrize(("y", "mixed"), [(-0.26, False), (-0.24, True), (0.24, True)])
def test_mixed_is_nearer_to_the_middle_than_to_either_plan(y: float, mixed: bool) -> None:
    found = leaning(moving(0.5, y), PLANS)
    middle = path_mm((SOUTH + NORTH) / 2)
    away = np.sqrt(((path_mm(moving(0.5, y)) - middle) ** 2).sum(axis=1).mean())
    assert found.mixed is mixed
    assert bool(away < found.nearest_mm) is mixed


def test_an_error_across_the_line_between_the_plans_is_a_distance_and_no_mixture() -> None:
    found = leaning(moving(0.5, -0.5, 0.2), PLANS)
    assert found.side == pytest.approx(0.0) and not found.mixed
    assert found.nearest_mm == pytest.approx(np.sqrt(np.mean((10 * np.arange(1, 9)) ** 2)))


def test_a_chunk_that_changes_its_mind_half_way_is_mixed() -> None:
    assert leaning(np.concatenate([SOUTH[:4], NORTH[4:]]), PLANS).mixed


def test_rotations_and_the_gripper_decide_nothing() -> None:
    turned = SOUTH.copy()
    turned[:, 3:] = 0.7
    assert leaning(turned, PLANS) == leaning(SOUTH, PLANS)


def test_one_plan_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing is ambiguous"):
        leaning(SOUTH, Plans(NORTH, NORTH))


class Southward:
    """Implements rsd.types.Policy: goes south, and between both plans where it samples."""

    images, checkpoint_sha256, chunk_steps = ImageSpec(4, 4), "", STEPS

    def __init__(self) -> None:
        self.draws: list[str] = []

    def act(self, requests: list[ChunkRequest], deliver: object = None) -> list[Chunk]:
        self.draws += [request.draws for request in requests]
        trace = DecodeTrace(drafted=(), accepted=(), passes=1, layers=1)
        mean = (SOUTH + NORTH) / 2
        return [
            Chunk(mean if "sampling" in each.decoding.rule else SOUTH, None, trace)
            for each in requests
        ]


def answers_of(trials: int, policy: Southward) -> list[Answered]:
    frame = np.zeros((4, 4, 3), np.uint8)
    seen = Observation(frame, frame, np.zeros(8, np.float32), "")
    arms = [read_arm(name) for name in ("autoregressive", "autoregressive-sampling=0.5")]
    decodings = {arm.name: arm.decoding for arm in arms}
    return [
        answer
        for trial in range(trials)
        for answer in ask(policy, seen, PLANS, decodings, task=3, trial=trial)
    ]


def test_arms_of_a_world_share_its_draws_and_worlds_do_not() -> None:
    policy = Southward()
    answers_of(2, policy)
    first, second, third, fourth = policy.draws
    assert first == second != third == fourth


def test_a_summary_counts_mixed_chunks_and_rims_of_the_others() -> None:
    greedy, drawn = summarise(answers_of(5, Southward()))
    assert (greedy.arm, greedy.mixed.successes, greedy.mixed.finished) == ("autoregressive", 0, 5)
    assert (greedy.other.successes, greedy.other.finished) == (0, 5)
    assert greedy.nearest_mm_median == 0.0
    assert (drawn.mixed.successes, drawn.other.finished, drawn.other.rate) == (5, 0, None)
    assert drawn.nearest_mm_median == pytest.approx(PLANS.apart_mm / 2)


def test_rows_hold_every_chunk_and_pictures_are_the_same_each_time() -> None:
    answers = answers_of(3, Southward())
    answers.append(Answered("parallel", 0, 0, 10.0, Leaning(7.0, 1.0)))  # far beyond both
    rows = pq.read_table(io.BytesIO(as_rows(answers))).to_pylist()
    assert len(rows) == 7
    assert rows[1] == {
        "arm": "autoregressive-sampling=0.5",
        "task_id": 3,
        "trial": 0,
        "apart_mm": pytest.approx(PLANS.apart_mm),
        "side": pytest.approx(0.5),
        "nearest_mm": pytest.approx(PLANS.apart_mm / 2),
    }
    assert picture(answers, "svg") == picture(answers, "svg")
