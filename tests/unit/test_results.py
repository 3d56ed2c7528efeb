"""Compact results: nothing of what is counted gets lost, and a page's tables follow from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from made_up_runs import LAYERS, RUN, key, paired_results, result, write

from rsd import report, results
from rsd.errors import UserError
from rsd.records import Books, read_chunks, read_episodes


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("run"), paired_results())


def test_counts_are_those_of_the_run(run: str, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "small.parquet"
    assert results.keep(run, path) == 100
    origin, rows = results.read(path)
    assert origin["checkpoint_sha256"] == "c0ffee" and origin["assets"] == "lite"
    episodes, chunks = read_episodes(run).to_pandas(), read_chunks(run).to_pandas()
    assert rows["outcome"].value_counts().to_dict() == episodes["outcome"].value_counts().to_dict()
    assert rows["chunks"].sum() == len(chunks)
    assert rows["passes"].sum() == chunks["passes"].sum()
    for name in ("drafted", "accepted"):
        layers = [sum(row[layer] for row in rows[name] if len(row)) for layer in range(LAYERS)]
        assert layers == [sum(row[layer] for row in chunks[name]) for layer in range(LAYERS)]
    assert all(field.metadata[b"unit"] for field in pq.read_schema(path))


def test_tables_count_errors_apart_and_pairs_by_world(run: str, tmp_path: Path) -> None:
    results.keep(run, tmp_path / "small.parquet")
    (group,) = results.published([tmp_path / "small.parquet"])
    rows, text = group.rows, "\n".join(results.section(group))
    assert "100 episodes, 1 errors" in text
    finished = rows[(rows["arm"] == "speculative") & (rows["outcome"] != "error")]
    share = 100 * (finished["outcome"] == "success").mean()
    assert len(finished) == 49 and f"/49 = {share:.1f} (" in text
    assert "instead of 4.00" in text and "| 48 of 49 |" in text
    assert "| libero_spatial | speculative | 4/4, 1 error | " in results.task_table(rows)[3]
    pair = report.summarise(run).pairs[0].comparison
    alone = f"| speculative | {pair.pairs} | {pair.only_second} | {pair.only_first} | "
    assert pair.pairs == 49 and alone in text
    assert f"| {pair.p_value:.2g} |" in text


def test_a_task_that_did_not_run_is_no_failure(tmp_path: Path) -> None:
    rows = [result(key(trial), outcome) for trial, outcome in enumerate(("success", "error"))]
    rows += [result(key(0, task_id=3), "error"), result(key(1, "autoregressive", 3), "timeout")]
    results.keep(write(tmp_path / "run", rows), tmp_path / "few.parquet")
    (group,) = results.published([tmp_path / "few.parquet"])
    assert results.task_table(group.rows) == [
        "| suite | arm | 0 | 3 |",
        "|---|---|---|---|",
        "| libero_spatial | autoregressive |  | 0/1 |",
        "| libero_spatial | speculative | 1/1, 1 error | 1 error |",
    ]


def test_an_unfinished_run_is_not_published(tmp_path: Path) -> None:
    unfinished = write(tmp_path / "run", [result(key(0))], planned=100)
    with pytest.raises(UserError, match=r"holds 1 of 100 planned episodes; finish it with --res"):
        results.keep(unfinished, tmp_path / "part.parquet")
    assert not (tmp_path / "part.parquet").exists()


def test_every_version_of_the_code_is_named(tmp_path: Path) -> None:
    run = write(tmp_path / "run", [result(key(0))], planned=2)
    other = {**RUN, "planned_episodes": 2, "code": RUN["code"] | {"git_commit": "1111111"}}
    with Books.open(run, other, resume=True) as books:
        books.add(result(key(1)), attempts=1, worker="worker-0", node="node-0")
    results.keep(run, tmp_path / "resumed.parquet")
    text = "\n".join(results.section(*results.published([tmp_path / "resumed.parquet"])))
    assert "commit 0000000, commit 1111111," in text


def test_runs_of_one_policy_on_the_same_assets_share_a_table(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", paired_results())
    results.keep(whole, tmp_path / "whole.parquet")
    (expected,) = results.published([tmp_path / "whole.parquet"])
    paths = []
    for arm in ("autoregressive", "speculative"):
        mine = [one for one in paired_results() if one.key.arm == arm]
        paths.append(tmp_path / f"{arm}.parquet")
        results.keep(write(tmp_path / arm, mine), paths[-1])
    (group,) = results.published(paths)
    assert group.names == ("autoregressive", "speculative")
    for table in (
        results.success_table,
        results.task_table,
        results.paired_table,
        results.decoding_table,
    ):
        assert table(group.rows) == table(expected.rows)
    with pytest.raises(UserError, match="100 episodes are in two of"):
        results.published([*paths, tmp_path / "whole.parquet"])


@pytest.mark.parametrize(
    "other",
    [
        {"assets_fingerprint": "0123456789abcdef"},
        {"renderer": "egl"},
        {"packages": {**RUN["packages"], "mujoco": "3.3.0"}},
        {"config": {**RUN["config"], "deterministic": False}},
    ],
    ids=lambda other: next(iter(other)),
)
def test_what_was_measured_otherwise_has_a_table_of_its_own(
    run: str, tmp_path: Path, other: dict[str, Any]
) -> None:
    results.keep(run, tmp_path / "lite.parquet")
    _describe(tmp_path / "lite.parquet", tmp_path / "other.parquet", other)
    groups = results.published([tmp_path / "lite.parquet", tmp_path / "other.parquet"])
    assert [group.names for group in groups] == [("lite",), ("other",)]


def test_one_arm_has_one_decoding(run: str, tmp_path: Path) -> None:
    results.keep(run, tmp_path / "all.parquet")
    shallow = {"arms": {"speculative": {"mode": "speculative", "draft_layers": 1}}}
    _describe(
        tmp_path / "all.parquet", tmp_path / "one.parquet", {"config": RUN["config"] | shallow}
    )
    with pytest.raises(UserError, match=r"arm speculative of .* decodes by"):
        results.published([tmp_path / "all.parquet", tmp_path / "one.parquet"])


def _describe(path: Path, copy: Path, other: dict[str, Any]) -> None:
    """Copy a compact file, as if it had been measured under other conditions."""
    table = pq.read_table(path)
    origin = json.loads(table.schema.metadata[b"run"]) | other
    pq.write_table(table.replace_schema_metadata({"run": json.dumps(origin)}), copy)


def test_a_page_keeps_what_stands_around_its_tables() -> None:
    page = f"above\n{results.begin('x')}\nold\n{results.end('x')}\nbelow\n"
    once = results.replaced(page, "x", ["new"])
    assert "old" not in once and once.startswith("above\n") and once.endswith("\nbelow\n")
    assert results.replaced(once, "x", ["new"]) == once
    with pytest.raises(UserError, match="lacks the lines"):
        results.replaced("nothing here", "x", ["new"])


def test_what_cannot_be_kept_or_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        results.keep(str(tmp_path), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_text("no parquet")
    with pytest.raises(UserError, match="is no file of"):
        results.read(tmp_path / "b.parquet")
    other = write(tmp_path / "run", [result(key(0))])
    foreign = Path(other) / "episodes" / "any.parquet"
    pq.write_table(read_episodes(other), foreign)
    with pytest.raises(UserError, match="is no file of"):
        results.read(foreign)
