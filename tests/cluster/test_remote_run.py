"""A run whose policy is behind a server that dies."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from conftest import TOY, assert_exactly_once, rows, run_toy
from remote_servers import rsd_serve
from rich.console import Console

from rsd import books
from rsd.cluster import replicas
from rsd.cluster.evaluate import evaluate
from rsd.config import parse
from rsd.errors import RunStoppedError
from rsd.preflight import open_books, prepare

pytest.importorskip("websockets", reason="pip install -r requirements-remote.txt")
pytestmark = [pytest.mark.usefixtures("ray_here"), pytest.mark.timeout(240)]

SLOW = ["--task-suite", "toy_slow", "--tasks", "0", "1", "2", "3"]


RESTART_S = 0.2  # that a server takes at least


class Watched:
    """Books in which episodes are counted as they come in, stored or not."""

    def __init__(self, held: books.Books, monkeypatch: pytest.MonkeyPatch) -> None:
        self._count = 0
        self._add = held.add
        monkeypatch.setattr(held, "add", self._counted)

    def _counted(self, *row: Any, **told: Any) -> None:
        self._add(*row, **told)
        self._count += 1

    def until(self, count: int) -> None:
        """Bounded by the test's time limit."""
        while self._count < count:
            time.sleep(0.01)


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


def run_while(
    meddle: Callable[[Watched], None], monkeypatch: pytest.MonkeyPatch, output: Path, *flags: str
) -> None:
    """A run that is meddled with by a thread that watches its books."""
    run = prepare(parse([*TOY, "--output", str(output), *flags]))
    with open_books(run, print) as held:
        meddler = threading.Thread(target=meddle, args=(Watched(held, monkeypatch),))
        meddler.start()
        try:
            evaluate(run, held, Console(file=StringIO()))
        finally:
            meddler.join()


def test_a_server_that_is_killed_again_and_again_costs_no_episode_and_no_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Served()
    server.start()

    def kill(watched: Watched) -> None:
        for done in (4, 12, 20):
            watched.until(done)
            server.kill()
            server.start()

    policy = ["--policy", f"ws://127.0.0.1:{server.port}"]
    try:
        run_while(kill, monkeypatch, tmp_path, *SLOW, "--num-trials", "10", *policy)
    finally:
        server.kill()
    assert_exactly_once(tmp_path, arms=1, episodes_per_arm=40)
    assert (rows(tmp_path)["attempts"] == 1).all()
    assert (rows(tmp_path)["wait_s"] > RESTART_S).sum() >= 3  # what was under way waited
    assert (books.read_chunks(str(tmp_path)).to_pandas()["clipped"] == 0).all()
    assert '"server": "rsd"' in books.read_run(str(tmp_path))["policy_says"]


def test_a_server_that_stays_away_stops_the_run_which_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "AWAY_S", 1.0)
    monkeypatch.setattr(replicas, "PING_PERIOD_S", 0.5)
    server = Served()
    server.start()
    flags = [*SLOW, "--num-trials", "6", "--policy", f"ws://127.0.0.1:{server.port}"]

    def kill(watched: Watched) -> None:
        watched.until(2)
        server.kill()

    try:
        with pytest.raises(RunStoppedError, match="no server of the policy has answered for"):
            run_while(kill, monkeypatch, tmp_path, *flags)
        assert (rows(tmp_path)["outcome"] != "error").all()
        server.start()
        run_toy(tmp_path, *flags, "--resume")
    finally:
        server.kill()
    assert_exactly_once(tmp_path, arms=1, episodes_per_arm=24)
    assert (rows(tmp_path)["attempts"] == 1).all()
