"""Runs go out in the formats of others, read back by what reads those."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import made_up_runs as made_up
import pytest
import yaml
from remote_servers import FOREIGN, foreign_python

from rsd.books import read_episodes
from rsd.commands import call
from rsd.exchange.importing import import_files
from rsd.exchange.model_card import card_of
from rsd.exchange.vla_eval import aggregates_of
from rsd.summary.compute import summarise


@pytest.fixture
def run(tmp_path: Path) -> str:
    return made_up.write(tmp_path / "run", made_up.paired_results(tasks=2, trials=3))


def test_aggregates_have_the_fields_and_figures_of_vla_evals_own_export(
    run: str, tmp_path: Path
) -> None:
    """Its recorder and exporter are given the same verdicts."""
    bodies = aggregates_of(run)
    given = tmp_path / "bodies.json"
    given.write_text(json.dumps(bodies))
    command = [foreign_python("vla_eval"), str(FOREIGN / "export_with_vla_eval.py"), str(given)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    theirs: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert theirs.keys() == bodies.keys() and len(bodies) == 2
    for name, body in bodies.items():
        for written in ("created_at", "harness_version"):
            del body[written], theirs[name][written]
        assert body == theirs[name], name
    assert "Overall" in done.stdout  # their own table of ours


def test_an_exported_run_comes_back_with_its_verdicts(run: str, tmp_path: Path) -> None:
    assert call("results", ["export", run, "--to", "vla-eval", "--folder", str(tmp_path)]) == 0
    files = sorted(tmp_path.glob("*_aggregate.json"))
    (file,) = (file for file in files if "speculative" in file.name)
    done = import_files([file], str(tmp_path / "back"), None, None)
    came_back = Counter(row["outcome"] for row in read_episodes(done.output).to_pylist())
    sent = [row for row in read_episodes(run).to_pylist() if row["arm"] == "speculative"]
    assert came_back == Counter(row["outcome"] for row in sent)
    assert {one.suite for one in done.results.episodes} == {"libero_spatial"}


def test_an_error_is_a_failure_in_what_vla_eval_reads(run: str) -> None:
    (body,) = (body for name, body in aggregates_of(run).items() if "speculative" in name)
    (arm,) = (arm for arm in summarise(run).arms if arm.arm == "speculative")
    assert body["num_errors"] == arm.errors == 1
    assert body["mean_success"] == round(arm.success.successes / 6, 4)


def test_an_unfinished_run_is_exported_as_partial(tmp_path: Path) -> None:
    run = made_up.write(tmp_path / "run", made_up.paired_results(1, 1), planned=9)
    assert all(body["partial"] for body in aggregates_of(run).values())


def test_the_head_of_a_model_card_is_a_model_index_of_the_hub(run: str) -> None:
    hub = pytest.importorskip("huggingface_hub.repocard_data")
    _, head, body = card_of(run).split("---\n", 2)
    name, results = hub.model_index_to_eval_results(yaml.safe_load(head)["model-index"])
    assert name == "autoregressive, speculative"  # a made-up run names no policy
    values = {result.metric_args["arm"]: result for result in results}
    for arm in summarise(run).arms:
        found, rate = values[arm.arm], arm.success
        assert found.metric_value == round(100 * (rate.rate or 0), 2)
        assert found.metric_args["finished"] == rate.finished
        assert (found.dataset_config, found.metric_type) == ("libero_spatial", "success_rate")
    assert "| suite | autoregressive | speculative |" in body


def test_a_format_that_there_is_not_is_named(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("results", ["export", run, "--to", "model-cart", "--folder", str(tmp_path)]) == 2
    assert "did you mean 'model-card'?" in " ".join(capsys.readouterr().err.split())
