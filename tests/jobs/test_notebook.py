"""The notebook runs on the Parquet of a run, and is committed without its output."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from made_up_runs import key, of_numbers, paired_results, result, write
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "analysis" / "rollouts.ipynb"


def execute(run: str, monkeypatch: pytest.MonkeyPatch) -> NotebookNode:
    """Raises CellExecutionError where a cell fails."""
    monkeypatch.setenv("RSD_RUN", run)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    loaded = "import sys\nassert not {'ray', 'torch'} & set(sys.modules)"
    notebook.cells.append(nbformat.v4.new_code_cell(loaded))
    location = {"metadata": {"path": str(NOTEBOOK.parent)}}
    return NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources=location
    ).execute()


def outputs(notebook: NotebookNode, kind: str) -> list[str]:
    return [
        output.data[kind]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if kind in output.get("data", {})
    ]


def test_the_notebook_runs_without_ray_and_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write(tmp_path, paired_results(tasks=3, trials=2))
    executed = execute(run, monkeypatch)
    assert len(outputs(executed, "image/png")) == 5
    assert "Traceback: the simulator raised" in outputs(executed, "text/plain")[-1]


def test_the_notebook_runs_on_one_arm_with_nothing_but_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(write(tmp_path, [result(key(0), "error")]), monkeypatch)


def test_the_notebook_runs_on_a_policy_of_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(write(tmp_path, [of_numbers(key(trial)) for trial in range(2)]), monkeypatch)


def test_the_notebook_is_committed_without_output() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
