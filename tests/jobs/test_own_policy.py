"""The README's policy of one's own, as a user would run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rsd import books

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.timeout(300)


def test_the_readmes_own_policy_is_evaluated_from_the_folder_it_lies_in(tmp_path: Path) -> None:
    section = (ROOT / "README.md").read_text().split("## Bring your own policy")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    (tmp_path / "my_policy.py").write_text(code[1])
    run = [sys.executable, "-m", "rsd", "evaluate", "--policy", "my_policy:Reach"]
    toy = ["--task-suite", "toy", "--tasks", "0", "--num-trials", "2", "--worker-memory-gb", "0.2"]
    done = subprocess.run(
        [*run, *toy, "--workers", "1", "--output", "run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = books.read_episodes(str(tmp_path / "run")).to_pylist()
    assert [(row["arm"], row["outcome"]) for row in rows] == [("native", "timeout")] * 2
    chunks = books.read_chunks(str(tmp_path / "run")).to_pylist()
    assert chunks and {chunk["layers"] for chunk in chunks} == {0}
    assert {len(chunk["drafted"]) for chunk in chunks} == {0}
    assert {chunk["codes"] for chunk in chunks} == {None}
    assert "native" in done.stdout
