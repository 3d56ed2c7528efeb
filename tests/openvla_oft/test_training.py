"""From a base and demonstrations to a policy: heads of codes and a draft, trained and evaluated."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from openvla_oft import published
from openvla_oft.test_family import requests
from safetensors.torch import load_file
from torch.multiprocessing import spawn

pytest.importorskip("timm", reason="the vision towers are timm's")
pytest.importorskip("torchvision", reason="timm imports torchvision", exc_type=Exception)
pytest.importorskip("simplejpeg", reason="JPEG as TensorFlow reads it needs simplejpeg")

from rsd.errors import UserError
from rsd.models import inspect_policy, load_policy
from rsd.models.openvla_oft import folder
from rsd.models.openvla_oft.config import OFTDraftConfig
from rsd.models.openvla_oft.loading import load_model
from rsd.rfsq_config import RFSQConfig
from rsd.training import openvla_oft
from rsd.training.config import OFTTrainConfig, TrainConfig, TrainJob
from rsd.training.distributed import Workers
from rsd.training.learner import Outputs
from rsd.training.metrics import Progress
from rsd.training.run import Journal, reserved, train
from rsd.types import Decoding, ImageSpec
from tests import training_group
from tests.made_up_demonstrations import made_up_demonstration, made_up_folder

SETTINGS = TrainConfig(
    steps=6, draft_steps=8, draft_views=1, batch_size=4, warmup=1, held_out=0.2, average=0.5,
    bf16=False,
)  # fmt: skip
HOW = OFTTrainConfig(
    lora_rank=4,
    step_width=32,
    tokeniser=RFSQConfig(latent_dim=7, layers=3, hidden=0, overlap=3.0, cosine=True),
    draft=OFTDraftConfig(width=32, patch_width=4, text_width=8),
)
NEEDS_PEFT = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="low-rank changes are trained by peft"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published.make(tmp_path_factory.mktemp("base"), dtype=torch.float32).folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = ImageSpec(64, 64, 0, False)
    demos = [made_up_demonstration(seed, 12, frames) for seed in (1, 2, 3)]
    return made_up_folder(tmp_path_factory.mktemp("data"), demos)


def job_of(base: Path, data: Path, output: Path, **how: Any) -> TrainJob:
    return TrainJob(
        (data,),
        output,
        target="openvla-oft",
        base=str(base),
        save_every_s=0,
        report_every=2,
        train=SETTINGS,
        oft=dataclasses.replace(HOW, **how),
    )


class Killed(Exception):  # noqa: N818
    """Stands for a worker's death."""


def run(job: TrainJob, die_at: tuple[str, int] | None = None) -> list[Progress]:
    reports: list[Progress] = []

    def report(progress: Progress) -> None:
        reports.append(progress)
        if (progress.phase, progress.step) == die_at:
            raise Killed

    with reserved(job):
        train(job, "rsd train", report, lambda line: None)
    return reports


@pytest.fixture(scope="module")
def frozen(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads on a frozen backbone."""
    output = tmp_path_factory.mktemp("frozen") / "policy"
    reports = run(job_of(base, data, output))
    assert {report.phase for report in reports} == {"target", "teach", "draft"}
    return output


@pytest.fixture(scope="module")
def whole(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of which everything was trained."""
    output = tmp_path_factory.mktemp("whole") / "policy"
    run(job_of(base, data, output, backbone="all", l1_head=True))
    return output


@pytest.fixture(scope="module")
def lowered(
    base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, openvla_oft.OFTLearner]:
    """A policy with low-rank changes, and the model as it was trained."""
    output, kept, save = tmp_path_factory.mktemp("lora") / "policy", [], openvla_oft.save
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            openvla_oft, "save", lambda made, *more: kept.append(made) or save(made, *more)
        )
        run(job_of(base, data, output, backbone="lora"))
    return output, kept[0]


@pytest.mark.parametrize("kind", ["frozen", pytest.param("lowered", marks=NEEDS_PEFT), "whole"])
def test_what_is_trained_acts_in_every_mode(kind: str, request: pytest.FixtureRequest) -> None:
    made = request.getfixturevalue(kind)
    output = made[0] if kind == "lowered" else made
    info = inspect_policy(str(output))
    assert info.modes == ("speculative", "autoregressive", "parallel", "draft", "regression")
    policy = load_policy(str(output), deterministic=False, device="cpu")
    chunks = {mode: policy.act(requests(Decoding(mode), 3)) for mode in info.modes}
    for plain, drafted in zip(chunks["autoregressive"], chunks["speculative"], strict=True):
        assert plain.actions.shape == (8, 7) and np.isfinite(plain.actions).all()
        assert np.array_equal(plain.codes, drafted.codes)


def test_a_frozen_backbone_stays_the_bases(frozen: Path, base: Path) -> None:
    written = load_file(frozen / "heads.safetensors")
    assert all(name.startswith(folder.OWN) for name in written)
    before = load_model(folder.describe(str(base)), "cpu", torch.float32).model.state_dict()
    now = load_model(folder.describe(str(frozen)), "cpu", torch.float32).model
    for name, tensor in now.state_dict().items():
        expected = written if name in written else before
        assert torch.equal(tensor, expected[name]), name


def test_a_branch_that_moves_while_it_is_trained_on_is_recorded_as_it_was_when_training_began(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe, commits = folder.describe, itertools.count()

    def described(spec: str) -> folder.Checkpoint:
        pinned = spec if "@" in spec else f"{spec}@{next(commits)}"
        return dataclasses.replace(describe(str(base)), spec=pinned)

    monkeypatch.setattr(folder, "describe", described)
    run(dataclasses.replace(job_of(base, data, tmp_path / "policy"), base="hf://owner/base"))
    told = json.loads((tmp_path / "policy" / "config.json").read_text())
    assert told["base"] == "hf://owner/base@1"  # 0: when the request was checked


def test_a_backbone_that_was_trained_stands_for_the_bases(whole: Path, base: Path) -> None:
    written = load_file(whole / "heads.safetensors")
    described, plain = folder.describe(str(whole)), folder.describe(str(base))
    before = load_model(plain, "cpu", torch.float32).model.state_dict()
    now = load_model(described, "cpu", torch.float32).model
    for name in (
        "target.llama.layers.0.self_attn.q_proj.weight",
        "vision_backbone.featurizer.patch_embed.proj.weight",
        "projector.fc1.weight",
        "target.l1_head.fc1.weight",
    ):
        assert torch.equal(now.state_dict()[name], written[name])
        assert not torch.equal(written[name], before[name]), name
    assert described.parameters == sum(t.numel() for t in now.state_dict().values())


@NEEDS_PEFT
def test_low_rank_changes_are_loaded_as_they_were_trained(
    lowered: tuple[Path, openvla_oft.OFTLearner], base: Path, data: Path, tmp_path: Path
) -> None:
    output, learner = lowered
    told = json.loads((output / "lora_adapter" / "adapter_config.json").read_text())
    assert told["r"] == 4
    examples = openvla_oft.examples(job_of(base, data, tmp_path))
    seen = (examples.images[:3], examples.words[:3], examples.proprio[:3])
    loaded = load_model(folder.describe(str(output)), "cpu", torch.float32).model
    with torch.no_grad():
        trained = logits_of(learner.model, *learner.seen(*seen))
        again = logits_of(loaded, *learner.seen(*seen))
    torch.testing.assert_close(trained, again, rtol=1e-4, atol=1e-5)


def logits_of(model: Any, patches: torch.Tensor, inputs: Any) -> torch.Tensor:
    return model.target.parallel_logits(model.context(patches, inputs))


def test_a_training_killed_in_either_phase_goes_on_to_the_same_weights(
    whole: Path, base: Path, data: Path, tmp_path: Path
) -> None:
    job = job_of(base, data, tmp_path / "killed", backbone="all", l1_head=True)
    for die_at in (("target", 4), ("teach", 0)):
        with pytest.raises(Killed):
            run(dataclasses.replace(job, resume=job.output.exists()), die_at)
        assert not (job.output / "heads.safetensors").exists()
    run(dataclasses.replace(job, resume=True))
    one, other = ((path / "heads.safetensors").read_bytes() for path in (whole, job.output))
    assert one == other


def _sharded_worker(rank: int, folder: str, job: TrainJob, die_at: tuple[str, int] | None) -> None:
    """One of two that each keep a part of the weights."""
    with training_group.joined(rank, folder), pytest.MonkeyPatch.context() as patched:
        if die_at:
            patched.setattr(Journal, "keep", _keep_and_die(die_at))
        workers = Workers.joined(job.shard)
        with nullcontext() if die_at is None else pytest.raises(Killed):
            train(job, "rsd train", lambda _: None, lambda line: None, workers=workers)


def _keep_and_die(at: tuple[str, int]) -> Any:
    """`Journal.keep` of workers that all die once a state is saved."""
    keep = Journal.keep

    def kept(journal: Journal, training: Any, *, now: bool = False) -> None:
        keep(journal, training, now=now)
        state = training.state()
        if (state.phase, state.step) == at:
            raise Killed

    return kept


@pytest.mark.timeout(600)
def test_sharded_weights_are_trained_to_the_policy_of_one_process_which_can_go_on_from_their_state(
    whole: Path, base: Path, data: Path, tmp_path: Path
) -> None:
    job = job_of(base, data, tmp_path / "sharded", backbone="all", l1_head=True)
    job = dataclasses.replace(job, shard=True)
    job.output.mkdir()
    expected = load_file(whole / "heads.safetensors")
    two = training_group.SIZE
    spawn(_sharded_worker, (str(tmp_path), job, ("target", 4)), nprocs=two)
    (tmp_path / "meeting").unlink(missing_ok=True)
    interrupted = tmp_path / "alone"
    shutil.copytree(job.output, interrupted)
    spawn(_sharded_worker, (str(tmp_path), job, None), nprocs=two)
    run(dataclasses.replace(job, output=interrupted, resume=True, shard=False))
    for output in (job.output, interrupted):
        found = load_file(output / "heads.safetensors")
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            if not name.startswith("draft."):  # it learns choices that rounding may decide
                torch.testing.assert_close(tensor, expected[name], rtol=1e-2, atol=2e-4, msg=name)


@pytest.mark.parametrize("cache_gb", [0.0, 1.0])
def test_gradients_are_the_same_with_the_context_apart_and_with_all_at_once(
    cache_gb: float, base: Path, data: Path, tmp_path: Path
) -> None:
    job = job_of(base, data, tmp_path, cache_gb=cache_gb)
    torch.manual_seed(0)
    learner, examples = openvla_oft.learner(job, openvla_oft.examples(job), torch.device("cpu"))
    assert examples.drawn == (cache_gb == 0)
    objective = learner.target_objective(examples.proprio)
    rows = slice(0, 4)
    batch = (examples.images, examples.words, examples.proprio, examples.actions)
    shifts = torch.zeros(4, 8, 7, 3, dtype=torch.int64)

    def gradients() -> dict[str, torch.Tensor]:
        learner.model.zero_grad()
        outputs: Outputs = objective(*(field[rows] for field in batch), shifts)
        (outputs.loss + outputs.parallel_loss).backward()
        named = learner.model.named_parameters()
        return {n: p.grad.clone() for n, p in named if n.startswith("target.code_heads.")}

    apart = gradients()
    learner.model.target.llama.requires_grad_(True)
    whole = gradients()
    for name, gradient in apart.items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("backbone", ["frozen", pytest.param("lora", marks=NEEDS_PEFT), "all"])
def test_all_that_is_trained_has_a_gradient(
    backbone: str, base: Path, data: Path, tmp_path: Path
) -> None:
    """Workers that train together wait for every one of them."""
    job = job_of(base, data, tmp_path, backbone=backbone, l1_head=True)
    learner, examples = openvla_oft.learner(job, openvla_oft.examples(job), torch.device("cpu"))
    rows = slice(0, 4)
    seen = (examples.images[rows], examples.words[rows], examples.proprio[rows])
    actions, shifts = examples.actions[rows], torch.zeros(4, 8, 7, 3, dtype=torch.int64)
    outputs: Outputs = learner.target_objective(examples.proprio)(*seen, actions, shifts)
    (outputs.loss + outputs.parallel_loss + outputs.regression_loss).backward()
    trained = [name for name, each in learner.model.named_parameters() if each.requires_grad]
    assert {"frozen": 10, "lora": 50, "all": 100}[backbone] < len(trained)
    without = [
        n
        for n, each in learner.model.named_parameters()
        if each.requires_grad and each.grad is None
    ]
    assert not without
    learner.model.zero_grad()
    codes = learner.tokeniser.encode(actions)
    loss, _ = learner.draft_objective()(seen, codes, torch.ones(4, dtype=torch.bool), codes)
    loss.backward()
    for name, parameter in learner.model.named_parameters():
        assert name.startswith("draft.") == (parameter.grad is not None), name


@torch.no_grad()
def test_what_is_taught_is_what_the_prefill_says(base: Path, data: Path, tmp_path: Path) -> None:
    job = job_of(base, data, tmp_path, cache_gb=0)
    learner, examples = openvla_oft.learner(job, openvla_oft.examples(job), torch.device("cpu"))
    model = learner.model
    seen = learner.seen(examples.images[:4], examples.words[:4], examples.proprio[:4])
    context, codes = model.context(*seen), model.tokeniser.encode(examples.actions[:4])[..., :-1]
    with torch.enable_grad():
        taught, _ = model.target.taught(context, codes)
    said, _ = model.target.prefill(context, codes)
    torch.testing.assert_close(taught, said, rtol=1e-4, atol=1e-5)


def test_numbers_are_what_the_published_head_would_say_of_the_actions(
    base: Path, data: Path, tmp_path: Path
) -> None:
    job = job_of(base, data, tmp_path)
    learner, examples = openvla_oft.learner(job, openvla_oft.examples(job), torch.device("cpu"))
    inside = examples.actions * 0.1
    inside[..., -1] = examples.actions[..., -1]
    said = learner.units.numbers(inside, "libero_spatial")
    back = learner.units.actions(said, torch.zeros(len(inside), dtype=torch.int64))
    torch.testing.assert_close(back, inside, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": None}, "needs --base"),
        ({"base": "nowhere"}, "no checkpoint at 'nowhere'"),
        ({"start_from": "spatial"}, "are for --target small-vla"),
        ({"target": "small-vla"}, "are for --target openvla-oft"),
        ({"oft": dataclasses.replace(HOW, tokeniser=RFSQConfig(layers=1))}, "nothing to draft"),
    ],
)
def test_what_no_training_could_carry_out_is_refused_before_it_starts(
    changes: dict[str, Any], message: str, base: Path, data: Path, tmp_path: Path
) -> None:
    job = dataclasses.replace(job_of(base, data, tmp_path / "policy"), **changes)
    with pytest.raises(UserError, match=message), reserved(job):
        pass
    assert not job.output.exists()


def test_demonstrations_of_a_suite_without_statistics_are_refused(
    data: Path, tmp_path: Path
) -> None:
    other = published.make(tmp_path / "base", suites=["libero_goal"]).folder
    with pytest.raises(UserError, match="statistics of libero_goal only"):
        run(job_of(other, data, tmp_path / "policy"))


def test_heads_are_no_base(frozen: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has heads already"):
        run(job_of(frozen, data, tmp_path / "again"))
