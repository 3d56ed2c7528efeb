"""What a user may not read, for tests that run as root too, who may read everything."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

NOBODY = 65534
OPEN = 0o055  # may be listed and passed through by its group, which stays ours, and by others


@contextlib.contextmanager
def forbidden(path: Path, base: Path) -> Iterator[None]:
    """Nobody may read `path`, and this process is nobody; `base`, pytest's folder for this test,
    and those above it are open."""
    root = os.geteuid() == 0
    if root:
        for folder in (base, *base.parents):
            if folder.stat().st_mode & OPEN != OPEN:
                folder.chmod(folder.stat().st_mode | OPEN)
    mode = path.stat().st_mode
    path.chmod(0)  # it may be `base` itself
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        path.chmod(mode)
