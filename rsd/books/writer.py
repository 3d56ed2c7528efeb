"""Writing a run: every episode once, in parts that are whole or absent."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Any

import pyarrow as pa

from rsd.books.description import RUN_FILE, Description
from rsd.books.folder import Folder
from rsd.books.outbox import Outbox, Parcel, Patience
from rsd.books.reader import Committed
from rsd.books.schema import (
    CHUNK_SCHEMA,
    CHUNKS,
    EPISODE_SCHEMA,
    EPISODES,
    chunk_rows,
    episode_row,
    imported_row,
    parquet,
)
from rsd.errors import CannotWriteError
from rsd.locking import let_go_on_failure
from rsd.provenance import Machine, ReplicaEvent
from rsd.types import EpisodeKey, EpisodeResult

FLUSH_EVERY = 20  # episodes a part
FLUSH_SECONDS = 10.0  # since the part's first episode; looked at when one is added


@dataclass
class _Part:
    """Episodes that will be stored together, as two files of one name."""

    name: str
    since: float = 0.0  # when the first one came
    keys: set[EpisodeKey] = field(default_factory=set)
    episodes: list[dict[str, Any]] = field(default_factory=list)
    chunks: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def number(cls, number: int) -> _Part:
        return cls(f"part-{number:05d}-{uuid.uuid4().hex}.parquet")

    def parcel(self, folder: Folder) -> Parcel:
        """The chunks first: the episodes commit both."""
        files = {
            f"{below}/{self.name}": parquet(pa.Table.from_pylist(rows, schema=schema))
            for below, rows, schema in (
                (CHUNKS, self.chunks, CHUNK_SCHEMA),
                (EPISODES, self.episodes, EPISODE_SCHEMA),
            )
        }
        return Parcel.of(folder, files, frozenset(self.keys))


class Books:
    """Writes a run exactly once per episode; open it with `Books.open`.

    Buffers episodes and writes them as one pair of parts every `flush_every` episodes or
    `flush_seconds` seconds, looked at in `add`. On a disk that is done when the call returns; into
    an object store parts go up by themselves and are tried again with `patience`. Whatever finds
    that something cannot be written raises CannotWriteError. One writer; calls from several threads
    wait for each other.
    """

    def __init__(
        self,
        folder: Folder,
        description: Description,
        committed: Committed,
        lock: IO[bytes] | None,
        flush_every: int,
        flush_seconds: float,
        clock: Callable[[], float],
        patience: Patience,
    ) -> None:
        self.run_id = description.run_id
        self.output = folder.shown
        self._folder = folder
        self._description = description
        self._stored = committed.keys()
        self._parts = len(committed)
        self._lock = lock
        self._flush_every = flush_every
        self._flush_seconds = flush_seconds
        self._clock = clock
        self._outbox = Outbox(folder.shown, None if folder.local else patience)
        self._on_the_way: set[EpisodeKey] = set()  # in the outbox
        self._open = True
        self._one_at_a_time = threading.RLock()
        self._part = _Part.number(self._parts)

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
        folder = Folder.at(output)
        description = _describe(folder, run, resume)
        folder.prove_writable(EPISODES, CHUNKS)
        with folder.opening():
            lock = folder.lock()
        with let_go_on_failure(lock), folder.opening():
            _sweep(folder)
            committed = Committed.of(folder)
            books = cls(
                folder, description, committed, lock, flush_every, flush_seconds, clock, patience
            )
            description.begin_session(_moment(clock()))
            folder.write(RUN_FILE, description.as_file())
        return books

    @staticmethod
    def check(output: str, run: dict[str, Any], *, resume: bool) -> None:
        """Raises UserError where `open` would; leaves nothing behind."""
        folder = Folder.at(output)
        _describe(folder, run, resume)
        with folder.leaving_nothing():
            folder.prove_writable(EPISODES, CHUNKS)
        with folder.opening():
            folder.check_lock()
        Committed.of(folder).keys()

    def recorded(self) -> set[EpisodeKey]:
        """Keys of the rows that are stored; buffered ones are not."""
        return set(self._stored)

    @property
    def waiting(self) -> int:
        """Episodes that are not stored yet."""
        return len(self._part.keys) + len(self._on_the_way)

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

    def catch_up(self) -> None:
        """Note what was stored meanwhile. Raises CannotWriteError where that was given up."""
        with self._one_at_a_time:
            for parcel in self._outbox.take_stored():
                self._stored |= parcel.keys
                self._on_the_way -= parcel.keys

    def note_machine(self, machine: Machine) -> None:
        """Keep in run.json, once, what this session runs on; raises ValueError where the books are
        closed."""
        with self._one_at_a_time:
            self._refuse_if_closed()
            if self._description.note_machine(machine):
                self._send_description()

    def note_replica(self, event: ReplicaEvent) -> None:
        """Keep in run.json what this session has heard of a replica now; raises as
        `note_machine`."""
        with self._one_at_a_time:
            self._refuse_if_closed()
            self._description.note_replica(_moment(self._clock()), event)
            self._send_description()

    def _send_description(self) -> None:
        self._send(Parcel.of(self._folder, {RUN_FILE: self._description.as_file()}))

    def add(self, result: EpisodeResult, *, attempts: int, worker: str, node: str) -> None:
        """Enter one finished episode; raises ValueError where its key is in the books already, or
        the books are closed."""

        def row(finished_at: datetime) -> dict[str, Any]:
            return episode_row(self.run_id, result, attempts, worker, node, finished_at)

        self._enter(result.key, row, chunk_rows(self.run_id, result))

    def add_imported(self, key: EpisodeKey, said: Mapping[str, Any]) -> None:
        """Enter an episode of other software, whose results say the columns `said`; raises as
        `add`."""
        self._enter(key, lambda finished_at: imported_row(self.run_id, key, said, finished_at))

    def _enter(
        self,
        key: EpisodeKey,
        row: Callable[[datetime], dict[str, Any]],
        chunks: Sequence[dict[str, Any]] = (),
    ) -> None:
        with self._one_at_a_time:
            self._refuse_if_closed()
            part, now = self._part, self._clock()
            if any(key in keys for keys in (self._stored, self._on_the_way, part.keys)):
                raise ValueError(f"episode {key} is in the books of {self.run_id} already")
            if not part.keys:
                part.since = now
            part.keys.add(key)
            part.episodes.append(row(datetime.fromtimestamp(now, UTC)))
            part.chunks += chunks
            if len(part.keys) >= self._flush_every or now - part.since >= self._flush_seconds:
                self._flush()

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
        if self._part.keys:
            parcel = self._part.parcel(self._folder)
            self._on_the_way |= parcel.keys
            self._parts += 1
            self._part = _Part.number(self._parts)
            self._send(parcel)
        else:
            self._outbox.flush()
        self.catch_up()

    def _refuse_if_closed(self) -> None:
        """A thread that was left behind may go on for a while, in a folder that another writer
        holds by then."""
        if not self._open:
            raise ValueError(f"the books of {self.run_id} are closed")

    def _send(self, parcel: Parcel) -> None:
        self._outbox.put(parcel)
        self._outbox.flush()

    def close(self) -> None:
        """Store everything, and let another writer have the folder. Raises CannotWriteError with
        the number of episodes that are not stored."""
        with self._one_at_a_time:
            self._open = False
            try:
                self._flush()
                self._outbox.wait()
                while self._outbox.waiting or self._on_the_way:
                    self.catch_up()
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


def _moment(seconds: float) -> str:
    """Of seconds since 1970, as run.json has it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _describe(folder: Folder, run: dict[str, Any], resume: bool) -> Description:
    return Description.resumed(folder, run) if resume else Description.new(folder, run)


def _sweep(folder: Folder) -> None:
    """Delete what a killed writer left: files never renamed, chunk parts never committed."""
    committed = set(folder.content(EPISODES))
    for below in (EPISODES, CHUNKS):
        for name in folder.names(below):
            if name not in committed:
                folder.delete(f"{below}/{name}")
    folder.sweep()
