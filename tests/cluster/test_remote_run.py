"""A run whose policy is behind a server that dies."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import assert_exactly_once, rows, run_toy
from remote_servers import rsd_serve

from rsd import books
from rsd.cluster import replicas
from rsd.errors import RunStoppedError

pytest.importorskip("websockets", reason="pip install -r requirements-remote.txt")
pytestmark = [pytest.mark.usefixtures("ray_here"), pytest.mark.timeout(240)]

SLOW = ["--task-suite", "toy_slow", "--tasks", "0", "1", "2", "3"]


class Served:
    """`rsd serve --policy toy` on a port of its own, as often as it is started."""

    def __init__(self) -> None:
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            self.port = held.getsockname()[1]
        self._held = ExitStack()

    def start(self) -> None:
        process = self._held.enter_context(rsd_serve("toy", self.port))
        assert process.stdout is not None and process.stdout.readline().startswith("serving")

    def kill(self) -> None:
        self._held.close()


def test_a_server_that_is_killed_again_and_again_costs_no_episode_and_no_attempt(
    tmp_path: Path,
) -> None:
    server = Served()
    server.start()
    kills = 3
    done = threading.Event()

    def kill() -> None:
        for _ in range(kills):
            time.sleep(1.0)
            server.kill()
            time.sleep(0.5)
            server.start()
        done.set()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        run_toy(tmp_path, *SLOW, "--num-trials", "10", "--policy", f"ws://127.0.0.1:{server.port}")
        assert done.is_set()
    finally:
        killer.join()
        server.kill()
    assert_exactly_once(tmp_path, arms=1, episodes_per_arm=40)
    assert (rows(tmp_path)["attempts"] == 1).all()
    assert (books.read_chunks(str(tmp_path)).to_pandas()["clipped"] == 0).all()
    assert '"server": "rsd"' in books.read_run(str(tmp_path))["policy_says"]


def test_a_server_that_stays_away_stops_the_run_which_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "AWAY_S", 1.0)
    monkeypatch.setattr(replicas, "PING_PERIOD_S", 0.5)
    server = Served()
    server.start()
    timer = threading.Timer(1.5, server.kill)
    timer.start()
    flags = [*SLOW, "--num-trials", "6", "--policy", f"ws://127.0.0.1:{server.port}"]
    try:
        with pytest.raises(RunStoppedError, match="no server of the policy has answered for"):
            run_toy(tmp_path, *flags)
        assert (rows(tmp_path)["outcome"] != "error").all()
        server.start()
        run_toy(tmp_path, *flags, "--resume")
    finally:
        timer.join()
        server.kill()
    assert_exactly_once(tmp_path, arms=1, episodes_per_arm=24)
    assert (rows(tmp_path)["attempts"] == 1).all()
