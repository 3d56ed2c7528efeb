"""Policies of the user's own, and how a spec finds its family."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from rsd import models
from rsd.errors import UserError
from rsd.models import PolicyInfo, inspect_policy, load_policy, plugin, small_vla, toy
from rsd.types import ChunkRequest, Decoding, ImageSpec, Observation

PLUGIN = """
import numpy as np
from rsd.models import PolicyInfo
from rsd.types import ImageSpec

class Single:
    info = PolicyInfo(images=ImageSpec(64, 64), suites=("toy",))
    def __init__(self, device):
        self.device = device
    def __call__(self, observation):
        return np.full((3, 7), observation.proprio[0])

class Batched(Single):
    info = PolicyInfo(sha256="abc")
    def batch(self, observations):
        return [self(observation) for observation in observations]

class Wrong(Single):
    info = "big"

def flat(device):
    return lambda observation: np.zeros(7)

def short(device):
    made = Batched(device)
    made.batch = lambda observations: []
    return made

def two(device, other):
    return None

def nothing(device):
    return None

number = 3
"""


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_policies.py").write_text(PLUGIN)
    (tmp_path / "my_broken.py").write_text("x = 1\nraise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("my_policies", "my_broken"):  # of the test before
        monkeypatch.delitem(sys.modules, name, raising=False)


def requests(count: int) -> list[ChunkRequest]:
    frame = np.zeros((8, 8, 3), np.uint8)
    return [
        ChunkRequest(
            Observation(frame, frame, np.full(8, i, np.float32), "reach"),
            Decoding("native"),
            str(i),
            0,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("name", ["Single", "Batched"])
def test_a_plugin_answers_each_observation_with_its_actions(name: str) -> None:
    policy = load_policy(f"my_policies:{name}", deterministic=True, device="cpu")
    delivered = {}
    chunks = policy.act(requests(3), delivered.__setitem__)
    for row, chunk in enumerate(chunks):
        assert chunk is delivered[row]
        assert chunk.actions.dtype == np.float32
        assert np.array_equal(chunk.actions, np.full((3, 7), row, np.float32))
        assert chunk.codes is None
        assert (chunk.trace.layers, chunk.trace.drafted, chunk.trace.accepted) == (0, (), ())
        assert chunk.trace.batch_size == (3 if name == "Batched" else 1)


def test_a_plugin_tells_what_it_wants_and_is() -> None:
    info = inspect_policy("my_policies:Single")
    assert info.images == ImageSpec(64, 64) and info.modes == ("native",) and info.layers == 0
    assert inspect_policy("my_policies:Batched").sha256 == "abc"
    asked_together = {"Single": False, "Batched": True, "flat": False}
    for name, together in asked_together.items():
        assert inspect_policy(f"my_policies:{name}").batches == together


def test_a_plugins_identity_is_its_source(tmp_path: Path) -> None:
    before = inspect_policy("my_policies:Single").sha256
    assert before == inspect_policy("my_policies:Single").sha256
    assert before != inspect_policy("my_policies:flat").sha256
    (tmp_path / "my_policies.py").write_text(PLUGIN + "\n# trained on\n")
    assert before != inspect_policy("my_policies:Single").sha256


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("my_absent:make", "module 'my_absent' cannot be imported: ModuleNotFoundError"),
        ("my_broken:make", r"RuntimeError: no licence \(my_broken.py:2\)"),
        ("my_policies:Singel", "did you mean 'Single'"),
        ("my_policies:number", "is a int, no factory"),
        ("my_policies:two", r"cannot be called as two\(device\)"),
        ("my_policies:Wrong", "`info` is a str"),
        (
            "wsx://host:1",
            "unknown policy scheme 'wsx'; did you mean 'ws'.*ws://HOST:PORT, a server",
        ),
    ],
)
def test_a_spec_that_names_no_policy_is_refused_with_a_reason(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        inspect_policy(spec)


def test_a_bundled_name_is_no_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libero").mkdir()
    (tmp_path / "libero" / "config.json").write_text('{"architecture": "mine"}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(models.ARCHITECTURES, "mine", toy.FAMILY)
    assert models.family_of("libero") is small_vla.FAMILY
    assert models.family_of("./libero") is toy.FAMILY


def test_a_factory_that_makes_no_policy_is_refused() -> None:
    with pytest.raises(UserError, match="made a NoneType"):
        load_policy("my_policies:nothing", deterministic=True, device="cpu")


@pytest.mark.parametrize(
    ("name", "message"), [("flat", r"shape \(7,\)"), ("short", "0 answers to 2 observations")]
)
def test_answers_that_are_no_actions_raise(name: str, message: str) -> None:
    policy = load_policy(f"my_policies:{name}", deterministic=True, device="cpu")
    with pytest.raises(ValueError, match=message):
        policy.act(requests(2))


def test_a_spec_finds_its_family(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "small_vla"}')
    families = {
        "toy": toy.FAMILY,
        "libero": small_vla.FAMILY,
        str(tmp_path): small_vla.FAMILY,
        "nowhere/at/all": small_vla.FAMILY,
        "a.b:C.d": plugin.FAMILY,
    }
    assert {spec: models.family_of(spec) for spec in families} == families
    assert all(family.forms in models.forms() for family in families.values())


def test_every_policy_says_what_it_decodes() -> None:
    assert inspect_policy("toy").modes[0] == "speculative"
    assert "regression" in inspect_policy("libero").modes
    assert PolicyInfo().modes == ("native",)
