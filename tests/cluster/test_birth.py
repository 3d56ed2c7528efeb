"""A cluster of our own that does not come up; no Ray is started."""

from __future__ import annotations

import subprocess

import psutil

from rsd.cluster.watch import BIRTH_GRACE_S, BIRTH_S, PROBE_S, Birth


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
