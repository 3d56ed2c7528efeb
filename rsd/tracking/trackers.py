"""One class a tracker, and what its package has to have before a run begins.

Where a tracker writes to, and as whom, is set as everywhere else with it: WANDB_MODE,
WANDB_PROJECT, WANDB_API_KEY, MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from rsd import conditions
from rsd.errors import UserError, unknown

PROJECT = "rsd"  # where nothing else is set


@dataclass(frozen=True)
class Tracked:
    """What is tracked."""

    run_id: str
    description: Mapping[str, Any]  # run.json; of a training, what it was asked to do
    folder: Path  # for what a tracker keeps on the disk
    over: str  # the curve that counts the steps of all others


class Tracker(Protocol):
    """One run or training in one tracker. Every method may raise whatever its package does."""

    def point(self, step: int, values: Mapping[str, float]) -> None:
        """Values of curves after `step` episodes, or steps of a training."""

    def results(self, step: int, values: Mapping[str, float]) -> None:
        """The summary."""

    def close(self, *, over: bool) -> None:
        """`over`: it is complete; else it may be resumed."""


class Wandb:
    """A resumed run goes on under its id; offline (WANDB_MODE=offline) `wandb sync --append` does
    that."""

    def __init__(self, run: Tracked) -> None:
        self._wandb = wandb = _library("wandb")
        run.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.run_id,
            name=run.run_id,
            resume="allow",
            mode=os.environ.get("WANDB_MODE"),
            config=dict(run.description),
            dir=str(run.folder),
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._run.define_metric("*", step_metric=run.over)

    def point(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values))

    def results(self, step: int, values: Mapping[str, float]) -> None:
        self._run.summary.update(dict(values))

    def close(self, *, over: bool) -> None:
        self._run.finish(exit_code=0 if over else 1)
        self._wandb.teardown()  # until then its own process may hold back what was logged


class TensorBoard:
    """A resumed run goes on in the same folder."""

    def __init__(self, run: Tracked) -> None:
        self._proto = _library("tensorboard.compat.proto.summary_pb2")
        self._event = _library("tensorboard.compat.proto.event_pb2").Event
        writer = _library("tensorboard.summary.writer.event_file_writer")
        self._writer = writer.EventFileWriter(str(run.folder / "tensorboard"))
        self._describe(json.dumps(run.description, indent=2))

    def _describe(self, text: str) -> None:
        """As its text plugin shows it: Markdown, of which this is code."""
        code = "\n".join(f"    {line}" for line in text.splitlines())
        tensor = _library("tensorboard.compat.proto.tensor_pb2").TensorProto(
            dtype="DT_STRING", string_val=[code.encode()]
        )
        plugin = self._proto.SummaryMetadata.PluginData(plugin_name="text")
        metadata = self._proto.SummaryMetadata(plugin_data=plugin)
        self._write(0, tag="description/text_summary", metadata=metadata, tensor=tensor)

    def _write(self, step: int, **value: Any) -> None:
        summary = self._proto.Summary(value=[self._proto.Summary.Value(**value)])
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=summary))

    def point(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._write(step, tag=name, simple_value=value)
        self._writer.flush()

    results = point

    def close(self, *, over: bool) -> None:
        self._writer.close()


class Mlflow:
    """A resumed run goes on in the run that bears its id as a tag."""

    _TAG = "rsd.run_id"

    def __init__(self, run: Tracked) -> None:
        mlflow = _library("mlflow")
        self._entities = _library("mlflow.entities")
        self._client = mlflow.MlflowClient()
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        found = self._client.search_runs([experiment], f"tags.`{self._TAG}` = '{run.run_id}'")
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            tags = {self._TAG: run.run_id}
            made = self._client.create_run(experiment, tags=tags, run_name=run.run_id)
            self._id = made.info.run_id
        self._describe(run.description)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        made: str = found.experiment_id if found else self._client.create_experiment(name)
        return made

    def _describe(self, description: Mapping[str, Any]) -> None:
        """As parameters, which never change: those that are there already stay."""
        there = self._client.get_run(self._id).data.params
        leaves = conditions.flat({k: v for k, v in description.items() if k != "sessions"})
        params = [
            self._entities.Param(self._name(name), str(value)[: self._LONGEST])
            for name, value in leaves.items()
            if self._name(name) not in there
        ]
        for first in range(0, len(params), self._AT_ONCE):
            self._client.log_batch(self._id, params=params[first : first + self._AT_ONCE])

    _AT_ONCE, _LONGEST = 100, 500  # parameters, characters of one: the least of all its stores

    @staticmethod
    def _name(name: str) -> str:
        """With no character that it refuses, such as the @ and + of arms."""
        return re.sub(r"[^\w\-./: ]", "_", name)

    def point(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [
            self._entities.Metric(self._name(name), float(value), now, step)
            for name, value in values.items()
        ]
        self._client.log_batch(self._id, metrics=metrics)

    results = point

    def close(self, *, over: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if over else "KILLED")


TRACKERS: dict[str, Callable[[Tracked], Tracker]] = {
    "wandb": Wandb,
    "tensorboard": TensorBoard,
    "mlflow": Mlflow,
}
_PACKAGES = {"mlflow": "mlflow-skinny"}  # where it is not called as its module


def check(names: Sequence[str]) -> None:
    """Raises UserError for a name that is none or there twice, a package that is missing, a wandb
    that would ask for a key in the middle of a run, and an MLflow that does not know where to."""
    if repeated := [name for name in TRACKERS if names.count(name) > 1]:
        raise UserError(f"tracker named twice: {', '.join(repeated)}")
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
        module = _library(name)
        offline = os.environ.get("WANDB_MODE", "online") != "online"
        if name == "wandb" and not offline and not module.login(prompt=False, verify=False):
            raise UserError(
                "--log wandb: nobody is logged in; run `wandb login`, set WANDB_API_KEY, or set "
                "WANDB_MODE=offline, which keeps it in the run's folder for `wandb sync`"
            )
        if name == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI"):
            raise UserError(
                "--log mlflow: set MLFLOW_TRACKING_URI, to http://SERVER:5000, to sqlite:///FILE "
                "(with the package mlflow), or to file:///FOLDER with MLFLOW_ALLOW_FILE_STORE=true"
            )


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise UserError(
            f"--log needs the package {_PACKAGES.get(package, package)!r} ({error}); install what "
            "trackers need: pip install -r requirements-log.txt, or pip install 'rsd[log]'"
        ) from error
