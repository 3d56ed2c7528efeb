"""Weights from a published folder into the modules: each in its place, none twice in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from openvla_oft import published
from safetensors.torch import load_file, save_file

pytest.importorskip("timm", reason="the vision towers are timm's")
pytest.importorskip("torchvision", reason="timm imports torchvision", exc_type=Exception)

from rsd.errors import UserError
from rsd.models.openvla_oft import description, folder, names
from rsd.models.openvla_oft.config import OFTDraftConfig
from rsd.models.openvla_oft.description import Trained
from rsd.models.openvla_oft.loading import load_model
from rsd.models.openvla_oft.model import make, random_inputs

MODULES = {
    "language_model.model.layers.0.mlp.down_proj": (64, 96),
    "vision_backbone.featurizer.blocks.1.attn.qkv": (96, 32),
    "projector.fc3": (64, 64),
}


def in_model(written: published.Written) -> dict[str, torch.Tensor]:
    """All that was written, by the names of the model."""
    parts = {
        names.BACKBONE: written.backbone,
        names.ACTION_HEAD: written.action_head,
        names.PROPRIO: written.proprio,
    }
    return {
        str(names.in_model(part, name)): tensor
        for part, tensors in parts.items()
        for name, tensor in tensors.items()
    }


def test_the_table_of_names_is_that_of_timm_and_transformers() -> None:
    model = make(published.CONFIG, "cpu", torch.float32)
    told = {
        names.in_model(part, name): shape
        for part in (names.BACKBONE, names.ACTION_HEAD, names.PROPRIO)
        for name, shape in names.tensors(part, published.CONFIG).items()
    }
    own = ("target.code_heads.", "draft.", "tokeniser.")
    state = {n: tuple(t.shape) for n, t in model.state_dict().items() if not n.startswith(own)}
    assert told == state


@pytest.mark.parametrize("shards", [1, 3])
def test_every_tensor_lands_in_its_place(shards: int, tmp_path: Path) -> None:
    written = published.make(tmp_path, shards=shards)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    loaded = load_model(folder.describe(str(tmp_path)), "cpu")
    state = loaded.model.state_dict()
    expected = in_model(written)
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert not any(state[name].any() for name in state.keys() - expected.keys())
    assert loaded.sha256 == folder.inspect(str(tmp_path)).sha256
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_in_float32_the_numbers_are_the_same(tmp_path: Path) -> None:
    written = published.make(tmp_path)
    model = load_model(folder.describe(str(tmp_path)), "cpu", torch.float32).model
    name = "language_model.model.layers.1.mlp.up_proj.weight"
    found = model.state_dict()["target.llama.layers.1.mlp.up_proj.weight"]
    assert found.dtype == torch.float32
    assert torch.equal(found, written.backbone[name].float())


def test_a_loaded_model_acts_as_one_with_the_same_state(tmp_path: Path) -> None:
    """So nothing that no file holds, such as rotary frequencies, is left unfilled."""
    published.make(tmp_path, dtype=torch.float32)
    loaded = load_model(folder.describe(str(tmp_path)), "cpu", torch.float32).model
    other = make(loaded.config, "cpu", torch.float32)
    other.load_state_dict(loaded.state_dict())
    inputs = random_inputs(loaded.config, 2, 9, "cpu", torch.float32)
    with torch.inference_mode():
        actions = []
        for model in (loaded, other):
            context = model.context(model.vision_backbone(inputs.pixels), inputs)
            actions.append(model.target.l1_head(model.target.placeholders(context)))
    assert torch.equal(*actions)
    assert bool(actions[0].isfinite().all())


def test_an_adapter_is_added_to_its_base_once(tmp_path: Path) -> None:
    base, path = tmp_path / "base", tmp_path / "adapted"
    written = published.make(base)
    published.make(path)
    for file in [*path.glob("model*"), path / "config.json"]:
        file.unlink()
    changes = published.write_adapter(path, str(base), MODULES)
    state = load_model(folder.describe(str(path)), "cpu").model.state_dict()
    for name, tensor in in_model(written).items():
        if not name.startswith(("target.l1_head.", "proprio_projector.")):
            disk = {v: k for k, v in _backbone_names().items()}[name]
            module = f"base_model.model.{disk.removesuffix('.weight')}"
            if f"{module}.lora_A.weight" in changes:
                a, b = (changes[f"{module}.lora_{each}.weight"] for each in "AB")
                merged = (tensor.float() + 4.0 * (b @ a)).bfloat16()
                assert torch.allclose(state[name].float(), merged.float(), rtol=0.01, atol=1e-3)
                assert not torch.equal(state[name], tensor)
            else:
                assert torch.equal(state[name], tensor)


def _backbone_names() -> dict[str, str]:
    return {
        name: str(names.in_model(names.BACKBONE, name))
        for name in names.tensors(names.BACKBONE, published.CONFIG)
    }


def test_an_adapter_is_merged_as_peft_merges_it() -> None:
    peft = pytest.importorskip("peft", reason="compares with peft", exc_type=Exception)
    linear = torch.nn.Sequential(torch.nn.Linear(6, 5))
    wrapped = peft.get_peft_model(
        linear, peft.LoraConfig(r=4, lora_alpha=16, target_modules=["0"], init_lora_weights=False)
    )
    state = wrapped.state_dict()
    weight, a, b = (
        state[f"base_model.model.0.{name}.weight"]
        for name in ("base_layer", "lora_A.default", "lora_B.default")
    )
    expected = torch.addmm(weight, b, a, alpha=16 / 4)
    merged = wrapped.merge_and_unload()[0].weight
    assert torch.allclose(merged, expected, atol=1e-6)


def trained(tmp_path: Path, change: Callable[[dict], None] = lambda state: None) -> Path:
    base, path = tmp_path / "base", tmp_path / "trained"
    published.make(base)
    path.mkdir()
    own = ("target.code_heads.", "draft.", "tokeniser.")
    state = make(published.CONFIG, "cpu", torch.float32).state_dict()
    state = {name: tensor for name, tensor in state.items() if name.startswith(own)}
    change(state)
    save_file(state, path / "heads.safetensors")
    told = Trained(
        base=str(base),
        base_sha256=folder.inspect(str(base)).sha256,
        tokeniser=published.CONFIG.tokeniser,
        draft=OFTDraftConfig(width=32, patch_width=4, text_width=8),
        step_width=48,
    )
    published.write_json(path / "config.json", description.written(told))
    return path


def test_trained_heads_are_loaded_beside_their_base(tmp_path: Path) -> None:
    path = trained(tmp_path)
    state = load_model(folder.describe(str(path)), "cpu", torch.float32).model.state_dict()
    heads = load_file(path / "heads.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in heads.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("draft.up.weight"), "has no draft.up.weight"),
        (lambda state: state.update(extra=torch.zeros(2)), "'extra' is .* the model has nothing"),
        (
            lambda state: state.update({"draft.norm.bias": torch.zeros(3)}),
            r"'draft.norm.bias' is \(3,\), and the model has \(32,\)",
        ),
        (
            lambda state: state["draft.mix.0.bias"].fill_(torch.nan),
            "draft.mix.0.bias holds NaN or infinity",
        ),
    ],
)
def test_heads_that_do_not_fit_are_refused_by_name(
    change: Callable[[dict], None], message: str, tmp_path: Path
) -> None:
    path = trained(tmp_path, change)
    with pytest.raises(UserError, match=message):
        load_model(folder.describe(str(path)), "cpu")


def test_too_little_memory_is_said_before_loading_with_what_four_bits_would_need(
    tmp_path: Path,
) -> None:
    published.make(tmp_path)
    checkpoint = folder.describe(str(tmp_path))
    needed = folder.memory_bytes(checkpoint)
    folder.check_memory(checkpoint, needed, needed, "cuda:0", 2)
    with pytest.raises(
        UserError,
        match=r"needs .* GB on cuda:0, .* for weights; .* are free. It would need .* as '\?bits=8' "
        r"and .* as '\?bits=4'",
    ):
        folder.check_memory(checkpoint, needed - 1, needed, "cuda:0", 2)


MEASURED = r"""
import re, sys, time
from rsd.models.openvla_oft import folder
from rsd.models.openvla_oft.loading import load_model
from rsd.models.openvla_oft.model import make
from openvla_oft import published
import torch
make(published.CONFIG, "cpu", torch.bfloat16)  # libraries load more at first use
checkpoint = folder.describe(sys.argv[1])
peak = lambda: 1024 * int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
before, started = peak(), time.monotonic()
load_model(checkpoint, "cpu")
print(peak() - before, time.monotonic() - started)
"""


def test_loading_takes_hardly_more_memory_than_the_checkpoint_is_large(tmp_path: Path) -> None:
    from dataclasses import replace

    large = replace(published.CONFIG.llama, width=512, hidden=2048, depth=40, vocabulary=32064)
    published.make(tmp_path, replace(published.CONFIG, llama=large))
    files = [*tmp_path.glob("*.safetensors"), *tmp_path.glob("*.pt")]
    size = sum(path.stat().st_size for path in files)
    assert size > 3e8
    told = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    added, seconds = map(float, told.stdout.split())
    print(f"{size / 1e6:.0f} MB in {seconds:.1f} s, peak {added / size:.2f} of it")
    assert added < 1.1 * size
