"""Checkpoints in the published layout: what is known before loading, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from openvla_oft import published
from safetensors.torch import load_file, save_file

from rsd.errors import UserError
from rsd.models.openvla_oft import description, folder, names
from rsd.models.openvla_oft.config import OFTConfig, OFTDraftConfig
from rsd.models.openvla_oft.description import Trained
from rsd.models.openvla_oft.folder import describe, inspect

HEAD = f"action_head--{published.STEP}_checkpoint.pt"
PROPRIO = f"proprio_projector--{published.STEP}_checkpoint.pt"
FIRST_SHARD = "model-00001-of-00003.safetensors"


def snapshot(path: Path) -> dict[str, tuple[int, int]]:
    return {
        each.relative_to(path).as_posix(): (each.stat().st_size, each.stat().st_mtime_ns)
        for each in path.rglob("*")
    }


def test_a_published_folder_is_known_before_it_is_loaded(tmp_path: Path) -> None:
    published.make(tmp_path, suites=("libero_spatial", "libero_10"))
    before = snapshot(tmp_path)
    info = inspect(str(tmp_path))
    assert info.modes == ("regression",)
    assert info.suites == ("libero_spatial", "libero_10")
    assert (info.chunk_steps, info.layers) == (8, 0)
    assert (info.images.height, info.images.width) == (256, 256)
    assert snapshot(tmp_path) == before, "the folder was written to"
    checkpoint = describe(str(tmp_path))
    size = sum(path.stat().st_size for path in tmp_path.glob("*.[sp]*t*"))
    needed = folder.memory_bytes(checkpoint)
    assert 0.9 * size < 2 * checkpoint.parameters < size < needed
    info.check_memory("cuda", needed, True)
    with pytest.raises(UserError, match="GB on cuda"):
        info.check_memory("cuda", needed - 1, True)
    with pytest.raises(UserError, match="for the copy that --deterministic settles near ties by"):
        info.check_memory("cpu", 2 * needed, True)
    info.check_memory("cpu", 2 * needed, False)
    assert checkpoint.normalisations[0].mean == (0.484375, 0.455078125, 0.40625)


def test_it_is_known_without_torch(tmp_path: Path) -> None:
    published.make(tmp_path)
    code = (
        "import sys; from rsd.models.openvla_oft.folder import inspect; "
        f"inspect({str(tmp_path)!r}); print('torch' in sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    assert told.stdout.strip() == "False"


def test_the_published_sizes_are_those_of_a_configuration_that_names_none() -> None:
    told = published.description(OFTConfig())
    del told["timm_model_args"]
    told["text_config"] = {
        "model_type": "llama",
        "pad_token_id": 32000,
        "torch_dtype": "bfloat16",
        "vocab_size": 32064,
    }
    assert description.backbone(told, Path("config.json")).config == OFTConfig()
    sizes = {part: names.tensors(part, OFTConfig()) for part in (names.BACKBONE, names.ACTION_HEAD)}
    counted = {
        part: sum(torch.Size(shape).numel() for shape in shapes.values())
        for part, shapes in sizes.items()
    }
    assert counted[names.BACKBONE] == pytest.approx(7.54e9, rel=0.01)
    assert counted[names.ACTION_HEAD] == pytest.approx(151e6, rel=0.01)


def test_without_an_action_head_actions_are_bins(tmp_path: Path) -> None:
    published.make(tmp_path, action_head=False)
    assert inspect(str(tmp_path)).modes == ("bins",)


def test_the_identity_changes_with_every_file_that_is_read_and_with_no_other(
    tmp_path: Path,
) -> None:
    published.make(tmp_path)
    first = inspect(str(tmp_path)).sha256
    (tmp_path / "README.md").write_text("bytes that nobody reads")
    assert inspect(str(tmp_path)).sha256 == first
    seen = {first}
    told = json.loads((tmp_path / "dataset_statistics.json").read_text())
    told["libero_spatial_no_noops"]["num_trajectories"] += 1
    published.write_json(tmp_path / "dataset_statistics.json", told)
    seen.add(inspect(str(tmp_path)).sha256)
    for name in (FIRST_SHARD, HEAD, PROPRIO):
        retensored(name, lambda state: next(iter(state.values())).add_(1))(tmp_path)
        seen.add(inspect(str(tmp_path)).sha256)
    assert len(seen) == 5


def without(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def rewritten(name: str, change: Callable[[dict], None]) -> Callable[[Path], None]:
    def break_it(path: Path) -> None:
        told = json.loads((path / name).read_text())
        change(told)
        published.write_json(path / name, told)

    return break_it


def retensored(name: str, change: Callable[[dict], None]) -> Callable[[Path], None]:
    def break_it(path: Path) -> None:
        file = path / name
        torch_file = file.suffix == ".pt"
        state = torch.load(file, weights_only=True) if torch_file else load_file(file)
        change(state)
        torch.save(state, file) if torch_file else save_file(state, file)

    return break_it


def other_head(path: Path) -> None:
    (path / "action_head--50000_checkpoint.pt").write_bytes((path / HEAD).read_bytes())


def truncated(name: str) -> Callable[[Path], None]:
    return lambda path: os.truncate(path / name, (path / name).stat().st_size // 2)


def pickled_command(path: Path) -> None:
    """A file of torch.save whose pickle would run something."""
    with zipfile.ZipFile(path / HEAD, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'touch broken'\ntR.")


def set_at(told: dict, *keys: str, to: object) -> None:
    for key in keys[:-1]:
        told = told[key]
    told[keys[-1]] = to


SPATIAL = "libero_spatial_no_noops"
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no configuration": (without("config.json"), "neither config.json with weights nor lora_"),
    "no statistics": (without("dataset_statistics.json"), "lacks dataset_statistics.json"),
    "no tokeniser": (without("tokenizer.json"), "lacks tokenizer.json"),
    "no processor": (without("preprocessor_config.json"), "lacks preprocessor_config.json"),
    "no proprioception": (without(PROPRIO), r"lacks proprio_projector--\*"),
    "no shard": (without(FIRST_SHARD), f"lacks {FIRST_SHARD}, which model.safetensors.index"),
    "two heads": (other_head, f"2 files of its action head: {HEAD} and .*--50000_"),
    "diffusion": (
        lambda path: (path / "noisy_action_projector--1_checkpoint.pt").touch(),
        "a diffusion head is not supported",
    ),
    "FiLM": (
        lambda path: (path / "vision_backbone--1_checkpoint.pt").touch(),
        "FiLM in its vision towers is not supported",
    ),
    "a truncated shard": (truncated(FIRST_SHARD), f"{FIRST_SHARD} is truncated"),
    "a truncated head": (truncated(HEAD), f"{HEAD} is truncated"),
    "a head that runs things": (pickled_command, "holds no state dictionary.*os.system"),
    "another hidden size": (
        rewritten("config.json", lambda t: set_at(t, "text_config", "hidden_size", to=128)),
        r"lm_head.weight is \(512, 64\), but config.json makes it \(512, 128\)",
    ),
    "another head": (
        retensored(HEAD, lambda s: s.update({"module.model.fc1.weight": torch.zeros(64, 12)})),
        r"module.model.fc1.weight is \(64, 12\), but config.json makes it \(64, 448\)",
    ),
    "a tensor too few": (
        retensored(HEAD, lambda s: s.pop("module.model.fc2.bias")),
        "lacks model.fc2.bias of the action head",
    ),
    "a tensor too many": (
        retensored(PROPRIO, lambda s: s.update({"module.fc3.bias": torch.zeros(2)})),
        "'module.fc3.bias' is nothing of a proprioception projector",
    ),
    "a tensor of integers": (
        retensored(HEAD, lambda s: s.update({"module.model.fc2.bias": torch.zeros(7).long()})),
        "holds no state dictionary.*LongStorage",
    ),
    "NaN in a shard": (
        retensored(
            "model-00002-of-00003.safetensors", lambda s: next(iter(s.values())).fill_(torch.inf)
        ),
        "model-00002.* holds NaN or infinity",
    ),
    "NaN in a head": (
        retensored(HEAD, lambda s: s["module.model.fc1.bias"][3:4].fill_(torch.nan)),
        "module.model.fc1.bias holds NaN",
    ),
    "a shard of another checkpoint": (
        retensored(FIRST_SHARD, lambda s: s.update({"extra": torch.zeros(1)})),
        "'extra', which model.safetensors.index.json has in no file",
    ),
    "another model": (
        rewritten("config.json", lambda t: set_at(t, "model_type", to="llava")),
        "model_type is 'llava', not 'openvla'",
    ),
    "one tower": (
        rewritten("config.json", lambda t: set_at(t, "use_fused_vision_backbone", to=False)),
        "not DINOv2 and SigLIP together",
    ),
    "statistics without proprioception": (
        rewritten("dataset_statistics.json", lambda t: t[SPATIAL].pop("proprio")),
        f"{SPATIAL}.* has no proprio statistics",
    ),
    "statistics of another robot": (
        rewritten(
            "dataset_statistics.json", lambda t: set_at(t, SPATIAL, "action", "q01", to=[0.0])
        ),
        "expected 7 numbers",
    ),
    "statistics with NaN": (
        rewritten(
            "dataset_statistics.json",
            lambda t: set_at(t, SPATIAL, "action", "q01", to=[float("nan")] * 7),
        ),
        "expected 7 numbers",
    ),
    "letterboxed images": (
        rewritten(
            "preprocessor_config.json", lambda t: set_at(t, "image_resize_strategy", to="letterbox")
        ),
        "only 'resize-naive' is known",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_damaged_folder_is_refused_by_name(fault: str, tmp_path: Path) -> None:
    break_it, message = BROKEN[fault]
    published.make(tmp_path)
    break_it(tmp_path)
    with pytest.raises(UserError, match=f"(?s){message}"):
        inspect(str(tmp_path))
    assert not Path("broken").exists()


def test_a_folder_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint at"):
        inspect(str(tmp_path / "nothing"))


def test_means_count_where_the_processor_names_no_rounded_ones(tmp_path: Path) -> None:
    published.make(tmp_path, shards=1)
    rewritten("preprocessor_config.json", lambda told: told.pop("tvf_normalize_params"))(tmp_path)
    assert describe(str(tmp_path)).normalisations[0].mean == (0.485, 0.456, 0.406)


MODULES = {
    "language_model.model.layers.0.mlp.down_proj": (64, 96),
    "vision_backbone.featurizer.blocks.1.attn.qkv": (96, 32),
    "projector.fc3": (64, 64),
}


def unmerged(tmp_path: Path) -> Path:
    """A folder with an adapter in place of weights, and its base beside it."""
    base, path = tmp_path / "base", tmp_path / "adapted"
    published.make(base, seed=1)
    published.make(path)
    for file in [*path.glob("model*"), path / "config.json"]:
        file.unlink()
    published.write_adapter(path, str(base), MODULES)
    return path


def test_an_adapter_beside_merged_weights_is_not_applied_again(tmp_path: Path) -> None:
    published.make(tmp_path)
    published.write_adapter(tmp_path, "openvla/openvla-7b", MODULES)
    assert describe(str(tmp_path)).adapters == ()


def test_an_adapter_without_weights_changes_the_base_that_it_names(tmp_path: Path) -> None:
    path = unmerged(tmp_path)
    checkpoint = describe(str(path))
    (adapter,) = checkpoint.adapters
    assert adapter.scale == 4.0
    assert set(adapter.pairs) == {f"{module}.weight" for module in MODULES}
    first = inspect(str(path)).sha256
    published.write_adapter(path, str(tmp_path / "base"), MODULES, seed=1)
    assert inspect(str(path)).sha256 != first


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda told: told.update(use_dora=True), "use_dora is True; only plain LoRA"),
        (lambda told: told.update(base_model_name_or_path=""), "neither a folder here nor an id"),
        (lambda told: told.update(r=8), "changes no .* by rank 8: it is of another model"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused(
    fault: Callable[[dict], None], message: str, tmp_path: Path
) -> None:
    path = unmerged(tmp_path)
    rewritten("lora_adapter/adapter_config.json", fault)(path)
    with pytest.raises(UserError, match=message):
        describe(str(path))


def trained(tmp_path: Path) -> Path:
    """Heads of residual codes, trained on a published base."""
    base, path = tmp_path / "base", tmp_path / "trained"
    published.make(base)
    path.mkdir()
    save_file({"target.code_heads.first.bias": torch.zeros(15)}, path / "heads.safetensors")
    told = Trained(
        base=str(base),
        base_sha256=inspect(str(base)).sha256,
        tokeniser=published.CONFIG.tokeniser,
        draft=OFTDraftConfig(width=32, patch_width=4, text_width=8),
        step_width=48,
    )
    published.write_json(path / "config.json", description.written(told))
    return path


def test_trained_heads_bring_codes_to_their_base(tmp_path: Path) -> None:
    info = inspect(str(trained(tmp_path)))
    assert info.modes == ("speculative", "autoregressive", "parallel", "draft", "regression")
    assert (info.layers, info.chunk_steps) == (5, 8)
    assert info.suites == ("libero_spatial",)


def test_heads_are_refused_on_another_base_than_they_were_trained_on(tmp_path: Path) -> None:
    path = trained(tmp_path)
    published.make(tmp_path / "base", seed=5)
    with pytest.raises(UserError, match=r"its heads were trained on .*; now it is"):
        inspect(str(path))


def test_every_tensor_on_disk_has_one_place_in_the_model() -> None:
    places = [
        names.in_model(part, name)
        for part in (names.BACKBONE, names.ACTION_HEAD, names.PROPRIO)
        for name in names.tensors(part, published.CONFIG)
    ]
    assert None not in places
    assert len(set(places)) == len(places)
    assert names.in_model(
        names.BACKBONE, "vision_backbone.featurizer.blocks.0.ls1.scale_factor"
    ) == ("vision_backbone.featurizer.blocks.0.ls1.gamma")
    assert names.in_model(names.BACKBONE, "something.else") is None


def test_weights_take_less_in_fewer_bits(tmp_path: Path) -> None:
    published.make(tmp_path, shards=1)
    checkpoint = describe(str(tmp_path))
    sixteen, eight, four = (folder.weight_bytes(checkpoint, 2, bits) for bits in (16, 8, 4))
    assert four < eight < sixteen == 2 * checkpoint.parameters
