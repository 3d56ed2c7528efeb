"""`jobs/calibrate.py` as a user runs it: a bundled policy on the embedded assets."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rsd import calibration
from rsd.models import inspect_policy

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "rsd" / "checkpoints" / "spatial"


@pytest.mark.timeout(600)
def test_an_interrupted_calibration_ends_its_rollout_and_goes_on(tmp_path: Path) -> None:
    policy, seen = tmp_path / "policy", tmp_path / "seen"
    shutil.copytree(CHECKPOINT, policy)
    asked = ["--policy", str(policy), "--tasks", "2", "--rollouts", "3", "--workers", "1"]
    job = [sys.executable, "jobs/calibrate.py", *asked, "--assets", "lite", "--seen", str(seen)]
    with subprocess.Popen(job, cwd=ROOT, stderr=subprocess.PIPE, text=True) as first:
        while not list(seen.glob("*.parquet")) and first.poll() is None:
            time.sleep(0.05)
        first.send_signal(signal.SIGINT)  # while the next one runs
        _, told = first.communicate()
    assert first.returncode == 130 and len(list(seen.glob("*.parquet"))) == 2, told
    assert "interrupted: 1 rollouts left; go on with `python jobs/calibrate.py`" in told
    assert f"--seen {seen} --resume" in told

    again = [*job, "--resume"]
    done = subprocess.run(again, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    sha256 = inspect_policy(str(policy)).sha256
    made = calibration.read(policy, sha256, str(policy))
    assert made.reliability.chunks > 10 and 0 < made.reliability.close < 1
    assert made.confidence.features == tuple(calibration.FEATURES)
    assert len(list(seen.glob("*.parquet"))) == 3
