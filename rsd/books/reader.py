"""Reading the rows of a run, also while it goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.dataset as ds

from rsd.books.description import read_run
from rsd.books.folder import Folder, visible
from rsd.books.schema import CHUNK_SCHEMA, CHUNKS, EPISODE_SCHEMA, EPISODES
from rsd.errors import UserError
from rsd.types import EpisodeKey


def read_episodes(output: str, columns: Sequence[str] | None = None) -> pa.Table:
    """All committed episode rows of a run, also while it goes on; raises UserError as read_run."""
    return committed(output).episodes(columns)


def read_chunks(output: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The chunk rows of all committed episodes; raises UserError as read_run."""
    return committed(output).all_chunks(columns)


def committed(output: str) -> Committed:
    """The rows that a run has at this moment; raises UserError as read_run."""
    read_run(output)
    folder = Folder.at(output)
    return Committed(folder, tuple(visible(folder.names(EPISODES))))


@dataclass(frozen=True)
class Committed:
    """The committed parts of a run at one moment: episodes, and exactly their chunks.

    Columns that a part was written without are null.
    """

    _folder: Folder
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
        for first in range(0, len(self._parts), PARTS_AT_ONCE):
            some = Committed(self._folder, self._parts[first : first + PARTS_AT_ONCE])
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


PARTS_AT_ONCE = 64
_ROWS_AT_ONCE = 8192  # some megabytes


_KEY_FIELDS = ["arm", "suite", "task_id", "trial", "seed"]


def stored_keys(folder: Folder) -> set[EpisodeKey]:
    parts = Committed(folder, tuple(visible(folder.names(EPISODES))))
    rows = parts.episodes(_KEY_FIELDS)
    return set(map(EpisodeKey, *(rows[name].to_pylist() for name in _KEY_FIELDS)))
