"""Errors that a user can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(ValueError):
    """Something that the user can mend; shown without a traceback."""


class CannotWriteError(UserError):
    """A file has no place: what was done until then stays, and --resume goes on from it."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises CannotWriteError, with the file's name, where writing it fails: a full disk's has
    none."""
    try:
        yield
    except OSError as error:
        raise CannotWriteError(
            f"cannot write {path}: {error}; make room there or choose another --output"
        ) from error


def unknown(what: str, value: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in a table: the value, the nearest name, all names."""
    names = sorted(known)
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {what} {value!r}{hint} (known: {', '.join(names)})")
