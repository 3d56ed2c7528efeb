"""Whole-file access to a run's folder, on a disk or in an object store."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.fs as pafs

from rsd.errors import UserError
from rsd.locking import LOCK_FILE, hold
from rsd.outputs import ASIDE, check_address, write_atomically

_PROBE = ".probe-"


@dataclass(frozen=True)
class Folder:
    """`shown` is how the user spelt it."""

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

    def names(self, below: str = "") -> list[str]:
        """Sorted leaf names in the folder or in one of its subfolders; empty where absent."""
        selector = pafs.FileSelector(self.path(below).rstrip("/"), allow_not_found=True)
        return sorted(info.base_name for info in self.files.get_file_info(selector))

    def content(self, below: str = "") -> list[str]:
        """The same without lock, probes and files not yet renamed; pyarrow and pandas skip those by
        the same rule."""
        return [name for name in self.names(below) if not name.startswith(".")]

    def holds(self, name: str) -> bool:
        return self.files.get_file_info(self.path(name)).is_file

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

    def sweep(self) -> None:
        """Delete what a killed writer left in the folder itself: files never renamed, probes."""
        for name in self.names():
            if name.startswith(_PROBE) or (name.startswith(".") and name.endswith(ASIDE)):
                self.delete(name)

    def lock(self) -> IO[bytes] | None:
        """Hold the folder against a second writer until the file is closed or the process dies.

        Raises UserError where another process holds it. Object stores know no locks: there two
        drivers on one output remain the user's business.
        """
        return None if self.local is None else hold(self.local, self.shown)

    def check_lock(self) -> None:
        """Raises UserError where another process holds it; makes no lock file."""
        if self.local is not None and (self.local / LOCK_FILE).exists():
            with self.lock() or contextlib.nullcontext():
                pass

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """Raises UserError, before a run begins, where its folder cannot be used."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"output {self.shown} is not writable: {error}; choose another --output"
            ) from error

    def prove_writable(self, *below: str) -> None:
        """Permissions and quotas show only when something is written. The subfolders of an earlier
        session's parts may be somebody else's."""
        probe = f"{_PROBE}{uuid.uuid4().hex}"
        with self.opening():
            there = [
                f"{name}/{probe}" for name in below if self.local and (self.local / name).is_dir()
            ]
            for name in (probe, *there):
                self.write(name, b"rsd")
                self.delete(name)

    @contextlib.contextmanager
    def leaving_nothing(self) -> Iterator[None]:
        """Take away the folders that were made inside, as far as they are empty."""
        if self.local is None:
            new = not self.names()
            yield
            if new and not self.names():
                self.files.delete_dir(self.root)  # what stands for a folder in an object store
            return
        paths = [path for path in (self.local, *self.local.parents) if _absent(path)]
        try:
            yield
        finally:
            for path in paths:
                with contextlib.suppress(OSError):  # somebody else uses it by now
                    path.rmdir()


def in_one_request(uri: str) -> str:
    """Where an object of S3 goes up in one PUT (up to 10 MB; parts are far smaller) there is no
    multipart upload that a kill could leave behind: those are invisible and paid for."""
    if not uri.startswith("s3://") or "allow_delayed_open=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}allow_delayed_open=true"


def _absent(path: Path) -> bool:
    """Whether it would have to be made; what nobody may look at is there."""
    try:
        return not path.exists()
    except OSError:
        return False
