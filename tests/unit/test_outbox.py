"""A store that is away: rows are kept, tried again with growing pauses, and given up aloud."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from made_up_runs import RUN, key, result

from rsd.books import Books, folder, read_chunks, read_episodes, read_run
from rsd.books.folder import Folder, in_one_request
from rsd.books.outbox import Outbox, Parcel, Patience
from rsd.errors import CannotWriteError
from rsd.provenance import Machine

OUTPUT = "memory://bucket/run"
PATIENT = Patience(give_up_s=20, first_pause_s=0.01, longest_pause_s=0.05, leave_s=1)
IMPATIENT = Patience(give_up_s=0.1, first_pause_s=0.01, longest_pause_s=0.05)


class Store(MemoryFileSystem):  # type: ignore[misc]
    """An object store whose writes fail while it is away."""

    away = threading.Event()
    tries = 0

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode == "wb" and self.away.is_set():
            type(self).tries += 1
            raise OSError("connection refused\nby a stack of lines")
        return super()._open(path, mode, **options)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    made = Store(skip_instance_cache=True)
    made.store.clear()
    made.away.clear()
    Store.tries = 0
    files = pafs.PyFileSystem(pafs.FSSpecHandler(made))
    monkeypatch.setattr(
        Folder,
        "at",
        classmethod(lambda cls, output: cls(files, output.removeprefix("memory:/"), output)),
    )
    yield made
    made.away.clear()
    made.store.clear()


def open_books(patience: Patience, resume: bool = False) -> Books:
    return Books.open(OUTPUT, RUN, resume=resume, flush_every=1, patience=patience)


def add(books: Books, trial: int) -> None:
    books.add(result(key(trial)), attempts=1, worker="worker-0", node="node-0")


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def trials() -> list[int]:
    return sorted(read_episodes(OUTPUT)["trial"].to_pylist())


def test_a_store_that_is_away_for_a_while_loses_no_row_and_holds_nobody_up(store: Store) -> None:
    books = open_books(PATIENT)
    add(books, 0)
    wait_for(lambda: not books._outbox.waiting)
    books.catch_up()
    store.away.set()
    for trial in range(1, 5):
        started = time.monotonic()
        add(books, trial)
        assert time.monotonic() - started < 1
    books.note_machine(
        Machine("worker", "node-1", "none", "EPYC", 16, (), "x86-64-v3")
    )  # run.json, too
    wait_for(lambda: store.tries >= 5)
    books.catch_up()
    assert books.recorded() == {key(0)} and books.waiting == 4
    store.away.clear()
    books.close()
    news = books.news()
    assert trials() == [0, 1, 2, 3, 4] and books.recorded() == {key(n) for n in range(5)}
    assert read_chunks(OUTPUT).num_rows == 15
    assert len(read_run(OUTPUT)["sessions"][0]["machines"]) == 1
    assert len(news) == 2  # a sentence an event, however often it was tried
    assert news[0].startswith(f"cannot write {OUTPUT} (connection refused): episodes go on")
    assert news[1].startswith(f"{OUTPUT} is written again, after")


def test_a_store_that_stays_away_is_given_up_with_the_number_of_lost_episodes(
    store: Store,
) -> None:
    books = open_books(IMPATIENT)
    store.away.set()
    add(books, 0)
    add(books, 1)

    def given_up() -> bool:
        try:
            books.catch_up()
        except CannotWriteError:
            return True
        return False

    wait_for(given_up)
    told = rf"cannot write {OUTPUT} \(\d+ tries in 0 s\): connection refused; 2 episodes are not"
    with pytest.raises(CannotWriteError, match=told):
        books.close()
    store.away.clear()
    with open_books(PATIENT, resume=True) as books:
        assert not books.recorded()
        add(books, 0)
    assert trials() == [0]


def test_who_leaves_in_a_hurry_waits_for_one_try_and_no_more(store: Store) -> None:
    books = open_books(Patience(first_pause_s=60, longest_pause_s=60))
    store.away.set()
    add(books, 0)
    wait_for(lambda: store.tries == 1)
    books.hurry()
    started = time.monotonic()
    with pytest.raises(CannotWriteError, match="1 episodes are not stored"):
        books.close()
    assert time.monotonic() - started < 5 and store.tries == 2


def test_a_store_that_hangs_is_given_up_like_one_that_refuses() -> None:
    """As a network's file system does for good."""
    hangs = threading.Event()
    outbox = Outbox("/mnt/away", IMPATIENT)
    outbox.put(Parcel(lambda: bool(hangs.wait(60)), 1, frozenset({key(0)})))
    started = time.monotonic()
    outbox.wait()
    assert time.monotonic() - started < 10
    with pytest.raises(CannotWriteError, match=r"/mnt/away: it has not answered for \d+ s"):
        outbox.take_stored()
    hangs.set()


def test_so_much_may_wait_in_memory_and_no_more_is_begun(store: Store) -> None:
    books = open_books(Patience(backlog_bytes=100_000, give_up_s=60, first_pause_s=0.01))
    store.away.set()
    for trial in range(50):
        add(books, trial)
        if books.full:
            break
    assert 1 < trial < 20  # parts of some 10 kB
    store.away.clear()
    wait_for(lambda: not books.full)
    books.close()
    assert len(trials()) == trial + 1


def test_a_disk_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    books = Books.open(str(tmp_path), RUN, resume=False, flush_every=1, patience=PATIENT)
    tries = []

    def full(path: Path, content: bytes) -> None:
        tries.append(path)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(folder, "write_atomically", full)
        with pytest.raises(CannotWriteError, match="No space"):
            add(books, 0)
    assert len(tries) == 1
    books.close()
    assert sorted(read_episodes(str(tmp_path))["trial"].to_pylist()) == [0]


def test_closed_books_take_no_row(tmp_path: Path) -> None:
    books = Books.open(str(tmp_path), RUN, resume=False)
    books.close()
    with pytest.raises(ValueError, match="closed"):
        add(books, 0)


def test_closed_books_write_nothing_into_a_folder_that_another_writer_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a thread would that was left behind: its part would double the rows that are run again."""
    books = Books.open(str(tmp_path), RUN, resume=False)
    add(books, 0)

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(folder, "write_atomically", full)
        with pytest.raises(CannotWriteError, match="No space"):
            books.close()
    machine = Machine("worker", "node-1", "none", "EPYC", 16, (), "x86-64-v3")
    with Books.open(str(tmp_path), RUN, resume=True) as other:
        add(other, 0)
        for late in (books.flush, lambda: books.note_machine(machine)):
            with pytest.raises(ValueError, match="closed"):
                late()
    assert read_episodes(str(tmp_path))["trial"].to_pylist() == [0]
    assert len(read_run(str(tmp_path))["sessions"]) == 2


def test_what_is_no_matter_of_patience_is_raised_at_once() -> None:
    outbox = Outbox("s3://bucket", PATIENT)

    def broken() -> None:
        raise TypeError("a fault of our own")

    outbox.put(Parcel(broken, 1))
    outbox.wait()
    with pytest.raises(TypeError, match="of our own"):
        outbox.take_stored()


@pytest.mark.parametrize(("failures", "least", "most"), [(1, 0.5, 1), (2, 1, 2), (9, 15, 30)])
def test_pauses_grow_and_do_not_keep_step(failures: int, least: float, most: float) -> None:
    assert Patience().pause_s(failures, 0.0) == least
    assert least < Patience().pause_s(failures, 0.99) < most


@pytest.mark.parametrize(
    ("uri", "opened"),
    [
        ("s3://b/r", "s3://b/r?allow_delayed_open=true"),
        ("s3://b/r?region=eu", "s3://b/r?region=eu&allow_delayed_open=true"),
        ("s3://b/r?allow_delayed_open=false", "s3://b/r?allow_delayed_open=false"),
        ("gs://b/r", "gs://b/r"),
    ],
)
def test_objects_of_s3_go_up_in_one_request(uri: str, opened: str) -> None:
    """A multipart upload that is never begun leaves nothing behind."""
    assert in_one_request(uri) == opened
