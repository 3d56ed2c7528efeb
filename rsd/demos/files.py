"""Which files hold demonstrations, and what a folder without any holds instead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rsd.demos.hdf5 import check_kind
from rsd.errors import UserError, reading
from rsd.foreign import expanded
from rsd.suites import Task

SUFFIX = "_demo.hdf5"


def task_file(folder: Path, task: Task) -> Path:
    """Where a task's demonstrations lie in a folder, by LIBERO's own naming."""
    return folder / f"{task.name}{SUFFIX}"


def part_files(folder: Path, task_name: str = "*") -> list[Path]:
    """Files of single demonstrations in a folder that is being collected, of a task or of all."""
    found = folder.glob(f"parts/{task_name}/[0-9]*.hdf5")
    return sorted(path for path in found if path.stem.isascii() and path.stem.isdigit())


def files_of(paths: Sequence[str | Path]) -> list[Path]:
    if not paths:
        raise UserError("no demonstrations are named; give at least one file or folder")
    files: list[Path] = []
    for path in map(expanded, paths):
        files += _at(path)
    if len({file.resolve() for file in files}) < len(files):
        raise UserError("the same demonstrations are given twice; name every file or folder once")
    return files


def _at(path: Path) -> list[Path]:
    """A file itself, or those in a folder; each can be opened as HDF5."""
    with reading(path):
        if not path.exists() and not path.is_symlink():
            raise UserError(_no_demonstrations(path))
        names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else None
    if names is None:
        check_kind(path)
        return [path]
    unmerged = part_files(path)
    if unmerged:
        raise UserError(
            f"{path} holds {len(unmerged)} demonstration(s) of an interrupted or running "
            "collection that are not in its tasks' files yet; the same `rsd collect` "
            "with --resume goes on"
        )
    found = [path / name for name in names if name.endswith(SUFFIX) and not name.startswith(".")]
    if not found:
        with reading(path):
            raise UserError(_no_demonstrations(path) + _what_is_there(path, names))
    for file in found:
        check_kind(file)
    return found


def _no_demonstrations(path: Path) -> str:
    return (
        f"no demonstrations at {path}: expected a file or a folder of *{SUFFIX}; "
        "`rsd collect` makes them"
    )


def _what_is_there(folder: Path, names: Sequence[str]) -> str:
    """For a message: what a folder without demonstrations holds instead."""

    def ending(*suffixes: str) -> list[str]:
        return [name for name in names if name.lower().endswith(suffixes)]

    if ending(".parquet") or (folder / "meta" / "info.json").exists():
        return ". It holds a LeRobot data set (Parquet); give the HDF5 files it was made of"
    if ending(".tfrecord") or "features.json" in names or any(".tfrecord-" in n for n in names):
        return ". It holds an RLDS data set (TFRecord); give the HDF5 files it was made of"
    if packed := ending(".zip", ".tar", ".gz", ".tgz"):
        return f". It holds {packed[0]}: unpack that first"
    if others := ending(".hdf5", ".h5"):
        return f". It holds {others[0]}: to have such files read, name them themselves"
    below = [name for name in names[:200] if any((folder / name).glob(f"*{SUFFIX}"))]
    if below:
        return f". Folders in it do: give {', '.join(str(folder / name) for name in below[:5])}"
    return ""
