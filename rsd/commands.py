"""How every command starts and ends, whatever is done to it meanwhile.

Importing this module takes no time, so that a command can do it before anything else.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType
    from typing import NoReturn

INTERRUPTED = 130  # exit code of a command that Ctrl-C has ended


def leave_on_interrupt() -> None:
    """From now until `run`, Ctrl-C ends the process at once and without a word.

    For the imports of a command: an exception in their midst comes out as a traceback, and where C
    code loads a module as an ImportError of its own. Where the signal is ignored (`nohup`, a
    shell's background) it stays so.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _leave)


def _leave(signum: int, frame: FrameType | None) -> NoReturn:
    os._exit(INTERRUPTED)


@contextmanager
def importing() -> Iterator[None]:
    """The same for a part of a command that imports what takes seconds, and does nothing else."""
    before = signal.getsignal(signal.SIGINT)
    leave_on_interrupt()
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """`main` on the command line's words; the process ends with the exit code that it returns.

    Standard streams take any text from here on: what their encoding lacks is written as escapes.
    """
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:  # a closed standard file: what is opened
        pass  # next would take its number, and messages with it
    os.close(opened)
    from rsd.console import settle, take_any_text  # rich takes a moment
    from rsd.leaving import leave

    take_any_text(sys.stdout, sys.stderr)
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = main(sys.argv[1:])
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception:  # a fault of ours; `leave` must come all the same
        traceback.print_exc()
        code = 1
    finally:
        settle(sys.stdout, sys.stderr)
    leave(code)
