"""Training: it learns, it goes on after an interruption, and the draft learns the target."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from rsd.models.small_vla import word_ids
from rsd.training.config import TrainConfig
from rsd.training.data import (
    Augmentation,
    Examples,
    _examples,
    _labelled_frames,
    ahead,
    batches,
    chunk_labels,
    split,
)
from rsd.training.draft import DraftTraining
from rsd.training.metrics import Progress
from rsd.training.objective import majority_accuracy
from rsd.training.target import TargetTraining
from tests.decoding.small_policy import CONFIG, IMAGES, untrained_model
from tests.made_up_demonstrations import made_up_demonstration

COUNT, EPISODES = 96, 12
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
        episode=torch.arange(COUNT) % EPISODES,
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
    training = TargetTraining(untrained_model(), made_up_examples(), SETTINGS)
    reports = _run(training)
    assert reports[-1].loss < 0.5 * reports[0].loss
    last = reports[-1].validation
    assert last and len(last.accuracy) == len(last.majority) == 4
    assert [r.step for r in reports if r.validation] == [30, 60, 90]


def test_an_interrupted_training_goes_on_to_the_same_weights() -> None:
    whole = TargetTraining(untrained_model(), made_up_examples(), SETTINGS)
    _run(whole)
    first = TargetTraining(untrained_model(), made_up_examples(), SETTINGS)
    _run(first, stop_at=30)
    second = TargetTraining(untrained_model(seed=9), made_up_examples(), SETTINGS)
    second.load(first.state())
    _run(second)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name


def test_an_interrupted_draft_goes_on_to_the_same_weights() -> None:
    whole = DraftTraining(untrained_model(), made_up_examples(), SETTINGS)
    _run(whole)
    first = DraftTraining(untrained_model(), made_up_examples(), SETTINGS)
    _run(first, stop_at=50)
    second = DraftTraining(untrained_model(), made_up_examples(), SETTINGS)
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
    _run(TargetTraining(model, examples, SETTINGS))
    target = {k: v.clone() for k, v in model.target.state_dict().items()}
    reports = _run(DraftTraining(model, examples, SETTINGS))
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


def test_whole_demonstrations_are_held_out() -> None:
    episodes = torch.arange(COUNT) % EPISODES
    train, validation = split(episodes, 0.25, seed=0)
    assert set(episodes[train].tolist()).isdisjoint(episodes[validation].tolist())
    assert len(train) + len(validation) == COUNT


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
    found = _examples(demo, word_buckets=64, steps=8)
    kept = demo.frame_steps[demo.frame_steps >= 8]
    np.testing.assert_array_equal(found["actions"][:, 0], demo.actions[kept])
    np.testing.assert_array_equal(found["previous"][:, 0], executed[kept - 8].astype(np.float32))
    assert len(found["images"]) == len(found["proprio"]) == len(kept) > 0


def test_mixed_precision_takes_nearly_the_same_first_steps() -> None:
    losses = []
    for bf16 in (False, True):
        reports: list[Progress] = []
        settings = dataclasses.replace(SETTINGS, steps=3, bf16=bf16)
        training = TargetTraining(untrained_model(), made_up_examples(), settings)
        for _ in training.run(reports.append, every=1):
            pass
        losses.append([report.loss for report in reports])
    assert losses[1] == pytest.approx(losses[0], rel=0.02) and losses[0] != losses[1]
