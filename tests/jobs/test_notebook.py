"""The notebooks run on the Parquet of a run, and are committed without their output."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pyarrow.parquet as pq
import pytest
from made_up_runs import key, of_numbers, paired_results, result, unjudged, write
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "analysis").glob("*.ipynb"))
REAL = [str(ROOT / "tests" / "data" / name) for name in ("libero_goal", "libero_10")]
KEPT = ROOT / "docs" / "results" / "libero_full_tree.parquet"
TORCHLESS = "import sys\nassert not {'ray', 'torch'} & set(sys.modules)"


def execute(name: str, monkeypatch: pytest.MonkeyPatch, *runs: str, last: str = "") -> NotebookNode:
    """Raises CellExecutionError where a cell fails; `last` is one more cell."""
    monkeypatch.setenv("RSD_RUN", " ".join(runs))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "analysis" / f"{name}.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(last))
    location = {"metadata": {"path": str(ROOT / "analysis")}}
    return NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources=location
    ).execute()


def outputs(notebook: NotebookNode, kind: str) -> list[str]:
    return [
        output.data[kind]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if kind in output.get("data", {})
    ]


def printed(notebook: NotebookNode) -> str:
    cells = notebook.cells
    return "".join(out.get("text", "") for cell in cells for out in cell.get("outputs", []))


def test_rollouts_runs_without_ray_and_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write(tmp_path, paired_results(tasks=3, trials=2))
    executed = execute("rollouts", monkeypatch, run, last=TORCHLESS)
    assert len(outputs(executed, "image/png")) == 5
    assert "Traceback: the simulator raised" in outputs(executed, "text/plain")[-1]


def test_acceptance_of_real_runs_without_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes are decoded, and all of them into the actions that were executed."""
    executed = execute("acceptance", monkeypatch, *REAL)
    assert len(outputs(executed, "image/png")) == 4
    said = printed(executed)
    assert "has no actions: its codes are decoded by libero" in said
    assert "0 of them of unknown actions" in said
    assert "In libero_goal, speculative takes 3" in said and r"\begin{tabular}" in said


def test_acceptance_of_recorded_actions_needs_no_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write(tmp_path, paired_results(tasks=3, trials=2))
    executed = execute("acceptance", monkeypatch, run, last=TORCHLESS)
    assert len(outputs(executed, "image/png")) == 4


def test_an_arm_without_passes_is_in_the_notebooks_that_count_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one whose passes never vary, which no cost model fits."""
    arms = {"autoregressive": of_numbers, "draft": unjudged, "parallel": of_numbers}
    episodes = [made(key(trial, arm)) for arm, made in arms.items() for trial in range(3)]
    run = write(tmp_path, [*episodes, *(result(key(trial)) for trial in range(3))])
    executed = execute("acceptance", monkeypatch, run, last="print(sorted(speed_ups['arm']))")
    said = printed(executed)
    assert "['draft', 'parallel', 'speculative']" in said
    assert "draft takes 0.00 passes a chunk and is 3.33 times as fast as autoregressive" in said
    cells = "print([list(numbers), summary.arms[1].arm])"
    assert "[[0, 1, 2, 3], 'draft']" in printed(execute("rollouts", monkeypatch, run, last=cells))


def of_unknown_worlds(kept: Path, folder: Path) -> str:
    """As kept of a run from before arithmetic was recorded."""
    table = pq.read_table(kept)
    origin = json.loads(table.schema.metadata[b"run"]) | {"arithmetic": None}
    older = folder / kept.name
    pq.write_table(table.replace_schema_metadata({"run": json.dumps(origin)}), older)
    return str(older)


def test_compare_pairs_what_is_the_same_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = of_unknown_worlds(KEPT, tmp_path)
    executed = execute("compare", monkeypatch, *REAL, older, last=TORCHLESS)
    assert len(outputs(executed, "image/png")) == 2
    said = printed(executed)
    assert said.count("worlds identified") == 2 and said.count("worlds not identified") == 1
    assert "Unpaired: on the tasks that both did" in said and r"\begin{tabular}" in said


def test_tokeniser_compares_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last layer reconstructs the policy's own actions, but where they were clipped."""
    monkeypatch.setenv("RSD_TOKENISER_STEPS", "20")
    last = "assert own['mm'].iloc[-1] < 0.01 < own['mm'].iloc[-2]"
    executed = execute("tokeniser", monkeypatch, REAL[1], last=last)
    assert len(outputs(executed, "image/png")) == 2
    assert r"\begin{tabular}" in printed(executed)


@pytest.mark.parametrize("name", ["rollouts", "acceptance", "compare"])
def test_notebooks_run_on_policies_of_numbers_and_on_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Without layers, codes and passes that vary; with an error, which has no chunks."""
    episodes = [*(of_numbers(key(trial)) for trial in range(2)), result(key(2), "error")]
    execute(name, monkeypatch, write(tmp_path, episodes))


@pytest.mark.parametrize("name", ["rollouts", "acceptance", "compare"])
def test_notebooks_run_on_nothing_but_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    execute(name, monkeypatch, write(tmp_path, [result(key(0), "error")]))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_output(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
