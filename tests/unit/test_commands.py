"""The command `rsd`: what it says of itself; Ctrl-C while it imports: no word, exit code 130."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rsd.commands import COMMANDS, as_called, called, go_on, program

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
STARTS = {
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
        ["jobs/repeat.py", "docs/results/libero_lite_spatial.parquet", "--worlds", "1"],
        "ray",
    ),
    "delay": (["jobs/delay.py"], "tyro"),
    "ablate": (["jobs/ablate.py"], "tyro"),
    "report": (["-m", "rsd.report", "nothing"], "pandas"),
    "rsd": (["-m", "rsd", "evaluate"], "tyro"),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", STARTS)
def test_ctrl_c_during_imports_is_quiet(name: str, tmp_path: Path) -> None:
    words, module = STARTS[name]
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
        "def work():\n    os.kill(os.getpid(), signal.SIGINT)\n    return 4\n"
        "os.kill(os.getpid(), signal.SIGINT)\ncommands.run(work)"
    )
    words = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", script]
    assert subprocess.run(words, cwd=ROOT).returncode == 4


# --- what it says of itself --------------------------------------------------------------------


def rsd(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", "-m", "rsd", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ([], 2, "Policies that decode"),
        (["--help"], 0, "Policies that decode"),
        (["evalute"], 2, "error: unknown command 'evalute'; did you mean 'evaluate'?"),
        (["--num-trials", "3"], 2, "error: unknown command '--num-trials'"),
    ],
)
def test_without_a_command_it_teaches_them_at_once(words: list[str], code: int, told: str) -> None:
    done = rsd(*words)
    assert done.returncode == code
    lines = (done.stdout or done.stderr).splitlines()
    lines = [line for line in lines if not line.startswith("import time:")]
    assert lines[0].startswith(told)
    for name, what in COMMANDS.items():
        assert [line for line in lines if f"python -m rsd {name} " in line and line.endswith(what)]
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"ray", "torch", "numpy", "pandas", "tyro", "pyarrow"}


def test_every_command_is_there_in_each_of_its_forms() -> None:
    modules = {path.stem for path in (ROOT / "rsd" / "commands").glob("*.py")} - {"__init__"}
    jobs = {path.stem for path in (ROOT / "jobs").glob("*.py")}
    assert set(COMMANDS) == modules == jobs
    assert all(f'start("{name}"' in (ROOT / f"jobs/{name}.py").read_text() for name in COMMANDS)


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("/venv/bin/rsd", "rsd train"),
        ("/site-packages/rsd/__main__.py", "python -m rsd train"),
        ("jobs/evaluate.py", "python jobs/train.py"),
        ("/clone/jobs/evaluate.py", "python /clone/jobs/train.py"),
        ("/clone/jobs/mine.py", "rsd train"),
    ],
)
def test_commands_are_named_the_way_the_user_typed_one(
    typed: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [typed])
    assert called("train") == shown
    assert as_called("as in `rsd train --resume` (rsd trains)") == (
        f"as in `{shown} --resume` (rsd trains)"
    )
    assert go_on("train") == f"go on with `{shown}`, the same arguments and --resume"
    job = ["-m", "rsd", "train"] if "jobs/" not in shown else [shown.removeprefix("python ")]
    assert program("train") == [sys.executable, *job]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_the_same_for_both_forms_but_for_the_commands_name(name: str) -> None:
    texts = [
        subprocess.run(
            [sys.executable, *words, "--help"],
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "200"},
            capture_output=True,
            text=True,
        ).stdout
        for words in (["-m", "rsd", name], [f"jobs/{name}.py"])
    ]
    assert texts[0].startswith(f"usage: python -m rsd {name} ")
    submitted = f"-- python jobs/{name}.py"
    names = [(f"python -m rsd {other}", f"python jobs/{other}.py") for other in COMMANDS]
    texts = [text.replace(submitted, "(a job)") for text in texts]
    for module, job in names:
        texts[0] = texts[0].replace(module, job)
    assert texts[0] == texts[1]


def test_a_reader_of_help_may_leave() -> None:
    process = subprocess.Popen(
        ["sh", "-c", '"$0" -m rsd evaluate --help | head -1', sys.executable],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    shown, told = process.communicate(timeout=60)
    assert shown.startswith("usage: ") and told == ""
