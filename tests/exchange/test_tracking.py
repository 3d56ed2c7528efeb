"""Runs in experiment trackers: the real packages, read back by their own readers."""

from __future__ import annotations

import dataclasses
import json
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import made_up_runs as made_up
import pytest

from rsd.books import read_run
from rsd.commands import call
from rsd.errors import UserError
from rsd.summary.compute import summarise
from rsd.tracking import log, trackers
from rsd.tracking.curves import Curves, Finished, summary_values
from rsd.tracking.log import RunLog, replay
from rsd.tracking.trackers import TRACKERS, Tracked
from rsd.training.config import TrainJob
from rsd.training.log import STEP, LoggedTraining
from rsd.training.metrics import Progress, TrainingLog, Validation


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(log, "PATIENCE_S", 600.0)  # on a busy machine
    for name in ("WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return made_up.write(tmp_path / "run", made_up.paired_results(tasks=2, trials=3))


class Recorder:
    """A tracker that keeps what it gets."""

    def __init__(self, run: Tracked) -> None:
        self.run = run
        self.points: list[tuple[int, dict[str, float]]] = []
        self.values: dict[str, float] = {}
        self.over: bool | None = None
        MADE.append(self)

    def point(self, step: int, values: Any) -> None:
        self.points.append((step, dict(values)))

    def results(self, step: int, values: Any) -> None:
        self.values = dict(values)

    def close(self, *, over: bool) -> None:
        self.over = over


MADE: list[Recorder] = []


class Failing(Recorder):
    """One whose server goes away."""

    def point(self, step: int, values: Any) -> None:
        raise ConnectionError("the tracking server went away")


class Hanging(Recorder):
    """One whose server does not answer."""

    def point(self, step: int, values: Any) -> None:
        threading.Event().wait()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    MADE.clear()
    for name, kind in {"good": Recorder, "failing": Failing, "hanging": Hanging}.items():
        monkeypatch.setitem(TRACKERS, name, kind)
    return MADE


def add(run_log: RunLog, count: int = 1) -> None:
    for _ in range(count):
        run_log.add(Finished("speculative", "libero_spatial", "success", [2, 3], [0.01, 0.03]))


# --- what is drawn -------------------------------------------------------------------------------


def test_curves_count_from_the_runs_beginning_and_chunks_since_the_last_point() -> None:
    curves = Curves([("a", "libero_goal", "success"), ("a", "libero_10", "timeout")])
    curves.add(Finished("a", "libero_10", "error"))
    curves.add(Finished("a", "libero_10", "success", [2, 3], [0.01, 0.03]))
    assert curves.point() == {
        "episodes/done": 4,
        "episodes/errors": 1,
        "success/a": pytest.approx(2 / 3),
        "success/a/libero_goal": 1.0,
        "success/a/libero_10": 0.5,
        "passes_a_chunk/a": 2.5,
        "chunk_latency_ms/a": pytest.approx(20.0),
    }
    assert "passes_a_chunk/a" not in curves.point()


def test_a_resumed_session_goes_on_where_the_last_one_stopped(
    run: str, made: list[Recorder]
) -> None:
    run_log = RunLog.open(["good"], run)
    add(run_log)
    assert run_log.close(summarise(run), over=True) == []
    (tracker,) = made
    assert [step for step, _ in tracker.points] == [13]  # 12 were recorded before
    assert tracker.run.run_id == "made-up" and tracker.run.description == read_run(run)
    assert tracker.values == summary_values(summarise(run)) and tracker.over
    assert tracker.values["result/autoregressive/libero_spatial/finished"] == 6


def test_points_are_seconds_apart(run: str, made: list[Recorder]) -> None:
    run_log = RunLog.open(["good"], run)
    run_log.clock = iter([0.0, 0.0, 3.0, 6.0, 6.0, 6.0]).__next__
    for _ in range(3):
        add(run_log)
        run_log.show(lambda: {"pace/workers": 4})
    run_log.trackers.behind[0].wait(time.monotonic() + 10)
    assert [step for step, _ in made[0].points] == [13, 15]
    assert made[0].points[0][1]["pace/workers"] == 4


# --- a tracker that fails ------------------------------------------------------------------------


def test_a_tracker_that_fails_is_told_once_and_dropped_and_the_others_go_on(
    run: str, made: list[Recorder]
) -> None:
    run_log = RunLog.open(["failing", "good"], run)
    for _ in range(3):
        add(run_log)
        run_log.show(now=True)
    told = run_log.close(None, over=False)
    assert told == [
        "--log failing: nothing more is logged there: ConnectionError: the tracking server went "
        "away; what is logged goes on"
    ]
    assert run_log.news() == []
    good = next(one for one in made if not isinstance(one, Failing))
    assert len(good.points) == 3 and good.over is False


def test_a_tracker_that_hangs_costs_the_run_nothing_and_its_end_a_bounded_wait(
    run: str, made: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "BACKLOG", 5)
    run_log = RunLog.open(["hanging"], run)
    started = time.monotonic()
    for _ in range(20):
        add(run_log)
        run_log.show(now=True)
    (told,) = run_log.news()
    assert "it is 5 points behind" in told
    assert run_log.close(None, over=True) == []
    assert time.monotonic() - started < 10


def test_a_tracker_that_hangs_at_the_end_is_left_behind(
    run: str, made: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "PATIENCE_S", 0.2)
    run_log = RunLog.open(["hanging"], run)
    add(run_log)
    (told,) = run_log.close(None, over=True)
    assert "it has not taken everything in time" in told


def test_an_experts_episode_has_no_chunk_in_the_curves(
    tmp_path: Path, made: list[Recorder]
) -> None:
    episodes = [made_up.of_expert(made_up.key(0, "expert")), made_up.unjudged(made_up.key(0, "d"))]
    output = made_up.write(tmp_path, episodes)
    assert replay(output, ["good"], summarise(output)) == []
    values = {name: value for _, point in made[0].points for name, value in point.items()}
    assert values["passes_a_chunk/d"] == 0 and values["chunk_latency_ms/d"] == pytest.approx(6)
    assert "success/expert" in values and "passes_a_chunk/expert" not in values
    traces = [[chunk.trace.is_decode for chunk in one.chunks] for one in episodes]
    assert traces == [[False], [True] * 3]


def test_a_run_that_nobody_logs_does_nothing_for_it(run: str) -> None:
    run_log = RunLog.open([], run)
    add(run_log)
    run_log.show(now=True)
    assert run_log.curves.step == 0 and run_log.close(None, over=True) == []


# --- what is asked for before a run --------------------------------------------------------------


def test_a_tracker_that_there_is_not_is_named() -> None:
    with pytest.raises(UserError, match="did you mean 'tensorboard'"):
        trackers.check(["tensorbord"])
    with pytest.raises(UserError, match="tracker named twice: mlflow"):
        trackers.check(["mlflow", "mlflow"])


def test_a_missing_package_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"'mlflow-skinny'.*pip install 'rsd\[log\]'"):
        trackers.check(["mlflow"])


def test_wandb_without_a_login_is_refused_before_it_would_ask(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(UserError, match="WANDB_MODE=offline"):
        trackers.check(["wandb"])
    assert capsys.readouterr().err == ""  # of its own warnings
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    trackers.check(["wandb"])


def test_mlflow_without_a_place_is_refused(run: str) -> None:
    pytest.importorskip("mlflow")
    with pytest.raises(UserError, match="set MLFLOW_TRACKING_URI"):
        trackers.check(["mlflow"])


# --- the real packages ---------------------------------------------------------------------------


def last_rates(run: str) -> dict[str, float]:
    return {arm.arm: arm.success.rate or 0.0 for arm in summarise(run).arms}


def events_of(output: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(output / "log" / "tensorboard"))
    found.Reload()
    return found


def in_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow, with a store of files."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (folder / "mlruns").absolute().as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return mlflow


def test_tensorboard_reads_the_curves_and_the_summary(run: str) -> None:
    pytest.importorskip("tensorboard")
    assert replay(run, ["tensorboard"], summarise(run)) == []
    found = events_of(Path(run))
    scalars = found.Tags()["scalars"]
    assert {"passes_a_chunk/speculative", "chunk_latency_ms/speculative"} <= set(scalars)
    for arm, rate in last_rates(run).items():
        curve = found.Scalars(f"success/{arm}")
        assert curve[-1].step == 12 and curve[-1].value == pytest.approx(rate)
        assert found.Scalars(f"result/{arm}/success")[-1].value == pytest.approx(rate)
    (text,) = found.Tensors("description/text_summary")
    assert "c0ffee" in text.tensor_proto.string_val[0].decode()


def test_mlflow_reads_them_from_its_store_of_files_and_resumes_its_run(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = in_files(tmp_path, monkeypatch)
    trackers.check(["mlflow"])
    for _ in range(2):  # the second one as a resumed session would
        assert replay(run, ["mlflow"], summarise(run)) == []
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("rsd")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "made-up" and found.info.status == "FINISHED"
    assert found.data.params["checkpoint_sha256"] == "c0ffee"
    for arm, rate in last_rates(run).items():
        assert found.data.metrics[f"success/{arm}"] == pytest.approx(rate)
        assert found.data.metrics[f"result/{arm}/success"] == pytest.approx(rate)


def records(content: bytes) -> Iterator[bytes]:
    """Of a .wandb file: LevelDB's log format behind a header of 7 bytes. wandb has no reader."""
    place, data = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # no room for a record's head in this block
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        data += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield data
            data = b""


class Kept(NamedTuple):
    """What a .wandb file holds."""

    run_id: str
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]


def wandb_file(file: Path) -> Kept:
    from wandb.proto import wandb_internal_pb2 as messages

    def values(items: Any) -> dict[str, Any]:
        return {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}

    kept = Kept("", {}, [], {})
    for data in records(file.read_bytes()):
        record = messages.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            kept.history.append(values(record.history.item))
        elif kind == "summary":
            kept.summary.update(values(record.summary.update))
        elif kind == "run":
            kept.config.update(values(record.run.config.update))
            kept = kept._replace(run_id=record.run.run_id)
    return kept


def test_wandb_offline_keeps_curves_summary_and_provenance(run: str) -> None:
    pytest.importorskip("wandb")
    assert replay(run, ["wandb"], summarise(run)) == []
    (file,) = (Path(run) / "log" / "wandb").glob("offline-run-*-made-up/run-made-up.wandb")
    kept = wandb_file(file)
    assert kept.run_id == "made-up" and kept.config["checkpoint_sha256"] == "c0ffee"
    for arm, rate in last_rates(run).items():
        assert kept.history[-1][f"success/{arm}"] == pytest.approx(rate)
        assert kept.summary[f"result/{arm}/success"] == pytest.approx(rate)
    assert kept.history[-1]["episodes/done"] == 12


# --- a training ----------------------------------------------------------------------------------

SEEN = Validation(0.5, (0.9, 0.8), (0.6, 0.5), parallel_loss=0.7, regression_loss=0.02)
REPORTS = [
    Progress("target", 50, 100, 1.5, 1e-3, 200.0),
    Progress("target", 100, 100, 1.0, 2e-5, 210.0, SEEN),
    Progress("teach", 10, 10, float("nan")),
    Progress("draft", 250, 250, 0.25, 1e-4, 900.0, Validation(0.3, (0.95, 0.9), (0.6, 0.5))),
]
CURVES = {  # by name: step and value of the last point
    "target/loss": (100, 1.0),
    "target/validation_loss": (100, 0.5),
    "target/parallel_loss": (100, 0.7),
    "target/regression_loss": (100, 0.02),
    "target_accuracy/layer_1": (100, 0.8),
    "draft/loss": (350, 0.25),
    "draft_accuracy/layer_0": (350, 0.95),
    "draft_majority/layer_1": (350, 0.5),
}


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output folder of a finished training."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(log, "PATIENCE_S", 600.0)  # on a busy machine
    for name in ("WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    output = tmp_path / "policy"
    output.mkdir()
    for phase in ("target", "draft"):
        written = TrainingLog(output, phase, 0)
        for report in REPORTS:
            if report.phase == phase:
                written.add(report)
        written.close()
    (output / "config.json").write_text('{"training": {"batch_size": 64}}')
    return output


def job_of(output: Path, **changes: Any) -> TrainJob:
    return dataclasses.replace(TrainJob((Path("data"),), output), **changes)


def test_a_training_is_drawn_over_the_steps_of_both_phases(
    tmp_path: Path, made: list[Recorder]
) -> None:
    log = LoggedTraining(["good"], job_of(tmp_path / "policy"), "rsd train ...")
    for report in REPORTS:
        log.add(report)
    assert log.close(over=True, hurry=False) == []
    (tracker,) = made
    assert [step for step, _ in tracker.points] == [50, 100, 350]
    assert "target/validation_loss" not in tracker.points[0][1]  # not measured then
    for name, (step, value) in CURVES.items():
        assert dict(tracker.points)[step][name] == value == tracker.values[f"result/{name}"]
    assert tracker.run.description["settings"]["train"]["batch_size"] == 64
    assert tracker.over and tracker.run.over in tracker.points[0][1]


def test_a_resumed_training_goes_on_under_its_name_and_behind_its_steps(
    trained: Path, made: list[Recorder]
) -> None:
    for resume in (False, True, False):
        log = LoggedTraining(["good"], job_of(trained, resume=resume), "rsd train ...")
        log.add(REPORTS[-1])
        log.close(over=resume, hurry=False)
    names = [tracker.run.run_id for tracker in made]
    assert names[0] == names[1] != names[2] and names[0].startswith("policy-")
    assert [tracker.points[0][0] for tracker in made] == [350] * 3
    assert [tracker.over for tracker in made] == [False, True, False]


def test_a_training_that_nobody_logs_keeps_nothing(tmp_path: Path) -> None:
    log = LoggedTraining([], job_of(tmp_path / "policy"), "rsd train ...")
    log.add(REPORTS[0])
    assert log.close(over=True, hurry=False) == [] and not (tmp_path / "policy").exists()


def test_trackers_of_a_training_are_checked_before_anything_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(tmp_path / "none"), "--output", str(tmp_path / "policy")]
    assert call("train", [*words, "--log", "wand"]) == 2
    assert "did you mean 'wandb'" in capsys.readouterr().err


def test_tensorboard_reads_the_curves_of_a_training(trained: Path) -> None:
    pytest.importorskip("tensorboard")
    assert call("log", [str(trained), "--to", "tensorboard"]) == 0
    found = events_of(trained)
    for name, (step, value) in CURVES.items():
        last = found.Scalars(name)[-1]
        assert (last.step, last.value) == (step, pytest.approx(value))
    (text,) = found.Tensors("description/text_summary")
    assert "batch_size" in text.tensor_proto.string_val[0].decode()


def test_mlflow_reads_the_curves_of_a_training(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = in_files(tmp_path, monkeypatch)
    assert call("log", [str(trained), "--to", "mlflow"]) == 0
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("rsd")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.params["training.batch_size"] == "64"
    for name, (step, value) in CURVES.items():
        last = client.get_metric_history(found.info.run_id, name)[-1]
        assert (last.step, last.value) == (step, pytest.approx(value))


def test_wandb_offline_keeps_the_curves_of_a_training(trained: Path) -> None:
    pytest.importorskip("wandb")
    assert call("log", [str(trained), "--to", "wandb"]) == 0
    (file,) = (trained / "log" / "wandb").glob("offline-run-*-policy-*/run-policy-*.wandb")
    kept = wandb_file(file)
    assert kept.config["training"]["batch_size"] == 64
    for name, (step, value) in CURVES.items():
        drawn = [point for point in kept.history if name in point]
        assert (drawn[-1][STEP], drawn[-1][name]) == (step, pytest.approx(value))
        assert kept.summary[f"result/{name}"] == pytest.approx(value)
