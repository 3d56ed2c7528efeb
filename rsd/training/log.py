"""A training in experiment trackers, while it goes on and afterwards."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rsd.errors import UserError
from rsd.foreign import parse_json
from rsd.outputs import write_file
from rsd.tracking.log import FOLDER, Trackers
from rsd.tracking.trackers import Tracked
from rsd.training import metrics
from rsd.training.config import TrainJob
from rsd.training.metrics import Axis, Progress, curves, read_reports, row_of

ID_FILE = "training.json"  # beside what trackers keep: by which a resumed training goes on there
STEP = "training/step"


class LoggedTraining:
    """One session of a training. Opened at its first report: until then the output folder holds
    nothing that could be resumed. None of its calls waits but `close`."""

    def __init__(self, names: Sequence[str], job: TrainJob, command: str) -> None:
        self._names, self._job, self._command = names, job, command
        self._curves: _Curves | None = None

    def add(self, progress: Progress) -> None:
        """A report that is in training.parquet."""
        row = row_of(progress)
        if row is None or not self._names:
            return
        if self._curves is None:
            self._curves = self._open()
        self._curves.add(row)

    def _open(self) -> _Curves:
        output = self._job.output
        asked = json.loads(json.dumps(dataclasses.asdict(self._job), default=str))
        description = {"command": self._command, "settings": asked}
        tracked = _tracked(output, description, goes_on=self._job.resume)
        return _Curves(Trackers(self._names, tracked), read_reports(output))

    def news(self) -> list[str]:
        """What happened to trackers since the last call, a sentence each."""
        return [] if self._curves is None else self._curves.trackers.news()

    def close(self, *, over: bool, hurry: bool) -> list[str]:
        """Returns the last news; `over`: the checkpoint is written."""
        return [] if self._curves is None else self._curves.close(over=over, hurry=hurry)


def replay(output: Path, names: Sequence[str]) -> list[str]:
    """Log a training that is there already, from its first report on; returns what went wrong.

    Raises UserError for a damaged training.parquet or config.json.
    """
    from rsd.training.run import CONFIG_FILE  # loads torch

    config = output / CONFIG_FILE
    try:
        description = parse_json(config.read_bytes()) if config.exists() else {}
    except ValueError as error:
        raise UserError(f"{config} is no JSON: {error}") from error
    tracked = _tracked(output, description, goes_on=True)
    log = _Curves(Trackers(names, tracked), [])
    for row in read_reports(output):
        log.add(row)
    return log.close(over=config.exists(), hurry=False)


def holds_a_training(output: str) -> bool:
    """Whether a folder has reports of one."""
    return (Path(output).expanduser() / metrics.FILE).exists()


class _Curves:
    """Reports as points over the steps of both phases."""

    def __init__(self, trackers: Trackers, before: Sequence[Mapping[str, Any]]) -> None:
        """`before`: reports of earlier sessions."""
        self.trackers = trackers
        self._axis, self._step = Axis(), 0
        self._latest: dict[str, float] = {}
        for row in before:
            self._values(row)

    def _values(self, row: Mapping[str, Any]) -> dict[str, float]:
        self._step = self._axis.step(row)
        values = curves(row)
        self._latest |= values
        return values

    def add(self, row: Mapping[str, Any]) -> None:
        values = self._values(row)
        self.trackers.point(self._step, values | {STEP: self._step})

    def close(self, *, over: bool, hurry: bool) -> list[str]:
        """The latest of every curve is what came of it."""
        results = {f"result/{name}": value for name, value in self._latest.items()}
        self.trackers.results(self._step, results)
        return self.trackers.close(over=over, hurry=hurry)


def _tracked(output: Path, description: Mapping[str, Any], *, goes_on: bool) -> Tracked:
    """`goes_on`: under the name that it has there, if it has one."""
    file = output / FOLDER / ID_FILE
    if goes_on and file.exists():
        name = json.loads(file.read_text())["run_id"]
    else:
        name = f"{output.name}-{uuid.uuid4().hex[:8]}"
        write_file(file, json.dumps({"run_id": name}))
    return Tracked(name, description, output / FOLDER, over=STEP)
