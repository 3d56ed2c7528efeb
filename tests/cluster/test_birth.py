"""A cluster of our own that does not come up, stands still, or has ended."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from rsd.cluster.watch import BIRTH_GRACE_S, BIRTH_S, PROBE_S, Birth

ROOT = Path(__file__).resolve().parents[2]

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


STANDING_STILL = """
import threading, psutil
from rsd.cluster import watch
from rsd.errors import RunStoppedError
from rsd.cluster.session import connected
from rsd.leaving import leave

watch.LOST_S = 2.0
try:
    with connected(cpus=1):
        ours = psutil.Process().children(recursive=True)
        next(process for process in ours if process.name() == "raylet").suspend()
        watch.beside(lambda: threading.Event().wait(60))
except RunStoppedError as error:
    print(error, any(map(watch._runs, ours)))
    leave(1)
"""


def test_a_raylet_that_stands_still_is_a_lost_cluster() -> None:
    """Ray counts its node as alive for minutes, and starts nothing more. In a process of its own:
    a thread is left behind in Ray."""
    done = subprocess.run(
        [sys.executable, "-c", STANDING_STILL],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 1, done.stderr
    assert re.match(
        r"the Ray cluster is lost: the raylet at \S+ has not answered for \d s False$", done.stdout
    )


AFTERWARDS = """
import os, signal, time
from rsd.cluster.session import connected
from rsd.leaving import terminable

with terminable():
    with connected(cpus=1):
        pass
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    except KeyboardInterrupt:
        print("heard")
"""


def test_sigterm_is_heard_when_ray_has_ended() -> None:
    """As in a summary: Ray leaves the default action behind, which ends the process at once."""
    done = subprocess.run(
        [sys.executable, "-c", AFTERWARDS], cwd=ROOT, capture_output=True, text=True, timeout=110
    )
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr
