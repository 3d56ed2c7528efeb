"""What a user may not read, for tests that run as root too, who may read everything."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

NOBODY = 65534


@contextlib.contextmanager
def forbidden(path: Path, base: Path) -> Iterator[None]:
    """Nobody may read `path`, and this process is nobody; the folders down to `base`, pytest's
    for this test, can be passed through."""
    for folder in (base, base.parent, base.parent.parent):
        folder.chmod(0o755)
    mode = path.stat().st_mode
    path.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        path.chmod(mode)
