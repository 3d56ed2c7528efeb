"""The books of a run: Parquet parts that are whole or absent, and run.json. No torch, no ray.

A run's folder (DESIGN 9) holds `run.json`, `episodes/part-*.parquet` (a row an episode) and
`chunks/part-*.parquet` (a row a decode). Parts come in pairs of one stem. The chunk part is
written first; the episode part of the same stem is the commit: readers take a chunk part only
where its episode part exists. So a writer may be killed between any two instructions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rsd.conditions import deciding
from rsd.errors import CannotWriteError, UserError
from rsd.foreign import parse_json
from rsd.locking import LOCK_FILE, hold, let_go_on_failure
from rsd.outbox import Outbox, Parcel, Patience
from rsd.outputs import ASIDE, check_address, write_atomically
from rsd.provenance import Machine, flat
from rsd.types import ChunkRecord, EpisodeKey, EpisodeResult

# Raise it with every change of a column's name, type, unit or meaning. A column that is added may
# be null, and is where older runs are read.
SCHEMA_VERSION = "2"

FLUSH_EVERY = 20  # episodes a part
FLUSH_SECONDS = 10.0  # since the part's first episode; looked at when one is added

RUN_FILE = "run.json"
EPISODES = "episodes"
CHUNKS = "chunks"


# --- schemas ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """One column as it is explained to a reader; unit "1" is a plain count or index."""

    name: str
    type: pa.DataType
    unit: str
    description: str
    nullable: bool = False

    def field(self) -> pa.Field:
        """Unit and description travel in the field's metadata, into every Parquet file."""
        metadata = {"unit": self.unit, "description": self.description}
        return pa.field(self.name, self.type, nullable=self.nullable, metadata=metadata)


_TEXT = pa.string()
_COUNT = pa.int32()
_SECONDS = pa.float64()
_PER_LAYER = pa.list_(pa.field("item", pa.int32(), nullable=False))

_KEY_COLUMNS = (
    Column("run_id", _TEXT, "name", "the run; first part of the key"),
    Column("arm", _TEXT, "name", "the (policy, decoding) setting; arms share every world"),
    Column("suite", _TEXT, "name", "LIBERO suite"),
    Column("task_id", _COUNT, "1", "task of the suite, 0-based, LIBERO's task order 0"),
    Column("trial", _COUNT, "1", "row of LIBERO's stored initial states, 0..49"),
    Column("seed", pa.int64(), "1", "seed of the policy's sampling; the world does not read it"),
)

_EPISODE_COLUMNS = (
    *_KEY_COLUMNS,
    Column("instruction", _TEXT, "text", "the task's instruction as the policy read it"),
    Column(
        "outcome",
        _TEXT,
        "name",
        "success: the goal held after a step; timeout: out of steps; error: no verdict, not "
        "a failure of the policy",
    ),
    Column("steps", _COUNT, "control steps", "policy steps executed (20 Hz), wait steps excluded"),
    Column("chunks", _COUNT, "1", "decodes asked for; rows of this episode in chunks/"),
    Column(
        "attempts", _COUNT, "1", "times this session tried the episode until this row, 1 or more"
    ),
    Column("error", _TEXT, "text", "traceback; empty unless outcome is error"),
    Column("physics_s", _SECONDS, "s", "wall time in control steps, the 10 wait steps included"),
    Column("render_s", _SECONDS, "s", "wall time rendering the frames that the policy read"),
    Column(
        "reset_s",
        _SECONDS,
        "s",
        "wall time putting the world in place, wait steps excluded; building the simulator and "
        "recording the task's worlds included where this episode had to",
    ),
    Column("wait_s", _SECONDS, "s", "wall time the worker waited for the policy's answers"),
    Column("wall_s", _SECONDS, "s", "wall time of the whole episode on its worker"),
    Column("worker", _TEXT, "name", "the environment worker that ran the episode"),
    Column("node", _TEXT, "name", "the machine of that worker"),
    Column("assets", _TEXT, "name", "official, lite, or the sha256 of a local asset tree"),
    Column("renderer", _TEXT, "name", "osmesa, egl or none"),
    Column(
        "final_state_sha256",
        _TEXT,
        "hex",
        "of the flattened simulator state [time, qpos, qvel] at the end, float64 bytes",
    ),
    Column(
        "finished_at",
        pa.timestamp("us", tz="UTC"),
        "UTC",
        "when the driver entered the episode into the books",
    ),
)

_CHUNK_COLUMNS = (
    *_KEY_COLUMNS,
    Column("chunk_index", _COUNT, "1", "position of the chunk in its episode, from 0"),
    Column(
        "drafted",
        _PER_LAYER,
        "tokens per layer",
        "tokens of the draft's own guess that the first pass judged, layer 0 first",
    ),
    Column("accepted", _PER_LAYER, "tokens per layer", "of those, tokens kept"),
    Column(
        "redrafted",
        _PER_LAYER,
        "tokens per layer",
        "tokens that the draft guessed after the first pass and later passes judged",
    ),
    Column("reaccepted", _PER_LAYER, "tokens per layer", "of those, tokens kept"),
    Column(
        "passes",
        _COUNT,
        "1",
        "forwards of the target's backbone until the codes were final, a canonical recompute "
        "not counted",
    ),
    Column("layers", _COUNT, "1", "layers decoded"),
    Column("batch_size", _COUNT, "1", "requests that were decoded together"),
    Column("canonical", pa.bool_(), "1", "near ties were settled by one canonical recompute"),
    Column("queue_s", _SECONDS, "s", "wall time in the replica's queue"),
    Column("vision_s", _SECONDS, "s", "device time of the image towers, whole batch"),
    Column(
        "draft_s",
        _SECONDS,
        "s",
        "device time of the draft for the batch, until this request was final",
    ),
    Column(
        "target_s",
        _SECONDS,
        "s",
        "device time of the target's backbone for the batch, until this request was final",
    ),
    Column(
        "detokenise_s",
        _SECONDS,
        "s",
        "device time from codes to actions for the batch, until this request was final",
    ),
    Column("action_sha256", _TEXT, "hex", "of the chunk's actions, float32 bytes (T, 7)"),
    Column(
        "codes",
        pa.list_(pa.field("item", pa.uint8(), nullable=False)),
        "level",
        "the decoded codes (T, D, layers), flattened in C order; null where the policy has none",
        nullable=True,
    ),
)


def _schema(columns: Sequence[Column], rows: str) -> pa.Schema:
    metadata = {"rsd_schema_version": SCHEMA_VERSION, "rsd_rows": rows}
    return pa.schema([column.field() for column in columns], metadata=metadata)


EPISODE_SCHEMA = _schema(_EPISODE_COLUMNS, "one per episode")
CHUNK_SCHEMA = _schema(_CHUNK_COLUMNS, "one per decode")


# --- the folder of a run, on a disk or in an object store -------------------------------------


@dataclass(frozen=True)
class _Folder:
    """Whole-file access to a run's folder. `shown` is how the user spelt it."""

    files: pafs.FileSystem
    root: str
    shown: str

    @classmethod
    def at(cls, output: str) -> _Folder:
        """Raises UserError for a URI that pyarrow cannot open, and as `check_address`."""
        check_address(output)
        if "://" not in output:
            return cls(pafs.LocalFileSystem(), str(Path(output).expanduser().absolute()), output)
        try:
            files, root = pafs.FileSystem.from_uri(_in_one_request(output))
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(
                f"cannot open output {output!r}: {error} (give a local path, s3://, gs://, "
                "abfs:// or file://)"
            ) from error
        return cls(files, root.rstrip("/"), output)

    @property
    def local(self) -> Path | None:
        """The folder as a path where it lies on a disk."""
        return Path(self.root) if isinstance(self.files, pafs.LocalFileSystem) else None

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def names(self, folder: str = "") -> list[str]:
        """Sorted leaf names in the folder or in one of its subfolders; empty where absent."""
        selector = pafs.FileSelector(self.path(folder).rstrip("/"), allow_not_found=True)
        return sorted(info.base_name for info in self.files.get_file_info(selector))

    def read(self, name: str) -> bytes:
        with self.files.open_input_stream(self.path(name)) as stream:
            return stream.read()

    def write(self, name: str, data: bytes) -> None:
        """Put a whole file in place, or nothing.

        On a disk: written aside, synced (a torn part after a power cut would break every reader)
        and renamed. In an object store an object appears when its upload is complete.
        """
        if self.local is not None:
            write_atomically(self.local / name, data)
            return
        with self.files.open_output_stream(self.path(name)) as stream:
            stream.write(data)

    def delete(self, name: str) -> None:
        self.files.delete_file(self.path(name))

    def lock(self) -> IO[bytes] | None:
        """Hold the folder against a second writer until the file is closed or the process dies.

        Raises UserError where another process holds it. Object stores know no locks: there two
        drivers on one output remain the user's business.
        """
        return None if self.local is None else hold(self.local, self.shown)


def _in_one_request(uri: str) -> str:
    """Where an object of S3 goes up in one PUT (up to 10 MB; parts are far smaller) there is no
    multipart upload that a kill could leave behind: those are invisible and paid for."""
    if not uri.startswith("s3://") or "allow_delayed_open=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}allow_delayed_open=true"


def _is_hidden(name: str) -> bool:
    """Lock, probes and files not yet renamed; pyarrow and pandas skip them by the same rule."""
    return name.startswith(".")


def _visible(names: Sequence[str]) -> list[str]:
    return [name for name in names if not _is_hidden(name)]


@contextlib.contextmanager
def _writable(folder: _Folder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"output {folder.shown} is not writable: {error}; choose another --output"
        ) from error


_PROBE = ".probe-"


def _prove_writable(folder: _Folder) -> None:
    """Permissions and quotas show only when something is written. The folders of an earlier
    session's parts may be somebody else's."""
    probe = f"{_PROBE}{uuid.uuid4().hex}"
    parts = [] if folder.local is None else [EPISODES, CHUNKS]
    with _writable(folder):
        there = [f"{part}/{probe}" for part in parts if (Path(folder.root) / part).is_dir()]
        for name in (probe, *there):
            folder.write(name, b"rsd")
            folder.delete(name)


@contextlib.contextmanager
def _leaving_nothing(folder: _Folder) -> Iterator[None]:
    """Take away the folders that were made inside, as far as they are empty."""
    if folder.local is None:
        new = not folder.names()
        yield
        if new and not folder.names():
            folder.files.delete_dir(folder.root)  # what stands for a folder in an object store
        return
    paths = [path for path in (folder.local, *folder.local.parents) if _absent(path)]
    try:
        yield
    finally:
        for path in paths:
            with contextlib.suppress(OSError):  # somebody else uses it by now
                path.rmdir()


def _absent(path: Path) -> bool:
    """Whether it would have to be made; what nobody may look at is there."""
    try:
        return not path.exists()
    except OSError:
        return False


# --- run.json and what a resume may change ----------------------------------------------------

# Rows on both sides of a resume land in one table, so whatever decides a row must be equal. Code
# version and hardware may differ: a run is resumed after a fix, and on other machines; each
# session's own are kept in run.json.
_PINNED = ("config", "schema_version", "assets")


def _decisive(run: Mapping[str, object]) -> dict[str, object]:
    return {name: run.get(name) for name in _PINNED} | deciding(run)


def _changes(before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, str]:
    """Dotted name -> "old -> new" for every leaf that differs or exists on one side only."""
    old, new = flat(before), flat(after)

    def shown(leaves: Mapping[str, object], name: str) -> str:
        return json.dumps(leaves[name]) if name in leaves else "(absent)"

    return {
        name: f"{shown(old, name)} -> {shown(new, name)}"
        for name in sorted(old.keys() | new.keys())
        if name not in old or name not in new or old[name] != new[name]
    }


_BOOKKEEPING = ("run_id", "sessions")  # the books' own; never compared


def _without_bookkeeping(run: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in run.items() if name not in _BOOKKEEPING}


def _agreed(
    output: str, run: Mapping[str, object], resume: bool
) -> tuple[_Folder, dict[str, Any], dict[str, str]]:
    """(folder, the run as its run.json is to say it, changes against what that said before).

    Raises UserError for a folder that is not empty or, on resume, lacks a run or holds another.
    """
    folder = _Folder.at(output)
    run = json.loads(json.dumps({**run, "schema_version": SCHEMA_VERSION}))  # as JSON has it
    if not resume:
        _refuse_content(folder)
        return folder, dict(run), {}
    stored = read_run(output)
    changes = _changes(_without_bookkeeping(stored), _without_bookkeeping(run))
    _refuse_changes(output, stored, run)
    return folder, stored, changes


def _refuse_changes(output: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Raises UserError that lists every change which would mix two experiments in one table."""
    refused = _changes(_decisive(before), _decisive(after))
    if refused:
        lines = [f"  {name.removeprefix('config.')}: {refused[name]}" for name in refused]
        raise UserError(
            f"{output} was recorded with other settings; resume with the same ones or choose "
            "another --output:\n" + "\n".join(lines)
        )


def _run_parcel(folder: _Folder, run: Mapping[str, object]) -> Parcel:
    content = json.dumps(run, indent=2).encode()
    return Parcel(lambda: folder.write(RUN_FILE, content), len(content))


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


# --- writing ----------------------------------------------------------------------------------


def _episode_row(
    run_id: str, result: EpisodeResult, attempts: int, worker: str, node: str, finished_at: datetime
) -> dict[str, Any]:
    """Columns are named as the dataclass fields; names outside the schema are left out there."""
    own = {
        "run_id": run_id,
        "chunks": len(result.chunks),
        "attempts": attempts,
        "worker": worker,
        "node": node,
        "finished_at": finished_at,
    }
    return vars(result.key) | vars(result) | own


def _chunk_rows(run_id: str, result: EpisodeResult) -> list[dict[str, Any]]:
    key = {"run_id": run_id} | vars(result.key)
    return [key | vars(chunk.trace) | vars(chunk) | _flat_codes(chunk) for chunk in result.chunks]


def _flat_codes(chunk: ChunkRecord) -> dict[str, Any]:
    return {"codes": None if chunk.codes is None else chunk.codes.ravel()}


def _parquet(rows: list[dict[str, Any]], schema: pa.Schema) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
    return sink.getvalue()


class Books:
    """Writes a run exactly once per episode; open it with `Books.open`.

    Buffers episodes and writes them as one pair of parts every `flush_every` episodes or
    `flush_seconds` seconds, looked at in `add`. On a disk that is done when the call returns, and
    an OSError is raised by it; into an object store parts go up by themselves and are tried again
    with `patience`. One writer; calls from several threads wait for each other.
    """

    def __init__(
        self,
        folder: _Folder,
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
        folder, run, changes = _agreed(output, run, resume)
        _prove_writable(folder)
        with _writable(folder):
            lock = folder.lock()
        with let_go_on_failure(lock):
            with _writable(folder):
                _sweep(folder)
                stored = _stored_keys(folder)
            session = {"started_at": _utc(clock()), "changes": changes, "machines": []}
            run["sessions"] = [*run.get("sessions", []), session]
            with _writable(folder):
                _run_parcel(folder, run).write()
            parts = len(_visible(folder.names(EPISODES)))
        return cls(folder, run, stored, parts, lock, flush_every, flush_seconds, clock, patience)

    @staticmethod
    def check(output: str, run: dict[str, Any], *, resume: bool) -> None:
        """Raises UserError where `open` would; leaves nothing behind."""
        folder, _, _ = _agreed(output, run, resume)
        with _leaving_nothing(folder):
            _prove_writable(folder)
        if folder.local is not None and (folder.local / LOCK_FILE).exists():
            with _writable(folder), folder.lock() or contextlib.nullcontext():
                pass
        _stored_keys(folder)

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
            with self._one_at_a_time, _writable(self._folder):
                self._refuse_if_closed()
                noted.append(entry)
                self._send(_run_parcel(self._folder, self._run))

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
            _episode_row(self.run_id, result, attempts, worker, node, finished_at)
        )
        self._chunk_rows += _chunk_rows(self.run_id, result)
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
            f"{CHUNKS}/{self._part}": _parquet(self._chunk_rows, CHUNK_SCHEMA),
            f"{EPISODES}/{self._part}": _parquet(self._episode_rows, EPISODE_SCHEMA),
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


def _refuse_content(folder: _Folder) -> None:
    with _writable(folder):
        content = _visible(folder.names())
    if content:
        raise UserError(
            f"output {folder.shown} is not empty (it holds {', '.join(content[:3])}"
            f"{', ...' if len(content) > 3 else ''}); use --resume to go on with that run, or "
            "another --output"
        )


def _sweep(folder: _Folder) -> None:
    """Delete what a killed writer left: files never renamed, chunk parts never committed."""
    committed = set(folder.names(EPISODES))
    for part_folder in (EPISODES, CHUNKS):
        for name in folder.names(part_folder):
            if _is_hidden(name) or name not in committed:
                folder.delete(f"{part_folder}/{name}")
    for name in folder.names():
        if name.startswith(_PROBE) or (_is_hidden(name) and name.endswith(ASIDE)):
            folder.delete(name)


# --- reading ----------------------------------------------------------------------------------


def holds_a_run(output: str) -> bool:
    """Whether a run was started in `output`; raises UserError for one that cannot be opened."""
    folder = _Folder.at(output)
    try:
        return folder.files.get_file_info(folder.path(RUN_FILE)).is_file
    except OSError as error:
        raise UserError(f"cannot open output {output!r}: {error}") from error


def read_run(output: str) -> dict[str, Any]:
    """The run.json of a run; raises UserError where there is none or its schema is another."""
    folder = _Folder.at(output)
    try:
        run = parse_json(folder.read(RUN_FILE))
    except FileNotFoundError:
        raise UserError(
            f"{output} holds no run: there is no {RUN_FILE} (start one without --resume, or give "
            "the folder of a run)"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {RUN_FILE} in {output}: {error}") from error
    except ValueError as error:
        raise UserError(f"{RUN_FILE} in {output} is no JSON of a run: {error}") from error
    version = run.get("schema_version") if isinstance(run, dict) else None
    if version is None:
        raise UserError(f"{RUN_FILE} in {output} describes no run: it names no schema version")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{output} was written with schema version {version!r}, this code has "
            f"{SCHEMA_VERSION!r}; use the code version of that run ({run.get('code')})"
        )
    return run


def read_episodes(output: str, columns: Sequence[str] | None = None) -> pa.Table:
    """All committed episode rows of a run, also while it goes on; raises UserError as read_run."""
    return committed(output).episodes(columns)


def read_chunks(output: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The chunk rows of all committed episodes; raises UserError as read_run."""
    return committed(output).all_chunks(columns)


def committed(output: str) -> Committed:
    """The rows that a run has at this moment; raises UserError as read_run."""
    read_run(output)
    folder = _Folder.at(output)
    return Committed(folder, tuple(_visible(folder.names(EPISODES))))


@dataclass(frozen=True)
class Committed:
    """The committed parts of a run at one moment: episodes, and exactly their chunks.

    Columns that a part was written without are null.
    """

    _folder: _Folder
    _parts: tuple[str, ...]

    def episodes(self, columns: Sequence[str] | None = None) -> pa.Table:
        """A row an episode, in the order of the parts."""
        return self._table(EPISODES, EPISODE_SCHEMA, columns)

    def all_chunks(self, columns: Sequence[str] | None = None) -> pa.Table:
        """What `chunks` yields, together."""
        return self._table(CHUNKS, CHUNK_SCHEMA, columns)

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """A row a decode, some rows at a time, so that memory does not grow with the run.

        Parts are read some at once, which an object store answers at the same time; a scan of all
        of them reads ahead of a slow reader without limit.
        """
        for first in range(0, len(self._parts), _PARTS_AT_ONCE):
            some = Committed(self._folder, self._parts[first : first + _PARTS_AT_ONCE])
            table = some.all_chunks(columns)
            yield from table.combine_chunks().to_batches(max_chunksize=_ROWS_AT_ONCE)

    def _table(
        self, part_folder: str, schema: pa.Schema, columns: Sequence[str] | None
    ) -> pa.Table:
        """Raises UserError for a part that cannot be read."""
        paths = [self._folder.path(f"{part_folder}/{name}") for name in self._parts]
        try:
            parts = ds.dataset(paths, schema, filesystem=self._folder.files, format="parquet")
            return parts.to_table(columns=None if columns is None else list(columns))
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(
                f"{self._folder.shown} holds a part that cannot be read: {error}; parts are put in "
                "place whole, so a disk or a copy has damaged it: copy the run again"
            ) from error


_PARTS_AT_ONCE = 64
_ROWS_AT_ONCE = 8192  # some megabytes


_KEY_FIELDS = ["arm", "suite", "task_id", "trial", "seed"]


def _stored_keys(folder: _Folder) -> set[EpisodeKey]:
    parts = Committed(folder, tuple(_visible(folder.names(EPISODES))))
    rows = parts.episodes(_KEY_FIELDS)
    return set(map(EpisodeKey, *(rows[name].to_pylist() for name in _KEY_FIELDS)))
