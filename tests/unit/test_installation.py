"""The simulator that runs is the one that records name: forks, copies and edits are found."""

from __future__ import annotations

import base64
import hashlib
import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest

from rsd import installation
from rsd.errors import UserError


def test_what_is_installed_is_what_was_released() -> None:
    contents = installation.check()
    assert set(contents) == {"hf-libero", "robosuite"}
    assert all(len(digest) == 64 for digest in contents.values())


@pytest.mark.parametrize("package", installation.PACKAGES, ids=lambda p: p.distribution)
def test_a_folder_on_the_path_that_shadows_a_package_is_named(
    package: installation.Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / package.module).mkdir()
    (tmp_path / package.module / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package.module, raising=False)
    with pytest.raises(UserError, match="would be imported from") as raised:
        installation.module_root(package)
    assert str(tmp_path) in str(raised.value) and "PYTHONPATH" in str(raised.value)


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """hf-libero in a folder of its own, found before the installed one."""
    site = Path(str(metadata.distribution("hf-libero").locate_file("")))
    for name in ("libero", f"hf_libero-{metadata.version('hf-libero')}.dist-info"):
        shutil.copytree(site / name, tmp_path / name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "libero", raising=False)
    return tmp_path


def test_a_whole_copy_passes(copied: Path) -> None:
    assert installation.module_root(installation.LIBERO) == copied / "libero"
    content = installation._check_content(installation.LIBERO)
    assert content == installation.check()["hf-libero"]


@pytest.mark.parametrize(
    "changed", ["*.bddl", "*.pruned_init", "bddl_base_domain.py"], ids=lambda pattern: pattern
)
def test_an_edited_file_is_named(copied: Path, changed: str) -> None:
    """A goal's akita_black_bowl_1 that becomes _2, a state, a line of code."""
    file = sorted((copied / "libero").rglob(changed))[0]
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(UserError, match=f"{file.name}: not as in hf-libero==") as raised:
        installation._check_content(installation.LIBERO)
    assert "pip install --force-reinstall" in str(raised.value)


def test_a_missing_file_is_named(copied: Path) -> None:
    file = sorted((copied / "libero").rglob("*.bddl"))[0]
    file.unlink()
    with pytest.raises(UserError, match=file.name):
        installation._check_content(installation.LIBERO)


def test_a_fork_that_bears_the_release_has_another_content(copied: Path) -> None:
    """Installed with hashes of its own, so that only the digest in the records tells."""
    record = next(copied.glob("*.dist-info/RECORD"))
    lines = record.read_text().splitlines()
    index = next(i for i, line in enumerate(lines) if ".bddl,sha256=" in line)
    path = copied / lines[index].partition(",")[0]
    path.write_bytes(path.read_bytes() + b" ")
    digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=")
    lines[index] = f"{lines[index].partition(',')[0]},sha256={digest.decode()},1"
    record.write_text("\n".join(lines))
    content = installation._check_content(installation.LIBERO)
    assert content != installation.check()["hf-libero"]


def test_settings_of_robosuite_beside_its_own_are_refused(tmp_path: Path) -> None:
    (tmp_path / "macros.py").write_text("SIMULATION_TIMESTEP = 0.002\n")
    installation._check_settings(tmp_path)
    (tmp_path / "macros_private.py").write_text("SIMULATION_TIMESTEP = 0.002\n")
    installation._check_settings(tmp_path)  # what robosuite's own script makes
    (tmp_path / "macros_private.py").write_text("SIMULATION_TIMESTEP = 0.004\n")
    with pytest.raises(UserError, match=r"macros_private\.py changes robosuite's settings"):
        installation._check_settings(tmp_path)
