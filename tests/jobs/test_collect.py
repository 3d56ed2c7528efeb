"""`jobs/collect.py` as a user runs it: real demonstrations on the embedded assets."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from rsd.cluster import session
from rsd.cluster.collect import TaskStanding
from rsd.commands import call
from rsd.commands.collect import (
    CollectConfig,
    CollectionStanding,
    Ending,
    _shared,
    carry_out,
    conclude,
    prepare,
)
from rsd.demos import Store, read_demonstrations, stored_seeds, task_file
from rsd.errors import RunStoppedError, UserError
from rsd.models import inspect_policy
from rsd.suites import get_task, load_initial_states
from tests.made_up_demonstrations import TASK as MADE_UP
from tests.made_up_demonstrations import made_up_demonstration

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
    with pytest.raises(UserError, match="interrupted or running collection"):
        next(read_demonstrations(output))

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
        assert demo.model_xml.startswith("<mujoco")
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
        (["--jitter", "inf"], "--jitter inf: a finite number"),
        (["--noise", "nan"], "--noise nan: a finite number"),
        (["--time-limit-s", "nan"], "--time-limit-s nan: a finite number"),
        (["--misses", "nan"], "--misses nan: a finite number"),
        (["--driver-share", "nan"], "--driver-share nan: above 0"),
        (["--workers", "0"], "--workers 0: at least 1"),
        (["--either-rim", "--suite", "libero_object"], "in no task of libero_object"),
        (["--driver-share", "1.5"], "--driver-share 1.5: above 0 and at most 1"),
        (["--driver-share", "0.5"], "--driver-share 0.5: nobody drives"),
        (["--driver-arm", "draft"], "--driver-arm draft: nobody drives"),
        (["--driver", "spatial", "--driver-arm", "drat"], "did you mean 'draft'"),
        (["--driver", "spatial", "--driver-arm", "expert"], "decodes speculative, "),
        (["--driver", "spatial", "--driver-arm", "draft+delay=2"], "leave out +delay, as in draft"),
        (["--driver", "spatial", "--driver-arm", "draft@6"], "has 1 to 5"),
        (["--driver", "nowhere"], "unknown policy or folder"),
        (["--driver", "spatial", "--samples", "4"], "reads frames drawn as"),
    ],
)
def test_bad_requests_start_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert call("collect", ["--output", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "damaged",
    ["collection.json", f"{MADE_UP.name}_demo.hdf5", f"parts/{MADE_UP.name}/00000002.hdf5"],
)
def test_a_damaged_folder_is_refused_by_the_name_of_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damaged: str
) -> None:
    output = tmp_path / "out"
    config = CollectConfig(output, tasks=(MADE_UP.task_id,), demos=2, assets="lite")
    store = Store(output, _shared(config, prepare(config)), resume=False)
    store.add(made_up_demonstration(1))
    store.merge(MADE_UP)
    store.add(made_up_demonstration(2))
    store.close()
    (output / damaged).write_bytes((output / damaged).read_bytes()[:100])
    flags = ["--tasks", str(MADE_UP.task_id), "--demos", "2", "--assets", "lite", "--resume"]
    assert call("collect", ["--output", str(output), *flags]) == 2
    told = capsys.readouterr().err
    assert f"{damaged} is damaged" in told and "Traceback" not in told


COMPLETE = TaskStanding(2, 2, done_now=2)
BEGUN = TaskStanding(2, 1, done_now=1)
GIVEN_UP = TaskStanding(20, 1, done_now=1, failed_now=20)
SKIPPED = TaskStanding(2, 1, done_now=1, errors_now=1)
DISK = "cannot write part.hdf5"


@pytest.mark.parametrize(
    ("standing", "ending", "code", "lines"),
    [
        (COMPLETE, Ending(), 0, ["complete: "]),
        (COMPLETE, Ending(interrupted=True), 0, ["complete: "]),
        (COMPLETE, Ending(DISK), 1, [f"stopped: {DISK}", "incomplete; go on with"]),
        (BEGUN, Ending(DISK), 1, [f"stopped: {DISK}", "incomplete; go on with"]),
        (BEGUN, Ending(interrupted=True), 130, ["interrupted; go on with"]),
        (GIVEN_UP, Ending(), 3, ["gave up on task 0: 20 placements were not", "incomplete: "]),
        (GIVEN_UP, Ending(DISK), 1, [f"stopped: {DISK}", "gave up", "incomplete; go on with"]),
        (GIVEN_UP, Ending(interrupted=True), 130, ["gave up", "interrupted; go on with"]),
        (SKIPPED, Ending(), 3, ["1 placement(s) skipped for errors", "incomplete: "]),
        (SKIPPED, Ending(interrupted=True), 130, ["1 placement(s) skipped", "interrupted; "]),
    ],
)
def test_the_end_says_why_and_what_is_missing(
    standing: TaskStanding, ending: Ending, code: int, lines: list[str]
) -> None:
    said: list[str] = []
    assert conclude({TASK: standing}, ending, Path("out"), said.append) == code
    assert len(said) == len(lines)
    for line, begin in zip(said, lines, strict=True):
        assert line.startswith(begin)


def test_a_line_and_a_panel_say_how_far_a_collection_is() -> None:
    tasks = {TASK: BEGUN, get_task("libero_object", 3): GIVEN_UP}
    standing = CollectionStanding(tasks, elapsed_s=36.0)
    assert standing.line() == (
        "2/22 demonstrations, 20 placements not solved, 0 errors, 200 an hour, 0:06:00 left"
    )
    console = Console(file=StringIO(), width=200)
    console.print(standing.panel())
    assert "1/20" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "200 an hour" in console.file.getvalue()  # type: ignore[attr-defined]


@dataclass
class FakeRun:
    """What `carry_out` asks of a CollectionRun."""

    work: Callable[[], None]
    costs: list[object] = field(default_factory=list)

    def run(self, stop: Callable[[], bool], show: Callable[[object], None]) -> None:
        self.work()

    def standings(self) -> dict[object, TaskStanding]:
        return {TASK: BEGUN}


def raising(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "ending"),
    [
        (lambda: None, Ending()),
        (lambda: signal.raise_signal(signal.SIGINT), Ending(interrupted=True)),
        (raising(RunStoppedError("no worker starts")), Ending("no worker starts")),
        (raising(UserError(DISK)), Ending(DISK)),
        (raising(OSError(28, "No space left", "x")), Ending("[Errno 28] No space left: 'x'")),
    ],
)
def test_what_breaks_a_run_off_is_told_without_a_traceback(
    work: Callable[[], None], ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "connected", lambda: contextlib.nullcontext())
    console = Console(file=StringIO(), width=200)
    assert carry_out(FakeRun(work), console, print) == ending  # type: ignore[arg-type]
    assert "errors" in console.file.getvalue()  # type: ignore[attr-defined]
