"""Checkpoints by their id: a hub on this machine, a cache of huggingface_hub's own layout, and none
of either."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from openvla_oft import published, small_hub
from openvla_oft.small_hub import COMMIT

from rsd.errors import UserError
from rsd.models.openvla_oft import hub
from rsd.models.openvla_oft.folder import describe

REPOSITORY = "moojink/openvla-7b-oft-finetuned-libero-spatial"
SPEC = f"hf://{REPOSITORY}"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(path))
    return path


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def address(tmp_path: Path, asked: list[str]) -> Iterator[str]:
    written = published.make(tmp_path / "repository")
    (written.folder / "model.ckpt").write_bytes(b"large, and read by nobody")
    published.write_adapter(written.folder, "openvla/openvla-7b", {"projector.fc3": (64, 64)})
    with small_hub.serving(written.folder, REPOSITORY, asked) as found:
        yield found


@pytest.fixture
def nowhere() -> str:
    """Nobody listens there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_a_hub_id_is_downloaded_once_and_pinned_to_its_commit(
    address: str, asked: list[str], cache: Path
) -> None:
    checkpoint = describe(SPEC, address)
    assert checkpoint.spec == f"{SPEC}@{COMMIT}"
    assert cache in checkpoint.tokeniser.parents
    assert not any("model.ckpt" in path or "lora_adapter" in path for path in asked)
    asked.clear()
    assert describe(checkpoint.spec, address).spec == checkpoint.spec
    assert asked == [], "a commit that is there needs no hub"


def test_without_the_hub_the_cache_is_taken(address: str, nowhere: str) -> None:
    describe(SPEC, address)
    assert describe(SPEC, nowhere).spec == f"{SPEC}@{COMMIT}"


def test_without_hub_and_cache_the_message_says_so_soon(nowhere: str) -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match=r"cannot be reached.*copy the files here by other means"):
        describe(SPEC, nowhere)
    assert time.monotonic() - started < 30


def test_a_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(UserError, match="cannot be reached"):
            describe(SPEC, f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - started < 20


def test_an_unknown_id_is_refused_by_name(address: str) -> None:
    with pytest.raises(UserError, match="the hub knows no model 'moojink/openvla-8b'"):
        describe("hf://moojink/openvla-8b", address)


def test_an_unknown_revision_is_refused_by_name(address: str) -> None:
    with pytest.raises(UserError, match="has no revision 'v2' on the hub"):
        describe(f"{SPEC}@v2", address)


@pytest.mark.parametrize("spec", ["hf://", "hf://openvla", "hf://a/b/c", "hf://a/b@"])
def test_what_is_no_id_is_refused_without_asking(spec: str, address: str, asked: list[str]) -> None:
    with pytest.raises(UserError, match="is no id of the hub; write hf://owner/name"):
        describe(spec, address)
    assert asked == []


def test_a_repository_that_lacks_a_part_is_refused_before_it_is_downloaded(
    address: str, tmp_path: Path, asked: list[str]
) -> None:
    (tmp_path / "repository" / "dataset_statistics.json").unlink()
    with pytest.raises(UserError, match=r"the repository lacks dataset_statistics\.json"):
        describe(SPEC, address)
    assert not any("resolve" in path for path in asked)


def test_an_incomplete_cache_is_named(address: str, nowhere: str, cache: Path) -> None:
    describe(SPEC, address)
    (shard,) = cache.rglob("model-00002-of-00003.safetensors")
    shard.unlink()
    with pytest.raises(UserError, match=r"lacks model-00002-of-00003\.safetensors"):
        describe(SPEC, nowhere)
