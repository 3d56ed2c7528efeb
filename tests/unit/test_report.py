"""The summary against counts made by hand, and its tables within 80 and 100 columns."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from made_up_runs import RUN, key, paired_results, result, write
from rich.console import Console

from rsd import report
from rsd.errors import UserError
from rsd.records import Books
from rsd.types import ChunkRecord, DecodeTrace, EpisodeResult


def with_traces(trial: int, traces: Sequence[DecodeTrace]) -> EpisodeResult:
    chunks = [ChunkRecord(i, trace, "") for i, trace in enumerate(traces)]
    return dataclasses.replace(result(key(trial)), chunks=chunks)


def only_arm(output: str) -> report.ArmSummary:
    (arm,) = report.summarise(output).arms
    return arm


def test_errors_are_counted_and_never_as_failures(tmp_path: Path) -> None:
    outcomes = ("success", "success", "timeout", "error")
    output = write(tmp_path, (result(key(i), outcome) for i, outcome in enumerate(outcomes)))
    summary = report.summarise(output)
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
        report.LayerAcceptance(0, 40, 20, 0.5, 0, 0, None),
        report.LayerAcceptance(1, 10, 5, 0.5, 10, 8, 0.8),
        report.LayerAcceptance(2, 0, 0, None, 0, 0, None),
    ]
    assert (arm.cost.passes_mean, arm.cost.passes_median) == (1.5, 1.5)
    assert arm.cost.near_ties == 0.5


def test_latency_is_the_sum_of_the_stages_of_each_chunk(tmp_path: Path) -> None:
    traces = [
        DecodeTrace((), (), 1, 1, queue_s=i, vision_s=1, draft_s=2, target_s=3, detokenise_s=4)
        for i in range(101)
    ]
    cost = only_arm(write(tmp_path, [with_traces(0, traces)])).cost
    assert (cost.total.median, cost.total.p95) == (60, 105)
    assert [cost.stages[stage].median for stage in report.STAGES] == [50, 1, 2, 3, 4]
    assert cost.stages["queue"].p95 == 95


def test_pairs_leave_out_worlds_that_one_arm_did_not_finish(tmp_path: Path) -> None:
    (pair,) = report.summarise(write(tmp_path, paired_results())).pairs
    comparison = pair.comparison
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
    summary = report.summarise(str(tmp_path))
    assert (summary.elapsed_s, summary.episodes_per_hour) == (200, 72)


def test_different_assets_are_never_pooled(tmp_path: Path) -> None:
    lite = result(key(0))
    official = dataclasses.replace(result(key(1)), assets="official")
    output = write(tmp_path, [lite, official])
    with pytest.raises(UserError, match="lite, official"):
        report.summarise(output)


def test_a_run_without_a_stored_episode_has_a_summary(tmp_path: Path) -> None:
    output = write(tmp_path, [])
    summary = report.summarise(output)
    assert (summary.episodes, summary.episodes_per_hour, summary.arms) == (0, None, [])
    report.print_summary(summary, Console(file=io.StringIO()))


def test_a_run_of_errors_only_has_a_summary(tmp_path: Path) -> None:
    output = write(tmp_path, [result(key(i), "error") for i in range(2)])
    arm = only_arm(output)
    assert (arm.success.finished, arm.success.rate, arm.errors) == (0, None, 2)
    assert report.main([output]) == 0


@pytest.mark.parametrize("width", [80, 100])
def test_tables_fit_a_terminal(tmp_path: Path, width: int) -> None:
    eight = DecodeTrace((128,) * 8, (128,) * 8, 8, 8, queue_s=12.3, target_s=45.6)
    for name, results in {
        "paired": paired_results(trials=1),
        "eight-layers": [with_traces(0, [eight])],
    }.items():
        shown = report.summarise(write(tmp_path / name, results))
        text = io.StringIO()
        report.print_summary(shown, Console(file=text, width=width))
        lines = text.getvalue().splitlines()
        assert max(map(len, lines[:-1])) <= width
        assert "…" not in text.getvalue()
        assert all(any(arm.arm in line for line in lines) for arm in shown.arms)
        assert "episodes per hour" in text.getvalue()
        assert lines[-1] == f"Parquet: {shown.output}"


def test_a_pair_is_never_broken_inside_an_arms_name(tmp_path: Path) -> None:
    arms = ("autoregressive@3", "speculative-sampling")
    output = write(tmp_path, [result(key(0, arm)) for arm in arms])
    text = io.StringIO()
    report.print_summary(report.summarise(output), Console(file=text, width=60))
    paired = text.getvalue().split("Paired by world")[1].split("Guesses kept")[0].split()
    assert {*arms, "vs"} <= set(paired)


def test_arms_that_guess_nothing_keep_nothing(tmp_path: Path) -> None:
    output = write(tmp_path, [result(key(0, "autoregressive"))])
    text = io.StringIO()
    report.print_summary(report.summarise(output), Console(file=text, width=80))
    assert "Guesses kept" not in text.getvalue()
    assert "near ties" in text.getvalue()


def test_the_command_prints_values_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = write(tmp_path, paired_results(trials=2))
    assert report.main([output, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == dataclasses.asdict(report.summarise(output))


def test_the_command_says_what_to_mend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
