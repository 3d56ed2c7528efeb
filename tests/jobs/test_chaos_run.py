from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from rsd.chaos.blows import plan_events
from rsd.chaos.store import Proxy, Store
from rsd.commands import call
from rsd.commands.chaos import print_report
from rsd.console import make_console
from rsd.outputs import check_address

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "jobs" / "chaos.py"
SEED = 3514  # the plan below

pytestmark = pytest.mark.timeout(300)


def test_help_teaches_what_is_struck_and_audited(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        call("chaos", ["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    for word in ("--victims", "SIGSTOP", "planned = rows = unique keys", "Exit codes", "-- --pol"):
        assert word in text


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--kills", "0"], "--kills 0: at least 1"),
        (["--patience-s", "-1"], "--patience-s -1.0: more than 0 seconds"),
        (["--victims", "wroker"], "did you mean 'worker'"),
        (["--victims", "store", "--store-command", "no-such-server"], "there is no program of"),
        (["--", "--task-suite", "toy", "--policy", "toy", "--output", "x"], "leave --output"),
        (["--", "--task-suite", "tyo"], "did you mean 'toy'"),
    ],
)
def test_a_campaign_that_cannot_be_run_is_told_in_one_message(
    flags: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("chaos", ["--output", str(tmp_path / "chaos"), *flags]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and told in captured.err
    assert not list(tmp_path.glob("chaos/*"))


def test_a_folder_that_holds_something_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert call("chaos", ["--output", str(tmp_path)]) == 2
    assert "is not an empty folder" in capsys.readouterr().err


def test_a_report_on_a_narrow_terminal_loses_no_digit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "44")
    entry = {"number": 1, "run": "run-000", "session": 0, "signal": "SIGKILL", "lasts_s": None}
    entry |= {"victim": "raylet", "then": "went on and on", "rows_after_s": 12.5}
    entry["longest_gap_s"] = 123.25
    print_report([entry], {"one row each": ["run-000: [1] of 90"]}, make_console())
    text = capsys.readouterr().out
    for word in ("run-000.0", "SIGKILL", "raylet", "12.5 s", "123.2 s", "[1]"):
        assert word in text


def test_a_store_behind_the_proxy_goes_away_and_comes_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as store:

        def echo() -> None:
            while True:
                try:
                    connection, _ = store.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(connection.recv(100).upper())

        threading.Thread(target=echo, daemon=True).start()
        proxy = Proxy(store.getsockname()[1])

        def ask() -> bytes:
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connection:
                connection.sendall(b"here")
                return connection.recv(100)

        assert ask() == b"HERE"
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as open_one:
            proxy.refuse()
            with pytest.raises(ConnectionRefusedError):
                ask()
            with suppress(ConnectionResetError):
                assert open_one.recv(100) == b""
        proxy.open()
        assert ask() == b"HERE"


def test_outputs_in_the_store_are_addresses_that_a_run_takes() -> None:
    store = object.__new__(Store)  # nothing is started
    check_address(store.address("run-000", 5000))


def test_a_report_that_cannot_be_written_is_told_before_anything_is_struck(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    report = tmp_path / "file" / "report.json"
    assert call("chaos", ["--output", str(tmp_path / "chaos"), "--report", str(report)]) == 2
    captured = capsys.readouterr()
    assert f"cannot write {report}" in captured.err and not captured.out


def test_a_small_campaign_on_toy_episodes_keeps_every_promise(tmp_path: Path) -> None:
    """A worker is killed, one is stopped for a moment, the run is interrupted and resumed."""
    planned = [(e.victim, e.signal) for e in plan_events(SEED, 3, ["worker", "group"])]
    assert planned == [("worker", "SIGKILL"), ("worker", "SIGSTOP"), ("group", "SIGINT")]
    report = tmp_path / "report.json"
    command = [sys.executable, str(SCRIPT), "--output", str(tmp_path / "chaos")]
    command += ["--seed", str(SEED), "--kills", "3", "--victims", "worker", "group"]
    command += ["--report", str(report), "--", "--task-suite", "toy_slow", "--tasks", "0", "1", "2"]
    command += ["--num-trials", "15", "--policy", "toy", "--workers", "2"]
    command += ["--worker-memory-gb", "0.2"]
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}  # nobody's: it has a Ray of its own
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every promise held" in done.stdout
    told = json.loads(report.read_text())
    assert told["held"] and told["episodes"] == 90 and told["seed"] == SEED
    assert [(e["victim"], e["signal"]) for e in told["events"]] == planned
    assert told["events"][2]["then"].startswith("exit code 130")
    assert [session["exit_code"] for session in told["sessions"]].count(130) == 1
    assert all(not check["broken"] for check in told["audit"]) and len(told["audit"]) >= 7
