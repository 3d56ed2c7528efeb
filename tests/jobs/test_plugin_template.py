"""The template of docs/plugins.md, as a user would copy it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from remote_servers import observations, requests

from rsd.models import inspect_policy, load_policy
from rsd.types import ImageSpec

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plugins.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the package that the page describes."""
    (tmp_path / "my_policy.py").write_text("\n\n".join(blocks("python")))
    (tmp_path / "pyproject.toml").write_text("\n".join(blocks("toml")))
    monkeypatch.delitem(sys.modules, "my_policy", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", ["Single", "Batched"])
def test_the_template_is_a_policy(
    name: str, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(template))
    info = inspect_policy(f"my_policy:{name}")
    assert (info.images, info.chunk_steps) == (ImageSpec(224, 224), 8)
    assert info.batches == (name == "Batched")
    policy = load_policy(f"my_policy:{name}", deterministic=True, device="cpu")
    seen = observations(3, info.images)
    together = policy.act(requests(seen))
    for chunk, request in zip(together, requests(seen), strict=True):
        assert chunk.actions.shape == (8, 7) and chunk.actions.dtype == np.float32
        assert -1 <= chunk.actions[0, 6] < 0
        (alone,) = policy.act([request])
        assert np.array_equal(alone.actions, chunk.actions)


def test_the_templates_package_is_installed_by_pip_and_found_by_its_name(
    template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = template / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--target", str(there), str(template)],
        check=True,
        timeout=120,
    )
    monkeypatch.syspath_prepend(str(there))
    says = json.loads(inspect_policy("reach").says)
    assert says["factory"] == "my_policy:Batched"
    assert (says["distribution"], says["version"]) == ("reaching", "1.2")
    policy = load_policy("reach", deterministic=True, device="cpu")
    assert policy.act(requests(observations(1)))[0].actions.shape == (8, 7)
