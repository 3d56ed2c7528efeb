"""Where outputs go, and how a file gets there: whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

UPLOADED = "working_dir_files"  # part of the path where Ray unpacks an uploaded working folder
ASIDE = ".tmp"  # how names of files end that are not yet in place; they begin with a dot


def lasting(output: str) -> str:
    """A folder or address for what a job writes.

    A working folder that `ray job submit` uploaded is deleted some time after the job, so there
    relative paths start at the home folder.
    """
    if UPLOADED in Path.cwd().parts and "://" not in output:
        return str(Path.home() / Path(output).expanduser())
    return output


@contextmanager
def aside(path: Path) -> Iterator[IO[bytes]]:
    """A new file beside `path` that takes its place when the context ends well.

    It is on the disk before it is renamed: a reader sees the old content, the new one or no file,
    also after a power cut. Nothing is left of it after an exception; what a kill leaves is named
    `.<name>.*.tmp`. Raises OSError, on a full disk for one, and makes the folder where it is
    missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=ASIDE, dir=path.parent)
    unfinished = Path(name)
    try:
        with os.fdopen(handle, "w+b") as stream:
            yield stream
            stream.flush()
            os.fchmod(stream.fileno(), 0o644)  # mkstemp lets nobody else read
            os.fsync(stream.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Put a file in place whole; see `aside`."""
    with aside(path) as stream:
        stream.write(content)


def unfinished(folder: Path) -> list[Path]:
    """What a killed writer left in a folder itself."""
    return sorted(folder.glob(f".*{ASIDE}"))
