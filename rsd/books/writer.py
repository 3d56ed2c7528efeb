"""Writing a run: every episode once, in parts that are whole or absent."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import IO, Any

from rsd.books.description import RUN_FILE, agreed
from rsd.books.folder import (
    PROBE,
    Folder,
    is_hidden,
    leaving_nothing,
    prove_writable,
    visible,
    writable,
)
from rsd.books.outbox import Outbox, Parcel, Patience
from rsd.books.reader import stored_keys
from rsd.books.schema import (
    CHUNK_SCHEMA,
    CHUNKS,
    EPISODE_SCHEMA,
    EPISODES,
    chunk_rows,
    episode_row,
    parquet,
)
from rsd.errors import CannotWriteError
from rsd.locking import LOCK_FILE, let_go_on_failure
from rsd.outputs import ASIDE
from rsd.provenance import Machine
from rsd.types import EpisodeKey, EpisodeResult

FLUSH_EVERY = 20  # episodes a part
FLUSH_SECONDS = 10.0  # since the part's first episode; looked at when one is added


class Books:
    """Writes a run exactly once per episode; open it with `Books.open`.

    Buffers episodes and writes them as one pair of parts every `flush_every` episodes or
    `flush_seconds` seconds, looked at in `add`. On a disk that is done when the call returns, and
    an OSError is raised by it; into an object store parts go up by themselves and are tried again
    with `patience`. One writer; calls from several threads wait for each other.
    """

    def __init__(
        self,
        folder: Folder,
        run: dict[str, Any],
        stored: set[EpisodeKey],
        parts: int,
        lock: IO[bytes] | None,
        flush_every: int,
        flush_seconds: float,
        clock: Callable[[], float],
        patience: Patience,
    ) -> None:
        self.run_id: str = run["run_id"]
        self.output = folder.shown
        self._folder = folder
        self._run = run
        self._stored = stored
        self._parts = parts
        self._lock = lock
        self._flush_every = flush_every
        self._flush_seconds = flush_seconds
        self._clock = clock
        self._outbox = Outbox(folder.shown, None if folder.local else patience)
        self._on_the_way: set[EpisodeKey] = set()  # in the outbox
        self._open = True
        self._one_at_a_time = threading.RLock()
        self._start_part()

    @classmethod
    def open(
        cls,
        output: str,
        run: dict[str, Any],
        *,
        resume: bool,
        flush_every: int = FLUSH_EVERY,
        flush_seconds: float = FLUSH_SECONDS,
        clock: Callable[[], float] = time.time,
        patience: Patience = Patience(),  # noqa: B008 (frozen)
    ) -> Books:
        """Start the books of a new run, or go on with those in `output`.

        `run` becomes run.json: `run_id`, `config` (equal on resume), and by convention `code`,
        `packages` (name -> version), `checkpoint_sha256`, `assets`, `renderer`, `hardware`. A
        resumed run keeps its stored run_id. Raises UserError for an output that is not
        empty, not writable, in use, or, on resume, lacks a run or holds another one.
        """
        folder, run, changes = agreed(output, run, resume)
        prove_writable(folder)
        with writable(folder):
            lock = folder.lock()
        with let_go_on_failure(lock):
            with writable(folder):
                _sweep(folder)
                stored = stored_keys(folder)
            session = {"started_at": utc(clock()), "changes": changes, "machines": []}
            run["sessions"] = [*run.get("sessions", []), session]
            with writable(folder):
                run_parcel(folder, run).write()
            parts = len(visible(folder.names(EPISODES)))
        return cls(folder, run, stored, parts, lock, flush_every, flush_seconds, clock, patience)

    @staticmethod
    def check(output: str, run: dict[str, Any], *, resume: bool) -> None:
        """Raises UserError where `open` would; leaves nothing behind."""
        folder, _, _ = agreed(output, run, resume)
        with leaving_nothing(folder):
            prove_writable(folder)
        if folder.local is not None and (folder.local / LOCK_FILE).exists():
            with writable(folder), folder.lock() or contextlib.nullcontext():
                pass
        stored_keys(folder)

    def recorded(self) -> set[EpisodeKey]:
        """Keys of the rows that are stored; buffered ones are not."""
        return set(self._stored)

    @property
    def waiting(self) -> int:
        """Episodes that are not stored yet."""
        return len(self._pending) + len(self._on_the_way)

    @property
    def full(self) -> bool:
        """Whether so many rows wait for a store that is away that none should be added."""
        return self._outbox.full

    def news(self) -> list[str]:
        """What happened to the store since the last call, a sentence an event."""
        return self._outbox.take_news()

    def hurry(self) -> None:
        """The user wants to leave: `close` waits some seconds for the store and no more."""
        self._outbox.hurry()

    def look(self) -> None:
        """See what was stored meanwhile. Raises CannotWriteError where that was given up."""
        with self._one_at_a_time:
            for parcel in self._outbox.take_stored():
                self._stored |= parcel.keys
                self._on_the_way -= parcel.keys

    def note_machine(self, machine: Machine) -> None:
        """Keep in run.json, once, what this session runs on; raises ValueError where the books are
        closed."""
        noted: list[dict[str, Any]] = self._run["sessions"][-1]["machines"]
        entry = json.loads(json.dumps(dataclasses.asdict(machine)))  # as JSON has it
        if entry not in noted:
            with self._one_at_a_time, writable(self._folder):
                self._refuse_if_closed()
                noted.append(entry)
                self._send(run_parcel(self._folder, self._run))

    def add(self, result: EpisodeResult, *, attempts: int, worker: str, node: str) -> None:
        """Enter one finished episode; raises ValueError where its key is in the books already, or
        the books are closed."""
        with self._one_at_a_time:
            self._add(result, attempts, worker, node)

    def _add(self, result: EpisodeResult, attempts: int, worker: str, node: str) -> None:
        self._refuse_if_closed()
        if any(result.key in keys for keys in (self._stored, self._on_the_way, self._pending)):
            raise ValueError(f"episode {result.key} is in the books of {self.run_id} already")
        now = self._clock()
        if not self._pending:
            self._pending_since = now
        finished_at = datetime.fromtimestamp(now, UTC)
        self._pending.add(result.key)
        self._episode_rows.append(
            episode_row(self.run_id, result, attempts, worker, node, finished_at)
        )
        self._chunk_rows += chunk_rows(self.run_id, result)
        full = len(self._pending) >= self._flush_every
        if full or now - self._pending_since >= self._flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Send what is buffered as one pair of parts; the episode part commits both.

        After a failure both are kept and the next flush writes the same two names again, so an
        upload whose confirmation got lost is overwritten, not doubled. Raises ValueError where the
        books are closed.
        """
        with self._one_at_a_time:
            self._refuse_if_closed()
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            parcel = self._parcel()
            self._on_the_way |= self._pending
            self._parts += 1
            self._start_part()
            self._send(parcel)
        else:
            self._outbox.flush()
        self.look()

    def _refuse_if_closed(self) -> None:
        """A thread that was left behind may go on for a while, in a folder that another writer
        holds by then."""
        if not self._open:
            raise ValueError(f"the books of {self.run_id} are closed")

    def _parcel(self) -> Parcel:
        """What is buffered, as two files."""
        files = {
            f"{CHUNKS}/{self._part}": parquet(self._chunk_rows, CHUNK_SCHEMA),
            f"{EPISODES}/{self._part}": parquet(self._episode_rows, EPISODE_SCHEMA),
        }

        def write() -> None:
            for name, content in files.items():
                self._folder.write(name, content)

        return Parcel(write, sum(map(len, files.values())), frozenset(self._pending))

    def _send(self, parcel: Parcel) -> None:
        self._outbox.put(parcel)
        self._outbox.flush()

    def close(self) -> None:
        """Store everything, and let another writer have the folder. Raises OSError, or
        CannotWriteError with the number of episodes that are not stored."""
        with self._one_at_a_time:
            self._open = False
            try:
                self._flush()
                self._outbox.wait()
                while self._outbox.waiting or self._on_the_way:
                    self.look()
            except CannotWriteError as error:
                lost = f"{self.waiting} episodes are not stored"
                raise CannotWriteError(f"{error}; {lost}") from error
            finally:
                if self._lock is not None:
                    self._lock.close()

    def __enter__(self) -> Books:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start_part(self) -> None:
        self._part = f"part-{self._parts:05d}-{uuid.uuid4().hex}.parquet"
        self._pending: set[EpisodeKey] = set()
        self._pending_since = 0.0
        self._episode_rows: list[dict[str, Any]] = []
        self._chunk_rows: list[dict[str, Any]] = []


def _sweep(folder: Folder) -> None:
    """Delete what a killed writer left: files never renamed, chunk parts never committed."""
    committed = set(folder.names(EPISODES))
    for part_folder in (EPISODES, CHUNKS):
        for name in folder.names(part_folder):
            if is_hidden(name) or name not in committed:
                folder.delete(f"{part_folder}/{name}")
    for name in folder.names():
        if name.startswith(PROBE) or (is_hidden(name) and name.endswith(ASIDE)):
            folder.delete(name)


def run_parcel(folder: Folder, run: Mapping[str, object]) -> Parcel:
    content = json.dumps(run, indent=2).encode()
    return Parcel(lambda: folder.write(RUN_FILE, content), len(content))


def utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
