"""The books: the records of a run. No torch, no ray.

A run's folder (DESIGN 9) holds `run.json`, `episodes/part-*.parquet` (a row an episode) and
`chunks/part-*.parquet` (a row a decode). Parts come in pairs of one stem. The chunk part is
written first; the episode part of the same stem is the commit: readers take a chunk part only
where its episode part exists. So a writer may be killed between any two instructions.
"""

from rsd.books.description import holds_a_run, read_run
from rsd.books.reader import Committed, committed, read_chunks, read_episodes, read_rows
from rsd.books.schema import (
    CHUNK_SCHEMA,
    CHUNKS,
    EPISODE_SCHEMA,
    EPISODES,
    KEY,
    SCHEMA_VERSION,
    Column,
)
from rsd.books.writer import Books

__all__ = [
    "CHUNKS",
    "CHUNK_SCHEMA",
    "EPISODES",
    "EPISODE_SCHEMA",
    "KEY",
    "SCHEMA_VERSION",
    "Books",
    "Column",
    "Committed",
    "committed",
    "holds_a_run",
    "read_chunks",
    "read_episodes",
    "read_rows",
    "read_run",
]
