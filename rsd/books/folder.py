"""The folder of a run, on a disk or in an object store."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.fs as pafs

from rsd.books.schema import CHUNKS, EPISODES
from rsd.errors import UserError
from rsd.locking import hold
from rsd.outputs import check_address, write_atomically


@dataclass(frozen=True)
class Folder:
    """Whole-file access to a run's folder. `shown` is how the user spelt it."""

    files: pafs.FileSystem
    root: str
    shown: str

    @classmethod
    def at(cls, output: str) -> Folder:
        """Raises UserError for a URI that pyarrow cannot open, and as `check_address`."""
        check_address(output)
        if "://" not in output:
            return cls(pafs.LocalFileSystem(), str(Path(output).expanduser().absolute()), output)
        try:
            files, root = pafs.FileSystem.from_uri(in_one_request(output))
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


def in_one_request(uri: str) -> str:
    """Where an object of S3 goes up in one PUT (up to 10 MB; parts are far smaller) there is no
    multipart upload that a kill could leave behind: those are invisible and paid for."""
    if not uri.startswith("s3://") or "allow_delayed_open=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}allow_delayed_open=true"


def is_hidden(name: str) -> bool:
    """Lock, probes and files not yet renamed; pyarrow and pandas skip them by the same rule."""
    return name.startswith(".")


def visible(names: Sequence[str]) -> list[str]:
    return [name for name in names if not is_hidden(name)]


@contextlib.contextmanager
def writable(folder: Folder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"output {folder.shown} is not writable: {error}; choose another --output"
        ) from error


PROBE = ".probe-"


def prove_writable(folder: Folder) -> None:
    """Permissions and quotas show only when something is written. The folders of an earlier
    session's parts may be somebody else's."""
    probe = f"{PROBE}{uuid.uuid4().hex}"
    parts = [] if folder.local is None else [EPISODES, CHUNKS]
    with writable(folder):
        there = [f"{part}/{probe}" for part in parts if (Path(folder.root) / part).is_dir()]
        for name in (probe, *there):
            folder.write(name, b"rsd")
            folder.delete(name)


@contextlib.contextmanager
def leaving_nothing(folder: Folder) -> Iterator[None]:
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
