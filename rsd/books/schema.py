"""Rows of the books: every column with its type, unit and meaning, and the rows of an episode.

Adding a column: a field of `EpisodeResult`, `ChunkRecord` or `DecodeTrace` (rsd/types.py) and its
`Column` here, of the same name and nullable. Nothing else has to know.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rsd.types import ACTION_DIM, ChunkRecord, DecodeTrace, EpisodeKey, EpisodeResult

T = TypeVar("T")

# Raise it with every change of a column's name, type, unit or meaning. A column that is added must
# be nullable: it is null where older runs are read (reader.read_rows).
SCHEMA_VERSION = "2"

EPISODES = "episodes"
CHUNKS = "chunks"
KEY = [field.name for field in dataclasses.fields(EpisodeKey)]  # with run_id, of every row


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
    Column(
        "trial",
        _COUNT,
        "1",
        "row of LIBERO's stored initial states, 0..49; of imported episodes (source) only a number",
    ),
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
    Column(
        "chunks",
        _COUNT,
        "1",
        "rows of this episode in chunks/: decodes asked for; 1 of an expert, who has none",
    ),
    Column(
        "attempts", _COUNT, "1", "times this session tried the episode until this row, 1 or more"
    ),
    Column("error", _TEXT, "text", "traceback; empty unless outcome is error"),
    Column("physics_s", _SECONDS, "s", "wall time in control steps, the wait steps included"),
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
        "protocol",
        _TEXT,
        "name",
        "whose numbers (seed of the draws, wait steps, limits, replanning) the episode followed; "
        "null: oft, of runs that had no other, and unknown of imported ones",
        nullable=True,
    ),
    Column(
        "delay",
        _TEXT,
        "control steps",
        "from question to chunk, or `measured`; null where the world waits for the policy",
        nullable=True,
    ),
    Column(
        "while_waiting",
        _TEXT,
        "name",
        "continue: the rest of the chunk before, then standing still; hold: standing still; null "
        "without a delay",
        nullable=True,
    ),
    Column(
        "still_steps",
        _COUNT,
        "control steps",
        "of `steps`, those that the robot stood still, waiting; null without a delay",
        nullable=True,
    ),
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
    Column(
        "source",
        _TEXT,
        "name",
        "software and version whose results these are; null: RSD's own. Worlds of imported "
        "episodes are not identified: none is a world of another row",
        nullable=True,
    ),
)

# What the results of other software may not say: null in imported episodes, in no others.
OFTEN_UNSAID = {
    "seed",
    "instruction",
    "steps",
    "chunks",
    "attempts",
    "physics_s",
    "render_s",
    "reset_s",
    "wait_s",
    "wall_s",
    "worker",
    "node",
    "assets",
    "renderer",
    "final_state_sha256",
}

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
        "not counted; with 0 layers, too: an expert's episode, no decode",
    ),
    Column("layers", _COUNT, "1", "layers decoded"),
    Column("batch_size", _COUNT, "1", "requests that were decoded together"),
    Column("canonical", pa.bool_(), "1", "near ties were settled by one canonical recompute"),
    Column(
        "queue_s",
        _SECONDS,
        "s",
        "wall time in the replica's queue, and until a remote server took it",
    ),
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
    Column(
        "moved_mm",
        pa.float64(),
        "mm",
        "by so much at most, along any axis, do the tokens that a lossy rule kept move any step's "
        "translation from what the target's own choices at their places decode to; null for rules "
        "that lose nothing",
        nullable=True,
    ),
    Column(
        "moved_degrees",
        pa.float64(),
        "degrees",
        "the same of any step's rotation about any axis",
        nullable=True,
    ),
    Column(
        "clipped",
        _COUNT,
        "1",
        "values of the chunk's actions that left [-1, 1] and were clipped; null where the policy's "
        "own never do",
        nullable=True,
    ),
    Column(
        "fast",
        pa.bool_(),
        "1",
        "the chunk was drafted and executed, the target not asked; null but in arms `temporal`",
        nullable=True,
    ),
    Column(
        "confidence",
        pa.float64(),
        "probability",
        "calibrated, that the target would have said nearly the same as the draft; of "
        "`temporal-random` what was drawn; null but in arms `temporal`",
        nullable=True,
    ),
    Column(
        "reason",
        _TEXT,
        "name",
        "for the kind of round: confident, unsure; drawn, not drawn by lot; what guarded the "
        "chunk: refresh, gripper, stall; null but in arms `temporal`",
        nullable=True,
    ),
    Column(
        "delay_steps",
        _COUNT,
        "control steps",
        "from the question (the frame that the policy saw) until the chunk could be executed; null "
        "where the world waits for the policy",
        nullable=True,
    ),
    Column("action_sha256", _TEXT, "hex", "of the chunk's actions, float32 bytes (T, 7)"),
    Column(
        "codes",
        pa.list_(pa.field("item", pa.uint8(), nullable=False)),
        "level",
        "the decoded codes (T, D, layers), flattened in C order; null where the policy has none",
        nullable=True,
    ),
    Column(
        "actions",
        pa.list_(pa.field("item", pa.float32(), nullable=False)),
        "controller input, -1 to 1",
        "the chunk's that were executed, after those of standing still until it came, as the "
        "simulator got them: (n, 7) in C order, dxyz, daxis-angle, gripper; an episode's, in order "
        "of its chunks, are all after the wait steps; null in runs from before they were recorded",
        nullable=True,
    ),
)


def _schema(columns: Sequence[Column], rows: str) -> pa.Schema:
    metadata = {"rsd_schema_version": SCHEMA_VERSION, "rsd_rows": rows}
    return pa.schema([column.field() for column in columns], metadata=metadata)


EPISODE_SCHEMA = _schema(
    [
        replace(column, nullable=column.nullable or column.name in OFTEN_UNSAID)
        for column in _EPISODE_COLUMNS
    ],
    "one per episode",
)
CHUNK_SCHEMA = _schema(_CHUNK_COLUMNS, "one per decode")


def episode_row(
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
    return _flat(vars(result.key) | vars(result) | own)


def imported_row(
    run_id: str, key: EpisodeKey, said: Mapping[str, Any], finished_at: datetime
) -> dict[str, Any]:
    """A row of another software's episode: the columns that it says."""
    return {"run_id": run_id, **vars(key), "error": "", **said, "finished_at": finished_at}


def chunk_rows(run_id: str, result: EpisodeResult) -> list[dict[str, Any]]:
    key = {"run_id": run_id} | vars(result.key)
    return [_flat(key | vars(chunk.trace) | vars(chunk)) for chunk in result.chunks]


def result_of(episode: dict[str, Any], chunks: Sequence[dict[str, Any]]) -> EpisodeResult:
    """An episode as it was entered, from its row and those of its chunks; codes stay in the rows,
    which do not say their shape."""
    ordered = sorted(chunks, key=lambda row: row["chunk_index"])
    parts = {"key": _made(EpisodeKey, episode), "chunks": [_chunk_of(row) for row in ordered]}
    return _made(EpisodeResult, episode | parts)


def _chunk_of(row: dict[str, Any]) -> ChunkRecord:
    by_layer = {name: tuple(row[name]) for name in _BY_LAYER}
    trace = _made(DecodeTrace, row | by_layer)
    return _made(
        ChunkRecord, row | {"trace": trace, "codes": None, "actions": _actions(row["actions"])}
    )


_BY_LAYER = ("drafted", "accepted", "redrafted", "reaccepted")


def _made(kind: type[T], row: dict[str, Any]) -> T:
    """Columns are named as the dataclass fields."""
    return kind(**{field.name: row[field.name] for field in dataclasses.fields(kind)})  # type: ignore[arg-type]


def _actions(values: Sequence[float] | None) -> np.ndarray | None:
    """float32 (n, 7)."""
    return None if values is None else np.array(values, np.float32).reshape(-1, ACTION_DIM)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Arrays become lists in C order."""
    return {
        name: value.ravel() if isinstance(value, np.ndarray) else value
        for name, value in row.items()
    }


def parquet(table: pa.Table) -> bytes:
    """A part as it is stored."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
