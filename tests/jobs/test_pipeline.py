"""`make pipeline`: what collects, trains and evaluates fits together, here as small as it gets."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rsd.books import read_episodes, read_run

ROOT = Path(__file__).parents[2]
SMALL = " ".join(
    [
        "--train.steps 4 --train.draft-steps 4 --train.draft-views 1 --train.batch-size 8",
        "--threads 1 --model.target.width 32 --model.target.depth 1 --model.draft.width 16",
        "--model.channels 8 8 8 --model.keypoints 4",
    ]
)
SIZES = {
    "PIPELINE_COLLECT": "--suite libero_spatial --tasks 2 --demos 2 --assets lite --frame-every 8",
    "PIPELINE_TRAIN": SMALL,
    "PIPELINE_EVALUATE": "--tasks 2 --arms expert speculative --assets lite",
}


@pytest.mark.timeout(600)
def test_one_command_makes_a_policy_and_evaluates_it(tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    settings = [f"{name}={value}" for name, value in SIZES.items()]
    done = subprocess.run(
        ["make", "pipeline", f"PIPELINE={folder}", *settings],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    episodes = {row["arm"]: row for row in read_episodes(str(folder / "run")).to_pylist()}
    assert episodes["expert"]["outcome"] == "success"
    assert episodes["speculative"]["outcome"] in ("success", "timeout")
    assert str(folder / "policy") in str(read_run(str(folder / "run"))["config"]["policy"])
