"""The command `rsd`, and how each of its commands starts and ends, whatever happens meanwhile.

A command is a module of this package with `main(words, console) -> exit code`, and an entry in
`COMMANDS`. Importing this package takes no time: what a command needs is imported once it is known,
under `importing`.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

COMMANDS = {
    "evaluate": "run a policy's episodes in parallel; Parquet comes out",
    "serve": "a policy to other harnesses, over a websocket",
    "report": "what runs say: tables, a page for a browser, figures for a paper",
    "status": "how far a run is, from another shell",
    "collect": "demonstrations of the scripted experts, as HDF5",
    "train": "a policy from demonstrations",
    "calibrate": "when the draft of a policy may be trusted, from rollouts",
    "benchmark": "what simulator, decoding, tokeniser, driver and books cost",
    "results": "keep runs compactly, make the tables of a page, import and export",
    "log": "a finished run to wandb, TensorBoard or MLflow",
    "delay": "how success falls when chunks come late, as a run and a picture",
    "ablate": "one base and its variations, factor by factor: runs, a table, curves",
    "repeat": "evaluate a sample of recorded results again, and compare",
    "replay": "videos of recorded episodes, simulated again from their actions",
    "verify": "whether recorded episodes end as recorded when they are simulated again",
    "chaos": "kill a run again and again, resume it, and audit its books",
}

# Exit codes. 3 is a command's own: it did what it was asked for, and not all came out well.
DONE, STOPPED, BAD_REQUEST, INTERRUPTED = 0, 1, 2, 130


def main() -> NoReturn:
    """`rsd COMMAND ...`: the process becomes that command."""
    leave_on_interrupt()
    name, words = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if name in COMMANDS:
        start(name, words)
    run(lambda: _teach(name))


def _teach(name: str) -> int:
    """What there is, one line each; after why `name` is none of it, unless it asks."""
    from rsd.console import PLAIN, complain, make_console

    asked = name in ("-h", "--help", "help")
    if name and not asked:
        from rsd.errors import unknown

        complain(f"error: {unknown('command', name, list(COMMANDS))}")
    console = make_console(stderr=not asked)
    width = max(len(called(command)) for command in COMMANDS)
    for line in (
        "Policies that decode speculatively, on LIBERO, across a Ray cluster.",
        "",
        *(f"  {called(command):{width}}  {what}" for command, what in COMMANDS.items()),
        "",
        f"`{called('evaluate')} --help` explains one of them.",
    ):
        console.print(line, **PLAIN)
    return DONE if asked else BAD_REQUEST


def called(name: str) -> str:
    """How the user calls a command, as this one was: for help, and for what tells how to go on."""
    if job := _job(name):
        return f"python {job}"
    return f"python -m rsd {name}" if Path(sys.argv[0]).name == "__main__.py" else f"rsd {name}"


def go_on(name: str, *flags: str) -> str:
    """What to do after a command has stopped or was interrupted."""
    return f"go on with `{called(name)}`, the same arguments and {' '.join([*flags, '--resume'])}"


def program(name: str) -> list[str]:
    """The words that start a command, from the same code as this process."""
    job = _job(name)
    return [sys.executable, *([str(job)] if job else ["-m", "rsd", name])]


def _job(name: str) -> Path | None:
    """The file in jobs/ that starts a command, where one of them started this process."""
    file = Path(sys.argv[0])
    is_one = file.stem in COMMANDS and file.resolve().parent.name == "jobs"
    return file.with_name(f"{name}.py") if is_one else None


def as_called(text: str) -> str:
    """Text of ours, which says `rsd NAME`, with commands the way this process was called."""
    return re.sub(rf"\brsd ({'|'.join(COMMANDS)})\b", lambda found: called(found[1]), text)


def start(name: str, words: Sequence[str]) -> NoReturn:
    """The process becomes one command."""
    leave_on_interrupt()
    import_module(f"rsd.commands.{name}")
    run(lambda: call(name, words))


def call(name: str, words: Sequence[str]) -> int:
    """Carry a command out; returns its exit code. What the user can mend, what stops it, Ctrl-C and
    SIGTERM end it in a sentence or without a word; a tyro error or `--help` by SystemExit."""
    from rsd.console import complain, make_console
    from rsd.errors import RunStoppedError, UserError
    from rsd.leaving import terminable

    command = import_module(f"rsd.commands.{name}")
    try:
        with terminable():
            return command.main(words, make_console())
    except UserError as error:
        complain(f"error: {error}")
        return BAD_REQUEST
    except RunStoppedError as error:
        complain(f"stopped: {error}")
        return STOPPED
    except KeyboardInterrupt:
        return INTERRUPTED


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


def run(work: Callable[[], int]) -> NoReturn:
    """The process does this work and ends with the exit code that it returns.

    Standard streams take any text from here on: what their encoding lacks is written as escapes.
    """
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:  # a closed standard file: what is opened
        pass  # next would take its number, and messages with it
    os.close(opened)
    from rsd.console import flush, take_any_text  # rich takes a moment
    from rsd.leaving import leave

    take_any_text(sys.stdout, sys.stderr)
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = work()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception:  # a fault of ours; `leave` must come all the same
        traceback.print_exc()
        code = STOPPED
    finally:
        flush(sys.stdout, sys.stderr)
    leave(code)
