"""The whole path on real LIBERO: command line, Ray, bundled policy, Parquet, report, notebook."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_notebook import execute, outputs

from rsd.books import read_chunks, read_episodes, read_run

ROOT = Path(__file__).parents[2]
ARMS = ("autoregressive", "speculative", "parallel", "expert")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    output = str(tmp_path_factory.mktemp("run") / "spatial")
    command = [sys.executable, "jobs/evaluate.py", "--tasks", "2", "--assets", "lite"]
    done = subprocess.run(
        [*command, "--arms", *ARMS, "--output", output],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "episodes/hour" in done.stdout or "episodes per hour" in done.stdout.lower()
    return output


def test_the_exact_arms_end_in_the_same_simulator_state(run: str) -> None:
    rows = {row["arm"]: row for row in read_episodes(run).to_pylist()}
    assert set(rows) == set(ARMS)
    exact = rows["autoregressive"], rows["speculative"]
    assert exact[0]["final_state_sha256"] == exact[1]["final_state_sha256"] != ""
    assert exact[0]["steps"] == exact[1]["steps"] > 0
    expert = rows.pop("expert")
    assert (expert["outcome"], expert["chunks"], expert["render_s"]) == ("success", 1, 0.0)
    for row in rows.values():
        assert row["outcome"] in ("success", "timeout") and row["error"] == ""
        assert row["assets"] == "lite" and row["physics_s"] > 0 and row["render_s"] > 0


def test_every_decode_is_in_the_books_with_its_costs(run: str) -> None:
    episodes = read_episodes(run).to_pandas().set_index("arm")
    chunks = read_chunks(run).to_pandas()
    for arm, rows in chunks.groupby("arm"):
        assert len(rows) == episodes.loc[arm, "chunks"]
        assert rows["actions"].str.len().sum() == 7 * episodes.loc[arm, "steps"]
        if arm == "expert":
            assert list(rows["passes"]) == [0]
            continue
        assert (rows["passes"] >= 1).all() and (rows["passes"] <= rows["layers"]).all()
        assert (rows["vision_s"] > 0).all() and (rows["target_s"] > 0).all()
    passes = chunks.groupby("arm")["passes"].mean()
    assert passes["parallel"] == 1 <= passes["speculative"] < passes["autoregressive"]


def test_the_run_names_what_it_was_made_with(run: str) -> None:
    content = read_run(run)
    assert {"mujoco", "torch", "ray"} <= set(content["packages"])
    assert "lite" in json.dumps(content)
    machines = {machine["role"]: machine for machine in content["sessions"][0]["machines"]}
    assert machines["worker"]["runs_on"].startswith(f"{content['renderer']} (")
    assert machines["replica"]["runs_on"] in ("cpu", "cuda")


def test_the_notebook_reads_it(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(outputs(execute("rollouts", monkeypatch, run), "image/png")) == 5
