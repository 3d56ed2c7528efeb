"""How far a run is: from its books and its lock, against times made by hand."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from made_up_runs import RUN, key, result, write

from rsd.books import Books
from rsd.commands import call
from rsd.commands.status import Shown, look
from rsd.provenance import ReplicaEvent
from rsd.summary.compute import open_runs
from rsd.summary.progress import last_line, progress_of

START = 1_800_000_000.0
NOW = datetime.fromtimestamp(START, UTC) + timedelta(minutes=40)


def going_on(folder: Path, minutes: list[float], planned: int = 100) -> Books:
    """Books of a run that began at START, open, with an episode at each of these minutes."""
    now = iter([START, *(START + 60 * minute for minute in minutes)])
    run = RUN | {"planned_episodes": planned}
    books = Books.open(str(folder), run, resume=False, flush_every=1, clock=lambda: next(now))
    for trial in range(len(minutes)):
        outcome = "timeout" if trial % 4 == 3 else "success"
        worker = f"worker-{trial % 2}"
        books.add(result(key(trial), outcome), attempts=1 + trial % 2, worker=worker, node="n")
    return books


def test_a_running_run_is_told_by_its_lock_its_rate_by_the_last_minutes(tmp_path: Path) -> None:
    with going_on(tmp_path, [1, 2, 3, 26, 30, 31, 36, 40]):
        found = progress_of(*open_runs([str(tmp_path)]), NOW)
        assert (found.state, found.stored, found.planned) == ("running", 8, 100)
        assert found.per_hour == pytest.approx(5 / 0.25)  # of the last 15 minutes
        assert found.left_s == pytest.approx(3600 * 92 / 20)
        speculative = found.arms[1]
        assert (speculative.success.successes, speculative.success.finished) == (6, 8)
        assert [(one.worker, one.episodes, one.again) for one in found.workers] == [
            ("worker-0", 4, 0),
            ("worker-1", 4, 4),
        ]


def test_looking_leaves_the_folder_to_its_writer(tmp_path: Path) -> None:
    with going_on(tmp_path, [1, 2]) as books:
        assert look(str(tmp_path)).state == "running"
        books.flush()
    assert look(str(tmp_path)).state == "stopped"
    Books.open(str(tmp_path), RUN | {"planned_episodes": 100}, resume=True).close()


def test_a_run_that_nobody_works_on_is_stopped_or_finished(tmp_path: Path) -> None:
    stopped = write(tmp_path / "stopped", [result(key(0))], planned=2)
    finished = write(tmp_path / "finished", [result(key(0))])
    assert (look(stopped).state, look(stopped).left_s) == ("stopped", None)
    assert look(finished).state == "finished" and Shown(look(finished)).over
    (tmp_path / "stopped" / ".lock").unlink()  # as in an object store
    assert look(stopped).state == "unknown"


def test_replicas_of_the_latest_session_stand_beside_workers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with going_on(tmp_path, []) as books:
        books._clock = lambda: START
        books.note_replica(ReplicaEvent("replica-7", "started"))
    with Books.open(str(tmp_path), RUN | {"planned_episodes": 100}, resume=True) as books:
        for name, what in [("replica-0", "started"), ("replica-1", "started")]:
            books.note_replica(ReplicaEvent(name, what))
        books.note_replica(ReplicaEvent("replica-0", "ready", "node-3", "EPYC 7"))
        books.note_replica(ReplicaEvent("replica-0", "died"))
    found = look(str(tmp_path)).replicas
    assert [(one.replica, one.state, one.node, len(one.deaths)) for one in found] == [
        ("replica-0", "restarting", "node-3", 1),
        ("replica-1", "starting", "", 0),
    ]
    assert call("status", [str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "replica-0" in told and "EPYC 7" in told and "replica-7" not in told


def test_errors_are_counted_by_their_last_line(tmp_path: Path) -> None:
    lost = [
        dataclasses.replace(result(key(trial), "error"), error=f"Traceback:\n  x\n{reason}\n")
        for trial, reason in enumerate(["ValueError: b", "OSError: a", "ValueError: b"])
    ]
    found = look(write(tmp_path, lost)).failures
    assert [(one.reason, one.episodes) for one in found] == [
        ("ValueError: b", 2),
        ("OSError: a", 1),
    ]
    assert last_line("") == "no reason recorded"


def test_an_empty_run_has_a_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("status", [write(tmp_path, [], planned=5)]) == 0
    assert "0/5 episodes, no episode lately" in capsys.readouterr().out


def test_watching_ends_with_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = write(tmp_path, [result(key(trial)) for trial in range(3)])
    assert call("status", [output, "--watch"]) == 0
    told = capsys.readouterr().out
    assert "made-up: finished" in told and "3/3 episodes" in told
    assert call("status", [output, "--watch", "--every", "0"]) == 2
    assert "--every 0.0: at least 0.1" in capsys.readouterr().err


def test_without_a_run_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("status", [str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
