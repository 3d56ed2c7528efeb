"""Passes at fixed shapes decide as those that fit each batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from openvla_oft.test_family import base, requests, trained  # noqa: F401  fixtures

pytest.importorskip("timm", reason="the vision towers are timm's")
pytest.importorskip("torchvision", reason="timm imports torchvision", exc_type=Exception)
pytest.importorskip("simplejpeg", reason="JPEG as TensorFlow reads it needs simplejpeg")

from rsd.errors import UserError
from rsd.models import inspect_policy, load_policy
from rsd.models.code_policy import CodePolicy
from rsd.models.openvla_oft import folder
from rsd.models.openvla_oft.attention import BlockCache
from rsd.models.openvla_oft.code_model import OFTCodeModel
from rsd.models.openvla_oft.loading import load_model
from rsd.models.openvla_oft.static_model import StaticOFTCodeModel
from rsd.types import Decoding, ImageSpec

MODES = ("speculative", "autoregressive", "parallel", "regression")
UNTIMED: Any = {"vision_s": 0.0, "draft_s": 0.0, "target_s": 0.0, "detokenise_s": 0.0}


def policies(spec: Path, device: str, graphed: bool) -> tuple[CodePolicy, CodePolicy]:
    """Passes that fit their batch, and passes at fixed shapes; codes depend on coarser ones."""
    checkpoint, images = folder.describe(str(spec)), ImageSpec()
    loaded = load_model(checkpoint, device, torch.float32)
    with torch.inference_mode():
        loaded.model.target.code_heads.embedding.weight.mul_(30)
    models = (
        OFTCodeModel(loaded.model, checkpoint, images, device),
        StaticOFTCodeModel(loaded.model, checkpoint, images, device, graphed),
    )
    eager, static = (CodePolicy(model, images, loaded.sha256, chunk_steps=8) for model in models)
    return eager, static


def check_equal(spec: Path, device: str, graphed: bool) -> None:
    """In batches that fill their shapes and batches that do not, one after the other."""
    eager, static = policies(spec, device, graphed)
    rejected = 0
    for mode in MODES:
        for rows in (slice(0, 3), slice(3, 4), slice(0, 4), slice(1, 3)):
            asked = requests(Decoding(mode))[rows]
            for one, other in zip(eager.act(asked), static.act(asked), strict=True):
                assert np.array_equal(one.codes, other.codes), mode
                np.testing.assert_allclose(one.actions, other.actions, rtol=0, atol=1e-5)
                assert replace(one.trace, **UNTIMED) == replace(other.trace, **UNTIMED)
                rejected += one.trace.passes > 1 and mode == "speculative"
    assert rejected, "a draft that is always right tests no round but the first"


def test_filled_up_batches_and_prompts_change_no_code(trained: Path) -> None:  # noqa: F811
    check_equal(trained, "cpu", graphed=False)


def test_other_padding_than_the_masks_say_would_change_codes(
    trained: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(BlockCache, "remask", lambda *_: None)
    with pytest.raises(AssertionError):
        check_equal(trained, "cpu", graphed=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are a GPU's")
def test_graphs_decide_as_what_they_were_captured_from(trained: Path) -> None:  # noqa: F811
    check_equal(trained, "cuda", graphed=True)


def test_graphs_are_refused_without_a_gpu(base: Path) -> None:  # noqa: F811
    spec = f"{base}?graphs=1"
    assert inspect_policy(spec).sha256 == inspect_policy(str(base)).sha256
    with pytest.raises(UserError, match="graphs=1 is for a GPU"):
        load_policy(spec, deterministic=False, device="cpu")
