"""Whether the simulator that runs is the one whose version is recorded. Imports none of it.

A folder on PYTHONPATH (a fork, LIBERO-plus) is imported in place of the installed package, which
still gives its name and version to every record; an edited goal file does the same. Both are found
here, before the first episode.
"""

from __future__ import annotations

import base64
import csv
import functools
import hashlib
import importlib.util
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from rsd.errors import UserError


@dataclass(frozen=True)
class Package:
    """A distribution whose code decides what is simulated."""

    distribution: str
    module: str
    folders: tuple[str, ...]  # where files are compared with what was installed
    endings: tuple[str, ...]  # and which
    portable: bool  # the same files on every Python and platform


LIBERO = Package(
    "hf-libero", "libero", ("libero/",), (".py", ".bddl", ".pruned_init"), portable=True
)
PACKAGES = (
    LIBERO,
    Package("robosuite", "robosuite", ("robosuite/",), (".py", ".xml"), portable=True),
    Package("mujoco", "mujoco", ("mujoco/",), (".py", ".so"), portable=False),
    Package(
        "numpy",
        "numpy",
        ("numpy/linalg/", "numpy/random/", "numpy/_core/", "numpy.libs/"),
        (".py", ".so"),
        portable=False,
    ),
)

# robosuite's own script offers to copy its settings into this file, which then wins over them
_SETTINGS, _OWN_SETTINGS = "macros.py", "macros_private.py"


@functools.cache
def check() -> dict[str, str]:
    """The content of hf-libero (goals and initial states included) and robosuite: a sha256 each.

    A fork may bear the version of the release; it does not bear its hash. Raises UserError where a
    package of the simulator is missing, shadowed by another folder, or not as it was installed.
    Takes a fifth of a second, once a process.
    """
    contents = {}
    for package in PACKAGES:
        root = module_root(package)
        digest = _check_content(package)
        if package.portable:
            contents[package.distribution] = digest
        if package.module == "robosuite":
            _check_settings(root)
    return contents


def module_root(package: Package) -> Path:
    """Folder of the module that an import would find; raises UserError where that is not the
    distribution's."""
    again = "run `make setup`"
    try:
        distribution = metadata.distribution(package.distribution)
    except metadata.PackageNotFoundError:
        raise UserError(f"{package.distribution} is not installed; {again}") from None
    spec = importlib.util.find_spec(package.module)
    installed = Path(str(distribution.locate_file(package.module))).resolve()
    found = Path(spec.origin).parent.resolve() if spec and spec.origin else None
    if found != installed:
        raise UserError(
            f"{package.module!r} would be imported from {found}, not from {package.distribution} "
            f"{distribution.version} in {installed}, which records would name; take that folder "
            f"off PYTHONPATH and the working folder, or {again}"
        )
    return installed


def _check_content(package: Package) -> str:
    """Compare files with the hashes that the installer noted; returns sha256 hex over them all."""
    distribution = metadata.distribution(package.distribution)
    changed, contents = [], []
    # not `distribution.files`, which leaves out what is missing (Python 3.12 and newer)
    for name, noted, _ in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
        algorithm, _, value = noted.partition("=")
        if not value or not name.startswith(package.folders):
            continue
        if not name.endswith(package.endings) and ".so." not in name:
            continue
        contents.append(f"{name} {value}")
        try:
            content = Path(str(distribution.locate_file(name))).read_bytes()
        except OSError:
            changed.append(name)
            continue
        digest = hashlib.new(algorithm, content).digest()
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != value:
            changed.append(name)
    release = f"{package.distribution}=={distribution.version}"
    again = f"pip install --force-reinstall --no-deps {release}"
    if not contents:
        raise UserError(
            f"{package.distribution} was installed without a list of its files, so that it cannot "
            f"be compared with its release; `{again}`"
        )
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(
            f"{', '.join(changed[:3])}{more}: not as in {release}, which records would name; "
            f"`{again}` brings it back"
        )
    return hashlib.sha256("\n".join(sorted(contents)).encode()).hexdigest()


def _check_settings(root: Path) -> None:
    own = root / _OWN_SETTINGS
    if own.exists() and own.read_bytes() != (root / _SETTINGS).read_bytes():
        raise UserError(
            f"{own} changes robosuite's settings, which no record would show; delete it, or make "
            f"it a copy of {_SETTINGS}"
        )
