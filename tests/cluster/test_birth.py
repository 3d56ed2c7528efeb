"""A cluster of our own that does not come up, or stands still."""

from __future__ import annotations

import subprocess
import threading

import psutil
import pytest

from rsd.cluster import watch
from rsd.cluster.reasons import RunStoppedError
from rsd.cluster.session import connected
from rsd.cluster.watch import BIRTH_GRACE_S, BIRTH_S, PROBE_S, Birth, beside

pytestmark = pytest.mark.timeout(120)


def test_a_process_that_ends_while_its_cluster_starts_ends_the_wait() -> None:
    now = 0.0
    with subprocess.Popen(["sleep", "60"]) as gcs:
        found: dict[str, psutil.Process] = {}
        birth = Birth(lambda: found, clock=lambda: now)
        assert birth.lost() == ""  # before there is any
        found["gcs_server"] = psutil.Process(gcs.pid)
        now += PROBE_S
        assert birth.lost() == ""
        gcs.kill()
        gcs.wait()
        now += PROBE_S
        found.clear()
        assert birth.lost() == ""  # Ray may have noticed
        now += BIRTH_GRACE_S
        assert birth.lost() == "its gcs_server on this machine has ended"


def test_a_cluster_that_stands_still_while_it_starts_ends_the_wait() -> None:
    now = 0.0
    itself = psutil.Process()
    birth = Birth(lambda: {"gcs_server": itself}, clock=lambda: now)
    while now < BIRTH_S:
        assert birth.lost() == ""
        now += 10
    now += 1
    assert birth.lost() == f"it has not come up within {BIRTH_S:g} s"


def test_a_raylet_that_stands_still_is_a_lost_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray counts its node as alive for minutes, and starts nothing more."""
    monkeypatch.setattr(watch, "LOST_S", 2.0)
    end = threading.Event()
    before = set(psutil.Process().children())
    with (
        pytest.raises(RunStoppedError, match=r"the raylet at \S+ has not answered for"),
        connected(cpus=1),
    ):
        ours = set(psutil.Process().children()) - before
        next(process for process in ours if process.name() == "raylet").suspend()
        beside(lambda: end.wait(60))
    end.set()
    assert not any(map(watch._runs, ours))
