"""How commands print: words as they are, and whatever happens to what they are written to."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from datetime import timedelta
from typing import IO, Any, cast

from rich.console import Console
from rich.text import Text

from rsd.errors import printable

LINE_PERIOD_S = 15.0  # between lines of progress where there is no terminal
PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "emoji": False, "soft_wrap": True}


PIPE_WIDTH = 400  # columns, where nothing says how many there are: enough for any table


class SafeConsole(Console):
    """Shows control characters in lines, cells and titles as escapes: names of tasks, arms and
    suites, and what went wrong on a worker, come out of files that others wrote."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


def make_console(*, stderr: bool = False) -> Console:
    """The console of a command: the only one that it prints to, or the one of its errors. As wide
    as the terminal, or as COLUMNS says, else PIPE_WIDTH.

    Text is never read as markup: `[brackets]` and `:words:` of paths and messages stay. A character
    that the stream's encoding lacks is written as an escape. Where the stream cannot be written
    (`| head` has gone, its disk is full, its terminal is closed), printing goes nowhere: what the
    command is there for goes on, and its exit code says how it ended.
    """
    stream = sys.stderr if stderr else sys.stdout
    take_any_text(stream)
    file = cast(IO[str], _Lasting(stream)) if stream is not None else io.StringIO()
    console = SafeConsole(file=file, markup=False, highlight=False, emoji=False)
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdecimal():
        console.width = PIPE_WIDTH
    return console


def complain(line: str) -> None:
    """Print why something cannot be done, to standard error."""
    make_console(stderr=True).print(line, style="red", **PLAIN)


def take_any_text(*streams: IO[str] | None) -> None:
    """Let a stream write what its encoding lacks as escapes, instead of raising."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush(*streams: IO[str] | None) -> None:
    """Write what standard streams hold back; what cannot be written is dropped here, where the
    interpreter would complain of it and change the exit code."""
    for stream in streams:
        if stream is not None:
            _Lasting(stream).flush()


class _Lasting:
    """A text stream whose writing never raises: after the first failure it goes nowhere."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:  # a stream that `take_any_text` knows no way for
            return self._stream.write(text.encode("ascii", "backslashreplace").decode())
        except (OSError, ValueError) as error:  # the latter where the stream is closed
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._give_up(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self, error: Exception) -> None:
        """Point the stream's file elsewhere: what it holds back would be tried again for ever."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, self._stream.fileno())
        except (OSError, ValueError):  # it has no file, or none any more
            self._stream = io.StringIO()
        finally:
            os.close(nowhere)
        if not isinstance(error, BrokenPipeError) and self._stream is sys.stdout:
            with contextlib.suppress(OSError, ValueError):
                print(f"standard output cannot be written: {error}", file=sys.stderr)


def duration(seconds: float | None) -> str:
    """`1:02:03`; ? of what nobody knows yet."""
    return "?" if seconds is None else str(timedelta(seconds=round(seconds)))
