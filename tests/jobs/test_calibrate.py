"""`jobs/calibrate.py` as a user runs it: a bundled policy on the embedded assets. That nothing is
lost by an interrupt: tests/cluster/test_calibrating.py."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rsd import calibration
from rsd.models import inspect_policy

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "rsd" / "checkpoints" / "spatial"


@pytest.mark.timeout(300)
def test_a_policy_is_calibrated_on_rollouts_and_again_without_any(tmp_path: Path) -> None:
    policy, seen = tmp_path / "policy", tmp_path / "seen"
    shutil.copytree(CHECKPOINT, policy)
    asked = ["--policy", str(policy), "--tasks", "2", "--rollouts", "2", "--workers", "1"]
    job = [sys.executable, "jobs/calibrate.py", *asked, "--assets", "lite", "--seen", str(seen)]

    def made(*more: str) -> calibration.Calibration:
        done = subprocess.run([*job, *more], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return calibration.read(policy, inspect_policy(str(policy)).sha256, str(policy))

    first = made()
    kept = {file: file.stat().st_mtime_ns for file in seen.glob("*.parquet")}
    assert len(kept) == 2
    assert first.reliability.chunks > 10 and 0 < first.reliability.close < 1
    families = [calibration.family(name) for name in first.confidence.features]
    assert list(dict.fromkeys(families)) == list(calibration.FEATURES)
    again = made("--resume", "--mm", "5")
    assert {file: file.stat().st_mtime_ns for file in seen.glob("*.parquet")} == kept
    assert again.closeness.mm == 5 and again.reliability.close < first.reliability.close
