"""Workers that train together compute what one worker computes with the whole batch."""

from __future__ import annotations

import copy
import dataclasses
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing import spawn

from rsd.errors import UserError
from rsd.models.small_vla.model import SmallVLA
from rsd.training.config import TrainConfig, TrainJob
from rsd.training.data import Examples
from rsd.training.distributed import ALONE, Workers, check_batch
from rsd.training.draft import DraftTraining
from rsd.training.metrics import Progress
from rsd.training.objective import TrainingState
from rsd.training.small_vla import SmallVLALearner
from rsd.training.target import TargetTraining
from tests import training_group
from tests.decoding.small_policy import CONFIG, IMAGES
from tests.decoding.test_training import made_up_examples

SETTINGS = TrainConfig(
    steps=1,
    draft_steps=2,
    draft_views=2,
    batch_size=16,
    shift=2,
    jitter=0.2,
    held_out=0.2,
    bf16=False,
)


# of two layers, the draft embeds no codes: parameters without elements, which have no gradient
TWO_LAYERS = dataclasses.replace(CONFIG, tokeniser=dataclasses.replace(CONFIG.tokeniser, layers=2))


def _first_gradients(workers: Workers, examples: Examples) -> dict[str, Tensor | float]:
    """Losses and last gradients of both phases, each from an untrained model."""
    found: dict[str, Tensor | float] = {}
    for sizes, phase in product((CONFIG, TWO_LAYERS), (TargetTraining, DraftTraining)):
        reports: list[Progress] = []
        torch.manual_seed(0)
        model = SmallVLA(sizes, IMAGES.height)
        for _ in phase(SmallVLALearner(model), examples, SETTINGS, "cpu", workers).run(
            reports.append
        ):
            pass
        what = f"{phase.__name__} of {sizes.tokeniser.layers} layers"
        if workers.leads:
            found[f"{what}: loss"] = reports[-1].loss
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                found[f"{what}: {name}"] = parameter.grad
    return found


def _worker(rank: int, folder: str) -> None:
    with training_group.joined(rank, folder):
        found = _first_gradients(Workers.joined(), made_up_examples())
        torch.save(found, Path(folder) / f"{rank}.pt")


@pytest.mark.timeout(300)
def test_two_workers_with_half_a_batch_each_have_the_gradients_of_one_with_all(
    tmp_path: Path,
) -> None:
    spawn(_worker, (str(tmp_path),), nprocs=training_group.SIZE)
    one = _first_gradients(ALONE, made_up_examples())
    leader, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert one.keys() == leader.keys() and len(one) > 100
    for name, expected in one.items():
        torch.testing.assert_close(leader[name], expected, rtol=1e-3, atol=1e-5, msg=name)
        if "loss" not in name:
            assert torch.equal(leader[name], other[name]), name


CURVE = dataclasses.replace(SETTINGS, steps=6, warmup=2, average=0.5)


def _curve(workers: Workers, state: TrainingState | None = None) -> dict[str, Any]:
    """Losses of a target's phase, its weights, and its state when half of it is done."""
    reports: list[Progress] = []
    torch.manual_seed(0)
    learner = SmallVLALearner(SmallVLA(CONFIG, IMAGES.height))
    training = TargetTraining(learner, made_up_examples(), CURVE, "cpu", workers)
    if state:
        training.load(state)
    half = None
    for step in training.run(reports.append, 1, 3):
        if step == 3:
            half = copy.deepcopy(workers.gathered(vars(training.state())))
    return {
        "losses": torch.tensor([report.loss for report in reports]),
        "held out": torch.tensor([r.validation.loss for r in reports if r.validation]),
        "weights": learner.state(),
        "half": half,
    }


def _sharded_worker(rank: int, folder: str) -> None:
    alone = torch.load(Path(folder) / "alone.pt")
    with training_group.joined(rank, folder):
        workers = Workers.joined(shard=True)
        found = [_curve(workers), _curve(workers, TrainingState(**alone["half"]))]
        torch.save(found, Path(folder) / f"{rank}.pt")


@pytest.mark.timeout(300)
def test_sharded_weights_learn_as_whole_ones_do_and_go_on_in_groups_of_another_size(
    tmp_path: Path,
) -> None:
    alone = _curve(ALONE)
    torch.save(alone, tmp_path / "alone.pt")
    spawn(_sharded_worker, (str(tmp_path),), nprocs=training_group.SIZE)
    (sharded, went_on), (other, _) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    back = _curve(ALONE, TrainingState(**sharded["half"]))
    assert len(alone["losses"]) == 6 and alone["losses"][-1] < alone["losses"][0]
    for found in (sharded, went_on, back):
        steps = len(found["losses"])
        torch.testing.assert_close(found["losses"], alone["losses"][-steps:], rtol=1e-4, atol=0)
        torch.testing.assert_close(found["held out"][-1], alone["held out"][-1], rtol=1e-4, atol=0)
        for name, expected in alone["weights"].items():
            assert type(found["weights"][name]) is Tensor, name
            torch.testing.assert_close(
                found["weights"][name], expected, rtol=1e-3, atol=1e-4, msg=name
            )
    for name, tensor in sharded["weights"].items():
        assert torch.equal(tensor, other["weights"][name]), name


def test_weights_make_the_mean_of_uneven_shares_that_of_the_batch() -> None:
    values = torch.arange(7.0)
    workers = [Workers(rank, 3) for rank in range(3)]
    means = [w.share(values).mean() * w.weight(len(values)) for w in workers]
    torch.testing.assert_close(torch.stack(means).mean(), values.mean())


def test_a_batch_that_workers_cannot_share_is_refused_with_one_that_they_can() -> None:
    check_batch(64, 4)
    with pytest.raises(UserError, match=r"batch size 64 .* 3 workers.*--train.batch-size 63"):
        check_batch(64, 3)


def test_sharding_what_is_compiled_is_refused(tmp_path: Path) -> None:
    compiled = dataclasses.replace(SETTINGS, compile=True)
    with pytest.raises(ValueError, match=r"shard and train\.compile do not go together"):
        TrainJob((tmp_path,), tmp_path, shard=True, train=compiled)
