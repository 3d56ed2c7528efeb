"""Errors that a user can act on."""

from __future__ import annotations

import difflib
import reprlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

LONGEST = 4000  # characters of a message; what it quotes may be a file's


class RunStoppedError(RuntimeError):
    """The run cannot go on; what is recorded stays, --resume goes on from there."""


class PolicyAwayError(RuntimeError):
    """What decides cannot be asked now; nothing is wrong with whoever asks. To be asked again."""


def printable(text: str) -> str:
    """Foreign text as a terminal may get it: control characters, which could move the cursor,
    colour or hide what follows, become escapes such as \\x1b; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable() or char in "\n\t" or unicodedata.category(char) == "Zs"
        else char.encode("unicode_escape").decode()
        for char in text
    )


def brief(value: object, longest: int = 100) -> str:
    """`repr` of a value out of a file, cut where it is long."""
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = shortener.maxlong = longest
    return shortener.repr(value)


class UserError(ValueError):
    """Something that the user can mend; shown without a traceback, and `printable`."""

    def __init__(self, message: str) -> None:
        shown = printable(message[:LONGEST])
        left = len(message) - LONGEST
        super().__init__(f"{shown}... ({left} more characters)" if left > 0 else shown)


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Raises UserError, with the file's name, where the system does not let it be read."""
    try:
        yield
    except PermissionError as error:
        raise UserError(
            f"{path} may not be read by this user ({error.strerror}); have its owner allow it "
            "(chmod), or give a copy"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


class CannotWriteError(UserError):
    """A file has no place: what was done until then stays, and --resume goes on from it."""


@contextmanager
def writing(path: Path, flag: str = "--output") -> Iterator[None]:
    """Raises CannotWriteError, with the file's name, where writing it fails: a full disk's has
    none. `flag` chooses another place."""
    try:
        yield
    except OSError as error:
        raise CannotWriteError(
            f"cannot write {path}: {error}; make room there, or choose another {flag}"
        ) from error


@contextmanager
def using(what: str, way_out: str) -> Iterator[None]:
    """Raises UserError, with the path that the system names and a way out, where it refuses a
    file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot use {what}: {error}; {way_out}") from error


def unknown(what: str, value: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in a table: the value, the nearest name, all names, with
    their descriptions where `known` has some."""
    names = sorted(known)
    value = value[:LONGEST]
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    told = known if isinstance(known, Mapping) else {}
    shown = [f"{name}: {told[name]}" if isinstance(told.get(name), str) else name for name in names]
    return UserError(f"unknown {what} {value!r}{hint} (known: {', '.join(shown)})")
