"""Compact results: nothing of what is counted gets lost, and a page's tables follow from them."""

from __future__ import annotations

import dataclasses
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_up_runs import LAYERS, RUN, key, of_numbers, paired_results, result, unjudged, write

from rsd import results
from rsd.books import Books, read_chunks, read_episodes
from rsd.commands import call
from rsd.commands.results import topics_of
from rsd.errors import UserError
from rsd.provenance import Machine
from rsd.summary import benchmark, markdown
from rsd.summary.compute import summarise
from rsd.summary.rules import MARGIN
from rsd.summary.statistics import holm, mcnemar_exact, not_worse
from rsd.summary.values import Summary
from rsd.types import EpisodeResult

EXACT = ("autoregressive", "speculative")
FOLDER = Path(__file__).parents[2] / "docs" / "results"


def said(*paths: Path, margin: float = MARGIN) -> Summary:
    """Of files that share a table."""
    (group,) = results.published(paths)
    return results.summary(group, margin)


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
    assert pq.read_schema(path).remove_metadata().equals(results.SCHEMA)


def test_median_passes_whole_layers_and_the_constant_guess_can_be_recomputed(
    run: str, tmp_path: Path
) -> None:
    """As the summary of the run itself has them, episode by episode."""
    results.keep(run, tmp_path / "small.parquet")
    _, rows = results.read(tmp_path / "small.parquet")
    chunks = read_chunks(run).to_pandas()
    for row in rows.itertuples():
        own = chunks[
            (chunks["arm"] == row.arm)
            & (chunks["task_id"] == row.task_id)
            & (chunks["trial"] == row.trial)
        ].sort_values("chunk_index")
        assert row.chunk_passes.tolist() == own["passes"].tolist()
        assert row.passes == own["passes"].sum() and row.near_ties == own["canonical"].sum()
        for layer in range(LAYERS if len(own) else 0):
            drafted, accepted = (own[name].str[layer] for name in ("drafted", "accepted"))
            assert row.judged[layer] == (drafted > 0).sum()
            assert row.whole[layer] == ((drafted > 0) & (accepted == drafted)).sum()
    assert sum(sum(row) for row in rows["majority"]) > 0


def test_a_published_run_says_what_the_run_itself_says(run: str, tmp_path: Path) -> None:
    """But for times, redrafts, and where it is."""
    results.keep(run, tmp_path / "small.parquet")
    published, own = said(tmp_path / "small.parquet"), summarise(run)
    assert published.pairs == own.pairs
    assert (published.episodes, published.errors) == (own.episodes, own.errors)
    assert published.provenance == own.provenance
    for kept, whole in zip(published.arms, own.arms, strict=True):
        assert (kept.success, kept.unseen, kept.errors) == (
            whole.success,
            whole.unseen,
            whole.errors,
        )
        assert kept.acceptance == [
            dataclasses.replace(layer, redrafted=None, reaccepted=None, later_rate=None)
            for layer in whole.acceptance
        ]
        assert (kept.cost.passes, kept.cost.passes_mean, kept.cost.passes_median) == (
            whole.cost.passes,
            whole.cost.passes_mean,
            whole.cost.passes_median,
        )
        assert [suite.tasks for suite in kept.suites] == [suite.tasks for suite in whole.suites]
        assert kept.simulator.total is None and kept.cost.total.median is None
        assert kept.simulator.wall == pytest.approx(whole.simulator.wall)


def test_chunks_in_any_order_and_many_parts_come_together(run: str, tmp_path: Path) -> None:
    results.keep(run, tmp_path / "one.parquet")
    shuffled = list(paired_results())
    np.random.default_rng(0).shuffle(shuffled)  # type: ignore[arg-type]
    output = str(tmp_path / "run")
    with Books.open(output, {**RUN, "planned_episodes": 100}, resume=False, flush_every=7) as books:
        for episode in shuffled:
            books.add(episode, attempts=1, worker="w", node="n")
    results.keep(output, tmp_path / "other.parquet")
    one, other = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("one", "other"))
    assert one.equals(other)


def test_where_codes_are_unknown_so_is_the_constant_guess(tmp_path: Path) -> None:
    episodes = [result(key(trial, arm)) for arm in EXACT for trial in range(2)]
    first = next(episode for episode in episodes if episode.key.arm == "speculative")
    first.chunks[0] = dataclasses.replace(first.chunks[0], codes=None)
    results.keep(write(tmp_path / "run", episodes), tmp_path / "small.parquet")
    (group,) = results.published([tmp_path / "small.parquet"])
    assert [row is None for row in group.rows["majority"]].count(True) == 1
    row = markdown.decoding_table(results.summary(group))[2]
    assert row.split(" | ")[3] == "unknown" and "median unknown" not in row


def test_a_policy_of_numbers_is_published_beside_one_of_codes(tmp_path: Path) -> None:
    some = [result(key(trial, arm)) for arm in EXACT for trial in range(2)]
    some += [of_numbers(key(trial, "served"), "timeout") for trial in range(2)]
    results.keep(write(tmp_path / "run", some), tmp_path / "small.parquet")
    shown = said(tmp_path / "small.parquet")
    (arm,) = (arm for arm in shown.arms if arm.arm == "served")
    assert (arm.acceptance, arm.cost.passes_mean) == ([], 1)
    text = "\n".join(markdown.section(shown, tasks=True))
    assert "| served | 2 | 0 | 2 | -100.0 " in text and "| libero_spatial | served | 0/2 |" in text
    assert all(layer.majority is not None for layer in shown.arms[0].acceptance)


def test_passes_of_a_draft_that_nobody_judges_are_none_and_not_unknown(tmp_path: Path) -> None:
    episodes = [result(key(0, arm)) for arm in EXACT] + [unjudged(key(0, "draft"))]
    results.keep(write(tmp_path / "run", episodes), tmp_path / "small.parquet")
    arms = {arm.arm: arm for arm in said(tmp_path / "small.parquet").arms}
    assert (arms["draft"].cost.passes, arms["draft"].cost.passes_mean) == ({0: 3}, 0)


def test_a_run_from_before_a_column_is_summarised_and_kept(run: str, tmp_path: Path) -> None:
    for part in (Path(run) / "chunks").glob("*.parquet"):
        pq.write_table(pq.read_table(part).drop_columns(["codes"]), part)
    layers = next(arm.acceptance for arm in summarise(run).arms if arm.arm == "speculative")
    assert layers[0].rate is not None and layers[0].majority_rate is None
    results.keep(run, tmp_path / "old.parquet")
    kept = next(
        arm.acceptance for arm in said(tmp_path / "old.parquet").arms if arm.arm == "speculative"
    )
    assert kept[0].rate == layers[0].rate and kept[0].majority_rate is None


def test_files_of_an_older_layout_are_read_and_say_what_is_unknown(
    run: str, tmp_path: Path
) -> None:
    results.keep(run, tmp_path / "new.parquet")
    table = pq.read_table(tmp_path / "new.parquet")
    added = ["chunk_passes", "judged", "whole", "majority"]
    pq.write_table(table.drop_columns(added), tmp_path / "old.parquet")
    old, new = (said(tmp_path / f"{name}.parquet") for name in ("old", "new"))
    cells = markdown.decoding_table(old)[2].split(" | ")
    assert "(median unknown) instead of 4.00" in cells[1]
    assert cells[3:5] == ["unknown", "unknown"]
    assert cells[2] == markdown.decoding_table(new)[2].split(" | ")[2]
    assert markdown.success_table(old) == markdown.success_table(new)
    assert "arithmetic unknown, frames unknown, processors unknown" in markdown.section(old)[0]


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_a_pages_tables_are_those_of_the_kept_results(page: str) -> None:
    """`rsd results table --write docs/results.md README.md` would change nothing."""
    topics = topics_of(sorted(FOLDER.glob("*.parquet")), MARGIN)
    text = (FOLDER.parents[1] / page).read_text()
    assert markdown.filled(text, topics) == text


def test_the_table_of_every_arms_time_is_that_of_the_kept_rows() -> None:
    """`python docs/pictures/pareto.py` prints what docs/pareto.md has."""
    pareto = runpy.run_path(str(FOLDER.parent / "pictures" / "pareto.py"))
    assert pareto["table"](pareto["arms"]()) in (FOLDER.parent / "pareto.md").read_text()


def test_the_longer_open_loop_is_told_as_its_kept_episodes_have_it() -> None:
    """The table of docs/ablations.md, from all episodes of the study."""
    kept = pq.read_table(FOLDER.parent / "ablations" / "open_loop.parquet").to_pandas()
    won = kept.assign(won=kept["outcome"].astype(str) == "success")
    suites = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
    pairs = won.pivot(index=["suite", "task_id", "trial"], columns="cell", values="won")
    base, longer = pairs["base"], pairs["replan-16"]
    lost = f"{(base & ~longer).sum()}, {(longer & ~base).sum()}"
    page = (FOLDER.parent / "ablations.md").read_text().splitlines()
    for steps, cell, told in (("8", "base", ""), ("16", "replan-16", lost)):
        rows = won[won["cell"] == cell]
        ms = 1000 * rows["decode_s"].sum() / rows["steps"].sum()
        solved = [rows.loc[rows["suite"] == suite, "won"].sum() for suite in suites]
        (line,) = [line for line in page if line.startswith(f"| {steps} | {rows['won'].sum()} |")]
        cells = [part.strip() for part in line.strip("|").split("|")]
        assert cells[3:] == [told, f"{ms:.2f}", *map(str, solved)]


def test_two_thousand_episodes_are_kept_in_less_than_300_kb(tmp_path: Path) -> None:
    benchmark.make_run(tmp_path / "run", 2000, 500)
    assert results.keep(str(tmp_path / "run"), tmp_path / "kept.parquet") == 2000
    assert (tmp_path / "kept.parquet").stat().st_size < 300_000


def test_what_made_the_rows_stands_above_the_tables(tmp_path: Path) -> None:
    images = {"height": 96, "width": 96, "samples": 4, "reflection": True}
    made = {**RUN, "planned_episodes": 1, "arithmetic": "x86-64-v3", "images": images}
    for cpu, task in (("Intel Xeon", 0), ("AMD EPYC", 1)):
        with Books.open(str(tmp_path / cpu), made, resume=False) as books:
            books.note_machine(Machine("worker", "node", "egl", cpu, 2, (), "x86-64-v3"))
            books.add(result(key(0, task_id=task)), attempts=1, worker="w", node="n")
        results.keep(str(tmp_path / cpu), tmp_path / f"{cpu[:3]}.parquet")
    (group,) = results.published([tmp_path / "AMD.parquet", tmp_path / "Int.parquet"])
    assert (
        "arithmetic x86-64-v3, frames 96 x 96 px, 4 samples, reflection, processors AMD EPYC "
        "(worker), Intel Xeon (worker); 2 episodes" in markdown.headline(results.summary(group))
    )


def test_trials_that_nobody_looked_at_have_a_row_beside_the_whole(tmp_path: Path) -> None:
    def in_suite(suite: str, trial: int) -> EpisodeResult:
        episode = result(key(trial), "success" if trial % 3 else "timeout")
        return dataclasses.replace(episode, key=dataclasses.replace(episode.key, suite=suite))

    some = [in_suite(suite, i) for suite in ("libero_10", "libero_goal") for i in range(14)]
    results.keep(write(tmp_path / "run", some), tmp_path / "small.parquet")
    (group,) = results.published([tmp_path / "small.parquet"])
    table = markdown.success_table(results.summary(group))
    assert [row.split(" = ")[0] for row in table[2:]] == [
        "| libero_10 | 9/14",
        "| libero_10, trials 10 on | 3/4",
        "| libero_goal | 9/14",
        "| libero_goal, trials 10 on | 3/4",
        "| all | 18/28",
        "| all, trials 10 on | 6/8",
    ]


def test_some_trials_of_the_files_of_several_folders_are_one_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then an arm that did more is counted on the worlds of the others."""
    done = {"autoregressive": range(20), "parallel": range(4, 8)}
    for arm, trials in done.items():
        some = [result(key(trial, arm), "success" if trial % 4 else "timeout") for trial in trials]
        results.keep(write(tmp_path / f"run-{arm}", some), tmp_path / arm / "kept.parquet")
    folders = [str(tmp_path / arm) for arm in done]
    table = ["table", "--folder", *folders]
    assert call("results", table) == 0
    assert " 15/20 = 75.0" in capsys.readouterr().out
    assert call("results", [*table, "--trials", "4", "5", "6", "7"]) == 0
    told = capsys.readouterr().out
    assert " 3/4 = 75.0 (30.1 to 95.4) | 3/4 = 75.0" in told and "8 episodes" in told
    assert call("results", [*table, "--trials", "4", "20"]) == 2
    told = capsys.readouterr().err
    assert f"--trials 20: there are {', '.join(map(str, range(20)))}" in " ".join(told.split())


def test_some_arms_of_a_run_are_kept_alone(run: str, tmp_path: Path) -> None:
    """As those of a file that holds all of them."""
    whole, some = tmp_path / "whole.parquet", tmp_path / "some.parquet"
    assert results.keep(run, whole) == 100
    assert results.keep(run, some, ["speculative"]) == 50
    (origin, rows), (_, every) = results.read(some), results.read(whole)
    assert list(origin["config"]["arms"]) == ["speculative"]
    own = every[every["arm"] == "speculative"].reset_index(drop=True)
    assert rows.astype(str).equals(own.astype(str))
    with pytest.raises(UserError, match="speculative"):
        results.keep(run, some, ["speculativ"])


def test_pairs_say_what_one_arm_alone_finished_and_adjust_their_p_values(tmp_path: Path) -> None:
    solved = {"autoregressive": 30, "parallel": 18, "speculative": 30, "regression": 4}
    some = [
        result(key(trial, arm), "success" if trial < solved[arm] else "timeout")
        for arm in solved
        for trial in range(10 if arm == "regression" else 30)
    ]
    results.keep(write(tmp_path / "run", some), tmp_path / "small.parquet")
    (group,) = results.published([tmp_path / "small.parquet"])
    rows = [
        row.strip("| ").split(" | ") for row in markdown.paired_table(results.summary(group, 0.1))
    ]
    assert rows[0][5:] == [
        "p",
        "p (Holm)",
        "not worse, margin 10: p (Holm)",
        "worlds finished by one only: it, other",
    ]
    found = {row[0]: row[1:] for row in rows[2:]}
    assert found["regression"][-1] == "0, 20"
    raw = [mcnemar_exact(0, 0), mcnemar_exact(12, 0), mcnemar_exact(6, 0)]
    assert [row[4] for row in found.values()] == [f"{p:.2g}" for p in raw]
    assert [row[5] for row in found.values()] == [f"{p:.2g}" for p in holm(raw)]
    worse = holm([not_worse(lost, 0, pairs, 0.1) for lost, pairs in ((0, 30), (12, 30), (6, 10))])
    assert [row[6] for row in found.values()] == [f"{p:.2g}" for p in worse]


def test_notes_name_arms_that_sample_with_the_same_random_numbers(run: str, tmp_path: Path) -> None:
    sampling = {"mode": "speculative", "rule": "sampling"}
    arms = {"speculative-sampling": sampling, "speculative-sampling@3": sampling}
    results.keep(run, tmp_path / "a.parquet")
    _describe(
        tmp_path / "a.parquet", tmp_path / "b.parquet", {"config": RUN["config"] | {"arms": arms}}
    )
    plain, sampled = (
        markdown.all_notes([said(tmp_path / name)]) for name in ("a.parquet", "b.parquet")
    )
    assert len(sampled) == len(plain) + 1
    assert sampled[-1].startswith("speculative-sampling and speculative-sampling@3 sample with")
    assert any("on the worlds that both finished" in note for note in plain)


def test_the_build_of_torch_and_transformers_do_not_part_results(run: str, tmp_path: Path) -> None:
    results.keep(write(tmp_path / "a", [result(key(0))]), tmp_path / "a.parquet")
    results.keep(write(tmp_path / "b", [result(key(1))]), tmp_path / "b.parquet")
    paths = []
    for name, versions in {
        "a": {"torch": "2.13.0+cpu", "transformers": "5.23.0"},
        "b": {"torch": "2.13.0+cu130"},
    }.items():
        paths.append(tmp_path / f"{name}-described.parquet")
        packages = RUN["packages"] | versions
        _describe(tmp_path / f"{name}.parquet", paths[-1], {"packages": packages})
    assert [group.names for group in results.published(paths)] == [("a-described", "b-described")]


def test_tables_count_errors_apart_and_pairs_by_world(run: str, tmp_path: Path) -> None:
    results.keep(run, tmp_path / "small.parquet")
    (group,) = results.published([tmp_path / "small.parquet"])
    rows, text = group.rows, "\n".join(markdown.section(results.summary(group)))
    assert "100 episodes, 1 errors" in text
    finished = rows[(rows["arm"] == "speculative") & (rows["outcome"] != "error")]
    share = 100 * (finished["outcome"] == "success").mean()
    assert len(finished) == 49 and f"/49 = {share:.1f} (" in text
    assert "instead of 4.00" in text and "| 48 of 49 |" in text
    assert (
        "| libero_spatial | speculative | 4/4, 1 error | "
        in markdown.task_table(results.summary(group))[3]
    )
    pair = summarise(run).pairs[0].comparison
    alone = f"| speculative | {pair.pairs} | {pair.only_second} | {pair.only_first} | "
    assert pair.pairs == 49 and alone in text
    assert f"| {pair.p_value:.2g} |" in text


def test_a_task_that_did_not_run_is_no_failure(tmp_path: Path) -> None:
    rows = [result(key(trial), outcome) for trial, outcome in enumerate(("success", "error"))]
    rows += [result(key(0, task_id=3), "error"), result(key(1, "autoregressive", 3), "timeout")]
    results.keep(write(tmp_path / "run", rows), tmp_path / "few.parquet")
    (group,) = results.published([tmp_path / "few.parquet"])
    assert markdown.task_table(results.summary(group)) == [
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
    text = "\n".join(markdown.section(said(tmp_path / "resumed.parquet")))
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
    together, whole_run = (results.summary(one) for one in (group, expected))
    assert dataclasses.replace(together, names=whole_run.names) == whole_run
    assert markdown.section(together, tasks=True)[1:] == markdown.section(whole_run, tasks=True)[1:]
    with pytest.raises(UserError, match="100 episodes are in two of") as refused:
        results.published([*paths, tmp_path / "whole.parquet"])
    assert "'libero_spatial', 0, 0); keep each once" in str(refused.value)


@pytest.mark.parametrize(
    "other",
    [
        {"assets_fingerprint": "0123456789abcdef"},
        {"renderer": "egl"},
        {"packages": {**RUN["packages"], "mujoco": "3.3.0"}},
        {"packages": {**RUN["packages"], "numpy": "2.0.0"}},
        {"packages": {**RUN["packages"], "torch": "2.12.0"}},
        {"arithmetic": "x86-64-v3"},
        {"images": {"height": 256, "width": 256, "samples": 4, "reflection": True}},
        {"config": {**RUN["config"], "deterministic": False}},
    ],
    ids=lambda other: str(other)[-30:],
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
    page = "".join(
        f"above {topic}\n{markdown.begin(topic)}\nold\n{markdown.end(topic)}\nbelow\n"
        for topic in ("x", "y")
    )
    once = markdown.filled(page, {"x": ["new"], "y": ["newer"], "z": ["not there"]})
    assert "old" not in once and once.startswith("above x\n") and once.endswith("\nbelow\n")
    assert once.count("new") == 2 and "not there" not in once
    assert markdown.filled(once, {"x": ["new"], "y": ["newer"]}) == once
    with pytest.raises(UserError, match="lacks a line such as"):
        markdown.filled("nothing here", {"x": ["new"]})
    with pytest.raises(UserError, match="lacks the line '<!-- end of x"):
        markdown.filled(markdown.begin("x"), {"x": ["new"]})


def test_the_brief_table_has_a_row_a_suite_and_one_of_all(run: str, tmp_path: Path) -> None:
    results.keep(run, tmp_path / "small.parquet")
    shown = said(tmp_path / "small.parquet")
    head, _, suite, both = (row.split(" | ") for row in markdown.brief_table(shown))
    assert head[1:] == ["autoregressive", "speculative", "passes a chunk", "same final state |"]
    assert suite[1:] == both[1:] and both[-1] == "48 of 49 |"


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
