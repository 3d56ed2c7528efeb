from __future__ import annotations

import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import psutil
import pytest

from rsd import books
from rsd.cluster import evaluate, forecast, session
from rsd.commands import call
from rsd.errors import CannotWriteError, RunStoppedError
from rsd.models.small_vla import weights
from rsd.summary import compute
from tests.decoding.small_policy import IMAGES, small_model

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "jobs" / "evaluate.py"
TOY = ["--policy", "toy", "--worker-memory-gb", "0.2", "--workers", "2"]
FORTY = ["--task-suite", "toy_slow", "--tasks", "0", "1", "2", "3", "--num-trials", "10"]
PATIENCE_S = 100  # for what takes 10 s on a machine with nothing else to do

pytestmark = pytest.mark.timeout(300)


def launch(*arguments: str) -> subprocess.Popen[str]:
    """`python jobs/evaluate.py` from outside the repository."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
        start_new_session=True,
    )


def episodes(output: Path) -> list[dict[str, object]]:
    return books.read_episodes(str(output)).to_pylist()


def wait_for(what: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


# -- before anything starts ---------------------------------------------------------------------


def test_help_explains_groups_defaults_examples_and_exit_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        call("evaluate", ["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    for word in ("--task-suite", "(default: 600.0)", "Examples:", "Exit codes", "--config"):
        assert word in text


def test_a_dry_run_prints_the_plan_and_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    flags = ["--task-suite", "toy", *TOY, "--num-trials", "5", "--output", str(output)]
    assert call("evaluate", [*flags, "--dry-run"]) == 0
    text = capsys.readouterr().out
    for word in (
        "episodes 100",
        "workers  2",
        "replicas 1",
        "CPUs",
        "time ",
        "dry run",
    ):
        assert word in text
    assert not output.exists()


def test_a_plan_says_what_the_policy_was_never_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    origin: dict[str, object] = {"data": {"suites": ["libero_spatial"]}}
    weights.save(small_model(), tmp_path / "policy", IMAGES, origin)
    flags = ["--policy", str(tmp_path / "policy"), "--assets", "lite", "--dry-run"]
    assert call("evaluate", [*flags, "--task-suite", "libero_spatial", "libero_goal"]) == 0
    assert "trained on libero_spatial, never on libero_goal" in capsys.readouterr().out


BAD = [
    (["--task-suite", "libero_spacial"], "did you mean 'libero_spatial'"),
    (["--tasks", "10"], "task 10 does not exist"),
    (["--arms", "speculativ"], "did you mean 'speculative'"),
    (["--rule", "exat"], "did you mean 'exact'"),
    (["--num-trials", "51"], "choose 1 to 50"),
    (["--config", "/nowhere.yaml"], "cannot read --config"),
    (["--task-suite", "toy", "--policy", "toy", "--arms", "parallel@9"], "has 1 to 3"),
    (["--policy", "toy", "--renderer", "vulkan"], "unknown renderer 'vulkan'"),
    (["--policy", "toy", "--renderer", "none"], "--renderer none: a policy needs frames"),
    (["--policy", "toy", "--assets", "/nowhere"], "no asset tree"),
]


@pytest.mark.parametrize(("flags", "told"), BAD)
def test_bad_input_is_told_in_one_message_and_nothing_starts(
    flags: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert call("evaluate", [*flags, "--output", str(output)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert told in captured.err
    assert "Traceback" not in captured.err
    assert not output.exists()


def test_a_missing_checkpoint_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--policy", str(tmp_path / "nothing"), "--output", str(tmp_path / "run")]
    assert call("evaluate", flags) == 2
    assert "nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--use-speculative-decoding", "maybe"], "'maybe' is neither true nor false"),
        (["--num-trials", "many"], "num-trials"),
        (["--num-trails", "3"], "Perhaps you meant"),
    ],
)
def test_a_flag_that_cannot_be_read_is_told(
    flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        call("evaluate", flags)
    assert end.value.code == 2
    assert told in capsys.readouterr().err


def test_an_output_that_cannot_be_used_is_told_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    toy = ["--task-suite", "toy", *TOY, "--output"]
    assert call("evaluate", [*toy, str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert call("evaluate", [*toy, str(tmp_path / "notes.txt" / "run")]) == 2
    assert "not writable" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_dry_run_on_a_cluster_that_has_gone_away_meanwhile_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(forecast, "forecast", raising(LOST))
    assert call("evaluate", ["--task-suite", "toy", *TOY, "--dry-run"]) == 2
    assert "error: the Ray cluster is lost" in capsys.readouterr().err


LOST = RunStoppedError("the Ray cluster is lost: its raylet has ended")
AWAY = CannotWriteError("cannot write s3://b/r (9 tries in 300 s); 4 episodes are not stored")


def raising(error: BaseException | None) -> Callable[..., None]:
    def function(*_: object) -> None:
        if error is not None:
            raise error

    return function


@pytest.mark.parametrize(
    ("evaluating", "closing", "summing", "code", "told"),
    [
        (None, KeyboardInterrupt(), None, 130, ["interrupted: 4 episodes left"]),
        (LOST, AWAY, None, 1, ["stopped: the Ray cluster is lost", "cannot write s3://b/r"]),
        (None, None, AWAY, 130, ["no summary: ", "interrupted: 4 episodes left"]),
    ],
    ids=["Ctrl-C while the books wait", "cluster and store lost", "no summary of an interrupt"],
)
def test_whatever_else_goes_wrong_a_run_says_why_it_ended_and_how_to_go_on(
    evaluating: BaseException | None,
    closing: BaseException | None,
    summing: BaseException | None,
    code: int,
    told: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(session, "connected", nullcontext)
    monkeypatch.setattr(evaluate, "evaluate", raising(evaluating))
    monkeypatch.setattr(books.Books, "close", raising(closing))
    if summing is not None:
        monkeypatch.setattr(compute, "summarise", raising(summing))
    output = tmp_path / "run"
    flags = ["--task-suite", "toy", *TOY, "--tasks", "0", "--num-trials", "2"]
    assert call("evaluate", [*flags, "--output", str(output)]) == code
    err = capsys.readouterr().err
    for word in (*told, f"--output {output} --resume"):
        assert word in err


# -- the whole way ------------------------------------------------------------------------------


def finish(process: subprocess.Popen[str]) -> str:
    """All that the process prints until it ends by itself."""
    text, _ = process.communicate(timeout=PATIENCE_S)
    return text


def test_a_run_ends_in_a_summary_and_can_be_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 3: trial 1 of the policy `toy-nan` is an error in both arms."""
    output = tmp_path / "run"
    config = tmp_path / "run.yaml"
    config.write_text("task_suite: toy\ntasks: [0]\ntrials: [0, 1]\nretries: 0\nresume: true")
    flags = [*TOY, "--policy", "toy-nan", "--config", str(config), "--output", str(output)]
    process = launch(*flags)
    text = finish(process)
    assert process.returncode == 3, text
    for word in ("nothing is recorded", "4/4 episodes", "95 % interval", "2 of them errors"):
        assert word in text
    run = json.loads((output / "run.json").read_text())
    assert set(run) >= {"code", "packages", "hardware", "checkpoint_sha256", "execution"}
    outcomes = [(row["trial"], "NaN or infinity" in str(row["error"])) for row in episodes(output)]
    assert sorted(outcomes) == [(0, False), (0, False), (1, True), (1, True)]

    monkeypatch.setattr(session, "connected", raising(AssertionError("everything is recorded")))
    assert call("evaluate", flags) == 3  # the same summary
    text = capsys.readouterr().out
    for word in ("4 recorded", "95 % interval", "2 of them errors"):
        assert word in text
    with monkeypatch.context() as away:
        away.setattr(compute, "summarise", lambda output: books.read_run(f"{output}/gone"))
        assert call("evaluate", flags) == 1  # as of a store that went away after the last row
    assert "no summary: " in capsys.readouterr().err
    assert call("evaluate", [*flags, "--trials", "0"]) == 2
    assert "trials: [0, 1] -> [0]" in capsys.readouterr().err


def test_a_driver_that_is_killed_or_interrupted_goes_on_to_exactly_the_planned_rows(
    tmp_path: Path,
) -> None:
    """SIGKILL at a seeded moment, Ctrl-C, then to the end."""
    output = tmp_path / "run"
    flags = [*FORTY, *TOY, "--output", str(output), "--resume"]
    driver = launch_until_rows(output, flags)
    before = {path.name for path in (output / "episodes").glob("part-*")}
    family = psutil.Process(driver.pid).children(recursive=True)
    actors = [process for process in family if is_actor(process)]
    time.sleep(random.Random(4).uniform(0.0, 2.0))
    driver.kill()
    driver.communicate()
    wait_for(lambda: not any(map(is_alive, actors)), PATIENCE_S)
    for process in filter(is_alive, family):  # agents, which Ray leaves behind for a while
        process.kill()
    assert before <= {path.name for path in (output / "episodes").glob("part-*")}
    assert 0 < len(episodes(output)) < 80

    driver = launch(*flags)
    assert driver.stdout is not None
    for line in driver.stdout:
        if line.startswith("starting 2 worker"):
            break
    time.sleep(1.0)
    driver.send_signal(signal.SIGINT)
    text = finish(driver)
    assert driver.returncode == 130, text
    assert "finishing the episodes that are running" in text
    assert "--resume" in text

    driver = launch(*flags)
    text = finish(driver)
    assert driver.returncode == 0, text
    rows = eighty_episodes(output)
    assert all(row["outcome"] != "error" for row in rows)
    assert len({row["run_id"] for row in rows}) == 1


def test_books_that_cannot_be_written_stop_the_run_aloud_and_it_goes_on_when_they_can(
    tmp_path: Path,
) -> None:
    output = tmp_path / "run"
    flags = [*FORTY, *TOY, "--output", str(output), "--resume"]
    driver = launch_until_rows(output, flags)
    (output / "episodes").rename(tmp_path / "aside")
    (output / "episodes").write_text("no folder")
    text = finish(driver)
    assert driver.returncode == 1, text
    assert "stopped: " in text and "go on with `python" in text
    assert "Traceback" not in text

    (output / "episodes").unlink()
    (tmp_path / "aside").rename(output / "episodes")
    again = launch(*flags)
    text = finish(again)
    assert again.returncode == 0, text
    eighty_episodes(output)


@pytest.mark.parametrize(
    ("end", "code", "told"),
    [
        (lambda job: os.killpg(job.pid, signal.SIGTERM), 130, "interrupted: "),
        (lambda job: gcs_server(job).kill(), 1, "its gcs_server on this machine has ended: "),
    ],
)
def test_a_signal_to_the_group_or_a_dead_head_end_the_run_at_once_in_a_sentence(
    end: Callable[[subprocess.Popen[str]], None], code: int, told: str, tmp_path: Path
) -> None:
    """As timeout, Slurm and systemd end jobs: Ray's processes get the signal at the same moment,
    and its calls wait for a minute for a head that is gone."""
    output = tmp_path / "run"
    driver = launch_until_rows(output, [*FORTY, *TOY, "--output", str(output)])
    started = time.monotonic()
    end(driver)
    text = finish(driver)
    assert time.monotonic() - started < 25  # 3 on a machine with nothing else to do
    assert driver.returncode == code, text
    last = text.strip().splitlines()[-1]
    assert told in last and last.endswith(f"--output {output} --resume")
    assert "GCS" not in text and "Traceback" not in text
    assert f"{80 - len(episodes(output))} episodes left" in last


def gcs_server(job: subprocess.Popen[str]) -> psutil.Process:
    (head,) = (p for p in psutil.Process(job.pid).children() if p.name() == "gcs_server")
    return head


def launch_until_rows(output: Path, flags: list[str]) -> subprocess.Popen[str]:
    """The job, once its first part is written."""
    driver = launch(*flags)
    wait_for(lambda: any((output / "episodes").glob("part-*")), PATIENCE_S)
    return driver


def eighty_episodes(output: Path) -> list[dict[str, object]]:
    """All that FORTY asks for in two arms, each once."""
    rows = episodes(output)
    keys = {(row["arm"], row["task_id"], row["trial"]) for row in rows}
    assert len(rows) == len(keys) == 80
    return rows


def is_actor(process: psutil.Process) -> bool:
    try:
        return any("EnvWorkerActor" in word or "Replica" in word for word in process.cmdline())
    except psutil.Error:
        return False


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# -- as a job on a running cluster --------------------------------------------------------------


@contextmanager
def cluster_with_token() -> Iterator[tuple[str, dict[str, str]]]:
    """A Ray head on loopback that wants a token; (dashboard address, environment of a client)."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
    gcs, dashboard, client, agent = (each.getsockname()[1] for each in sockets)
    for each in sockets:
        each.close()
    ray = str(Path(sys.executable).parent / "ray")
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # jobs say `python`
    environment = {**os.environ, **token, "PATH": path}
    head = subprocess.Popen(
        f"{ray} start --head --block --node-ip-address=127.0.0.1 --port={gcs} "
        f"--dashboard-host=127.0.0.1 --dashboard-port={dashboard} "
        f"--ray-client-server-port={client} --dashboard-agent-listen-port={agent} "
        "--min-worker-port=0 --max-worker-port=0 --num-cpus=2 "
        "--object-store-memory=200000000 --disable-usage-stats".split(),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{dashboard}", environment
    finally:
        family = psutil.Process(head.pid).children(recursive=True)
        head.terminate()
        head.wait(30)
        _, left = psutil.wait_procs(family, timeout=10)
        for process in left:
            process.kill()


def is_up(address: str, token: str) -> bool:
    request = urllib.request.Request(
        f"{address}/api/version", headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_it_runs_as_a_ray_job_with_token_authentication(tmp_path: Path) -> None:
    """From an uploaded working folder, on a cluster that was there before."""
    output = tmp_path / "run"
    with cluster_with_token() as (address, environment):
        wait_for(lambda: is_up(address, environment["RAY_AUTH_TOKEN"]), PATIENCE_S)
        submit = [str(Path(sys.executable).parent / "ray"), "job", "submit"]
        submit += ["--address", address, "--working-dir", str(ROOT), "--"]
        job = ["python", "jobs/evaluate.py", "--task-suite", "toy", "--output", str(output), *TOY]
        text = ""
        for _ in range(5):  # the head's job agent comes up a moment after its dashboard
            done = subprocess.run(
                [*submit, *job], env=environment, capture_output=True, text=True, timeout=PATIENCE_S
            )
            text = done.stdout + done.stderr
            if "No available agent" not in text:
                break
            time.sleep(1)
    assert done.returncode == 0, text
    assert "20/20 episodes" in text
    assert len(episodes(output)) == 20
    run = json.loads((output / "run.json").read_text())
    assert run["code"]["git_commit"] is None  # the uploaded sources ran, not this checkout's
