"""Results of vla-eval and LeRobot become runs of their own, and stay apart from ours."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import made_up_runs as made_up
import pytest
from remote_servers import FOREIGN, foreign_python

from rsd import results
from rsd.books import read_episodes, read_run
from rsd.commands import BAD_REQUEST, call
from rsd.commands.results import ALL, topics_of
from rsd.commands.status import look
from rsd.errors import UserError
from rsd.exchange import vla_eval
from rsd.exchange.importing import Imported, import_files
from rsd.exchange.results import task_called
from rsd.presentation.evidence import read_evidence
from rsd.summary.compute import summarise
from rsd.summary.unpaired import compare_runs

BOWL = "pick up the black bowl next to the ramekin and place it on the plate"

# As lerobot 0.6.1 writes it (scripts/lerobot_eval.py, eval_policy_all), shortened.
LEROBOT: dict[str, Any] = {
    "per_task": [
        {
            "task_group": "libero_spatial",
            "task_id": task,
            "metrics": {
                "sum_rewards": [1.0, 0.0],
                "max_rewards": [1.0, 0.0],
                "successes": [True, False],
                "video_paths": [],
                "predicted_video_paths": [],
            },
        }
        for task in range(2)
    ],
    "per_group": {"libero_spatial": {"pc_success": 50.0, "n_episodes": 4}},
    "overall": {"pc_success": 50.0, "n_episodes": 4, "eval_s": 9.5, "video_paths": []},
}


def aggregate(**changes: Any) -> dict[str, Any]:
    """As vla-eval 0.8.0 exports it, of one task: a success, a failure, an error."""
    episodes = [
        {
            "sid": "s",
            "eid": str(number),
            "episode_id": number,
            "metrics": {"success": number == 0},
            "steps": 80,
            "elapsed_sec": 4.5,
            "suite": "libero_spatial",
            "task_id": 1,
            "task_idx": 1,
        }
        for number in range(3)
    ]
    episodes[2] |= {"steps": 0, "elapsed_sec": 0.0, "failure_reason": "timeout"}
    return {
        "benchmark": "LIBEROBenchmark_libero_spatial",
        "mode": "sync",
        "harness_version": "0.8.0",
        "tasks": [{"task": BOWL, "episodes": episodes, "num_episodes": 3, "num_errors": 1}],
        "config": {"benchmark": "vla_eval.benchmarks.libero.benchmark:LIBEROBenchmark"},
        "num_episodes_total": 3,
        "num_errors": 1,
        **changes,
    }


def with_episode(**changes: Any) -> dict[str, Any]:
    """An aggregate whose first episode says this."""
    content = aggregate()
    content["tasks"][0]["episodes"][0] |= changes
    return content


def put(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def imported(path: Path, output: Path, arm: str | None = "theirs") -> Imported:
    return import_files([path], str(output), arm, None)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that vla-eval's own recorder and exporter wrote."""
    folder = tmp_path_factory.mktemp("vla-eval")
    command = [foreign_python("vla_eval"), str(FOREIGN / "record_with_vla_eval.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


# --- what vla-eval itself wrote ------------------------------------------------------------------


def test_of_a_recording_the_last_attempt_counts_and_an_error_stays_one(
    recorded: Path, tmp_path: Path
) -> None:
    done = imported(recorded / "recording-ab12.sqlite", tmp_path / "run")
    rows = {
        (row["suite"], row["task_id"], row["trial"]): row
        for row in read_episodes(done.output).to_pylist()
    }
    assert Counter(row["outcome"] for row in rows.values()) == {
        "success": 6,
        "timeout": 3,
        "error": 2,
    }
    retried, failed = rows["libero_spatial", 0, 1], rows["libero_spatial", 1, 0]
    assert (retried["outcome"], retried["steps"], retried["wall_s"]) == ("success", 81, 4.5)
    assert failed["error"] == "timeout: timeout=30.0s: the server went away"
    assert failed["steps"] is None and failed["seed"] is None and failed["assets"] is None
    assert {row["source"] for row in rows.values()} == {"vla-eval 0.8.0"}
    assert not done.results.complete  # a shard was killed with an episode of libero_goal


def test_a_recording_says_what_its_own_export_says(recorded: Path) -> None:
    """The dedupe, the rates and the counts of errors are theirs, with their rule for errors."""
    found = vla_eval.read_recording(recorded / "recording-ab12.sqlite").episodes
    for file in recorded.glob("*_aggregate.json"):
        theirs = json.loads(file.read_text())
        own = [one for one in found if theirs["benchmark"].endswith(one.suite)]
        solved = sum(one.outcome == "success" for one in own)
        assert round(solved / len(own), 4) == theirs["mean_success"]
        assert sum(one.outcome == "error" for one in own) == theirs["num_errors"]
        assert len(own) == theirs["num_episodes_total"]


def test_recording_and_aggregates_hold_the_same_episodes(recorded: Path, tmp_path: Path) -> None:
    from_recording = imported(recorded, tmp_path / "a")  # the folder: the recording is the best
    files = sorted(recorded.glob("*_aggregate.json"))
    from_aggregates = import_files(files, str(tmp_path / "b"), "theirs", None)
    assert {one.name: one for one in from_recording.results.episodes} == {
        one.name: one for one in from_aggregates.results.episodes
    }


def test_steps_of_episodes_give_their_verdicts(recorded: Path, tmp_path: Path) -> None:
    done = imported(recorded / "episodes", tmp_path / "run")
    rows = read_episodes(done.output).to_pylist()
    assert Counter(row["outcome"] for row in rows) == {"success": 6, "timeout": 3}
    assert {row["steps"] for row in rows} == {80, 81, 82}
    assert not done.results.complete  # an episode without a step has no file


def test_a_recording_that_is_being_written_is_said_to_be(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vla_eval, "WAIT_S", 0.1)
    copy = tmp_path / "recording-x.sqlite"
    copy.write_bytes((recorded / "recording-ab12.sqlite").read_bytes())
    writer = sqlite3.connect(copy, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UserError, match=r"locked; where vla-eval writes it.*import a copy"):
        imported(copy, tmp_path / "run")
    writer.execute("COMMIT")
    assert imported(copy, tmp_path / "run").new == 11


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ALTER TABLE episode_results RENAME COLUMN metrics TO outcome", "lacks metrics"),
        ("DROP TABLE work_queue", "lacks done, eval_id"),
        ("UPDATE eval_metadata SET metadata = '{'", "holds a text that is no JSON"),
        ("UPDATE episode_results SET metrics = '{}'", "has no metric 'success'"),
        ("DELETE FROM episode_results", "holds no episode"),
    ],
)
def test_a_recording_of_another_version_or_without_a_verdict_is_refused(
    recorded: Path, tmp_path: Path, change: str, said: str
) -> None:
    copy = tmp_path / "recording-x.sqlite"
    copy.write_bytes((recorded / "recording-ab12.sqlite").read_bytes())
    with sqlite3.connect(copy) as connection:
        connection.execute(change)
    refused(copy, tmp_path, said)


def test_a_recording_that_was_cut_off_is_refused(recorded: Path, tmp_path: Path) -> None:
    whole = (recorded / "recording-ab12.sqlite").read_bytes()
    copy = tmp_path / "recording-x.sqlite"
    copy.write_bytes(whole[: len(whole) // 3])
    refused(copy, tmp_path, "damaged")


# --- what is refused, with nothing written -------------------------------------------------------


def refused(path: Path, tmp_path: Path, said: str) -> None:
    output = tmp_path / "refused"
    with pytest.raises(UserError, match=said):
        imported(path, output)
    assert not output.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("SQLite", "neither a database of SQLite nor whole JSON"),
        (json.dumps(LEROBOT)[:200], "nor whole JSON"),
        ({"run_id": "a", "schema_version": "2"}, "run.json of a run of RSD"),
        ({"codebase_version": "v3.0", "fps": 20}, "a LeRobot dataset"),
        ({"a": 1, "b": 2}, r"something else, with the fields \['a', 'b'\]"),
        ([1, 2], r"something else: \[1, 2\]"),
        (aggregate(tasks=[]) | {"num_episodes_total": 0}, "holds no episode"),
        (aggregate(num_episodes_total=4), "says 4 episodes and holds 3"),
        (aggregate(tasks="none"), "has no 'tasks' that is a list"),
        ({"per_episode": [], "aggregated": {}}, "before 0.4"),
        (with_episode(metrics={"success": 0.5}), "no metric 'success' that is true or false"),
        (with_episode(metrics={"success": float("nan")}), "no metric 'success' that is true"),
        (with_episode(elapsed_sec=10**400), "elapsed_sec is .*, expected seconds"),
        (with_episode(suite="\ud800"), "surrogates not allowed"),
        (LEROBOT | {"overall": {"n_episodes": 5}}, "says 5 episodes in `overall` and holds 4"),
        (LEROBOT | {"per_task": [{"task_group": "a", "task_id": -1}]}, "task_id is -1"),
        (LEROBOT | {"per_task": [*LEROBOT["per_task"], LEROBOT["per_task"][0]]}, "overall"),
    ],
)
def test_a_file_of_something_else_is_told_what_it_looks_like(
    tmp_path: Path, content: Any, said: str
) -> None:
    refused(put(tmp_path / "results.json", content), tmp_path, said)


def test_nothing_to_import_is_told() -> None:
    with pytest.raises(UserError, match="there is nothing to import; give vla-eval's"):
        import_files([], None, None, None)


def test_an_arm_that_records_cannot_hold_is_called_an_arm(tmp_path: Path) -> None:
    file = put(tmp_path / "eval_info.json", LEROBOT)
    with pytest.raises(UserError, match=r"'a\\x1bb' cannot be the name of a run's arm here"):
        imported(file, tmp_path / "run", "a\x1bb")


def test_settings_of_another_shape_cost_no_episode(tmp_path: Path) -> None:
    """What was configured is free text of vla-eval's users; a suite is read where it is one."""
    for number, params in enumerate([["suite"], {"suite": 7}, {"suite": ""}]):
        content = aggregate(config={"params": params}, harness_version=None)
        for episode in content["tasks"][0]["episodes"]:
            del episode["suite"]
        done = imported(put(tmp_path / "a_aggregate.json", content), tmp_path / str(number))
        assert {one.suite for one in done.results.episodes} == {"LIBEROBenchmark_libero_spatial"}
        assert done.results.source == "vla-eval"


def test_a_figure_that_no_float_holds_is_left_out(tmp_path: Path) -> None:
    content = LEROBOT | {"overall": {"n_episodes": 4, "eval_s": 10**400}}
    done = imported(put(tmp_path / "eval_info.json", content), tmp_path / "run")
    assert done.results.says["eval_info.json"]["overall"] == {"n_episodes": 4}


def test_a_database_of_something_else_is_told_its_tables(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    refused(path, tmp_path, r"no recording of vla-eval's: it holds the tables \['notes'\]")


def test_episodes_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    files = [put(tmp_path / f"{name}_aggregate.json", aggregate()) for name in "ab"]
    with pytest.raises(UserError, match=r"episode 0 of libero_spatial, task 1, is there twice, in"):
        import_files(files, str(tmp_path / "run"), None, None)


def test_two_softwares_do_not_share_a_run(tmp_path: Path) -> None:
    files = [
        put(tmp_path / "a_aggregate.json", aggregate()),
        put(tmp_path / "eval_info.json", LEROBOT),
    ]
    with pytest.raises(UserError, match=r"is of vla-eval 0\.8\.0, eval_info\.json of lerobot"):
        import_files(files, str(tmp_path / "run"), None, None)


def test_two_attempts_at_an_episode_need_the_recording(tmp_path: Path) -> None:
    folder = tmp_path / "LIBEROBenchmark_libero_goal"
    folder.mkdir()
    for status in ("error", "success"):
        put(folder / f"task0000_ep0000_{status}.jsonl", '{"step": 0}\n')
    refused(tmp_path, tmp_path, "import recording-")


def test_a_step_that_is_missing_or_cut_off_is_found(tmp_path: Path) -> None:
    put(tmp_path / "task0000_ep0000_fail.jsonl", '{"step": 0}\n{"step": 1, "rew')
    refused(tmp_path, tmp_path, "line 2: ")


# --- what comes of it ----------------------------------------------------------------------------


def test_a_second_import_adds_nothing_and_another_one_is_refused(tmp_path: Path) -> None:
    path, output = put(tmp_path / "a_aggregate.json", aggregate()), tmp_path / "run"
    assert imported(path, output).new == 3
    before = sorted((file, file.read_bytes()) for file in output.rglob("*.parquet"))
    stored = read_run(str(output))
    assert imported(path, output).new == 0
    assert sorted((file, file.read_bytes()) for file in output.rglob("*.parquet")) == before
    assert read_run(str(output)) == stored
    other = put(tmp_path / "a_aggregate.json", aggregate(mode="live"))
    with pytest.raises(UserError, match=r"holds what was imported from a_aggregate\.json"):
        imported(other, output)
    own = made_up.write(tmp_path / "own", made_up.paired_results(1, 1))
    with pytest.raises(UserError, match="holds the run made-up"):
        imported(path, Path(own))


def test_an_import_that_was_killed_is_completed(tmp_path: Path) -> None:
    path, output = put(tmp_path / "a_aggregate.json", aggregate()), tmp_path / "run"
    imported(path, output)
    (part,) = (output / "episodes").iterdir()
    part.unlink()  # as if it had ended between run.json and the rows
    assert imported(path, output).new == 3
    assert read_episodes(str(output)).num_rows == 3


def test_lerobots_results_say_success_and_no_more(tmp_path: Path) -> None:
    done = import_files(
        [put(tmp_path / "eval_info.json", LEROBOT)], str(tmp_path / "run"), "act", "0.6.1"
    )
    rows = read_episodes(done.output).to_pylist()
    assert [(row["task_id"], row["trial"], row["outcome"]) for row in rows] == [
        (0, 0, "success"),
        (0, 1, "timeout"),
        (1, 0, "success"),
        (1, 1, "timeout"),
    ]
    assert {row["source"] for row in rows} == {"lerobot 0.6.1"}
    assert {row["steps"] for row in rows} == {None}
    run = read_run(done.output)
    assert run["source"]["files"][0]["name"] == "eval_info.json"
    assert run["checkpoint_sha256"] is None and run["planned_episodes"] == 4


def test_tasks_of_another_benchmark_are_not_taken_for_liberos(tmp_path: Path) -> None:
    """LIBERO-plus calls its suite of 2402 tasks libero_spatial, too."""
    content = aggregate(
        config={"benchmark": "vla_eval.benchmarks.libero_plus.benchmark:LIBEROPlus"}
    )
    done = imported(put(tmp_path / "a_aggregate.json", content), tmp_path / "plus")
    assert {one.suite for one in done.results.episodes} == {"vla-eval:libero_spatial"}
    many = json.loads(json.dumps(LEROBOT))
    many["per_task"][1]["task_id"] = 2401
    done = imported(put(tmp_path / "eval_info.json", many), tmp_path / "many")
    assert {one.suite for one in done.results.episodes} == {"lerobot:libero_spatial"}


def test_a_task_without_a_number_is_found_by_its_instruction(tmp_path: Path) -> None:
    content = aggregate()
    for episode in content["tasks"][0]["episodes"]:
        del episode["task_id"], episode["task_idx"]
    done = imported(put(tmp_path / "a_aggregate.json", content), tmp_path / "run")
    assert {one.task_id for one in done.results.episodes} == {1}
    assert task_called("libero_spatial", "do a somersault") is None
    content["tasks"][0]["task"] = "do a somersault"
    refused(put(tmp_path / "b.json", content), tmp_path, "does not say which task")


def test_imported_episodes_are_paired_with_nothing_and_counted_as_no_trial(tmp_path: Path) -> None:
    """Also where the numbers of their episodes are those of our trials."""
    content = aggregate()
    for number, episode in enumerate(content["tasks"][0]["episodes"]):
        episode["episode_id"] = 10 + number
    done = imported(put(tmp_path / "a_aggregate.json", content), tmp_path / "run")
    summary = summarise(done.output)
    (arm,) = summary.arms
    assert (arm.success.successes, arm.success.finished, arm.errors) == (1, 2, 1)
    assert arm.unseen.finished == 0 and summary.pairs == []
    assert summary.elapsed_s is None and arm.simulator.wall == 4.5
    assert summary.provenance.source is not None
    assert summary.provenance.source.startswith("vla-eval 0.8.0 (a_aggregate.json, sha256 ")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("repeat {run} --policy toy", "names no policy and no world to evaluate again"),
        ("verify {run}", "holds no actions to simulate again"),
        ("replay {run} --all", "holds no actions to simulate again"),
        ("delay --draw {run}", "how late its chunks were, nobody knows"),
        (
            "evaluate --dry-run --policy toy --task-suite toy --arms speculative+delay=measured "
            "--latency {run}",
            "how long its chunks took, nobody knows",
        ),
        ("results export {run} --to vla-eval", "it has the file"),
        ("report {run} {run}", "hold the same results; report them once"),
        ("report {run} {own} --html {run}.html", "one table, of results of one software"),
    ],
)
def test_what_needs_to_know_how_episodes_ran_says_that_nobody_knows_of_imported_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, said: str
) -> None:
    run = imported(put(tmp_path / "a_aggregate.json", aggregate()), tmp_path / "run").output
    own = made_up.write(tmp_path / "own", [made_up.result(made_up.key(0))])
    name, *words = command.format(run=run, own=own).split()
    assert call(name, words) == BAD_REQUEST
    assert said in " ".join(capsys.readouterr().err.split())


def test_the_report_of_an_imported_run_has_no_table_of_what_nobody_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = made_up.write(tmp_path / "own", made_up.paired_results(tasks=1, trials=1))
    theirs = imported(put(tmp_path / "eval_info.json", LEROBOT), tmp_path / "run").output
    measured = ("Passes a chunk", "Chunk latency", "Simulator")
    for run, has in ((theirs, False), (own, True)):
        assert call("report", [run]) == 0
        shown = capsys.readouterr().out
        assert "Success" in shown and [name in shown for name in measured] == [has] * 3


def test_an_imported_run_has_no_pace_and_is_not_resumed(tmp_path: Path) -> None:
    """Its rows are as old as the import, whenever the episodes ran."""
    whole = imported(put(tmp_path / "a.json", aggregate()), tmp_path / "whole").output
    part = imported(put(tmp_path / "b.json", aggregate(partial=True)), tmp_path / "part").output
    assert (look(whole).state, look(whole).per_hour) == ("finished", None)
    assert (look(part).state, look(part).per_hour) == ("imported", None)
    evidence = read_evidence([whole], 2.0, datetime.now(UTC))
    assert evidence.timeline is None


def test_a_number_that_the_compact_form_cannot_hold_is_told(tmp_path: Path) -> None:
    content = with_episode(task_id=40_000, suite="zoo")
    run = imported(put(tmp_path / "a_aggregate.json", content), tmp_path / "run").output
    with pytest.raises(UserError, match="a number that the compact form cannot"):
        results.keep(run, tmp_path / "kept.parquet")


def test_arms_of_two_runs_are_compared_on_the_tasks_that_both_did(tmp_path: Path) -> None:
    own = made_up.write(tmp_path / "own", made_up.paired_results(tasks=3, trials=5))
    theirs = imported(put(tmp_path / "a_aggregate.json", aggregate()), tmp_path / "run").output
    ours = summarise(own)
    found = compare_runs([(ours, summarise(theirs))])
    assert [(one.first, one.second, one.suite, one.tasks) for one in found] == [
        ("autoregressive", "theirs", "libero_spatial", 1),
        ("speculative", "theirs", "libero_spatial", 1),
    ]
    compared = found[0].comparison
    (suite,) = ours.arms[0].suites
    assert compared.first == suite.tasks[1].success  # of task 1 alone
    assert (compared.second.successes, compared.second.finished) == (1, 2)
    assert compared.low < (compared.difference or 0) < compared.high


def test_published_tables_take_imported_results_beside_ours(tmp_path: Path) -> None:
    own = made_up.write(tmp_path / "own", made_up.paired_results(tasks=3, trials=5))
    theirs = imported(put(tmp_path / "a_aggregate.json", aggregate()), tmp_path / "run").output
    kept = [tmp_path / "own.parquet", tmp_path / "theirs.parquet"]
    for run, path in zip((own, theirs), kept, strict=True):
        results.keep(run, path)
    page = "\n".join(topics_of(kept, 0.02)[ALL])
    assert "`theirs`: imported from vla-eval 0.8.0" in page
    assert "| speculative of `own` | theirs of `theirs` | libero_spatial | 1 |" in page
    assert "worlds are not identified" in page
    assert len(results.published(kept)) == 2  # never one table
