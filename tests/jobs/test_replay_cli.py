"""`rsd replay` and `rsd verify` as a user meets them: what they make, say, and end with."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
from made_up_recordings import episode, episodes, otherwise, without_actions, write

from rsd.commands import call


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("run"), episodes())


ONE = ("--task", "0", "--trial", "2", "--arm", "speculative")


def test_a_video_goes_beside_the_books_and_is_not_made_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path / "run", episodes())
    assert call("replay", [run, *ONE]) == 0
    (made,) = (tmp_path / "run" / "videos").iterdir()
    assert made.name == "toy-0-02-speculative.mp4" and str(made) in capsys.readouterr().out
    before = made.stat().st_mtime_ns
    assert call("replay", [run, *ONE]) == 0
    assert "1 of 1 videos are there already; --overwrite" in capsys.readouterr().out
    assert made.stat().st_mtime_ns == before
    assert call("replay", [run, *ONE, "--overwrite"]) == 0
    assert made.stat().st_mtime_ns > before
    assert call("verify", [run]) == 0  # the books are as they were


def test_failures_and_disagreements_are_chosen(run: str, tmp_path: Path) -> None:
    results = [result for result in episodes() if result.key.task_id == 1]
    failed = [result for result in results if result.outcome == "timeout"]
    solved = Counter(result.key.trial for result in results if result.outcome == "success")
    once = [trial for trial, arms in solved.items() if arms == 1]
    assert failed and once and len(once) < len(solved)
    task = [run, "--task", "1", "--output"]
    assert call("replay", [*task, str(tmp_path / "failed"), "--failures"]) == 0
    assert len(list((tmp_path / "failed").glob("*.mp4"))) == len(failed)
    assert call("replay", [*task, str(tmp_path / "pairs"), "--disagreements"]) == 0
    pairs = {path.name for path in (tmp_path / "pairs").glob("*.mp4")}
    assert pairs == {f"toy-1-{trial:02d}-speculative_vs_timid.mp4" for trial in once}


def test_an_end_that_differs_is_said_loudly_with_what_may_have_made_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path / "run", [otherwise(episode(trial=0)), episode(trial=2)])
    description = tmp_path / "run" / "run.json"
    processor = description.read_text().replace('"mujoco": "', '"mujoco": "0.')
    description.write_text(processor)
    assert call("verify", [run]) == 3
    out = capsys.readouterr().out
    assert "DIFFERS: toy 0 0 speculative: " in out and "final state" in out
    assert "1 of 2 final states agree" in out
    assert "1 of 2 do not end as recorded." in out and "packages.mujoco: 0." in out
    assert call("replay", [run, "--all"]) == 3
    assert len(list((tmp_path / "run" / "videos").glob("*.mp4"))) == 2


def test_where_nothing_else_differs_that_is_said_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path / "run", [otherwise(episode())])
    assert call("verify", [run]) == 3
    assert "processor are those of the run" in capsys.readouterr().out


def test_verify_counts_by_arm(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("verify", [run, "--sample", "10", "--arm", "timid"]) == 0
    out = capsys.readouterr().out
    assert "8 of 8 final states agree" in out and "speculative" not in out


def test_a_run_in_progress_is_replayed_as_far_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path / "run", episodes()[:6], planned=16)
    assert call("verify", [run]) == 0
    out = capsys.readouterr().out
    assert "6 of 16 planned episodes are recorded by now" in out and "6 of 6" in out


def test_of_a_run_that_went_on_with_newer_code_the_older_episodes_are_counted_as_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path / "run", [episode(trial=0), without_actions(episode(trial=1))])
    assert call("verify", [run]) == 1
    out = capsys.readouterr().out
    assert "toy 0 1 speculative: could not be simulated: its actions were not" in out
    assert "1 of 2 final states agree" in out


def truncate(folder: Path) -> None:
    """The last part of a folder of Parquet, as a broken copy leaves it."""
    part = max(folder.glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-40])


def test_a_truncated_part_of_chunks_costs_its_own_episodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path / "run", episodes()[:5])
    truncate(tmp_path / "run" / "chunks")
    assert call("verify", [run]) == 1
    out = capsys.readouterr().out
    assert "3 of 5 final states agree" in out
    assert out.count("could not be simulated") == 2 and "a part that cannot be read" in out


@pytest.fixture()
def refused(tmp_path: Path) -> dict[str, list[str]]:
    """Requests that cannot be carried out, by what is said of them."""
    errors = [dataclasses.replace(episode(), outcome="error", chunks=[], steps=0)]
    damaged = write(tmp_path / "damaged", episodes())
    truncate(tmp_path / "damaged" / "episodes")
    run = write(tmp_path / "run", episodes())
    (tmp_path / "file").write_text("")
    return {
        "its actions were not recorded": [
            write(tmp_path / "old", [without_actions(episode())]),
            *ONE[:2],
        ],
        "a part that cannot be read": [damaged, "--all"],
        "holds no run": [str(tmp_path), "--all"],
        "is a kept table, which holds no actions": ["docs/results/kept.parquet", "--all"],
        "say which episodes": [run],
        "--arm spec: no such episode is recorded there; there are speculative, timid": [
            run,
            *("--arm", "spec"),
        ],
        "--disagreements are those of two arms": [run, "--disagreements", "--arm", "timid"],
        "ended in errors, before a verdict": [write(tmp_path / "errors", errors), "--all"],
        "--size 20: at least 128": [run, "--all", "--size", "20"],
        "--workers 0: at least 1": [run, "--all", "--workers", "0"],
        "cannot write": [run, "--all", "--output", str(tmp_path / "file")],
        "is an address; this job writes to a folder": [run, "--all", "--output", "s3://b/x"],
    }


def test_what_cannot_be_carried_out_says_why(
    refused: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    for told, words in refused.items():
        assert call("replay", words) == 2, told
        assert told in capsys.readouterr().err
