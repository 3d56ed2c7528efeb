"""A local cluster that does not start, and what Ray says beside us."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import ray
from ray._private import services
from ray._private.utils import publish_error_to_driver

from rsd.cluster import session, watch
from rsd.cluster.session import connected
from rsd.cluster.watch import (
    LOST_S,
    Interrupts,
    Lifeline,
    answers,
    beside,
    check_cluster,
    lifeline,
)
from rsd.errors import RunStoppedError
from rsd.leaving import is_left_behind

pytestmark = [pytest.mark.usefixtures("no_ray"), pytest.mark.timeout(120)]


def living_children() -> set[psutil.Process]:
    return {
        process
        for process in psutil.Process().children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE
    }


def wait_until_stopped(process: psutil.Process) -> None:
    """A busy machine stops a process's threads a while after the signal; till then they answer."""
    threads = Path(f"/proc/{process.pid}/task")
    while any(
        task.read_text().rpartition(")")[2].split()[0] != "T" for task in threads.glob("*/stat")
    ):
        time.sleep(0.01)


def test_a_failed_start_leaves_no_process_of_ray_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    before = living_children()
    seen: set[str] = set()

    def too_slow(*_: object) -> None:
        seen.update(process.name() for process in living_children() - before)
        raise OSError("the node\ntimed out")

    monkeypatch.setattr(session, "STARTS", 1)
    monkeypatch.setattr(services, "get_node", too_slow)
    with (
        pytest.raises(RunStoppedError, match=r"does not start on this machine: the node$"),
        connected(cpus=1),
    ):
        pass
    assert "gcs_server" in seen and "raylet" in seen
    assert living_children() <= before


def test_what_ray_pushes_to_a_driver_is_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with connected(cpus=1):
        publish_error_to_driver(
            "out_of_memory",
            "1 worker was killed, and a dump of all that there is",
            gcs_client=ray._private.worker.global_worker.gcs_client,
        )
        assert beside(lambda: ray.get(ray.remote(lambda: os.getppid()).remote()))
        gcs = ray.get_runtime_context().gcs_address
        assert answers(gcs, 1)
        (head,) = (child for child in living_children() if child.name() == "gcs_server")
        head.suspend()  # takes connections, and says nothing
        try:
            wait_until_stopped(head)
            assert not answers(gcs, 0.2)
        finally:
            head.resume()
        time.sleep(1)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_a_silent_head_is_lost_after_a_while_and_a_dead_process_at_once() -> None:
    now = 0.0
    line = Lifeline("127.0.0.1:1", clock=lambda: now)
    assert not line.lost()
    now += LOST_S - 1
    assert not line.lost()
    now += 5
    assert line.lost() == f"the head at 127.0.0.1:1 has not answered for {now:.0f} s"
    child = psutil.Popen(["sleep", "60"])
    line = Lifeline("127.0.0.1:1", {"raylet": child}, clock=lambda: now)
    assert not line.lost()
    child.kill()
    child.wait()
    assert line.lost() == "its raylet on this machine has ended"


def test_an_ignored_ctrl_c_is_no_wish() -> None:
    """Of what a shell runs in the background: the terminal's Ctrl-C reaches it, too."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts(lambda _: None) as interrupts:
            os.kill(os.getpid(), signal.SIGINT)
            assert not interrupts.finish
            os.kill(os.getpid(), signal.SIGTERM)
            assert interrupts.leave
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_beside_gives_back_what_the_work_returns_or_raises() -> None:
    assert beside(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        beside(lambda: 1 // 0)


def test_who_leaves_is_not_told_what_the_signal_did_to_ray() -> None:
    with pytest.raises(KeyboardInterrupt):
        beside(lambda: 1 // 0, lambda: True)


def test_what_fails_with_the_cluster_is_no_error_of_an_episode() -> None:
    check_cluster()
    with (
        lifeline(Lifeline("127.0.0.1:1", clock=iter([0.0, 100.0, 100.0, 100.0]).__next__)),
        (
            pytest.raises(
                RunStoppedError, match=r"cluster is lost: the head at 127\.0\.0\.1:1 has not"
            )
        ),
    ):
        check_cluster()
    check_cluster()


def test_work_that_hangs_is_left_behind_when_the_user_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "GRACE_S", 0.2)
    hung = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        beside(hung.wait, lambda: True)
    assert is_left_behind()
    hung.set()
    deadline = time.monotonic() + 5
    while is_left_behind() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_left_behind()
    assert beside(lambda: 7) == 7  # in a new thread
