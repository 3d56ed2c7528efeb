"""Set-up: which Python is taken or refused, and one set of pins for all that are supported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import rsd

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "install-system-packages"


def pretend(path: Path, version: str, builder: str = "CPython", abiflags: str = "") -> Path:
    """A command that answers `-c CODE` as a Python of that version and kind would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = tuple(int(part) for part in version.split("."))
    path.write_text(
        f"""#!/bin/sh
exec "{sys.executable}" -c '
import platform, sys
sys.version_info, sys.abiflags = {numbers}, "{abiflags}"
platform.python_version = lambda: "{version}"
platform.python_implementation = lambda: "{builder}"
exec(sys.argv[2])' "$@"
"""
    )
    path.chmod(0o755)
    return path


def script(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run install-system-packages with nothing in its environment but `variables`."""
    command = ["/bin/sh", str(SCRIPT), *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def chosen(path: Path, **variables: str) -> str:
    """The Python that is taken where the programs are those in the folder `path`."""
    return script("--python", PATH=str(path), **variables).stdout.strip()


# --- which Python ------------------------------------------------------------------------------


@pytest.mark.parametrize("minor", range(9, 17))
def test_the_supported_pythons_are_those_that_the_package_names(tmp_path: Path, minor: int) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = SpecifierSet(project["requires-python"]).contains(f"3.{minor}.1")
    pretend(tmp_path / "python3.11", f"3.{minor}.1")
    assert (chosen(tmp_path) == "python3.11") == named == (minor in (11, 12, 13))


@pytest.mark.parametrize(
    ("version", "builder", "abiflags", "said"),
    [
        ("3.10.13", "CPython", "", "is CPython 3.10.13;"),
        ("3.14.0", "CPython", "", "is CPython 3.14.0;"),
        ("2.7.18", "CPython", "", "is CPython 2.7.18;"),
        ("3.11.13", "PyPy", "", "is PyPy 3.11.13;"),
        ("3.13.0", "CPython", "t", "is CPython 3.13.0 without a GIL;"),
    ],
)
def test_an_unsupported_python_is_refused_in_one_sentence_before_anything_is_built(
    tmp_path: Path, version: str, builder: str, abiflags: str, said: str
) -> None:
    python = pretend(tmp_path / "python", version, builder, abiflags)
    venv = tmp_path / "venv"
    command = ["make", "-j4", "setup", f"PYTHON={python}", f"VENV={venv}"]
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    made = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    refusal, *makes_own = made.stderr.splitlines()
    assert made.returncode == 2
    assert said in refusal and "3.11, 3.12 or 3.13" in refusal and "make PYTHON=" in refusal
    assert all(line.startswith("make") for line in makes_own)
    assert made.stdout == "" and not venv.exists()


def test_what_is_no_python_is_refused_by_name() -> None:
    refused = script(PYTHON="/nowhere/python3.12", PATH=os.environ["PATH"])
    assert refused.returncode == 1
    assert "/nowhere/python3.12 cannot be run; RSD needs" in refused.stderr


def test_without_a_name_the_first_supported_python_is_taken(tmp_path: Path) -> None:
    pretend(tmp_path / "python3", "3.14.0")
    assert chosen(tmp_path) == "python3"  # to be refused by its name
    pretend(tmp_path / "python3", "3.13.2")
    assert chosen(tmp_path) == "python3"
    pretend(tmp_path / "python3.13", "3.13.0")
    assert chosen(tmp_path) == "python3.13"
    pretend(tmp_path / "python3.12", "3.12.0", builder="PyPy")
    assert chosen(tmp_path) == "python3.13"
    pretend(tmp_path / "python3.12", "3.12.0")
    assert chosen(tmp_path) == "python3.12"


def test_an_environment_that_is_there_keeps_its_python(tmp_path: Path) -> None:
    older = pretend(tmp_path / "python3.11", "3.11.2")
    python = pretend(tmp_path / "venv" / "bin" / "python", "3.13.0")
    assert chosen(tmp_path, VENV=str(tmp_path / "venv")) == str(python)
    variables = {"PATH": os.environ["PATH"], "VENV": str(tmp_path / "venv")}
    refused = script(PYTHON=str(older), **variables)
    assert refused.returncode == 1
    assert "an environment of Python 3.13" in refused.stderr and "make clean" in refused.stderr


# --- a wheel -----------------------------------------------------------------------------------


EXTRAS = (
    "requirements-remote.txt",
    "requirements-openvla.txt",
    "requirements-onnx.txt",
    "requirements-log.txt",
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a wheel of this checkout holds, unpacked as an installer does, inside somebody else's
    repository."""
    source, elsewhere = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("elsewhere")
    for name in ("pyproject.toml", "requirements.txt", *EXTRAS, "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "rsd", source / "rsd", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(elsewhere), str(source)]
    subprocess.run(command, check=True)
    (wheel,) = elsewhere.glob("rsd-*.whl")
    site = elsewhere / "site"
    zipfile.ZipFile(wheel).extractall(site)
    subprocess.run(["git", "init", "--quiet", str(elsewhere)], check=True)
    return site


def test_a_wheel_asks_for_the_direct_requirements_and_brings_the_command(installed: Path) -> None:
    (distribution,) = metadata.distributions(path=[str(installed)])
    asked = [Requirement(line) for line in distribution.requires or ()]
    always = [str(pin) for pin in asked if pin.marker is None]
    assert always == [str(pin) for pin in requirements("requirements.txt")]
    extra = [f"{pin.name}{pin.specifier}" for pin in asked if pin.marker is not None]
    assert sorted(extra) == sorted(str(pin) for name in EXTRAS for pin in requirements(name))
    (entry,) = distribution.entry_points
    assert (entry.name, entry.value) == ("rsd", "rsd.commands:main")
    assert distribution.version == rsd.__version__


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--task-suite", "toy", "--policy", "toy"], "policy   toy"),
        (["--assets", "lite"], "policy   spatial"),
    ],
)
def test_outside_a_clone_a_wheel_has_all_that_an_evaluation_needs(
    installed: Path, flags: list[str], told: str, tmp_path: Path
) -> None:
    script = (
        "import sys, rsd; from rsd.commands import start; sys.argv[0] = '/venv/bin/rsd'\n"
        "from rsd import provenance; print(rsd.__file__, provenance.code()['git_commit'])\n"
        "start('evaluate', sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "--dry-run", *flags],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"{installed / 'rsd' / '__init__.py'} None"
    assert told in done.stdout and "dry run: nothing was started" in done.stdout
    assert not list(tmp_path.iterdir())


# --- one set of pins ---------------------------------------------------------------------------

OF_TORCHS_BUILD = ("cuda-", "nvidia-", "triton")  # torch itself names their versions


def requirements(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and line[0] not in "#-"]


REQUIRED = (
    "requirements.txt",
    "requirements-dev.txt",
    "requirements-remote.txt",
    "requirements-onnx.txt",
)
FILES = ("constraints.txt", *REQUIRED)


def test_every_supported_python_gets_the_same_versions() -> None:
    pins: dict[str, set[str]] = {}
    for file in FILES:
        for pin in requirements(file):
            assert pin.marker is None and str(pin.specifier).startswith("=="), f"{file}: {pin}"
            pins.setdefault(canonicalize_name(pin.name), set()).add(str(pin.specifier))
    assert not {name: versions for name, versions in pins.items() if len(versions) > 1}


def test_all_that_the_requirements_bring_along_is_pinned_and_installed_as_pinned() -> None:
    pins = {canonicalize_name(pin.name): pin for file in FILES for pin in requirements(file)}
    waiting = [pin for file in REQUIRED for pin in requirements(file)]
    seen: set[tuple[str, str]] = set()
    unpinned = {}
    while waiting:
        asked = waiting.pop()
        for extra in ("", *asked.extras):
            name = canonicalize_name(asked.name)
            if (name, extra) in seen or name.startswith(OF_TORCHS_BUILD):
                continue
            seen.add((name, extra))
            there = metadata.distribution(name)
            if name not in pins or Version(there.version).public not in pins[name].specifier:
                unpinned[name] = there.version
            for line in there.requires or ():
                below = Requirement(line)
                if below.marker is None or below.marker.evaluate({"extra": extra}):
                    waiting.append(below)
    assert not unpinned
    assert len(seen) > 150


def test_files_of_tests_have_names_of_their_own() -> None:
    """pytest imports those of folders that are no packages by their name alone."""
    folders = [path.parent for path in (ROOT / "tests").rglob("__init__.py")]
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if path.parent not in folders]
    assert len({path.name for path in files}) == len(files) > 50
