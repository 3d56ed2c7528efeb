"""How a command ends: by a signal, or although a library's threads do not. No torch, no ray."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

_left_behind: list[Future[Any]] = []


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does: both leave alike."""

    def on_signal(signum: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def leave_behind(work: Future[Any]) -> None:
    """Nobody waits any more for what a thread does: it hangs in a library."""
    _left_behind.append(work)


def is_left_behind() -> bool:
    """Whether a thread goes on that `leave` must not wait for."""
    return any(not work.done() for work in _left_behind)


def leave(code: int) -> NoReturn:
    """End the process, at once where a thread was left behind: what libraries do at the end of a
    process would wait for it."""
    if is_left_behind():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
