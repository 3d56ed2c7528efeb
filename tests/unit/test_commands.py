"""Ctrl-C while a command imports: no word, exit code 130."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# As a library in C does it, whose import is interrupted.
SLOW = """
import time
print("importing", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    raise ImportError("numpy.core.multiarray failed to import")
"""
TOY = ["--task-suite", "toy", "--policy", "toy", "--dry-run"]
COMMANDS = {
    "evaluate": (["jobs/evaluate.py"], "tyro"),
    "evaluate, ray": (["jobs/evaluate.py", *TOY], "ray"),
    "collect": (["jobs/collect.py"], "tyro"),
    "collect, ray": (["jobs/collect.py", "--output", "/nowhere/x", "--assets", "lite"], "ray"),
    "train": (["jobs/train.py"], "h5py"),
    "benchmark": (["jobs/benchmark.py"], "tyro"),
    "benchmark, torch": (["jobs/benchmark.py", "decoding"], "torch"),
    "results": (["jobs/results.py"], "pandas"),
    "chaos": (["jobs/chaos.py"], "pandas"),
    "repeat": (["jobs/repeat.py"], "pandas"),
    "repeat, ray": (
        ["jobs/repeat.py", "docs/results/libero_lite.parquet", "--worlds", "1"],
        "ray",
    ),
    "report": (["-m", "rsd.report", "nothing"], "pandas"),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_during_imports_is_quiet(name: str, tmp_path: Path) -> None:
    words, module = COMMANDS[name]
    (tmp_path / f"{module}.py").write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while process.stdout.readline() != "importing\n":
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "")


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    """`nohup`, and what a shell runs in the background."""
    script = (
        "import os, signal\nfrom rsd import commands\n"
        "commands.leave_on_interrupt()\n"
        "def main(words):\n    os.kill(os.getpid(), signal.SIGINT)\n    return 4\n"
        "os.kill(os.getpid(), signal.SIGINT)\ncommands.run(main)"
    )
    words = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", script]
    assert subprocess.run(words, cwd=ROOT).returncode == 4
