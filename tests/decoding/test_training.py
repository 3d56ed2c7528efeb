"""Training: it learns, it goes on after an interruption, and the draft learns the target."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rsd.errors import UserError
from rsd.models.small_vla.architecture import TransformerConfig
from rsd.models.small_vla.model import word_ids
from rsd.suites import get_task
from rsd.training.config import TrainConfig
from rsd.training.data import (
    Augmentation,
    Examples,
    _examples,
    _labelled_frames,
    ahead,
    batches,
    chunk_labels,
    load_examples,
    placement_hash,
    split,
)
from rsd.training.draft import DraftTraining
from rsd.training.metrics import Progress
from rsd.training.objective import accuracy, majority_accuracy
from rsd.training.small_vla import SmallVLALearner, SmallVLAReader
from rsd.training.target import TargetTraining
from tests.decoding.small_policy import CONFIG, IMAGES, untrained_model
from tests.made_up_demonstrations import made_up_demonstration, made_up_folder

COUNT, EPISODES = 96, 12
PLACEMENTS = (torch.arange(COUNT) % EPISODES).double() / EPISODES
SETTINGS = TrainConfig(
    steps=90, draft_steps=150, batch_size=16, warmup=5, shift=0, jitter=0.0, average=0.9,
    held_out=0.2,
)  # fmt: skip


def made_up_examples() -> Examples:
    """Frames whose brightness decides the action: learnable in a few steps."""
    generator = torch.Generator().manual_seed(0)
    level = torch.rand(COUNT, generator=generator)
    images = (level[:, None, None, None, None] * 255).expand(COUNT, 2, 48, 48, 3)
    actions = (2 * level - 1)[:, None, None].expand(COUNT, 8, 7).contiguous()
    words = torch.tensor(word_ids("pick up the bowl", CONFIG.word_buckets)).expand(COUNT, -1)
    return Examples(
        images=images.to(torch.uint8),
        words=words,
        proprio=torch.randn(COUNT, 8, generator=generator),
        actions=actions,
        previous=actions,
        has_previous=torch.ones(COUNT, dtype=torch.bool),
        task=torch.zeros(COUNT, dtype=torch.int64),
        placement=PLACEMENTS,
        spec=IMAGES,
        origin={},
    )


def _run(training: TargetTraining | DraftTraining, stop_at: int | None = None) -> list[Progress]:
    reports: list[Progress] = []
    if isinstance(training, TargetTraining):
        steps = training.run(reports.append, every=10, validate_every=30)
    else:
        steps = training.run(reports.append, every=50)
    for step in steps:
        if step == stop_at:
            break
    return reports


def test_the_target_learns_and_reports_held_out_accuracy_per_layer() -> None:
    training = TargetTraining(SmallVLALearner(untrained_model()), made_up_examples(), SETTINGS)
    reports = _run(training)
    assert reports[-1].loss < 0.5 * reports[0].loss
    last = reports[-1].validation
    assert last and len(last.accuracy) == len(last.majority) == 4
    assert [r.step for r in reports if r.validation] == [30, 60, 90]


def test_the_reported_loss_is_the_cross_entropy_alone() -> None:
    losses = []
    for weight in (0.0, 100.0):
        still = dataclasses.replace(
            SETTINGS, steps=1, learning_rate=1e-12, parallel_weight=weight, regression_weight=weight
        )
        losses.append(
            _run(TargetTraining(SmallVLALearner(untrained_model()), made_up_examples(), still))[
                0
            ].loss
        )
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("phase", "remedy"),
    [
        (TargetTraining, "--train.learning-rate below 0.001"),
        (DraftTraining, "--train.draft-learning-rate below 0.002"),
    ],
)
def test_a_training_that_diverges_stops_before_it_is_kept(
    phase: type[TargetTraining | DraftTraining], remedy: str
) -> None:
    model = untrained_model()
    training = phase(SmallVLALearner(model), made_up_examples(), SETTINGS)
    with torch.no_grad():
        model.draft.norm.weight.fill_(float("nan"))
        model.target.code_embedding.weight.fill_(float("nan"))
    reports: list[Progress] = []
    with pytest.raises(UserError, match=rf"loss of the \w+ is nan at step \d+: .* {remedy}"):
        list(training.run(reports.append))
    assert all(report.phase == "teach" for report in reports)


def test_an_interrupted_training_goes_on_to_the_same_weights() -> None:
    whole = TargetTraining(SmallVLALearner(untrained_model()), made_up_examples(), SETTINGS)
    _run(whole)
    first = TargetTraining(SmallVLALearner(untrained_model()), made_up_examples(), SETTINGS)
    _run(first, stop_at=30)
    second = TargetTraining(SmallVLALearner(untrained_model(seed=9)), made_up_examples(), SETTINGS)
    second.load(first.state())
    _run(second)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name


def test_an_interrupted_draft_goes_on_to_the_same_weights() -> None:
    whole = DraftTraining(SmallVLALearner(untrained_model()), made_up_examples(), SETTINGS)
    _run(whole)
    first = DraftTraining(SmallVLALearner(untrained_model()), made_up_examples(), SETTINGS)
    _run(first, stop_at=50)
    second = DraftTraining(SmallVLALearner(untrained_model()), made_up_examples(), SETTINGS)
    second.load(first.state())
    _run(second)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name


def test_a_constant_guess_is_right_where_held_out_labels_are_the_training_majority() -> None:
    codes = torch.tensor([[3, 1], [3, 2], [5, 2], [3, 6], [5, 2]])[:, None, None]  # (N, 1, 1, 2)
    train, held_out = torch.arange(3), torch.arange(3, 5)
    assert majority_accuracy(codes, train, held_out, levels=7).tolist() == [0.5, 0.5]


def test_the_draft_comes_to_agree_with_the_target() -> None:
    model = untrained_model()
    examples = made_up_examples()
    _run(TargetTraining(SmallVLALearner(model), examples, SETTINGS))
    target = {k: v.clone() for k, v in model.target.state_dict().items()}
    reports = _run(DraftTraining(SmallVLALearner(model), examples, SETTINGS))
    drafts = [report for report in reports if report.phase == "draft"]
    assert drafts[-1].validation and drafts[-1].validation.accuracy[0] > 0.6
    assert drafts[-1].loss < drafts[0].loss
    for name, tensor in target.items():  # the draft's training leaves the target alone
        assert torch.equal(tensor, model.target.state_dict()[name])


def test_chunks_behind_the_end_hold_still_with_the_gripper_as_it_was() -> None:
    actions = torch.arange(21, dtype=torch.float32).reshape(3, 7).numpy() / 21
    actions[-1, 6] = 1
    labels = chunk_labels(actions, 4)
    assert labels.shape == (3, 4, 7)
    assert (labels[0, :3] == actions).all()
    assert (labels[2, 1:, :6] == 0).all() and (labels[2, 1:, 6] == 1).all()


def test_whole_placements_are_held_out() -> None:
    train, validation = split(PLACEMENTS, 0.25)
    assert set(PLACEMENTS[train].tolist()).isdisjoint(PLACEMENTS[validation].tolist())
    assert len(train) + len(validation) == COUNT and len(validation) == 3 * COUNT // EPISODES


@pytest.mark.parametrize("held_out", [1e-6, 1 - 1e-6])
def test_both_sides_of_a_split_hold_a_placement(held_out: float) -> None:
    train, validation = split(PLACEMENTS[PLACEMENTS > 0], held_out)
    assert len(train) and len(validation)
    with pytest.raises(UserError, match="start from one placement"):
        split(torch.full((5,), 0.3), held_out)


def test_a_placement_stays_on_its_side_whatever_else_is_trained_on(tmp_path: Path) -> None:
    """libero_goal's tasks share their things: one seed places them alike for all ten. A policy that
    starts from another one must not be validated on what that was trained on."""

    def folder(name: str, task_id: int, seeds: range) -> Path:
        task = get_task("libero_goal", task_id)
        demos = [
            dataclasses.replace(
                made_up_demonstration(seed, 8),
                suite=task.suite,
                task_id=task_id,
                instruction=task.instruction,
            )
            for seed in seeds
        ]
        return made_up_folder(tmp_path / name, demos)

    few, more = folder("few", 0, range(1, 9)), folder("more", 4, range(3, 12))
    sides: dict[float, bool] = {}
    for paths in ([few], [more], [more, few], [few, more]):
        placements = load_examples(paths, 8, SmallVLAReader(512)).placement
        train, validation = split(placements, 0.4)
        for rows, held_out in ((train, False), (validation, True)):
            for placement in placements[rows].tolist():
                assert sides.setdefault(placement, held_out) == held_out
    assert len(sides) == 11 and set(sides.values()) == {True, False}


def test_placements_are_told_apart_by_their_first_state() -> None:
    known, hashes = made_up_demonstration(1, 8), []
    for offset in (0.0, 1e-9, 1e-2):
        states = known.states.copy()
        states[0] += offset
        states[0, 0], states[5:] = -offset / 1e3, 0.0
        hashes.append(placement_hash(dataclasses.replace(known, seed=None, states=states)))
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    "setting",
    [
        {"steps": 0},
        {"draft_steps": 0},
        {"draft_views": 0},
        {"learning_rate": float("nan")},
        {"code_noise": 2.0},
        {"held_out": 1.5},
        {"warmup": -1},
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(setting: dict[str, float]) -> None:
    (name,) = setting
    with pytest.raises(ValueError, match=f"{name.replace('_', '-')} .*: give"):
        dataclasses.replace(SETTINGS, **setting)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": (30, 60, 120)}, "three widths"),
        ({"channels": (8, 16)}, "three widths"),
        ({"keypoints": 0}, "keypoints 0"),
        ({"target": TransformerConfig(32, 2, 2, positions=3)}, "3 positions do not divide"),
    ],
)
def test_sizes_that_no_model_has_are_refused_at_once(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not a multiple of 5 heads"):
        TransformerConfig(32, 2, 5)
    with pytest.raises(ValueError, match="levels: 2"):
        dataclasses.replace(CONFIG.tokeniser, levels=1)


def test_batches_visit_everything_once_an_epoch_and_repeat_by_seed() -> None:
    indices = torch.arange(12)
    first = batches(indices, 4, seed=1)
    epoch = torch.cat([next(iter_) for iter_ in [iter(first)] * 3])
    assert sorted(epoch.tolist()) == list(range(12))
    again = batches(indices, 4, seed=1)
    assert torch.equal(epoch[:4], next(iter(again)))


@pytest.mark.parametrize(("shift", "jitter"), [(0, 0.0), (3, 0.2)])
def test_augmentation_keeps_shape_and_without_settings_changes_nothing(
    shift: int, jitter: float
) -> None:
    images = torch.randint(0, 256, (4, 2, 16, 16, 3), dtype=torch.uint8)
    drawn = Augmentation.draw(images.shape, shift, jitter, torch.Generator().manual_seed(0))
    changed = drawn.apply(images)
    assert changed.shape == images.shape and changed.dtype == torch.uint8
    assert torch.equal(changed, images) == (shift == 0)
    part = slice(1, None, 2)  # a worker's share looks as it does in the whole batch
    assert torch.equal(drawn.of(part).apply(images[part]), changed[part])


def test_batches_made_ahead_come_in_order() -> None:
    assert list(ahead(lambda key: key * key, range(20), threads=3)) == [k * k for k in range(20)]
    endless = ahead(lambda key: key, iter(int, 1), threads=2)
    assert next(endless) == 0


def test_frames_that_a_policy_drives_on_from_are_no_examples() -> None:
    """Chunks of four: only what the expert executes to their end is a chunk of the expert's."""
    driven = np.zeros(16, bool)
    driven[4:8] = True
    demo = made_up_demonstration(3, steps=16)
    demo = dataclasses.replace(demo, driven=driven, frame_steps=np.arange(16))
    seen = _labelled_frames(demo, steps=4)
    np.testing.assert_array_equal(np.flatnonzero(~seen), range(1, 8))


def test_a_driven_demonstration_keeps_recoveries_and_what_was_executed_before() -> None:
    demo = made_up_demonstration(3, steps=24)
    driven = np.arange(24) < 8
    executed = np.where(driven[:, None], -demo.actions, demo.actions)
    demo = dataclasses.replace(demo, driven=driven, executed_actions=executed.astype(np.float32))
    found = _examples(demo, 8, SmallVLAReader(64))
    kept = demo.frame_steps[demo.frame_steps >= 8]
    np.testing.assert_array_equal(found["actions"][:, 0], demo.actions[kept])
    np.testing.assert_array_equal(found["previous"][:, 0], executed[kept - 8].astype(np.float32))
    assert len(found["images"]) == len(found["proprio"]) == len(kept) > 0


def test_a_layer_survives_where_all_of_its_tokens_are_right() -> None:
    labels = torch.zeros(2, 2, 3, 2, dtype=torch.int64)  # two chunks of two steps and three dims
    said = labels.clone()
    said[0, 1, 2, 1] = 1  # one token of the second layer of one of them
    right = accuracy(F.one_hot(said, 4).permute(0, 3, 1, 2, 4).float(), labels)
    assert right.tokens.tolist() == pytest.approx([1, 11 / 12])
    assert right.layers.tolist() == [1, 0.5]


def test_a_draft_learns_from_all_frames_whoever_drove() -> None:
    driven = np.arange(24) < 20
    demo = dataclasses.replace(made_up_demonstration(3, steps=24), driven=driven)
    found = _examples(demo, 8, SmallVLAReader(64), labelled=False)
    np.testing.assert_array_equal(found["proprio"], demo.proprio[demo.frame_steps])
    assert len(_examples(demo, 8, SmallVLAReader(64))["proprio"]) < len(found["proprio"])


def test_mixed_precision_takes_nearly_the_same_first_steps() -> None:
    losses = []
    for bf16 in (False, True):
        reports: list[Progress] = []
        settings = dataclasses.replace(SETTINGS, steps=3, bf16=bf16)
        training = TargetTraining(SmallVLALearner(untrained_model()), made_up_examples(), settings)
        for _ in training.run(reports.append, every=1):
            pass
        losses.append([report.loss for report in reports])
    assert losses[1] == pytest.approx(losses[0], rel=0.02) and losses[0] != losses[1]
