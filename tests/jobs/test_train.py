"""`jobs/train.py` as a user runs it: killed, interrupted, resumed; and told what is wrong."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import psutil
import pyarrow.parquet as pq
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rsd.commands import call
from rsd.models.small_vla import checkpoint
from tests.made_up_demonstrations import SMALL, TASK, made_up_demonstration, made_up_folder

ROOT = Path(__file__).parents[2]
PATIENCE_S = 200  # for what takes 20 s on a machine with nothing else to do


def command(data: Path, output: Path, *more: str) -> list[str]:
    settings = ["--threads", "1", "--save-every-s", "0", "--train.batch-size", "8"]
    sizes = ["--train.steps", "3000", "--train.draft-steps", "20", "--train.draft-views", "1"]
    job = [sys.executable, "jobs/train.py", "--data", str(data), "--output", str(output)]
    return [*job, *settings, *sizes, *SMALL, *more]


def saved_after(state: Path, before: float, job: subprocess.Popen[str]) -> float:
    """Time of a state saved after `before`."""
    deadline = time.monotonic() + PATIENCE_S
    while not state.exists() or state.stat().st_mtime <= before:
        assert job.poll() is None and time.monotonic() < deadline, job.communicate()[0]
        time.sleep(0.05)
    return state.stat().st_mtime


def training_worker(job: subprocess.Popen[str]) -> psutil.Process:
    below = psutil.Process(job.pid).children(recursive=True)
    living = (p for p in below if p.status() != psutil.STATUS_ZOMBIE)
    (worker,) = (p for p in living if "RayTrainWorker" in " ".join(p.cmdline()))
    return worker


@pytest.mark.timeout(900)
def test_a_killed_worker_and_an_interrupt_lose_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = made_up_folder(tmp_path / "data", [made_up_demonstration(s) for s in (1, 2, 3)])
    output = tmp_path / "policy"
    state = output / "training.pt"
    with subprocess.Popen(
        command(data, output),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as job:
        saved = saved_after(state, 0.0, job)
        training_worker(job).send_signal(signal.SIGKILL)
        time.sleep(1)
        saved_after(state, max(saved, state.stat().st_mtime), job)
        job.send_signal(signal.SIGINT)
        said = job.communicate(timeout=PATIENCE_S)[0]
    assert job.returncode == 130, said
    assert "going on from step" in said and "go on with `python jobs/train.py`" in said
    rows = pq.read_table(output / "training.parquet")["step"].to_pylist()
    assert rows == sorted(set(rows)) and rows[-1] < 3000
    assert not (output / checkpoint.WEIGHTS_FILE).exists()

    flags = command(data, output, "--resume", "--train.seed", "4", "--workers", "1")[2:]
    assert call("train", flags) == 2
    assert "train.seed: 0 -> 4" in capsys.readouterr().err
    assert state.exists()


@pytest.mark.timeout(600)
def test_two_workers_write_one_checkpoint(tmp_path: Path) -> None:
    data = made_up_folder(tmp_path / "data", [made_up_demonstration(s) for s in (1, 2, 3)])
    output = tmp_path / "policy"
    done = subprocess.run(
        command(data, output, "--workers", "2", "--train.steps", "20", "--log", "tensorboard"),
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 workers, on CPUs" in done.stdout and "majority" in done.stdout
    info = checkpoint.inspect(str(output))
    assert info.origin["workers"] == 2 and "--workers 2" in info.origin["command"]
    left = {path.name for path in output.iterdir()}
    files = {"config.json", "model.safetensors", "tokeniser.json", "training.parquet"}
    assert left == {*files, "tensorboard", "log"}
    logged = EventAccumulator(str(output / "log" / "tensorboard"))
    logged.Reload()
    assert logged.Scalars("target/loss")[-1].step == 20
    assert [one.step for one in logged.Scalars("result/draft/validation_loss")] == [40]


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign", "task"])
def test_bad_data_is_named_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    data = made_up_folder(tmp_path / "data", [made_up_demonstration(1)])
    (file,) = data.iterdir()
    message = "no demonstrations at"
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:5000])
        message = f"{TASK.name}_demo.hdf5 is damaged"
    elif damage == "foreign":
        with h5py.File(file, "w") as other:
            other["episode_0/action"] = [1.0]
        message = "not LIBERO's layout"
    else:
        with h5py.File(file, "r+") as other:
            other["data"].attrs["bddl_file_name"] = "somewhere/else.bddl"
        message = "names no LIBERO task"
    assert call("train", ["--data", str(data), "--output", str(tmp_path / "policy")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "policy").exists()
