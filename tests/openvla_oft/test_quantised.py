"""The language model in 8 and 4 bits: how far off, how large, how it is asked for."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from openvla_oft import published
from openvla_oft.test_family import requests
from torch import nn

pytest.importorskip("timm", reason="the vision towers are timm's")
pytest.importorskip("torchvision", reason="timm imports torchvision", exc_type=Exception)
pytest.importorskip("simplejpeg", reason="JPEG as TensorFlow reads it needs simplejpeg")

from rsd.errors import UserError
from rsd.models import family_of, inspect_policy, load_policy
from rsd.models.openvla_oft import folder, options
from rsd.models.openvla_oft.family import FAMILY
from rsd.models.openvla_oft.loading import load_model
from rsd.models.openvla_oft.model import random_inputs
from rsd.models.openvla_oft.quantised import doubled
from rsd.types import Decoding

NEEDS_TORCHAO = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="fewer bits are torchao's"
)
WIDE = replace(
    published.CONFIG,
    llama=replace(published.CONFIG.llama, width=256, hidden=512, depth=2, vocabulary=512),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published.make(tmp_path_factory.mktemp("base"), WIDE, dtype=torch.float32).folder


def held_bytes(tensor: torch.Tensor) -> int:
    """As it is stored."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.numel() * tensor.element_size()
    names, _ = tensor.__tensor_flatten__()
    return sum(held_bytes(getattr(tensor, name)) for name in names)


@NEEDS_TORCHAO
@torch.inference_mode()
@pytest.mark.parametrize(("bits", "error"), [(8, 0.05), (4, 0.6)])
def test_hidden_states_are_off_by_what_so_many_bits_cost(
    bits: int, error: float, base: Path
) -> None:
    plain = load_model(folder.describe(str(base)), "cpu", torch.float32).model
    checkpoint = folder.describe(f"{base}?bits={bits}")
    fewer = load_model(checkpoint, "cpu", torch.float32).model
    torch.manual_seed(0)
    inputs = random_inputs(WIDE, 2, 8, "cpu", torch.float32)

    def hidden(model: nn.Module, dtype: torch.dtype) -> torch.Tensor:
        cast = inputs._replace(pixels=inputs.pixels.to(dtype), proprio=inputs.proprio.to(dtype))
        context = model.context(model.vision_backbone(cast.pixels), cast)
        return model.target.placeholders(context)

    exact, found = (hidden(model, torch.float32) for model in (plain, fewer))
    off = float((exact - found).norm() / exact.norm())
    assert error / 20 < off < error
    settled = hidden(doubled(fewer), torch.float64)  # of the same weights
    torch.testing.assert_close(found.double(), settled, rtol=1e-3, atol=1e-4)
    layers = [model.target.llama.layers for model in (plain, fewer)]
    whole, held = (sum(map(held_bytes, each.parameters())) for each in layers)
    assert held < {8: 0.27, 4: 0.15}[bits] * whole
    told = folder.weight_bytes(checkpoint, 4, 16) - folder.weight_bytes(checkpoint, 4, bits)
    assert abs((whole - held) - told) < 0.02 * whole


@NEEDS_TORCHAO
@pytest.mark.parametrize("bits", [8, 4])
def test_a_policy_in_fewer_bits_acts_and_is_another_one(bits: int, base: Path) -> None:
    spec = f"{base}?bits={bits}"
    assert family_of(spec) is FAMILY
    info = inspect_policy(spec)
    assert info.sha256 != inspect_policy(str(base)).sha256
    assert info.pinned == spec
    policy = load_policy(spec, deterministic=True, device="cpu")
    assert policy.checkpoint_sha256 == info.sha256
    (chunk,) = policy.act(requests(Decoding("regression"), 1))
    assert np.isfinite(chunk.actions).all()


def test_options_that_there_are_not_are_refused_with_those_that_there_are(base: Path) -> None:
    for said in ("bits=5", "quantised", "graphs=yes"):
        with pytest.raises(
            UserError, match=rf"no option '{said}'; there are bits=16\|8\|4; graphs"
        ):
            folder.describe(f"{base}?{said}")


def test_fewer_bits_without_torchao_name_what_is_missing(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="4 bits need torchao: pip install torchao"):
        folder.describe(f"{base}?bits=4")
