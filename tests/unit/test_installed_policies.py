"""Policies that installed packages offer by name, as pip leaves them: modules and a dist-info."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rsd import models
from rsd.errors import UserError
from rsd.models import inspect_policy, load_policy

ROOT = Path(__file__).resolve().parents[2]
SOURCE = """
import numpy as np

class Reach:
    def __init__(self, device):
        pass
    def __call__(self, observation):
        return np.full((3, 7), 0.25)
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that is looked into; tests install there."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("reaching", "reaching_further"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


def install(folder: Path, package: str, version: str, **policies: str) -> None:
    (folder / f"{package}.py").write_text(SOURCE)
    information = folder / f"{package}-{version}.dist-info"
    information.mkdir()
    name = package.replace("_", "-")
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    )
    lines = [f"{name} = {factory}" for name, factory in policies.items()]
    (information / "entry_points.txt").write_text("\n".join(["[rsd.policies]", *lines, ""]))


def test_a_policy_is_chosen_by_the_name_that_its_package_gives_it(installed: Path) -> None:
    install(installed, "reaching", "1.2", reach="reaching:Reach")
    info = inspect_policy("reach")
    assert json.loads(info.says) == {
        "name": "reach",
        "factory": "reaching:Reach",
        "distribution": "reaching",
        "version": "1.2",
    }
    assert info.sha256 == inspect_policy("reaching:Reach").sha256
    policy = load_policy("reach", deterministic=True, device="cpu")
    assert policy.checkpoint_sha256 == info.sha256


def test_without_packages_that_offer_any_there_are_none() -> None:
    assert models.installed.names() == []


@pytest.mark.parametrize("word", ["reac", "libreo", "toi"])
def test_a_name_that_nobody_has_comes_with_all_that_there_are(installed: Path, word: str) -> None:
    install(installed, "reaching", "1.2", reach="reaching:Reach")
    with pytest.raises(UserError, match=rf"unknown policy or folder '{word}'.*libero, reach, spa"):
        inspect_policy(word)


def test_a_name_of_ours_is_not_taken_over(installed: Path) -> None:
    install(installed, "reaching", "1.2", libero="reaching:Reach", spatula="reaching:Reach")
    with pytest.raises(UserError, match=r"'libero' is one of RSD's own, and reaching:Reach of rea"):
        inspect_policy("libero")
    assert inspect_policy("spatial").layers > 0
    assert inspect_policy("reaching:Reach").layers == 0


def test_a_name_that_two_packages_give_is_nobodys(installed: Path) -> None:
    install(installed, "reaching", "1.2", reach="reaching:Reach")
    install(installed, "reaching_further", "0.1", reach="reaching_further:Reach")
    both = r"reaching:Reach of reaching 1\.2, reaching_further:Reach of reaching-further 0\.1"
    with pytest.raises(UserError, match=both):
        inspect_policy("reach")


def test_an_offer_that_cannot_be_imported_says_so(installed: Path) -> None:
    install(installed, "reaching", "1.2", reach="reaching_nowhere:Reach")
    with pytest.raises(UserError, match="module 'reaching_nowhere' cannot be imported"):
        inspect_policy("reach")


def test_help_lists_what_is_offered(installed: Path) -> None:
    install(installed, "reaching", "1.2", reach="reaching:Reach")
    told = subprocess.run(
        [sys.executable, "-c", "from rsd.config import POLICY_HELP; print(POLICY_HELP)"],
        env={"PYTHONPATH": f"{ROOT}:{installed}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "a name that an installed package offers (here reach; docs/plugins.md)" in told.stdout


def test_a_folder_of_that_name_is_written_as_a_path(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(installed, "reaching", "1.2", reach="reaching:Reach")
    (installed / "reach").mkdir()
    monkeypatch.chdir(installed)
    assert models.family_of("reach") is models.installed.FAMILY
    assert models.family_of("./reach") is models.small_vla.FAMILY
