"""The summary against counts made by hand, and its tables within 80 and 100 columns."""

from __future__ import annotations

import dataclasses
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from made_up_runs import (
    DIMS,
    LAYERS,
    RUN,
    STEPS,
    TOKENS,
    key,
    of_numbers,
    paired_results,
    result,
    write,
)
from rich.console import Console

from rsd import console
from rsd.books import CHUNK_SCHEMA, Books, read_chunks
from rsd.commands import call
from rsd.console import make_console
from rsd.errors import UserError
from rsd.provenance import Machine
from rsd.summary import rules, tallies, terminal
from rsd.summary.compute import summarise
from rsd.summary.statistics import holm, not_worse
from rsd.summary.values import STAGES, ArmSummary, LayerAcceptance
from rsd.tables import Grid, print_grid
from rsd.types import ChunkRecord, DecodeTrace, EpisodeResult


def with_traces(trial: int, traces: Sequence[DecodeTrace]) -> EpisodeResult:
    chunks = [ChunkRecord(i, trace, "") for i, trace in enumerate(traces)]
    return dataclasses.replace(result(key(trial)), chunks=chunks)


def only_arm(output: str) -> ArmSummary:
    (arm,) = summarise(output).arms
    return arm


def test_errors_are_counted_and_never_as_failures(tmp_path: Path) -> None:
    outcomes = ("success", "success", "timeout", "error")
    output = write(tmp_path, (result(key(i), outcome) for i, outcome in enumerate(outcomes)))
    summary = summarise(output)
    (arm,) = summary.arms
    assert (arm.success.successes, arm.success.finished, arm.errors) == (2, 3, 1)
    assert (summary.episodes, summary.errors) == (4, 1)
    assert arm.simulator.episodes == 3


def test_acceptance_sums_tokens_over_ragged_layers(tmp_path: Path) -> None:
    traces = [
        DecodeTrace((10, 10, 0), (9, 5, 0), 2, 3, (0, 10, 0), (0, 8, 0)),
        DecodeTrace((30, 0), (11, 0), 1, 2, canonical=True),
    ]
    arm = only_arm(write(tmp_path, [with_traces(0, traces)]))
    assert arm.acceptance == [
        LayerAcceptance(0, 40, 20, 0.5, 0, 0, None, 2, 0, 0.0, None, None),
        LayerAcceptance(1, 10, 5, 0.5, 10, 8, 0.8, 1, 0, 0.0, None, None),
        LayerAcceptance(2, 0, 0, None, 0, 0, None, 0, 0, None, None, None),
    ]
    assert (arm.cost.passes_mean, arm.cost.passes_median) == (1.5, 1.5)
    assert arm.cost.near_ties == 0.5
    assert arm.cost.unjudged == 0


def test_chunks_of_a_draft_that_nobody_judged_are_told_as_a_share_and_weigh_in_the_mean(
    tmp_path: Path,
) -> None:
    fast = DecodeTrace((0, 0), (0, 0), 0, 1, vision_s=0.002, draft_s=0.001, fast=True)
    slow = DecodeTrace((8, 0), (8, 0), 2, 2, vision_s=0.002, target_s=0.014, fast=False)
    arm = only_arm(write(tmp_path, [with_traces(0, [fast, slow, fast, fast])]))
    assert arm.cost.unjudged == 0.75
    assert arm.cost.total.mean == pytest.approx((3 * 0.003 + 0.016) / 4)
    assert arm.cost.total.median == pytest.approx(0.003)
    rows = read_chunks(str(tmp_path)).to_pandas()
    assert rows["fast"].tolist() == [True, False, True, True]


def brute_majority(output: str) -> list[float]:
    """By layer, token by token in plain Python: the share of judged tokens that equal the most
    frequent level of all of the arm's chunks."""
    rows = [row for row in read_chunks(output).to_pylist() if row["arm"] == "speculative"]
    right: Counter[int] = Counter()
    judged: Counter[int] = Counter()
    for place in range(STEPS * DIMS * LAYERS):
        layer = place % LAYERS
        levels = Counter(row["codes"][place] for row in rows)
        guess = min(levels, key=lambda level: (-levels[level], level))
        for row in rows:
            if row["drafted"][layer]:
                judged[layer] += 1
                right[layer] += row["codes"][place] == guess
    return [right[layer] / judged[layer] for layer in range(LAYERS - 1)]


def test_a_constant_guess_is_judged_on_the_tokens_of_the_draft(tmp_path: Path) -> None:
    """Layers behind a rejection are not judged, so that those counts differ by layer."""
    some = [result(key(trial)) for trial in range(6)]
    for episode in some[::2]:
        for chunk in episode.chunks:
            drafted = (TOKENS, 0, 0, 0)
            trace = dataclasses.replace(chunk.trace, drafted=drafted, accepted=(TOKENS, 0, 0, 0))
            object.__setattr__(chunk, "trace", trace)
    output = write(tmp_path, some)
    layers = only_arm(output).acceptance
    assert [layer.majority_rate for layer in layers[:-1]] == brute_majority(output)
    assert layers[-1].majority_rate is None  # never drafted
    assert [layer.judged for layer in layers] == [18, 9, 9, 0]
    whole = [row["accepted"][0] == TOKENS for row in read_chunks(output).to_pylist()]
    assert (layers[0].whole, layers[0].whole_rate) == (sum(whole), sum(whole) / 18)
    assert 0.7 < brute_majority(output)[0] < 0.95


def test_the_constant_guess_is_another_one_in_every_suite(tmp_path: Path) -> None:
    def in_suite(suite: str, level: int) -> EpisodeResult:
        episode = result(key(0))
        chunks = [
            dataclasses.replace(chunk, codes=np.full((STEPS, DIMS, LAYERS), level, np.uint8))
            for chunk in episode.chunks
        ]
        return dataclasses.replace(
            episode, key=dataclasses.replace(episode.key, suite=suite), chunks=chunks
        )

    output = write(tmp_path, [in_suite("libero_goal", 1), in_suite("libero_object", 5)])
    arm = only_arm(output)
    assert arm.acceptance[0].majority_rate == 1
    assert [suite.suite for suite in arm.suites] == ["libero_goal", "libero_object"]
    assert [suite.acceptance[0].majority_rate for suite in arm.suites] == [1, 1]


def test_where_some_codes_are_unknown_the_constant_guess_is(tmp_path: Path) -> None:
    episode = result(key(0))
    episode.chunks[1] = dataclasses.replace(episode.chunks[1], codes=None)
    arm = only_arm(write(tmp_path, [episode]))
    assert arm.acceptance[0].majority_rate is None and arm.acceptance[0].whole_rate is not None


def test_an_episode_that_is_stored_twice_is_no_result(tmp_path: Path) -> None:
    output = write(tmp_path, [result(key(0)), result(key(1))])
    for folder in ("chunks", "episodes"):
        (part,) = (tmp_path / folder).glob("*.parquet")
        (tmp_path / folder / "part-00001-of-another.parquet").write_bytes(part.read_bytes())
    with pytest.raises(UserError, match=r"holds 2 episodes twice, such as \('speculative', "):
        summarise(output)


def test_trials_that_nobody_looked_at_are_counted_beside_the_whole(tmp_path: Path) -> None:
    outcomes = ["timeout"] * 10 + ["success", "success", "timeout", "error"]
    output = write(tmp_path, (result(key(i), outcome) for i, outcome in enumerate(outcomes)))
    arm = only_arm(output)
    assert (arm.success.successes, arm.success.finished) == (2, 13)
    assert (arm.unseen.successes, arm.unseen.finished) == (2, 3)
    assert (arm.suites[0].unseen, arm.suites[0].errors) == (arm.unseen, 1)


def test_p_values_of_several_pairs_are_adjusted(tmp_path: Path) -> None:
    arms = {"autoregressive": 20, "parallel": 8, "speculative": 20, "worse": 13}
    output = write(
        tmp_path,
        (
            result(key(trial, arm), "success" if trial < solved else "timeout")
            for arm, solved in arms.items()
            for trial in range(20)
        ),
    )
    pairs = summarise(output, margin=0.1).pairs
    assert len(pairs) == 6
    raw = [pair.comparison.p_value for pair in pairs]
    assert [pair.p_adjusted for pair in pairs] == holm(raw)
    assert pairs[0].p_adjusted == pytest.approx(6 * pairs[0].comparison.p_value)
    found = [not_worse(p.comparison.only_first, p.comparison.only_second, 20, 0.1) for p in pairs]
    assert [pair.not_worse for pair in pairs] == found
    assert [pair.not_worse_adjusted for pair in pairs] == holm(found)


def test_a_margin_is_a_number_of_points(capsys: pytest.CaptureFixture[str]) -> None:
    assert rules.margin_of(2) == 0.02
    for points in ("0", "100", "-1", "nan"):
        assert call("report", ["results/none", "--margin", points]) == 2
        assert "between 0 and 100" in capsys.readouterr().err


def test_arms_that_sample_with_the_same_random_numbers_are_named() -> None:
    def arm(mode: str, rule: str = "sampling") -> dict[str, str]:
        return {"mode": mode, "rule": rule}

    assert rules.shared_draws({"a": arm("autoregressive"), "s": arm("speculative")}) == []
    arms = {
        "speculative": arm("speculative", "exact"),
        "speculative-sampling": arm("speculative"),
        "autoregressive-sampling": arm("autoregressive"),
        "speculative-sampling@3": arm("speculative"),
    }
    assert rules.shared_draws(arms) == [("speculative-sampling", "speculative-sampling@3")]


def test_what_made_the_rows_stands_below_the_tables(tmp_path: Path) -> None:
    images = {"height": 96, "width": 128, "samples": 0, "reflection": False}
    run = {**RUN, "arithmetic": "x86-64-v3", "images": images}
    with Books.open(str(tmp_path), run, resume=False) as books:
        for cpu in ("Intel Xeon", "AMD EPYC", "Intel Xeon"):
            books.note_machine(Machine("worker", "node", "egl", cpu, 2, (), "x86-64-v3"))
        books.note_machine(Machine("replica", "node", "cpu", "AMD EPYC", 2, (), "x86-64-v3"))
        books.note_machine(
            Machine("replica", "node", "cuda", "AMD EPYC", 2, ("NVIDIA H100",), "x86-64-v3")
        )
        books.add(result(key(0)), attempts=1, worker="w", node="n")
    text = io.StringIO()
    terminal.print_summary(summarise(str(tmp_path)), Console(file=text, width=400))
    assert "arithmetic: x86-64-v3; frames: 128 x 96 px, 0 samples, no reflection" in text.getvalue()
    named = "Processors: AMD EPYC (replica, worker), Intel Xeon (worker), NVIDIA H100 (replica)"
    assert named in text.getvalue()


def test_a_column_of_later_trials_is_explained_where_there_are_some(tmp_path: Path) -> None:
    few = summarise(write(tmp_path / "few", [result(key(trial)) for trial in range(10)]))
    more = summarise(write(tmp_path / "more", [result(key(trial)) for trial in range(11)]))
    told = [[note for note in rules.notes(one) if "Trials 10 on" in note] for one in (few, more)]
    assert [len(notes) for notes in told] == [0, 1]


def test_latency_is_the_sum_of_the_stages_of_each_chunk(tmp_path: Path) -> None:
    traces = [
        DecodeTrace((), (), 1, 1, queue_s=i, vision_s=1, draft_s=2, target_s=3, detokenise_s=4)
        for i in range(101)
    ]
    cost = only_arm(write(tmp_path, [with_traces(0, traces)])).cost
    assert (cost.total.median, cost.total.p95) == (60, 105)
    assert [cost.stages[stage].median for stage in STAGES] == [50, 1, 2, 3, 4]
    assert cost.stages["queue"].p95 == 95


def test_pairs_leave_out_worlds_that_one_arm_did_not_finish(tmp_path: Path) -> None:
    (pair,) = summarise(write(tmp_path, paired_results())).pairs
    comparison = pair.comparison
    assert (comparison.first_unpaired, comparison.second_unpaired) == (1, 0)
    assert (pair.first, pair.second) == ("autoregressive", "speculative")
    assert comparison.pairs == 49  # of 50; one ended in error
    assert comparison.only_first + comparison.only_second == 1
    assert pair.identical_final_states == 48  # the flipped one ended elsewhere


def test_time_between_sessions_does_not_count(tmp_path: Path) -> None:
    """Two sessions of 100 s with an hour of nothing between them: 4 episodes in 200 s."""
    for start, resume in ((1_800_000_000, False), (1_800_003_700, True)):
        now = float(start)
        books = Books.open(str(tmp_path), RUN, resume=resume, clock=lambda: now)  # noqa: B023
        for trial in range(2):
            now += 50
            books.add(result(key(trial + 2 * resume)), attempts=1, worker="w", node="n")
        books.close()
    summary = summarise(str(tmp_path))
    assert (summary.elapsed_s, summary.episodes_per_hour) == (200, 72)


def test_different_assets_are_never_pooled(tmp_path: Path) -> None:
    lite = result(key(0))
    official = dataclasses.replace(result(key(1)), assets="official")
    output = write(tmp_path, [lite, official])
    with pytest.raises(UserError, match="lite, official"):
        summarise(output)


def test_a_run_without_a_stored_episode_has_a_summary(tmp_path: Path) -> None:
    output = write(tmp_path, [])
    summary = summarise(output)
    assert (summary.episodes, summary.episodes_per_hour, summary.arms) == (0, None, [])
    terminal.print_summary(summary, Console(file=io.StringIO()))


def test_a_run_of_errors_only_has_a_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = write(tmp_path, [result(key(i), "error") for i in range(2)])
    arm = only_arm(output)
    assert (arm.success.finished, arm.success.rate, arm.errors) == (0, None, 2)
    for command in ("report", "status"):
        assert call(command, [output]) == 0
        told = capsys.readouterr().out
        rows = [line.split()[1:4] for line in told.splitlines() if " 0/0 " in line]
        assert rows and all(row == ["0/0", "–", "–"] for row in rows)  # of nothing: no interval


@pytest.mark.parametrize("width", [80, 100])
def test_tables_fit_a_terminal(tmp_path: Path, width: int) -> None:
    eight = DecodeTrace((128,) * 8, (128,) * 8, 8, 8, queue_s=12.3, target_s=45.6)
    for name, results in {
        "paired": paired_results(trials=1),
        "eight-layers": [with_traces(0, [eight])],
    }.items():
        shown = summarise(write(tmp_path / name, results))
        text = io.StringIO()
        terminal.print_summary(shown, Console(file=text, width=width))
        lines = text.getvalue().splitlines()
        assert max(map(len, lines[:-1])) <= width
        assert "…" not in text.getvalue()
        assert all(any(arm.arm in line for line in lines) for arm in shown.arms)
        assert "episodes per hour" in text.getvalue()
        assert lines[-1] == f"Parquet: {shown.output}"


LONG = ("autoregressive@3-with-a-name-of-its-own", "speculative-sampling@3-with-a-long-name")


@pytest.mark.parametrize("width", [20, *range(38, 44), 60, 80, 120, None])
def test_no_digit_and_no_column_is_lost_in_a_narrow_terminal(
    tmp_path: Path, width: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything that a pipe (None) shows; only names of rows and titles may be broken."""
    output = write(tmp_path, (result(key(trial, arm)) for arm in LONG for trial in range(3)))
    summary = summarise(output)
    for make in terminal.TABLES:
        grid = make(summary)
        console = make_console() if width is None else Console(width=width)
        print_grid(console, grid)
        text = capsys.readouterr().out
        assert "…" not in text
        assert width is None or max(map(len, text.splitlines())) <= width
        words = text.split()
        rest = slice(grid.names, None)
        numbers = [*grid.columns[rest], *(cell for row in grid.rows for cell in row[rest])]
        for part in (part for number in numbers for part in number.split()):
            assert part in words, (grid.title, part)
        assert width is not None or all(row[0] in text for row in grid.rows)


def test_every_part_of_a_split_table_names_its_rows() -> None:
    grid = Grid("Latency", ("arm", "", *(f"{i}00.0" for i in range(9))), names=2)
    for name in ("median", "p95"):
        grid.add("speculative" if name == "median" else "", name, *("1.5" for _ in range(9)))
    text = io.StringIO()
    print_grid(Console(file=text, width=40), grid)
    parts = text.getvalue().split("Latency")[1:]
    assert len(parts) > 1
    for part in parts:
        assert all(part.split().count(name) == 1 for name in ("speculative", "median", "p95"))
    assert text.getvalue().split().count("1.5") == 18
    with pytest.raises(ValueError, match="2 cells in a table of 11 columns"):
        grid.add("a", "b")


def test_a_pipe_is_as_wide_as_columns_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert make_console().width == console.PIPE_WIDTH
    monkeypatch.setenv("COLUMNS", "40")
    assert make_console().width == 40


def test_a_pair_is_never_broken_inside_an_arms_name(tmp_path: Path) -> None:
    arms = ("autoregressive@3", "speculative-sampling")
    output = write(tmp_path, [result(key(0, arm)) for arm in arms])
    text = io.StringIO()
    terminal.print_summary(summarise(output), Console(file=text, width=60))
    paired = text.getvalue().split("Paired by world")[1].split("Guesses kept")[0].split()
    assert {*arms, "vs"} <= set(paired)


def test_arms_that_guess_nothing_keep_nothing(tmp_path: Path) -> None:
    output = write(tmp_path, [result(key(0, "autoregressive"))])
    text = io.StringIO()
    terminal.print_summary(summarise(output), Console(file=text, width=80))
    assert "Guesses kept" not in text.getvalue()
    assert "near ties" in text.getvalue()


def test_a_policy_of_numbers_has_success_and_pairs_and_no_acceptance(tmp_path: Path) -> None:
    arms = ("served", "served+delay")
    output = write(tmp_path, [of_numbers(key(trial, arm)) for arm in arms for trial in range(3)])
    summary = summarise(output)
    for arm in summary.arms:
        assert (arm.success.successes, arm.acceptance) == (3, [])
        assert (arm.cost.passes, arm.cost.passes_mean, arm.cost.total.median) == ({1: 9}, 1, 0.02)
    assert summary.pairs[0].identical_final_states == 3
    text = io.StringIO()
    terminal.print_summary(summary, Console(file=text, width=80))
    assert "Guesses kept" not in text.getvalue() and "served+delay" in text.getvalue()
    assert not [note for note in rules.notes(summary) if "Guesses" in note]


def test_what_a_policy_does_not_say_is_unknown_and_not_nothing() -> None:
    """Null layers, guesses and passes, beside rows that have them."""
    traces = [{"drafted": [4, 4], "accepted": [4, 2], "layers": 2, "passes": 2, "codes": [1] * 8}]
    nothing = {"drafted": None, "accepted": None, "layers": None, "passes": None, "codes": None}
    defaults = {
        "arm": "a",
        "suite": "s",
        "redrafted": [],
        "reaccepted": [],
        "canonical": False,
        **{f"{stage}_s": 0.001 for stage in STAGES},
    }
    names = tallies.COLUMNS
    schema = pa.schema([CHUNK_SCHEMA.field(name).with_nullable(True) for name in names])
    found = []
    for rows in (traces, [*traces, nothing], [nothing]):
        one = tallies.Tally()
        one.add(pa.RecordBatch.from_pylist([defaults | row for row in rows], schema))
        found.append(one.counts())
    said, mixed, silent = (
        [(layer.rate, layer.majority_rate) for layer in tallies.acceptance(one)] for one in found
    )
    assert (said, mixed, silent) == ([(1, 1), (0.5, 1)], [(1, 1), (0.5, 1)], [])
    assert [tallies.chunk_cost(one).passes_mean for one in found] == [2, None, None]
    assert [one.passes for one in found] == [{2: 1}, None, None]


def test_the_rules_that_apply_are_told(tmp_path: Path) -> None:
    some = list(paired_results(trials=2))
    told = "\n".join(rules.notes(summarise(write(tmp_path / "two", some), margin=0.03)))
    for words in (
        rules.COVERED,
        rules.POOLED,
        rules.GUESSES,
        rules.EVERY_TWO.description,
        "by less",
    ):
        assert words in told
    assert "less than 3 points" in told
    alone = summarise(write(tmp_path / "one", some[::2]))
    assert rules.notes(alone) == [rules.COVERED, rules.POOLED]


def test_arms_without_a_common_world_are_no_test(tmp_path: Path) -> None:
    """They are listed, and the p-values of the others are not adjusted for them."""
    some = [result(key(trial, arm)) for arm in ("a", "b") for trial in range(10)]
    some += [result(key(trial, "c"), "timeout") for trial in range(10, 14)]
    pairs = {(p.first, p.second): p for p in summarise(write(tmp_path, some)).pairs}
    assert pairs["a", "b"].not_worse_adjusted == pairs["a", "b"].not_worse < 0.5
    empty = pairs["a", "c"]
    assert (empty.comparison.pairs, empty.comparison.first_unpaired, empty.p_adjusted) == (0, 10, 1)


def test_the_command_prints_values_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = write(tmp_path, paired_results(trials=2))
    assert call("report", [output, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps(dataclasses.asdict(summarise(output))))


def test_the_command_says_what_to_mend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("report", [str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_arms_are_compared_with_the_one_that_is_named_and_adjusted_for_so_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = write(
        tmp_path,
        (
            result(key(trial, arm), "success" if trial < solved else "timeout")
            for arm, solved in {"autoregressive": 20, "parallel": 8, "speculative": 13}.items()
            for trial in range(20)
        ),
    )
    page, asked = tmp_path / "page.html", [output, "--against", "speculative"]
    assert call("report", [*asked, "--html", str(page)]) == 0
    assert "--against speculative" in page.read_text()
    capsys.readouterr()
    assert call("report", [*asked, "--json"]) == 0
    pairs = json.loads(capsys.readouterr().out)["pairs"]
    found = [(pair["first"], pair["second"]) for pair in pairs]
    assert found == [("speculative", "autoregressive"), ("speculative", "parallel")]
    raw = [pair["comparison"]["p_value"] for pair in pairs]
    assert [pair["p_adjusted"] for pair in pairs] == holm(raw)
    assert call("report", [output, "--against", "paralel", "--json"]) == 2
    assert "parallel" in capsys.readouterr().err
