"""`rsd calibrate` loses nothing: interrupted and resumed it comes to the same calibration."""

from __future__ import annotations

import os
import signal
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from rsd import calibration
from rsd.calibration import FEATURES, Observed
from rsd.cluster import calibrating, errands
from rsd.cluster.calibrating import CalibrationPlan, Came
from rsd.cluster.worker import WorkerInfo
from rsd.commands import call
from rsd.config import ClusterConfig
from rsd.models.small_vla import weights
from rsd.provenance import machine, source_sha256
from rsd.rollouts import Rollouts
from rsd.types import Arm, EpisodeKey
from tests.decoding.small_policy import IMAGES, small_model

pytestmark = [pytest.mark.usefixtures("ray_here"), pytest.mark.timeout(240)]

SEEDS = range(500_000, 500_006)


def observed(seed: int) -> Observed:
    """Some chunks are close, more of them where the first feature is high."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(12, len(FEATURES)))
    zeros = np.zeros(12)
    apart = np.where(features[:, 0] + rng.normal(size=12) > 0, 4.0, 30.0)
    return Observed(tuple(FEATURES), features, apart, zeros, zeros == 0, zeros.astype(int))


def toy_calibrator(broken: int | None = None) -> type:
    """Workers that simulate nothing, and fail at one placement. Local, so that Ray sends it by
    value."""
    all_of_them = {seed: observed(seed) for seed in SEEDS}

    class ToyCalibrator:
        def __init__(self, *given: object) -> None: ...

        def info(self, suite: str) -> WorkerInfo:
            return WorkerInfo(machine("worker", "none"), source_sha256(), "")

        def roll_out(self, key: EpisodeKey, arm: Arm) -> Observed:
            if key.trial == broken:
                raise FloatingPointError("the toy simulator has diverged")
            return all_of_them[key.trial]

    return ToyCalibrator


def test_interrupted_failed_and_resumed_a_calibration_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(errands, "connected", nullcontext)  # to the Ray that is here
    monkeypatch.setattr(ClusterConfig, "retries", 0)
    policy = tmp_path / "policy"
    weights.save(small_model(), policy, IMAGES, {"data": {"suites": ["libero_goal"]}})
    asked = ["--policy", str(policy), "--tasks", "3", "--rollouts", str(len(SEEDS))]
    words = [*asked, "--assets", "lite", "--workers", "1", "--seen"]

    def session(seen: Path, *more: str, broken: int | None = None) -> tuple[int, str]:
        monkeypatch.setattr(calibrating, "Calibrator", toy_calibrator(broken))
        code = call("calibrate", [*words, str(seen), *more])
        told = capsys.readouterr()
        return code, told.out + told.err

    def made() -> bytes:
        content = (policy / calibration.FILE).read_bytes()
        (policy / calibration.FILE).unlink()
        return content

    def at_once(plan: CalibrationPlan, came: Came, say: object) -> None:
        for key in plan.arms:
            came(key, observed(key.trial), "")

    whole, parted = tmp_path / "whole", tmp_path / "parted"
    with monkeypatch.context() as patched:
        patched.setattr(calibrating, "observe", at_once)
        code, told = session(whole)
    assert code == 0 and "6/6 rollouts, 0 failed, 0:00:00 left" in told
    expected = made()

    def interrupted(rollouts: Rollouts, key: EpisodeKey, seen: Observed) -> None:
        add(rollouts, key, seen)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        add = Rollouts.add
        patched.setattr(Rollouts, "add", interrupted)
        code, told = session(parted)
    kept = {file: file.stat().st_mtime_ns for file in parted.glob("*.parquet")}
    assert code == 130 and 1 <= len(kept) < 6 and not (policy / calibration.FILE).exists()
    assert f"interrupted: {6 - len(kept)} rollouts left; go on with" in told
    assert f"--seen {parted} --resume" in told

    code, told = session(parted, "--resume", broken=SEEDS[-1])
    assert code == 1 and len(list(parted.glob("*.parquet"))) == 5
    assert "1 rollout(s) failed, the first at libero_goal, task 3, placement 500005: " in told
    assert "the toy simulator has diverged: 1 rollouts left; go on with" in told

    code, told = session(parted, "--resume")
    assert code == 0 and made() == expected
    assert all(file.stat().st_mtime_ns == when for file, when in kept.items())

    monkeypatch.setattr(calibrating, "observe", lambda *_: pytest.fail("rolled out"))
    code, told = session(parted, "--resume", "--mm", "3.9")
    assert code == 2 and "none of 72 chunks are within --mm 3.9" in told
    code, told = session(parted, "--resume", "--mm", "5")
    assert code == 0 and made() != expected
