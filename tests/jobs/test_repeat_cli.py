"""How `rsd repeat` ends: what stops it, and with which exit code. What it compares is tested in
tests/unit/test_repeat.py."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from rsd.cluster import evaluate as evaluation
from rsd.cluster import session
from rsd.commands import call, repeat
from rsd.errors import CannotWriteError

KEPT = str(Path(__file__).parents[2] / "docs" / "results" / "libero_lite_spatial.parquet")
FLAGS = [KEPT, "--worlds", "1", "--arms", "speculative"]


def away() -> None:
    raise CannotWriteError("cannot write s3://bucket/run (9 tries in 300 s)")


ENDS = {
    "one Ctrl-C: what was running has ended": (lambda: None, 130, ""),
    "SIGTERM": (lambda: os.kill(os.getpid(), signal.SIGTERM), 130, ""),
    "a store that stays away": (away, 1, "stopped: cannot write s3://bucket/run"),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_repetition_that_is_cut_short_says_so_and_is_no_difference(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    what: Callable[[], None]
    what, code, told = ENDS[name]

    def evaluate(run: object, books: object, console: object) -> SimpleNamespace:
        what()
        return SimpleNamespace(planned=4, recorded=1)

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    monkeypatch.setattr(session, "connected", contextlib.nullcontext)
    monkeypatch.setattr(repeat, "open_books", lambda run, say: contextlib.nullcontext())
    assert call("repeat", FLAGS) == code
    assert told in capsys.readouterr().err
