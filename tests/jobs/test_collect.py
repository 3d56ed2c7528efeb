"""`jobs/collect.py` as a user runs it: real demonstrations on the embedded assets."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rsd.demonstrations import read_demonstrations, stored_seeds, task_file
from rsd.models import inspect_policy
from rsd.suites import get_task, load_initial_states

ROOT = Path(__file__).parents[2]
TASK = get_task("libero_spatial", 0)
FIRST_OBJECT = slice(10, 13)  # of a state: time, 9 joints of the robot, then objects (x, y, z, ...)


def command(output: Path, *more: str) -> list[str]:
    settings = ["--assets", "lite", "--image-size", "32", "--frame-every", "8", "--workers", "1"]
    job = [sys.executable, "jobs/collect.py", "--tasks", "0", "--output", str(output)]
    return [*job, *settings, *more]


@pytest.mark.timeout(240)
def test_a_killed_collection_goes_on_without_loss_or_duplicates(tmp_path: Path) -> None:
    output = tmp_path / "spatial"
    arguments = command(output, "--demos", "2")
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL) as job:
        while not list(output.glob("parts/*/[0-9]*.hdf5")) and job.poll() is None:
            time.sleep(0.05)
        job.send_signal(signal.SIGKILL)
    kept = {int(part.stem) for part in output.glob("parts/*/[0-9]*.hdf5")}
    assert kept and job.returncode == -signal.SIGKILL

    done = subprocess.run(
        [*arguments, "--resume"], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "complete" in done.stdout and "physics" in done.stdout
    file = task_file(output, TASK)
    assert kept < stored_seeds(file) and len(stored_seeds(file)) == 2
    assert not (output / "parts").exists()

    demos = list(read_demonstrations(output))
    stored = load_initial_states(TASK)[:, FIRST_OBJECT]
    for demo in demos:
        assert demo.instruction == TASK.instruction
        assert demo.assets == "lite" and demo.code["source_sha256"]
        assert len(demo) > 40 and demo.agentview.shape[1:] == (32, 32, 3)
        np.testing.assert_array_equal(demo.frame_steps, np.arange(0, len(demo), 8))
        assert demo.agentview.std() > 10 and demo.wrist.std() > 10
        assert (demo.actions != demo.executed_actions).any()
        # never a placement that evaluation starts from; the nearest stored one is millimetres off
        distance = np.linalg.norm(stored - demo.states[0, FIRST_OBJECT], axis=1)
        assert 1e-4 < distance.min() < 0.1
    assert len({demo.states[0].tobytes() for demo in demos}) == 2


@pytest.mark.timeout(240)
def test_a_policy_drives_in_varied_light_and_the_expert_labels(tmp_path: Path) -> None:
    output = tmp_path / "driven"
    more = ["--demos", "1", "--noise", "0", "--driver", "spatial", "--driver-share", "1"]
    job = [*command(output, *more), "--jitter", "1", "--image-size", "96"]
    done = subprocess.run(job, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    (demo,) = read_demonstrations(output)
    driver = demo.settings["driver"]
    assert driver["checkpoint_sha256"] == inspect_policy("spatial").sha256
    assert demo.settings["looks"]["colour"] > 0
    assert demo.driven is not None and demo.driven[0] and not demo.driven[-8:].any()
    differs = (demo.executed_actions != demo.actions).any(axis=1)
    assert differs[demo.driven].mean() > 0.5 and not differs[~demo.driven].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "libero_spatia"], "did you mean 'libero_spatial'"),
        (["--suite", "libero_90"], "unknown suite with an expert"),
        (["--tasks", "11"], "task 11 does not exist"),
        (["--first-seed", "0"], "at least 1"),
        (["--assets", "nowhere"], "no asset tree"),
        (["--renderer", "none"], "demonstrations need frames"),
        (["--jitter", "-1"], "at least 0"),
        (["--driver-share", "1.5"], "--driver-share 1.5: above 0 and at most 1"),
        (["--driver-share", "0.5"], "nobody shares"),
        (["--driver", "nowhere"], "no checkpoint"),
        (["--driver", "spatial", "--samples", "4"], "reads frames drawn as"),
    ],
)
def test_bad_requests_start_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    from jobs.collect import main

    assert main(["--output", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
