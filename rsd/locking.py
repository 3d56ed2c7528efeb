"""One writer a folder, on file systems that know locks."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rsd.errors import UserError, writing

LOCK_FILE = ".lock"


def hold(folder: Path, shown: str = "") -> IO[bytes] | None:
    """Hold a folder against a second writer until the file is closed or the process dies.

    None where the file system knows no locks, as some network file systems: there two writers on
    one folder remain the user's business. Raises UserError, naming the folder as `shown`, where
    another process holds it.
    """
    file = (folder / LOCK_FILE).open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(
            f"another process is writing to {shown or folder}; wait for it or stop it, then resume"
        ) from None
    except OSError:
        file.close()
        return None
    return file


def held(folder: Path) -> bool | None:
    """Whether a process holds a folder now; None where that cannot be told: no lock file, or a file
    system that knows no locks."""
    try:
        with (folder / LOCK_FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


@contextmanager
def let_go_on_failure(lock: IO[bytes] | None) -> Iterator[None]:
    """Let another writer have the folder at once where the block fails. The traceback would keep
    the file open as long as anybody looks at it."""
    try:
        yield
    except BaseException:
        if lock is not None:
            lock.close()
        raise


def claim(folder: Path, resume: bool, flag: str = "--output") -> IO[bytes] | None:
    """Make a folder and hold it, as `hold`; `flag` names another one.

    Raises UserError also where it holds something and `resume` is not asked for; CannotWriteError.
    """
    with writing(folder, flag):
        folder.mkdir(parents=True, exist_ok=True)
        lock = hold(folder)
    with let_go_on_failure(lock):
        if not resume and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise UserError(
                f"{folder} is not empty; --resume goes on with what it holds, another {flag} "
                "starts anew"
            )
    return lock
