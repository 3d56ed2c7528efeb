"""A made-up run of any size in the books' own form, and what reading it costs. No torch, no ray.

Nothing in it is measured: outcomes, codes and times are drawn at random. Columns, types, sizes of
parts and how well they compress are those of a real run.
"""

from __future__ import annotations

import io
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console

from rsd.books import CHUNK_SCHEMA, CHUNKS, EPISODE_SCHEMA, EPISODES, Books
from rsd.books.schema import parquet
from rsd.suites import TRIALS_PER_TASK
from rsd.summary.compute import summarise
from rsd.summary.terminal import print_summary
from rsd.types import ACTION_DIM

ARMS = ("autoregressive", "speculative")
STEPS, DIMS, LAYERS, LEVELS = 8, 7, 6, 7  # T, D, L, V of the bundled policies
CHUNKS_PER_EPISODE = 20
SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
TASKS = 10
MIDDLE_SHARE = 0.93  # of the codes are the middle level

_RUN: dict[str, Any] = {
    "run_id": "made-up",
    "config": {"arms": {arm: {"mode": arm, "rule": "exact"} for arm in ARMS}},
    "assets": "lite",
    "renderer": "none",
}


@dataclass(frozen=True)
class Cost:
    """Of one operation on the books in a process of its own, imports included."""

    operation: str
    wall_s: float
    cpu_s: float  # of all threads
    peak_rss_bytes: int


# --- making ------------------------------------------------------------------------------------


def make_run(output: Path, episodes: int, episodes_per_part: int, seed: int = 0) -> None:
    """A run of `episodes` episodes of CHUNKS_PER_EPISODE decodes each, in both arms in turn.

    Worlds are those of LIBERO's four suites; when they are used up, the next seed goes on.
    Raises UserError for an output that is not empty.
    """
    Books.open(str(output), {**_RUN, "planned_episodes": episodes}, resume=False).close()
    rng = np.random.default_rng(seed)
    for part, first in enumerate(range(0, episodes, episodes_per_part)):
        numbers = np.arange(first, min(first + episodes_per_part, episodes))
        name = f"part-{part:05d}-{rng.bytes(16).hex()}.parquet"
        of_chunks = np.repeat(numbers, CHUNKS_PER_EPISODE)
        _write(output / CHUNKS / name, _chunk_columns(of_chunks, rng), CHUNK_SCHEMA)
        _write(output / EPISODES / name, _episode_columns(numbers, rng), EPISODE_SCHEMA)


def _write(path: Path, columns: dict[str, Any], schema: pa.Schema) -> None:
    """Columns that are not made up are null where they may be."""
    path.parent.mkdir(exist_ok=True)
    rows = len(columns["arm"])
    nothing = {field.name: pa.nulls(rows, field.type) for field in schema if field.nullable}
    columns = nothing | columns
    path.write_bytes(parquet(pa.table([columns[name] for name in schema.names], schema=schema)))


def _key(numbers: np.ndarray) -> dict[str, Any]:
    """Columns of the key of the episodes with these numbers."""
    world, arm = np.divmod(numbers, len(ARMS))
    rest, trial = np.divmod(world, TRIALS_PER_TASK)
    rest, task = np.divmod(rest, TASKS)
    seed, suite = np.divmod(rest, len(SUITES))
    return {
        "run_id": _named(np.zeros_like(numbers), ["made-up"]),
        "arm": _named(arm, list(ARMS)),
        "suite": _named(suite, list(SUITES)),
        "task_id": task.astype(np.int32),
        "trial": trial.astype(np.int32),
        "seed": seed,
    }


def _named(codes: np.ndarray, names: list[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(codes.astype(np.int32), names).cast(pa.string())


def _hashes(count: int, rng: np.random.Generator) -> pa.Array:
    return pa.array([rng.bytes(32).hex() for _ in range(count)])


def _lists(rows: np.ndarray, item: pa.DataType) -> pa.Array:
    """(n, k) -> n lists of k values."""
    ends = np.arange(0, rows.size + 1, rows.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(ends, pa.array(rows.ravel(), item))


def _episode_columns(numbers: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    count = len(numbers)
    finished = 1_800_000_000_000_000 + 1_000_000 * numbers
    nothing = _named(np.zeros(count), [""])
    return _key(numbers) | {
        "instruction": _named(np.zeros(count), ["pick up the black bowl"]),
        "outcome": _named(rng.random(count) < 0.9, ["timeout", "success"]),
        "steps": np.full(count, STEPS * CHUNKS_PER_EPISODE, np.int32),
        "chunks": np.full(count, CHUNKS_PER_EPISODE, np.int32),
        "attempts": np.ones(count, np.int32),
        "error": nothing,
        **{
            f"{name}_s": rng.exponential(0.5, count)
            for name in ("physics", "render", "reset", "wait", "wall")
        },
        "worker": _named(numbers % 16, [f"worker-{i}" for i in range(16)]),
        "node": _named(numbers % 4, [f"node-{i}" for i in range(4)]),
        "assets": _named(np.zeros(count), ["lite"]),
        "renderer": _named(np.zeros(count), ["none"]),
        "final_state_sha256": _hashes(count, rng),
        "finished_at": pa.array(finished, pa.timestamp("us", tz="UTC")),
    }


def _chunk_columns(numbers: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """A row a decode; the draft keeps 99 % of the tokens, and a layer is judged where all those
    before it were kept whole."""
    count, tokens = len(numbers), STEPS * DIMS
    guesses = (numbers % len(ARMS) == 1)[:, None] & (np.arange(LAYERS) < LAYERS - 1)
    kept = rng.binomial(tokens, 0.995, (count, LAYERS))
    whole = np.cumprod(kept == tokens, axis=1, dtype=bool)
    judged = guesses & np.column_stack([np.ones(count, bool), whole[:, :-1]])
    again = guesses & ~judged
    passes = np.where(guesses.any(axis=1), 1 + again.sum(axis=1), LAYERS)
    level = np.full(256, LEVELS // 2, np.uint8)
    rare = round(256 * (1 - MIDDLE_SHARE))
    level[:rare] = np.arange(rare) % LEVELS
    codes = level[rng.integers(0, 256, (count, tokens * LAYERS), np.uint8)]
    per_layer = CHUNK_SCHEMA.field("drafted").type.value_type
    columns = _key(numbers) | {
        "chunk_index": (np.arange(count) % CHUNKS_PER_EPISODE).astype(np.int32),
        "drafted": _lists(tokens * judged, per_layer),
        "accepted": _lists(kept * judged, per_layer),
        "redrafted": _lists(tokens * again, per_layer),
        "reaccepted": _lists(kept * again, per_layer),
        "passes": passes.astype(np.int32),
        "layers": np.full(count, LAYERS, np.int32),
        "batch_size": np.ones(count, np.int32),
        "canonical": rng.random(count) < 0.01,
        **{
            f"{name}_s": rng.exponential(0.004, count)
            for name in ("queue", "vision", "draft", "target", "detokenise")
        },
        "action_sha256": _hashes(count, rng),
        "codes": _lists(codes, pa.uint8()),
        "actions": _lists(rng.uniform(-1, 1, (count, STEPS * ACTION_DIM)), pa.float32()),
    }
    return {
        name: value.cast(CHUNK_SCHEMA.field(name).type) if isinstance(value, pa.Array) else value
        for name, value in columns.items()
    }


# --- measuring ---------------------------------------------------------------------------------


def read_summary(output: str) -> None:
    """What ends every evaluation, and `rsd report`."""
    print_summary(summarise(output), Console(file=io.StringIO()))


def resume(output: str) -> None:
    """What `--resume` does before anything runs."""
    record = {**_RUN, "planned_episodes": None}
    with Books.open(output, record, resume=True) as books:
        assert books.recorded()


OPERATIONS: dict[str, Callable[[str], None]] = {"summary": read_summary, "resume": resume}


def measure(name: str, operation: Callable[[str], None], output: str) -> Cost:
    """Run an operation on the books in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        started = time.perf_counter()
        cpu_s, peak = pool.submit(_cost_of, operation, output).result()
        return Cost(name, time.perf_counter() - started, cpu_s, peak)


def _cost_of(operation: Callable[[str], None], output: str) -> tuple[float, int]:
    """Processor time since the process began, s, and its largest memory, bytes."""
    operation(output)
    return time.process_time(), peak_rss_bytes()


def peak_rss_bytes() -> int:
    """Of this process alone: what getrusage says may be its parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
