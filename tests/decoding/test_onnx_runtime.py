"""A SmallVLA whose towers and trunk ONNX Runtime computes: the same codes, or a clear refusal."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from rsd.errors import UserError
from rsd.models import inspect_policy, load_policy
from rsd.models.benchmark import logit_difference
from rsd.models.code_policy import CodePolicy
from rsd.models.small_vla.options import PACKAGES
from rsd.types import Decoding, Policy
from tests.decoding.small_policy import requests, small_checkpoint

RUNTIME = pytest.mark.skipif(
    any(importlib.util.find_spec(each) is None for each in PACKAGES),
    reason="pip install -r requirements-onnx.txt",
)
MODES = ("autoregressive", "speculative", "parallel", "draft", "regression")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_checkpoint(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="module")
def torchs(folder: str) -> Policy:
    return load_policy(f"{folder}?runtime=torch", deterministic=True, device="cpu")


@pytest.fixture(scope="module")
def onnxs(folder: str) -> Policy:
    return load_policy(f"{folder}?runtime=onnx", deterministic=True, device="cpu")


@RUNTIME
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(
    "decoding", [*map(Decoding, MODES), Decoding("autoregressive", layers=2)], ids=str
)
def test_both_runtimes_give_the_same_actions_in_as_many_passes(
    torchs: Policy, onnxs: Policy, decoding: Decoding, batch: int
) -> None:
    """Rows of a batch leave it after different passes, so a cache goes on with some of its rows."""
    ours, theirs = (policy.act(requests(batch, decoding)) for policy in (onnxs, torchs))
    for one, other in zip(ours, theirs, strict=True):
        assert np.array_equal(one.actions, other.actions)
        assert one.trace.passes == other.trace.passes


@RUNTIME
def test_logits_of_the_runtime_are_rounded_otherwise_and_no_farther_than_a_near_tie_allows(
    torchs: Policy, onnxs: Policy
) -> None:
    assert isinstance(onnxs, CodePolicy) and isinstance(torchs, CodePolicy)
    asked = requests(5, Decoding("autoregressive"))
    ours, theirs = (logit_difference(policy, asked) for policy in (onnxs, torchs))
    assert ours != theirs  # or ONNX Runtime computed nothing
    assert ours < 2e-5


@RUNTIME
def test_the_books_have_the_runtime_and_the_checkpoint_stays_the_same(folder: str) -> None:
    plain, other = inspect_policy(folder), inspect_policy(f"{folder}?runtime=onnx")
    assert json.loads(other.says)["runtime"].startswith("onnxruntime ")
    assert other.sha256 == plain.sha256 and not plain.says


@RUNTIME
def test_the_runtime_is_refused_on_a_gpu(folder: str) -> None:
    with pytest.raises(UserError, match="runtime=onnx is for a CPU"):
        load_policy(f"{folder}?runtime=onnx", deterministic=True, device="cuda")


@pytest.mark.parametrize("said", ["runtime=onyx", "run=onnx", "runtime"])
@pytest.mark.parametrize("place", ["libero", "{folder}"])
def test_options_that_there_are_not_are_refused_with_those_that_there_are(
    folder: str, place: str, said: str
) -> None:
    with pytest.raises(UserError, match=rf"no option '{said}'; there are runtime=torch\|onnx"):
        inspect_policy(f"{place.format(folder=folder)}?{said}")


def test_a_missing_runtime_is_told_how_to_get(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -r requirements-onnx\.txt"):
        inspect_policy("libero?runtime=onnx")


def test_a_checkpoint_that_is_not_there_is_named_without_its_options(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"no checkpoint at '{tmp_path}/none'"):
        inspect_policy(f"{tmp_path}/none?runtime=torch")
