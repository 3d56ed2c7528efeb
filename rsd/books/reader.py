"""Reading the rows of a run, also while it goes on, and of runs from before a column came."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs

from rsd.books.description import read
from rsd.books.folder import Folder
from rsd.books.schema import CHUNK_SCHEMA, CHUNKS, EPISODE_SCHEMA, EPISODES, KEY, result_of
from rsd.errors import UserError
from rsd.types import EpisodeKey, EpisodeResult

PARTS_AT_ONCE = 64
ROWS_AT_ONCE = 8192  # some megabytes
_FILE = "__filename"  # pyarrow's: the file that a row comes from


def read_rows(
    paths: Sequence[str],
    schema: pa.Schema,
    columns: Sequence[str] | None = None,
    files: pafs.FileSystem | None = None,
) -> pa.Table:
    """Rows of Parquet files with the schema's columns, or `columns` of them.

    Older files lack columns that came later: those may be null, and are read so. Raises
    pa.ArrowInvalid for a file that lacks another, or is none, and OSError.
    """
    rows = ds.dataset(list(paths), schema, filesystem=files, format="parquet")
    table = rows.to_table(columns=None if columns is None else list(columns))
    for field in table.schema:
        if not field.nullable and table[field.name].null_count:
            raise pa.ArrowInvalid(f"rows without {field.name}")
    return table


def read_episodes(output: str, columns: Sequence[str] | None = None) -> pa.Table:
    """All committed episode rows of a run, also while it goes on; raises UserError as read_run."""
    return committed(output).episodes(columns)


def read_chunks(output: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The chunk rows of all committed episodes; raises UserError as read_run."""
    return committed(output).all_chunks(columns)


def committed(output: str) -> Committed:
    """The rows that a run has at this moment; raises UserError as read_run."""
    folder = Folder.at(output)
    read(folder)
    return Committed.of(folder)


@dataclass(frozen=True)
class Committed:
    """The committed parts of a run at one moment: episodes, and exactly their chunks.

    Columns that a part was written without are null (`read_rows`). Every method raises UserError
    for a part that cannot be read.
    """

    _folder: Folder
    _parts: tuple[str, ...]

    @classmethod
    def of(cls, folder: Folder) -> Committed:
        return cls(folder, tuple(folder.content(EPISODES)))

    def __len__(self) -> int:
        """Parts."""
        return len(self._parts)

    def keys(self) -> set[EpisodeKey]:
        """Of its episodes."""
        rows = self.episodes(KEY)
        return set(map(EpisodeKey, *(rows[name].to_pylist() for name in KEY)))

    def episodes(self, columns: Sequence[str] | None = None) -> pa.Table:
        """A row an episode, in the order of the parts."""
        return self._table(EPISODES, EPISODE_SCHEMA, columns)

    def homes(self) -> dict[EpisodeKey, Committed]:
        """The part that holds each episode, by itself."""
        rows = self.episodes([*KEY, _FILE])
        keys = map(EpisodeKey, *(rows[name].to_pylist() for name in KEY))
        parts = {name: Committed(self._folder, (name,)) for name in self._parts}
        files = (path.rpartition("/")[2] for path in rows[_FILE].to_pylist())
        return {key: parts[file] for key, file in zip(keys, files, strict=True)}

    def result(self, key: EpisodeKey) -> EpisodeResult:
        """An episode as it was entered, but for its codes (`result_of`); to be asked of its home.
        Raises KeyError where it is not there."""
        mine = functools.reduce(operator.and_, (pc.field(n) == v for n, v in vars(key).items()))
        columns = [name for name in CHUNK_SCHEMA.names if name != "codes"]
        episodes = self.episodes().filter(mine).to_pylist()
        if not episodes:
            raise KeyError(key)
        return result_of(episodes[0], self.all_chunks(columns).filter(mine).to_pylist())

    def all_chunks(self, columns: Sequence[str] | None = None) -> pa.Table:
        """What `chunks` yields, together."""
        return self._table(CHUNKS, CHUNK_SCHEMA, columns)

    def chunks(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """A row a decode, some rows at a time, so that memory does not grow with the run.

        Parts are read some at once, which an object store answers at the same time; a scan of all
        of them reads ahead of a slow reader without limit.
        """
        for some in self.portions():
            table = some.all_chunks(columns)
            yield from table.combine_chunks().to_batches(max_chunksize=ROWS_AT_ONCE)

    def portions(self, parts: int = PARTS_AT_ONCE) -> Iterator[Committed]:
        """Some parts at a time: whole episodes, each with all its chunks."""
        for first in range(0, len(self._parts), parts):
            yield Committed(self._folder, self._parts[first : first + parts])

    def _table(self, below: str, schema: pa.Schema, columns: Sequence[str] | None) -> pa.Table:
        paths = [self._folder.path(f"{below}/{name}") for name in self._parts]
        try:
            return read_rows(paths, schema, columns, self._folder.files)
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(
                f"{self._folder.shown} holds a part that cannot be read: {error}; parts are put in "
                "place whole, so a disk or a copy has damaged it: copy the run again"
            ) from error
