"""Checkpoints that others wrote, or that were made to exhaust whoever reads them: told what is
wrong in a second, before anything of the size that they claim is made."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rsd.demos import check_files
from rsd.errors import UserError
from rsd.models.small_vla import checkpoint
from rsd.models.small_vla.architecture import SmallVLAConfig, TransformerConfig, tensors
from rsd.models.small_vla.model import SmallVLA
from rsd.rfsq_config import RFSQConfig
from rsd.types import ImageSpec
from tests.decoding.small_policy import CONFIG, IMAGES, small_checkpoint
from tests.unprivileged import forbidden

INFINITY = float("inf")


@pytest.mark.parametrize(
    ("config", "pixels"),
    [
        (CONFIG, 48),
        (SmallVLAConfig(), 96),
        (
            dataclasses.replace(
                CONFIG,
                tokeniser=RFSQConfig(latent_dim=16, layers=2, levels=5, hidden=24),
                target=TransformerConfig(24, 3, 3, expansion=2, positions=4),
                regression=False,
                text_tokens=3,
            ),
            53,
        ),
        (CONFIG, 8),
        (CONFIG, 257),
    ],
)
def test_the_tensors_are_those_of_the_model(config: SmallVLAConfig, pixels: int) -> None:
    with torch.device("meta"):
        model = SmallVLA(config, pixels)
    made = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert dict(tensors(config, ImageSpec(pixels, pixels))) == made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def copied(whole: Path, folder: Path, header: bytes | None = None) -> Path:
    """A checkpoint's weights, with another header."""
    content = (whole / checkpoint.WEIGHTS_FILE).read_bytes()
    if header is not None:
        length = struct.unpack("<Q", content[:8])[0]
        content = struct.pack("<Q", len(header)) + header + content[8 + length :]
    (folder / checkpoint.WEIGHTS_FILE).write_bytes(content)
    return folder


def describe(whole: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The description with a change, and a hash that agrees with it."""
    content = json.loads((whole / checkpoint.CONFIG_FILE).read_text())
    change(content)
    sizes = json.dumps([content["model"], content["images"]], sort_keys=True).encode()
    weights = (folder / checkpoint.WEIGHTS_FILE).read_bytes()
    content["description_sha256"] = hashlib.sha256(sizes + weights).hexdigest()
    (folder / checkpoint.CONFIG_FILE).write_text(json.dumps(content))
    return folder


def refused(folder: Path) -> str:
    """What inspecting a folder says, in a second of work and without control characters."""
    begun = time.process_time()
    with pytest.raises(UserError) as told:
        checkpoint.inspect(str(folder))
    assert time.process_time() - begun < 1
    assert "\x1b" not in str(told.value) and len(str(told.value)) < 5000
    return str(told.value)


def put(*path: str, value: Any) -> Callable[[dict[str, Any]], object]:
    def change(content: dict[str, Any]) -> None:
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = value

    return change


def origin(value: Any) -> Callable[[dict[str, Any]], object]:
    return put("origin", value=value)


def size(part: str, name: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return put("model", part, name, value=value)


def images(height: Any, width: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["images"].update(height=height, width=width)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        *[(origin(value), "origin is ") for value in ("x", ["x"], None, 3)],
        *[
            (origin({"data": {"suites": value}}), "origin.data.suites is ")
            for value in (["\x1b[31mred"], "abc", [1], 5, None, ["a" * 101], ["a\nb"])
        ],
        (origin({"training": "x"}), "origin.training is 'x'"),
        *[
            (origin({"training": {"held_out": value}}), "origin.training.held_out is ")
            for value in ("x", True, None, float("nan"), 2, [])
        ],
        (origin({"started_from": "x"}), "origin.started_from is 'x'"),
        (origin({"target": {"started_from": 3}}), "origin.target.started_from is 3"),
        (images(0, -1), "images of 0 x -1 pixels"),
        (images(10**6, 10**6), "images of 1000000 x 1000000 pixels"),
        (images(48, 10**6), "images of 48 x 1000000 pixels: width is 8 to 2048"),
        (images(48, 64), "it reads square ones"),
        (images(96, 96), "target_context.position is "),
        (images(48.0, 48), "ImageSpec.height is 48.0, expected an integer"),
        (images("48", 48), "ImageSpec.height is '48'"),
        (images(True, 48), "ImageSpec.height is True"),
        (images(INFINITY, 48), "ImageSpec.height is inf"),
        (put("images", "samples", value=-1), "-1 samples"),
        (put("images", "samples", value=10**9), "1000000000 samples"),
        (put("images", "reflection", value="no"), "ImageSpec.reflection is 'no'"),
        (put("images", value=None), "ImageSpec is None"),
        *[
            (size("target", "width", value), "TransformerConfig.width is ")
            for value in (INFINITY, float("nan"), True, "32", 32.0, [32], None, {})
        ],
        (size("target", "width", 0), "give 1 or more"),
        (size("target", "width", -32), "give 1 or more"),
        (size("target", "width", 34), "not a multiple of the 4 heads that read"),
        (size("target", "width", 192_000), "towers.0.grid.3.weight is "),
        (size("target", "width", 10**40), "towers.0.grid.3.weight is "),
        (size("target", "depth", 10**9), "target.trunk.2.norm1.weight is missing"),
        (size("target", "depth", 1), "'target.trunk.1.* is not described"),
        (size("target", "heads", 5), "not a multiple of 5 heads"),
        (size("tokeniser", "layers", 10**9), "tokeniser.scales is "),
        (size("tokeniser", "steps", 10**12), "tokeniser.basis is "),
        (size("tokeniser", "scaled", "no"), "RFSQConfig.scaled is 'no'"),
        (size("tokeniser", "scaled", 1), "RFSQConfig.scaled is 1, expected true or false"),
        *[
            (size("tokeniser", "overlap", value), "RFSQConfig.overlap is ")
            for value in (INFINITY, float("nan"), "3", True, 10**400)
        ],
        (size("tokeniser", "overlap", 1e300), "the scales leave what numbers hold"),
        (size("tokeniser", "overlap", 0), "leaves gaps"),
        (size("tokeniser", "levels", 10**400), "levels: at most 256"),
        (size("draft", "width", 10**7), "draft_reader.mix.0.weight is "),
        (size("draft", "width", 0), "give 1 or more"),
        (size("draft", "token_width", -1), "give 1 or more"),
        (put("model", "channels", value=[8, 16, 10**9]), "towers.0.grid.0.weight is "),
        (put("model", "channels", value="abc"), "SmallVLAConfig.channels is 'abc'"),
        (put("model", "channels", value=[8.5, 16, 16]), "SmallVLAConfig.channels is 8.5"),
        (put("model", "keypoints", value=5), "towers.0.points.weight is "),
        (put("model", "word_buckets", value=10**12), "text.words.weight is "),
        (put("model", "word_buckets", value=1), "word_buckets 1: give 2 or more"),
        (put("model", "text_tokens", value=10**9), "text.queries is "),
        (put("model", "regression", value=False), "regression_head.* is not described"),
        (put("model", "target", value=None), "TransformerConfig is None"),
        (put("model", "\x1b[2J", value=1), r"other fields than the file: '\\x1b\[2J'"),
        (put("model", value=[]), r"SmallVLAConfig is \[\]"),
        (put("architecture", value="\x1b[31mred\x07"), r"'\\x1b\[31mred\\x07'"),
        (put("architecture", value="a" * 10**6), "unknown architecture"),
        (put("format", value="9" * 10**5), "format '999"),
        (put("conventions", value=[]), "not a checkpoint description"),
        (put("conventions", "image", value="\x1b[2J"), r"image convention is '\\x1b\[2J'"),
    ],
)
def test_a_hostile_description_is_refused(
    whole: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        checkpoint.inspect(str(describe(whole, copied(whole, tmp_path), change)))
    refused(tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[" * 200_000, "nested more than 100 levels deep"),
        (b"[" * 200_000 + b"]" * 200_000, "nested more than 100 levels deep"),
        (b'{"a":' * 50_000, "nested more than 100 levels deep"),
        (b" " * (11 * 2**20), "is larger than"),
        (b"\xff\xfe{", "codec can't decode"),
        (b"", "Expecting value"),
        (b"[]", "not a checkpoint description"),
        (b"null", "not a checkpoint description"),
        (b'{"format": 4, "format": 4}', "'format' is there twice"),
        (b"9" * 5000, "4300 digits"),
    ],
)
def test_a_description_that_is_none_is_refused(
    whole: Path, tmp_path: Path, content: bytes, told: str
) -> None:
    (copied(whole, tmp_path) / checkpoint.CONFIG_FILE).write_bytes(content)
    assert told in refused(tmp_path)


def first(**changes: Any) -> Callable[[dict[str, Any]], object]:
    """Of the header's first tensor."""
    return lambda header: header[min(header)].update(changes)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        *[
            (first(data_offsets=value), "is no safetensors file: tensor 'draft")
            for value in ("ab", ["a", "b"], [0], [9, 2], [-4, 4], [0, 10**30], None, [0.5, 1], {})
        ],
        (first(data_offsets=[True, 4]), "is no safetensors file"),
        (first(data_offsets=[0, 4]), "do not fill"),
        (first(shape=[10**9, 10**9]), "do not fill"),
        (first(shape="x"), "is no safetensors file"),
        (first(shape=[1] * 9), "is no safetensors file"),
        (first(dtype="F99"), "holds 'F99', expected floats"),
        (first(dtype=["F32"]), "expected floats"),
        (first(dtype="I32"), "holds 'I32', expected floats"),
        (first(more=1), "is no safetensors file"),
        (lambda header: header.update({"\x1b[2J": 3}), "is no safetensors file"),
        (lambda header: header.pop(min(header)), "is no safetensors file.*begins at byte"),
        (lambda header: header.clear(), "is truncated"),
    ],
)
def test_a_hostile_header_is_refused(
    whole: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    content = (whole / checkpoint.WEIGHTS_FILE).read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    change(header)
    copied(whole, tmp_path, json.dumps(header).encode())
    with pytest.raises(UserError, match=told):
        checkpoint.inspect(str(describe(whole, tmp_path, lambda content: None)))
    refused(tmp_path)


@pytest.mark.parametrize("header", [b"[" * 200_000, b"[]", b"3", b'{"a": "b"}', b"\xff"])
def test_a_header_that_is_none_is_refused(whole: Path, tmp_path: Path, header: bytes) -> None:
    copied(whole, tmp_path, header)
    assert "is no safetensors file" in refused(describe(whole, tmp_path, lambda content: None))


def test_a_header_of_any_length_is_not_read(whole: Path, tmp_path: Path) -> None:
    copied(whole, tmp_path)
    describe(whole, tmp_path, lambda content: None)
    weights = tmp_path / checkpoint.WEIGHTS_FILE
    weights.write_bytes(struct.pack("<Q", 2**40))
    os.truncate(weights, 2**41)
    assert "a header of 1099511627776 bytes" in refused(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), -INFINITY])
def test_weights_that_are_no_numbers_are_refused_before_they_are_loaded(
    whole: Path, tmp_path: Path, dtype: torch.dtype, value: float
) -> None:
    weights = load_file(whole / checkpoint.WEIGHTS_FILE)
    weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
    save_file(weights, tmp_path / checkpoint.WEIGHTS_FILE)
    checkpoint.inspect(str(describe(whole, tmp_path, lambda content: None)))
    weights["target.heads.bias"][-1] = value
    save_file(weights, tmp_path / checkpoint.WEIGHTS_FILE)
    describe(whole, tmp_path, lambda content: None)
    assert "target.heads.bias holds NaN or infinity" in refused(tmp_path)


def test_a_home_that_there_is_not_is_told() -> None:
    with pytest.raises(UserError, match="~nobody-of-that-name/policy"):
        checkpoint.inspect("~nobody-of-that-name/policy")
    with pytest.raises(UserError, match="~nobody-of-that-name/data"):
        check_files("~nobody-of-that-name/data")


@pytest.mark.parametrize("closed", [".", checkpoint.CONFIG_FILE, checkpoint.WEIGHTS_FILE])
def test_a_checkpoint_that_may_not_be_read_is_named(
    whole: Path, tmp_path: Path, closed: str
) -> None:
    describe(whole, copied(whole, tmp_path), lambda content: None)
    with forbidden(tmp_path / closed, tmp_path):
        told = refused(tmp_path)
    assert "may not be read by this user" in told


def test_a_checkpoint_is_read_as_before(whole: Path, tmp_path: Path) -> None:
    info = checkpoint.inspect(str(describe(whole, copied(whole, tmp_path), lambda content: None)))
    assert (info.model, info.images) == (CONFIG, IMAGES)
    digest = hashlib.sha256((tmp_path / checkpoint.CONFIG_FILE).read_bytes())
    digest.update((tmp_path / checkpoint.WEIGHTS_FILE).read_bytes())
    assert info.sha256 == digest.hexdigest()
