"""`jobs/ablate.py` as a user starts it, on Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rsd.commands import call

ROOT = Path(__file__).resolve().parents[2]
STUDY = """\
base:
  policy: toy
  task_suite: toy
  tasks: [0, 1]
  num_trials: 3
  arms: speculative
factors:
  layers: [1]
  replan: [2]
"""


@pytest.mark.timeout(600)
def test_a_study_runs_its_cells_on_ray_and_a_second_session_finds_nothing_left(
    tmp_path: Path,
) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    output = tmp_path / "study"
    words = [sys.executable, str(ROOT / "jobs" / "ablate.py"), str(tmp_path / "study.yaml")]
    words += ["--output", str(output), "--workers", "2", "--worker-memory-gb", "0.2"]
    done = subprocess.run(words, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = pq.read_table(output / "study.parquet").to_pandas()
    assert rows.groupby(["factor_layers", "factor_replan"]).size().to_dict() == {
        (1, 8): 6,
        (3, 2): 6,
        (3, 8): 6,
    }
    assert set(rows["protocol"]) == {"oft", "oft+replan=2"}
    before = (output / "study.parquet").read_bytes()
    assert call("ablate", [*words[2:], "--resume"]) == 0
    assert (output / "study.parquet").read_bytes() == before
