"""Which asset tree LIBERO loads: a given one, the official one, or the embedded `lite` pack."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import platformdirs

from rsd import arithmetic, installation
from rsd.errors import UserError, using
from rsd.foreign import expanded
from rsd.outputs import check_name, write_atomically
from rsd.suites import SUITES, get_suite, get_task, libero_root

OFFICIAL_REPOSITORY = "lerobot/libero-assets"  # Hugging Face dataset that hf-libero names
SCENE_FILES = {  # BDDL problem -> scene that its environment loads (libero/envs/problems)
    "LIBERO_Tabletop_Manipulation": "libero_tabletop_base_style.xml",
    "LIBERO_Floor_Manipulation": "libero_floor_base_style.xml",
    "LIBERO_Living_Room_Tabletop_Manipulation": "libero_living_room_tabletop_base_style.xml",
    "LIBERO_Kitchen_Tabletop_Manipulation": "libero_kitchen_tabletop_base_style.xml",
    "LIBERO_Study_Tabletop_Manipulation": "libero_study_base_style.xml",
}
CACHE_WAY_OUT = "set XDG_CACHE_HOME to a folder that can be written (else it is .cache in HOME)"
BUILT_IN_FIXTURES = {"table", "floor", "kitchen_table", "study_table", "living_room_table"}


@dataclass(frozen=True)
class ResolvedAssets:
    """An asset tree that was found and checked."""

    name: str  # what records say: `official`, `lite`, or the sha256 of a local tree
    path: Path
    fingerprint: str  # changes whenever a file of the tree does
    reason: str  # why this one, for the one line that a run prints
    simplify_robot: bool = False  # draw the robot with the lite pack's few triangles


def cache_dir() -> Path:
    """This user's cache of the project: generated assets, worlds, LIBERO's configuration."""
    try:
        return Path(platformdirs.user_cache_dir("rsd"))
    except RuntimeError as error:
        raise UserError(f"there is no place for the cache: {error}; {CACHE_WAY_OUT}") from error


def check_cache() -> None:
    """Raises UserError where nothing can be kept in the cache, which every simulator writes to."""
    cache = cache_dir()
    check_name(str(cache))
    with using(f"the cache {cache}", CACHE_WAY_OUT):
        cache.mkdir(parents=True, exist_ok=True)
        for folder in (cache, *(path for path in cache.iterdir() if path.is_dir())):
            tempfile.TemporaryFile(dir=folder).close()


def official_dir() -> Path:
    """Where hf-libero keeps downloaded assets (utils/download_utils.py)."""
    try:
        return Path.home() / ".cache" / "libero" / "assets"
    except RuntimeError as error:
        raise UserError(f"{error} Set HOME: hf-libero looks for its assets there") from error


def resolve(choice: str, suites: Iterable[str]) -> ResolvedAssets:
    """Find and check the assets of `suites` for `auto`, `lite`, `official` or a folder.

    `auto` takes official assets that were downloaded before, else lite; nothing is downloaded
    here. Raises UserError that names missing files or the command that brings them, files that
    cannot be read or kept, and where this process would simulate something else than records say
    (`arithmetic`, `installation`).
    """
    arithmetic.check()
    installation.check()
    check_cache()
    with using("the assets", "mend that, or choose others with --assets"):
        return _resolve(choice, suites)


def _resolve(choice: str, suites: Iterable[str]) -> ResolvedAssets:
    if choice == "auto":
        complete = _official_is_here() and not _all_missing(official_dir(), suites)
        choice = "official" if complete else "lite"
    if choice == "lite":
        _refuse_suites_beyond_lite(suites)
    named: dict[str, Callable[[], ResolvedAssets]] = {"lite": _lite, "official": _official}
    assets = named[choice]() if choice in named else _local(choice)
    _check(assets, suites)
    return assets


def _official_is_here() -> bool:
    """hf-libero's own test for a finished download."""
    folders = ("articulated_objects", "stable_scanned_objects", "turbosquid_objects", "scenes")
    return all((official_dir() / folder).is_dir() for folder in folders)


def _official() -> ResolvedAssets:
    if not _official_is_here():
        raise UserError(
            f"LIBERO's official assets are not in {official_dir()}; "
            "`python -m rsd.envs.assets` downloads them, `--assets lite` runs without"
        )
    digest = tree_sha256(official_dir())
    return ResolvedAssets("official", official_dir(), digest, "downloaded before")


def _refuse_suites_beyond_lite(suites: Iterable[str]) -> None:
    from rsd.envs import lite

    beyond = sorted(set(suites) - set(lite.SUITES))
    if beyond:
        raise UserError(
            f"the embedded assets do not cover {', '.join(beyond)} "
            f"(only {', '.join(lite.SUITES)}); `python -m rsd.envs.assets` downloads LIBERO's own, "
            "`--assets PATH` takes a local tree"
        )


def _lite() -> ResolvedAssets:
    from rsd.envs import lite

    fingerprint = lite.fingerprint()
    path = cache_dir() / "lite" / fingerprint[:16]
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=path.parent))
        lite.write_tree(aside)
        try:
            aside.rename(path)
        except OSError:  # another process was faster; its tree is the same
            shutil.rmtree(aside)
            if not path.is_dir():
                raise
    reason = "embedded pack; `python -m rsd.envs.assets` fetches LIBERO's own"
    return ResolvedAssets("lite", path, fingerprint, reason, simplify_robot=True)


def _local(choice: str) -> ResolvedAssets:
    path = expanded(choice).resolve()
    if not path.is_dir():
        raise UserError(
            f"no asset tree at {choice!r}; give a folder, or one of auto, lite, official"
        )
    for _ in os.walk(path, onerror=_refuse):  # `rglob` passes over what it may not read
        pass
    digest = tree_sha256(path)
    return ResolvedAssets(digest, path, digest, "given")


def _refuse(error: OSError) -> None:
    raise error


def tree_sha256(path: Path) -> str:
    """sha256 over relative names and contents of all files below `path`, in sorted order; hidden
    ones, such as a downloader's notes, do not count."""
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        if any(part.startswith(".") for part in file.relative_to(path).parts):
            continue
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(path)}\0{content}\n".encode())
    return digest.hexdigest()


def _check(assets: ResolvedAssets, suites: Iterable[str]) -> None:
    missing = _all_missing(assets.path, suites)
    if missing:
        shown = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if missing[8:] else "")
        raise UserError(
            f"the asset tree {assets.path} ({assets.reason}) lacks {len(missing)} file(s): {shown}"
        )


def _all_missing(tree: Path, suites: Iterable[str]) -> list[str]:
    return sorted(set().union(*(_missing(tree, suite) for suite in suites)))


def _missing(tree: Path, suite: str) -> set[str]:
    """What the suite's tasks would ask for and the tree lacks: XML files and what they refer to."""
    have = {file.stem: file for file in tree.rglob("*.xml")}
    missing = set()
    for name in required_models(suite):
        if name not in have:
            missing.add(f"{name}.xml")
            continue
        try:
            root = ElementTree.parse(have[name]).getroot()
        except ElementTree.ParseError as error:
            raise UserError(f"{have[name]} is no readable XML: {error}") from error
        for element in root.findall("./asset/*[@file]"):
            reference = element.get("file", "")
            if not (have[name].parent / reference).exists():
                missing.add(os.path.relpath(have[name].parent / reference, tree))
    return missing


def required_models(suite: str) -> set[str]:
    """Stems of the XML files that a suite's BDDL files make LIBERO load: objects and scenes."""
    models = set()
    for task_id in range(get_suite(suite).num_tasks):
        text = get_task(suite, task_id).bddl_path.read_text()
        problem = re.search(r"\(problem (\w+)\)", text)
        if problem is None:
            raise UserError(f"{get_task(suite, task_id).bddl_path} names no problem")
        models.add(Path(SCENE_FILES[problem.group(1)]).stem)
        for section in re.findall(r"\(:(?:fixtures|objects)(.*?)\)", text, re.DOTALL):
            models.update(re.findall(r"-\s+(\w+)", section))
    return models - BUILT_IN_FIXTURES


def activate(assets: ResolvedAssets) -> ResolvedAssets:
    """Make LIBERO in this process use `assets` and never ask on standard input (PROTOCOL 12).

    The tree was resolved on the driver's machine: on this one, lite is generated when missing and
    any other tree has to lie at the same path. Returns the assets as they lie on this node.
    """
    import yaml

    check_cache()
    if assets.name == "lite":
        wanted, assets = assets, _lite()
        if assets.fingerprint != wanted.fingerprint:
            raise UserError("this node's code generates other lite assets than the driver's")
    if not assets.path.is_dir():
        raise UserError(f"the asset tree {assets.path} is not on this node ({platform.node()})")
    arithmetic.check()
    installation.check()
    config = cache_dir() / "libero" / hashlib.sha256(str(libero_root()).encode()).hexdigest()[:16]
    root = libero_root()
    paths = {
        "benchmark_root": root,
        "bddl_files": root / "bddl_files",
        "init_states": root / "init_files",
        "datasets": root.parent / "datasets",
        "assets": root / "assets",
    }
    write_atomically(
        config / "config.yaml", yaml.safe_dump({k: str(v) for k, v in paths.items()}).encode()
    )
    os.environ["LIBERO_CONFIG_PATH"] = str(config)
    import libero.libero

    libero.libero._assets_path_cache = str(assets.path)
    return assets


def check_node(assets: ResolvedAssets) -> None:
    """Raises UserError where this node lacks the assets that the driver resolved, or has others at
    their path: half a copy has the name of the whole."""
    here = activate(assets)
    if assets.name == "lite":
        return  # generated here, and compared
    found = tree_sha256(here.path)
    if found != assets.fingerprint:
        raise UserError(
            f"the asset tree {here.path} on this node ({platform.node()}) is another one than the "
            f"driver's: {found[:12]} instead of {assets.fingerprint[:12]}; copy it again"
        )


def download_official() -> Path:
    """Download LIBERO's assets, with progress. Raises UserError where the hub is unreachable."""
    from huggingface_hub import snapshot_download

    target = official_dir()
    print(f"downloading {OFFICIAL_REPOSITORY} to {target}", flush=True)
    try:
        snapshot_download(OFFICIAL_REPOSITORY, repo_type="dataset", local_dir=target)
    except Exception as error:  # the hub client raises many unrelated types
        raise UserError(
            f"could not download {OFFICIAL_REPOSITORY} from the Hugging Face hub: {error}\n"
            "check the network or set HF_ENDPOINT to a mirror; evaluation runs without it "
            "on `--assets lite` or `--assets PATH`"
        ) from error
    _check(_official(), SUITES)
    return target


if __name__ == "__main__":
    try:
        print(f"official assets are in {download_official()}")
    except UserError as error:
        sys.exit(f"error: {error}")
