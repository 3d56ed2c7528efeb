"""The books: whole parts or none, every episode once, nothing overwritten."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from made_up_runs import DIMS, LAYERS, RUN, STEPS, key, paired_results, result

from rsd.books import (
    CHUNK_SCHEMA,
    EPISODE_SCHEMA,
    SCHEMA_VERSION,
    Books,
    committed,
    read_chunks,
    read_episodes,
    read_run,
)
from rsd.books.folder import Folder
from rsd.books.reader import PARTS_AT_ONCE
from rsd.books.schema import OFTEN_UNSAID
from rsd.errors import CannotWriteError, UserError
from rsd.provenance import Machine, ReplicaEvent
from rsd.types import ChunkRecord, DecodeTrace, EpisodeKey, EpisodeResult
from tests.full_disk import full_disk


def add(books: Books, episode: EpisodeResult) -> None:
    books.add(episode, attempts=1, worker="worker-0", node="node-0")


def write_trials(output: Path, trials: range, resume: bool = False) -> None:
    with Books.open(str(output), RUN, resume=resume) as books:
        for trial in trials:
            add(books, result(key(trial)))


def trials(output: Path) -> list[int]:
    return sorted(read_episodes(str(output))["trial"].to_pylist())


def test_machines_are_noted_once_a_session(tmp_path: Path) -> None:
    worker = Machine("worker", "node-0", "osmesa (llvmpipe)", "EPYC", 16, (), "x86-64-v3")
    replica = Machine("replica", "node-0", "cuda", "EPYC", 16, ("NVIDIA H100",), "x86-64-v3")
    with Books.open(str(tmp_path), RUN, resume=False) as books:
        for machine in (worker, replica, worker):
            books.note_machine(machine)
    with Books.open(str(tmp_path), RUN, resume=True) as books:
        books.note_machine(worker)
    first, second = read_run(str(tmp_path))["sessions"]
    assert [machine["runs_on"] for machine in first["machines"]] == ["osmesa (llvmpipe)", "cuda"]
    assert first["machines"][1]["gpus"] == ["NVIDIA H100"]
    assert len(second["machines"]) == 1


def test_what_replicas_did_is_noted_session_by_session(tmp_path: Path) -> None:
    """In a run that is resumed by a driver which knows of replicas, after one that did not."""
    now = iter([1_800_000_000.0 + i for i in range(9)])

    def clock() -> float:
        return next(now)

    with Books.open(str(tmp_path), RUN, resume=False, clock=clock) as books:
        books.note_replica(ReplicaEvent("replica-0", "started"))
        books.note_replica(ReplicaEvent("replica-0", "ready", "node-0", "EPYC"))
        books.note_replica(ReplicaEvent("replica-0", "died", why="it ran away"))
    stored = json.loads((tmp_path / "run.json").read_text())
    assert stored["sessions"][0].pop("replicas") == [
        {"at": "2027-01-15T08:00:01.000+00:00", "replica": "replica-0", "what": "started"},
        {
            "at": "2027-01-15T08:00:02.000+00:00",
            "replica": "replica-0",
            "what": "ready",
            "node": "node-0",
            "processor": "EPYC",
        },
        {
            "at": "2027-01-15T08:00:03.000+00:00",
            "replica": "replica-0",
            "what": "died",
            "why": "it ran away",
        },
    ]
    (tmp_path / "run.json").write_text(json.dumps(stored))  # as an older driver had left it
    with Books.open(str(tmp_path), RUN, resume=True, clock=clock) as books:
        books.note_replica(ReplicaEvent("replica-0", "started"))
    first, second = read_run(str(tmp_path))["sessions"]
    assert "replicas" not in first and [one["what"] for one in second["replicas"]] == ["started"]


# --- schemas -----------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", [EPISODE_SCHEMA, CHUNK_SCHEMA])
def test_every_column_carries_unit_and_description(schema: pa.Schema) -> None:
    assert schema.metadata[b"rsd_schema_version"] == SCHEMA_VERSION.encode()
    for field in schema:
        assert field.metadata[b"unit"], field.name
        assert field.metadata[b"description"], field.name


FROM_THE_START = {  # of schema version 2
    *("run_id", "arm", "suite", "task_id", "trial", "seed", "instruction", "outcome", "steps"),
    *("chunks", "attempts", "error", "physics_s", "render_s", "reset_s", "wait_s", "wall_s"),
    *("worker", "node", "assets", "renderer", "final_state_sha256", "finished_at", "chunk_index"),
    *("drafted", "accepted", "redrafted", "reaccepted", "passes", "layers", "batch_size"),
    *("canonical", "queue_s", "vision_s", "draft_s", "target_s", "detokenise_s", "action_sha256"),
}


@pytest.mark.parametrize("schema", [EPISODE_SCHEMA, CHUNK_SCHEMA])
def test_a_column_that_came_later_may_be_null(schema: pa.Schema) -> None:
    """Where runs of the same schema version are read that lack it; of the others those alone that
    an import from other software may lack."""
    unsaid = OFTEN_UNSAID if schema is EPISODE_SCHEMA else set()
    for field in schema:
        later = field.name not in FROM_THE_START
        assert field.nullable == (later or field.name in unsaid), field.name


def test_every_field_of_a_result_has_its_column() -> None:
    """A field added to the types and forgotten in the schema would be lost without a word."""
    key_fields = {field.name for field in dataclasses.fields(EpisodeKey)}
    episode = {field.name for field in dataclasses.fields(EpisodeResult)} - {"key"}
    chunk = {field.name for field in dataclasses.fields(ChunkRecord)} - {"trace"}
    trace = {field.name for field in dataclasses.fields(DecodeTrace)}
    by_driver = {"run_id", "attempts", "worker", "node", "finished_at"}
    by_import = {"source"}
    assert set(EPISODE_SCHEMA.names) == key_fields | episode | by_driver | by_import
    assert set(CHUNK_SCHEMA.names) == key_fields | chunk | trace | {"run_id"}


def test_what_was_added_is_read_back(tmp_path: Path) -> None:
    output = tmp_path / "run"
    good, bad = result(key(3)), result(key(4), "error")
    with Books.open(str(output), RUN, resume=False, clock=lambda: 1.8e9) as books:
        add(books, good)
        books.add(bad, attempts=3, worker="worker-1", node="node-1")
    episodes, chunks = read_episodes(str(output)), read_chunks(str(output))
    assert episodes.schema.equals(EPISODE_SCHEMA, check_metadata=True)
    assert chunks.schema.equals(CHUNK_SCHEMA, check_metadata=True)
    first, second = episodes.to_pylist()
    for name in ("instruction", "outcome", "steps", "wall_s", "final_state_sha256", "assets"):
        assert first[name] == getattr(good, name)
    assert (first["run_id"], first["trial"], first["chunks"]) == ("made-up", 3, 3)
    assert (second["outcome"], second["attempts"], second["node"]) == ("error", 3, "node-1")
    assert second["error"] == bad.error
    trace = good.chunks[1].trace
    row = chunks.to_pylist()[1]
    assert (row["trial"], row["chunk_index"], row["passes"]) == (3, 1, trace.passes)
    assert (row["drafted"], row["accepted"]) == (list(trace.drafted), list(trace.accepted))
    assert np.array_equal(np.reshape(row["codes"], (STEPS, DIMS, LAYERS)), good.chunks[1].codes)
    assert np.array_equal(np.float32(row["actions"]).reshape(-1, 7), good.chunks[1].actions)
    nulls = {name for t in (episodes, chunks) for name in t.column_names if t[name].null_count}
    never = {"clipped", "protocol", "source"}  # of the made-up policy, and run
    never |= {"moved_mm", "moved_degrees"}  # under lossless rules
    never |= {"fast", "confidence", "reason"}  # but in arms temporal
    assert nulls == never | {"delay", "while_waiting", "still_steps", "delay_steps"}


def test_metadata_is_in_the_files_themselves_and_pandas_reads_the_folder(tmp_path: Path) -> None:
    write_trials(tmp_path, range(2))
    part = next((tmp_path / "episodes").glob("*.parquet"))
    assert pq.read_schema(part).field("render_s").metadata[b"unit"] == b"s"
    assert len(pd.read_parquet(tmp_path / "episodes")) == 2


# --- parts -------------------------------------------------------------------------------------


def test_a_part_is_written_after_so_many_episodes_or_seconds(tmp_path: Path) -> None:
    now = 0.0
    books = Books.open(
        str(tmp_path), RUN, resume=False, flush_every=3, flush_seconds=10, clock=lambda: now
    )
    for trial in range(4):
        add(books, result(key(trial)))
    assert trials(tmp_path) == [0, 1, 2]
    assert len(books.recorded()) == 3
    now = 11.0
    add(books, result(key(4)))
    assert trials(tmp_path) == [0, 1, 2, 3, 4]
    assert books.recorded() == {key(trial) for trial in range(5)}


def test_rows_are_readable_while_the_run_goes_on(tmp_path: Path) -> None:
    books = Books.open(str(tmp_path), RUN, resume=False)
    assert read_episodes(str(tmp_path)).num_rows == 0
    assert read_chunks(str(tmp_path)).num_rows == 0
    add(books, result(key(0)))
    books.flush()
    assert (trials(tmp_path), read_chunks(str(tmp_path)).num_rows) == ([0], 3)


@pytest.mark.parametrize("flushed", [False, True])
def test_a_duplicate_is_refused(tmp_path: Path, flushed: bool) -> None:
    with Books.open(str(tmp_path), RUN, resume=False) as books:
        add(books, result(key(0)))
        if flushed:
            books.flush()
        with pytest.raises(ValueError, match="already"):
            add(books, result(key(0), "timeout"))
    assert trials(tmp_path) == [0]


def test_a_duplicate_of_an_earlier_session_is_refused(tmp_path: Path) -> None:
    write_trials(tmp_path, range(2))
    with (
        Books.open(str(tmp_path), RUN, resume=True) as books,
        pytest.raises(ValueError, match="already"),
    ):
        add(books, result(key(1)))


def test_what_was_buffered_is_kept_when_the_driver_fails(tmp_path: Path) -> None:
    books = Books.open(str(tmp_path), RUN, resume=False)
    with pytest.raises(RuntimeError), books:
        add(books, result(key(0)))
        raise RuntimeError("the cluster went away")
    assert trials(tmp_path) == [0]


def test_a_flush_that_failed_is_repeated_whole_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst case: the part arrived, its confirmation did not."""
    books = Books.open(str(tmp_path), RUN, resume=False)
    add(books, result(key(0)))
    write = Folder.write

    def lose_the_confirmation(folder: Any, name: str, data: Any) -> None:
        write(folder, name, data)
        if name.startswith("episodes"):
            raise OSError("connection reset")

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "write", lose_the_confirmation)
        with pytest.raises(CannotWriteError, match="reset"):
            books.flush()
    add(books, result(key(1)))
    books.close()
    assert trials(tmp_path) == [0, 1]
    assert read_chunks(str(tmp_path)).num_rows == 6


# --- crashes and resume ------------------------------------------------------------------------


def test_a_crash_between_chunk_part_and_episode_part_leaves_no_trace(tmp_path: Path) -> None:
    write_trials(tmp_path, range(2))
    orphan = tmp_path / "chunks" / "part-00001-dead.parquet"
    orphan.write_bytes(next((tmp_path / "chunks").glob("*.parquet")).read_bytes())
    assert read_chunks(str(tmp_path)).num_rows == 6  # readers take committed parts only
    write_trials(tmp_path, range(2, 4), resume=True)
    assert not orphan.exists()
    assert (trials(tmp_path), read_chunks(str(tmp_path)).num_rows) == ([0, 1, 2, 3], 12)


def test_files_that_were_never_renamed_are_ignored_and_swept(tmp_path: Path) -> None:
    write_trials(tmp_path, range(2))
    torn = tmp_path / "episodes" / ".part-00001-dead.parquet.tmp"
    torn.write_bytes(b"PAR1 half a fi")
    assert trials(tmp_path) == [0, 1]
    assert len(pd.read_parquet(tmp_path / "episodes")) == 2
    write_trials(tmp_path, range(2, 3), resume=True)
    assert not torn.exists()


def _record_until_killed(output: str, fail_at: str, first_trial: int) -> None:
    """A driver that is killed in the middle of writing a file whose name starts so."""
    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target.parent.name == fail_at and first_trial > 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = killed  # type: ignore[method-assign, assignment]
    with Books.open(output, RUN, resume=first_trial > 0, flush_every=2) as books:
        for trial in range(first_trial, first_trial + 2):
            add(books, result(key(trial)))


@pytest.mark.parametrize("fail_at", ["chunks", "episodes"])
def test_a_killed_driver_loses_its_open_part_only(tmp_path: Path, fail_at: str) -> None:
    context = multiprocessing.get_context("spawn")
    for first_trial, code in ((0, 0), (2, -signal.SIGKILL)):
        driver = context.Process(
            target=_record_until_killed, args=(str(tmp_path), fail_at, first_trial)
        )
        driver.start()
        driver.join()
        assert driver.exitcode == code
    assert trials(tmp_path) == [0, 1]
    assert read_chunks(str(tmp_path)).num_rows == 6
    write_trials(tmp_path, range(2, 4), resume=True)
    assert (trials(tmp_path), read_chunks(str(tmp_path)).num_rows) == ([0, 1, 2, 3], 12)
    assert [p.name for p in tmp_path.rglob(".*")] == [".lock"]


def test_resume_keeps_the_run_id_and_notes_the_session(tmp_path: Path) -> None:
    write_trials(tmp_path, range(1))
    moved = {**RUN, "run_id": "another", "hardware": "96 cores"}
    with Books.open(str(tmp_path), moved, resume=True) as books:
        assert books.run_id == "made-up"
        assert books.recorded() == {key(0)}
    run = read_run(str(tmp_path))
    assert (run["run_id"], run["hardware"]) == ("made-up", "2 cores")
    assert [session["changes"] for session in run["sessions"]] == [
        {},
        {"hardware": '"2 cores" -> "96 cores"'},
    ]


def _with_config(**changes: Any) -> dict[str, Any]:
    return {**RUN, "config": {**RUN["config"], **changes}}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            _with_config(arms={"parallel": {"mode": "parallel"}}),
            'arms.autoregressive.mode: "autoregressive" -> (absent)',
        ),
        (
            _with_config(suites={"libero_spatial": [0]}),
            "suites.libero_spatial: [0, 1] -> [0]",
        ),
        (_with_config(trials=5), "trials: (absent) -> 5"),
        ({**RUN, "checkpoint_sha256": "bad"}, 'checkpoint_sha256: "c0ffee" -> "bad"'),
        ({**RUN, "assets": "official"}, 'assets: "lite" -> "official"'),
        ({**RUN, "renderer": "egl"}, 'renderer: "osmesa" -> "egl"'),
        (
            {**RUN, "packages": {**RUN["packages"], "mujoco": "3.3.3"}},
            'packages.mujoco: "3.2.3" -> "3.3.3"',
        ),
    ],
)
def test_resume_says_what_changed(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    write_trials(tmp_path, range(1))
    with pytest.raises(UserError) as raised:
        Books.open(str(tmp_path), changed, resume=True)
    assert said in str(raised.value)
    assert len(read_run(str(tmp_path))["sessions"]) == 1


def test_the_build_of_torch_and_unused_packages_may_change(tmp_path: Path) -> None:
    """Each is noted all the same."""
    before = {**RUN, "packages": {**RUN["packages"], "torch": "2.13.0+cpu", "transformers": "5"}}
    after = {**RUN, "packages": {**RUN["packages"], "torch": "2.13.0+cu130"}}
    Books.open(str(tmp_path), before, resume=False).close()
    Books.open(str(tmp_path), after, resume=True).close()
    changes = read_run(str(tmp_path))["sessions"][1]["changes"]
    assert changes["packages.torch"] == '"2.13.0+cpu" -> "2.13.0+cu130"'
    assert "packages.transformers" in changes


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"packages": {**RUN["packages"], "numpy": "1.0"}}, 'packages.numpy: "2.4.6" -> "1.0"'),
        ({"arithmetic": "x86-64-v3"}, 'arithmetic: (absent) -> "x86-64-v3"'),
    ],
)
def test_arithmetic_decides_rows(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    write_trials(tmp_path, range(1))
    with pytest.raises(UserError) as raised:
        Books.open(str(tmp_path), RUN | changed, resume=True)
    assert said in str(raised.value)


def test_resume_says_every_change_at_once(tmp_path: Path) -> None:
    write_trials(tmp_path, range(1))
    changed = {**_with_config(deterministic=False, trials=5), "assets": "official"}
    with pytest.raises(UserError) as raised:
        Books.open(str(tmp_path), changed, resume=True)
    assert str(raised.value).count(" -> ") == 3


def test_tuples_in_the_configuration_are_no_change(tmp_path: Path) -> None:
    for resume in (False, True):
        run = _with_config(arms=("autoregressive", "speculative"))
        Books.open(str(tmp_path), run, resume=resume).close()


def drop_column(output: Path, folder: str, name: str) -> None:
    """As if the parts had been written before there was that column."""
    for part in (output / folder).glob("*.parquet"):
        pq.write_table(pq.read_table(part).drop_columns([name]), part)


def test_an_older_run_is_resumed_and_lacks_nothing_but_its_missing_column(tmp_path: Path) -> None:
    write_trials(tmp_path, range(2))
    drop_column(tmp_path, "chunks", "codes")
    chunks = read_chunks(str(tmp_path))
    assert (chunks.num_rows, chunks["codes"].null_count) == (6, 6)
    write_trials(tmp_path, range(2, 3), resume=True)
    chunks = read_chunks(str(tmp_path), ["trial", "codes"])
    assert (chunks.num_rows, chunks["codes"].null_count) == (9, 6)
    assert trials(tmp_path) == [0, 1, 2]


def test_a_part_without_a_column_that_there_always_was_is_damaged(tmp_path: Path) -> None:
    write_trials(tmp_path, range(2))
    drop_column(tmp_path, "episodes", "outcome")
    with pytest.raises(UserError, match="cannot be read: rows without outcome"):
        read_episodes(str(tmp_path))
    assert read_episodes(str(tmp_path), ["trial"])["trial"].to_pylist() == [0, 1]


def test_a_full_disk_under_the_notes_of_a_run_is_told_as_such(tmp_path: Path) -> None:
    """Another --output is no way out of a run that goes on."""
    machine = Machine("worker", "node-0", "osmesa", "EPYC", 16, (), "x86-64-v3")
    books = Books.open(str(tmp_path), RUN, resume=False)
    with full_disk(64), pytest.raises(CannotWriteError, match=f"cannot write {tmp_path}: ") as told:
        books.note_machine(machine)
    assert "--output" not in str(told.value)
    books.close()
    assert len(read_run(str(tmp_path))["sessions"][0]["machines"]) == 1


def test_a_policy_without_codes_has_null_codes(tmp_path: Path) -> None:
    good = result(key(0))
    plain = [dataclasses.replace(chunk, codes=None) for chunk in good.chunks]
    with Books.open(str(tmp_path), RUN, resume=False) as books:
        add(books, dataclasses.replace(good, chunks=plain))
    assert read_chunks(str(tmp_path), ["codes"])["codes"].null_count == 3


def test_chunks_come_a_few_at_a_time_and_are_those_of_the_episodes(tmp_path: Path) -> None:
    with Books.open(str(tmp_path), RUN, resume=False, flush_every=1) as books:
        for trial in range(2 * PARTS_AT_ONCE + 1):
            add(books, result(key(trial)))
    parts = committed(str(tmp_path))
    with Books.open(str(tmp_path), RUN, resume=True) as books:
        add(books, result(key(1000)))  # committed afterwards: in neither
    batches = list(parts.chunks(["trial"]))
    assert len(batches) == 3
    found = {trial for batch in batches for trial in batch["trial"].to_pylist()}
    assert found == set(parts.episodes(["trial"])["trial"].to_pylist())


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    write_trials(tmp_path, range(1))
    run = read_run(str(tmp_path)) | {"schema_version": "0"}
    (tmp_path / "run.json").write_text(json.dumps(run))
    for read in (read_run, read_episodes, read_chunks):
        with pytest.raises(UserError, match="schema version '0'"):
            read(str(tmp_path))


def test_a_second_writer_is_refused_until_the_first_has_closed(tmp_path: Path) -> None:
    books = Books.open(str(tmp_path), RUN, resume=False)
    with pytest.raises(UserError, match="another process"):
        Books.open(str(tmp_path), RUN, resume=True)
    books.close()
    Books.open(str(tmp_path), RUN, resume=True).close()


def test_books_that_cannot_be_opened_let_go_of_their_folder(tmp_path: Path) -> None:
    with full_disk(64), pytest.raises(UserError) as refused:  # room for a probe
        Books.open(str(tmp_path), RUN, resume=False)
    Books.open(str(tmp_path), RUN, resume=False).close()
    assert "too large" in str(refused.value)  # and its traceback kept the first books alive


# --- bad input ---------------------------------------------------------------------------------


def test_a_used_output_is_refused_without_resume(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"not empty.*thesis\.tex.*--resume"):
        Books.open(str(tmp_path), RUN, resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def _below_a_file(tmp_path: Path) -> str:
    (tmp_path / "file").write_text("")
    return str(tmp_path / "file" / "run")


def _a_file(tmp_path: Path) -> str:
    (tmp_path / "file").write_text("")
    return str(tmp_path / "file")


@pytest.mark.parametrize("unwritable", [_below_a_file, _a_file, lambda _: "/proc/rsd-run"])
def test_an_unwritable_output_is_refused(tmp_path: Path, unwritable: Callable[[Path], str]) -> None:
    output = unwritable(tmp_path)
    with pytest.raises(UserError, match=r"not writable.*--output"):
        Books.open(output, RUN, resume=False)


@pytest.mark.parametrize("read", [read_run, read_episodes, read_chunks])
def test_a_folder_without_a_run_is_said(tmp_path: Path, read: Callable[[str], object]) -> None:
    for output in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=r"holds no run.*run\.json"):
            read(str(output))


def test_resume_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        Books.open(str(tmp_path), RUN, resume=True)


def test_an_unknown_filesystem_is_refused() -> None:
    with pytest.raises(UserError, match=r"ftp://.*s3://"):
        Books.open("ftp://host/run", RUN, resume=False)


# --- other filesystems -------------------------------------------------------------------------


def test_a_file_uri_is_the_local_folder(tmp_path: Path) -> None:
    with Books.open(tmp_path.as_uri(), RUN, resume=False) as books:
        add(books, result(key(0)))
    assert trials(tmp_path) == [0]


def test_a_whole_run_works_on_an_object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec's memory filesystem stands in: no renames, no locks, no local paths."""
    from fsspec.implementations.memory import MemoryFileSystem

    memory = MemoryFileSystem(skip_instance_cache=True)
    memory.store.clear()  # which all of them share
    files = pafs.PyFileSystem(pafs.FSSpecHandler(memory))
    monkeypatch.setattr(
        Folder,
        "at",
        classmethod(lambda cls, output: cls(files, output.removeprefix("memory:/"), output)),
    )
    output = "memory://bucket/run"
    with Books.open(output, RUN, resume=False) as books:
        add(books, result(key(0)))
    with pytest.raises(UserError, match="not empty"):
        Books.open(output, RUN, resume=False)
    with Books.open(output, RUN, resume=True) as books:
        assert books.recorded() == {key(0)}
        add(books, result(key(1)))
    assert sorted(read_episodes(output)["trial"].to_pylist()) == [0, 1]
    assert read_chunks(output).num_rows == 6


def test_two_hundred_episodes_come_back_exactly_once(tmp_path: Path) -> None:
    planned = list(paired_results(tasks=10, trials=10))
    with Books.open(str(tmp_path), RUN, resume=False) as books:
        for episode in planned[:117]:
            add(books, episode)
    with Books.open(str(tmp_path), RUN, resume=True) as books:
        for episode in planned:
            if episode.key not in books.recorded():
                add(books, episode)
    rows = read_episodes(str(tmp_path)).select(["arm", "suite", "task_id", "trial", "seed"])
    keys = [EpisodeKey(**row) for row in rows.to_pylist()]
    assert sorted(keys) == sorted(episode.key for episode in planned)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is no JSON of a run"),
        ("{", "is no JSON of a run"),
        ("[" * 200_000, "nested more than"),
        ("[1]", "describes no run"),
        ("null", "describes no run"),
        ("{}", "describes no run"),
    ],
)
def test_a_damaged_run_file_is_named(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=rf"run\.json in .*{told}"):
        read_run(str(tmp_path))


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"not a Parquet file at all"])
def test_a_damaged_part_is_named(tmp_path: Path, damage: bytes) -> None:
    with Books.open(str(tmp_path), RUN, resume=False) as books:
        add(books, result(key(0)))
    (part,) = (tmp_path / "episodes").iterdir()
    part.write_bytes(damage)
    with pytest.raises(UserError, match=f"cannot be read.*{part.name}"):
        read_episodes(str(tmp_path))
    with pytest.raises(UserError, match="cannot be read"):
        Books.open(str(tmp_path), RUN, resume=True)
