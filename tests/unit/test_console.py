"""What commands print arrives as it is, or nowhere; it never ends them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rsd.console import PLAIN, complain, make_console

ROOT = Path(__file__).parents[2]
ODD = "results/[red]x[/red] :smile: 50 % … \udcff"
PRINT = f"""
import sys
from rsd import commands
from rsd.console import complain, make_console

def work():
    for number in range(2000):
        make_console().print({ODD!r}, number)
    complain("the end")
    return 3

commands.run(work)
"""


def test_brackets_and_words_between_colons_stay(capsys: pytest.CaptureFixture[str]) -> None:
    make_console().print("[red]x[/red] :smile: [1, 2]")
    make_console().print("[red]x[/red] :smile:", **PLAIN)
    complain("error: run [x] :smile:")
    captured = capsys.readouterr()
    assert captured.out.splitlines() == ["[red]x[/red] :smile: [1, 2]", "[red]x[/red] :smile:"]
    assert captured.err == "error: run [x] :smile:\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_an_encoding_lacks_is_written_as_escapes(encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINT],
        env={"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    dots = b"\xe2\x80\xa6" if encoding == "utf-8" else rb"\u2026"
    first = rb"results/[red]x[/red] :smile: 50 % " + dots + rb" \udcff 0"
    assert done.stdout.splitlines()[0] == first
    assert (done.returncode, done.stderr) == (3, b"the end\n")


def test_a_pipe_that_somebody_closes_and_a_full_disk_change_no_exit_code() -> None:
    words = [sys.executable, "-c", PRINT]
    piped = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert piped.stdout is not None and piped.stderr is not None
    piped.stdout.readline()
    piped.stdout.close()
    assert (piped.wait(60), piped.stderr.read()) == (3, b"the end\n")
    piped.stderr.close()

    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, cwd=ROOT, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 3
    first, last = done.stderr.splitlines()
    assert b"standard output cannot be written: [Errno 28]" in first and last == b"the end"

    closed = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *words], cwd=ROOT)
    assert closed.returncode == 3
