"""OpenVLA-OFT through the one seam of all policies: a spec in, chunks with traces out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from openvla_oft import published
from safetensors.torch import save_file

pytest.importorskip("timm", reason="the vision towers are timm's")
pytest.importorskip("torchvision", reason="timm imports torchvision", exc_type=Exception)
pytest.importorskip("simplejpeg", reason="JPEG as TensorFlow reads it needs simplejpeg")

from rsd import provenance
from rsd.commands.evaluate import check_place
from rsd.config import parse
from rsd.errors import UserError
from rsd.models import family_of, inspect_policy, load_policy
from rsd.models.openvla_oft import description
from rsd.models.openvla_oft.config import OFTDraftConfig
from rsd.models.openvla_oft.description import Trained
from rsd.models.openvla_oft.family import FAMILY
from rsd.models.openvla_oft.model import make
from rsd.preflight import prepare
from rsd.types import ChunkRequest, Decoding, Observation

INSTRUCTIONS = ["pick up the bowl", "pick it up", "pick", "put it back"]


def requests(decoding: Decoding, count: int = 4) -> list[ChunkRequest]:
    draw = np.random.default_rng(0)
    return [
        ChunkRequest(
            Observation(
                *draw.integers(0, 256, (2, 256, 256, 3), dtype=np.uint8),
                draw.uniform(-0.3, 0.3, 8).astype(np.float32),
                INSTRUCTIONS[row % len(INSTRUCTIONS)],
            ),
            decoding,
            f"{row}",
            0,
        )
        for row in range(count)
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published.make(tmp_path_factory.mktemp("base"), dtype=torch.float32).folder


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random heads of residual codes on the base."""
    path = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    state = make(published.CONFIG, "cpu", torch.float32).state_dict()
    own = ("target.code_heads.", "draft.", "tokeniser.")
    save_file({n: t for n, t in state.items() if n.startswith(own)}, path / "heads.safetensors")
    sizes = published.CONFIG
    told = Trained(
        base=str(base),
        base_sha256=inspect_policy(str(base)).sha256,
        tokeniser=sizes.tokeniser,
        draft=OFTDraftConfig(width=32, patch_width=4, text_width=8),
        step_width=sizes.step_width,
    )
    published.write_json(path / "config.json", description.written(told))
    return path


def test_folders_and_ids_of_the_hub_are_of_this_family(base: Path, trained: Path) -> None:
    for spec in (str(base), str(trained), "hf://moojink/openvla-7b-oft-finetuned-libero-spatial"):
        assert family_of(spec) is FAMILY


def test_a_published_checkpoint_acts_by_its_action_head(base: Path) -> None:
    policy = load_policy(str(base), deterministic=False, device="cpu")
    assert policy.checkpoint_sha256 == inspect_policy(str(base)).sha256
    chunks = policy.act(requests(Decoding("regression")))
    for chunk in chunks:
        assert chunk.actions.shape == (8, 7)
        assert chunk.actions.dtype == np.float32
        assert set(np.unique(chunk.actions[:, 6])) <= {-1.0, 1.0}
        assert chunk.codes is None
        assert chunk.trace.passes == 1


def test_a_checkpoint_without_an_action_head_acts_by_bins(tmp_path: Path) -> None:
    published.make(tmp_path, action_head=False)
    (chunk,) = load_policy(str(tmp_path), deterministic=False, device="cpu").act(
        requests(Decoding("bins"), 1)
    )
    low, high = np.array(published.ACTION["q01"][:6]), np.array(published.ACTION["q99"][:6])
    levels = (chunk.actions[:, :6] - low) / (high - low) * 255 - 0.5
    assert np.abs(levels - levels.round()).max() < 1e-3


@pytest.mark.parametrize("deterministic", [False, True])
def test_speculative_codes_are_autoregressive_ones_in_ragged_batches(
    deterministic: bool, trained: Path
) -> None:
    policy = load_policy(str(trained), deterministic=deterministic, device="cpu")
    plain, drafted = (
        policy.act(requests(Decoding(mode))) for mode in ("autoregressive", "speculative")
    )
    for one, other in zip(plain, drafted, strict=True):
        assert np.array_equal(one.codes, other.codes)
        assert np.array_equal(one.actions, other.actions)
    if deterministic:
        (alone,) = policy.act(requests(Decoding("speculative"))[1:2])
        assert np.array_equal(alone.codes, plain[1].codes)


def test_every_mode_of_trained_heads_acts(trained: Path) -> None:
    policy = load_policy(str(trained), deterministic=False, device="cpu")
    for mode in inspect_policy(str(trained)).modes:
        (chunk,) = policy.act(requests(Decoding(mode), 1))
        assert chunk.codes is not None
        assert chunk.codes.shape == (8, 3, 5)


def test_a_bad_observation_is_refused_and_the_next_answered(base: Path) -> None:
    policy = load_policy(str(base), deterministic=False, device="cpu")
    good = requests(Decoding("regression"), 1)[0]
    long = replace(good.observation, instruction="pick up the bowl and " * 300)
    small = replace(good.observation, wrist=np.zeros((64, 64, 3), np.uint8))
    for bad, message in ((long, "shorten it"), (small, "frames of")):
        with pytest.raises(UserError, match=message):
            policy.act([replace(good, observation=bad)])
    assert np.isfinite(policy.act([good])[0].actions).all()


def plan(*flags: str) -> None:
    prepare(parse(["--assets", "lite", "--num-trials", "1", *flags]))


def test_what_a_checkpoint_cannot_act_on_is_refused_before_anything_starts(
    base: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no statistics of 'libero_goal'"):
        plan("--policy", str(base), "--task-suite", "libero_goal")
    short = shutil.copytree(base, tmp_path / "short")
    told = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**told, "llm_max_length": 140}))
    with pytest.raises(UserError, match=r"its prompt is \d+ tokens, and the model's context has"):
        plan("--policy", str(short))
    plan("--policy", str(base))


@pytest.mark.parametrize(
    ("gpus", "message"), [([], "GB on cpu, .* for the copy"), ([10**5], "GB on cuda")]
)
def test_a_machine_with_too_little_memory_is_told_before_anything_starts(
    gpus: list[int], message: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(provenance, "gpus", lambda: ["a GPU"] * len(gpus))
    monkeypatch.setattr(provenance, "gpu_memory_bytes", lambda: gpus)
    monkeypatch.setattr(provenance, "memory_bytes", lambda: 10**6)
    run = prepare(parse(["--assets", "lite", "--policy", str(base)]))
    with pytest.raises(UserError, match=rf"{message}.*as '\?bits=4'"):
        check_place(run)
