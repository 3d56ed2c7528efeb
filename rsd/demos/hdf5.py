"""HDF5 files that others wrote: told apart from what is none, and read without leaving the file.

What HDF5 does by itself and must not here: wait for a pipe, follow links and virtual datasets into
other files, read external storage (any file of the machine), allocate whatever a header claims.
"""

from __future__ import annotations

import errno
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rsd.errors import UserError, brief, reading

MOST_BYTES = 4 * 2**30  # of a dataset: 1,400 pairs of frames of 1024 pixels
_MOST_LINKS = 20  # soft links in a row
_SIGNATURE = b"\x89HDF\r\n\x1a\n"

_FOREIGN: tuple[tuple[int, bytes, str, str], ...] = (  # where, what stands there, what it is, fix
    (0, b"PK\x03\x04", "a zip archive", "unpack it (unzip) and give what is in it"),
    (0, b"PK\x05\x06", "a zip archive without content", "get it again"),
    (0, b"\x1f\x8b", "compressed (gzip)", "unpack it (gunzip, tar -xzf) and give what is in it"),
    (0, b"BZh", "compressed (bzip2)", "unpack it (bunzip2) and give what is in it"),
    (0, b"\xfd7zXZ", "compressed (xz)", "unpack it (unxz) and give what is in it"),
    (0, b"\x28\xb5\x2f\xfd", "compressed (zstd)", "unpack it (unzstd) and give what is in it"),
    (257, b"ustar", "a tar archive", "unpack it (tar -xf) and give what is in it"),
    (0, b"PAR1", "a Parquet file, as of a LeRobot data set", "give the HDF5 files it came from"),
    (4, b"ftyp", "a video (mp4), as of a LeRobot data set", "give the HDF5 files it came from"),
    (0, b"version https://git-lfs", "what git-lfs leaves in a file's place", "`git lfs pull`"),
    (0, b"<!DOCTYPE", "a web page", "download the file itself (a log-in may be needed)"),
    (0, b"<html", "a web page", "download the file itself (a log-in may be needed)"),
)


def check_kind(path: Path) -> None:
    """Raises UserError for a path at which there is no HDF5 file, and says what there is."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise UserError(
                f"{path} is a link to {path.readlink()}, which does not exist; mount or "
                "copy that, or mend the link"
            ) from None
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path} is a link that leads back to itself; mend it") from error
        with reading(path):
            raise
    if stat.S_ISDIR(mode):
        raise UserError(f"{path} is a folder, expected an HDF5 file; give the files in it")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} is a pipe, socket or device, expected an HDF5 file")
    with reading(path), path.open("rb") as stream:
        head = stream.read(512)
    if head.startswith(_SIGNATURE):
        return
    if not head:
        raise UserError(f"{path} is damaged: it is empty; delete it and get it again")
    for start, sign, what, fix in _FOREIGN:
        if head[start:].startswith(sign):
            raise UserError(f"{path} is {what}, no HDF5 file; {fix}")
    if not h5py.is_hdf5(path):  # one with a block of the user's before the signature
        raise UserError(
            f"{path} is no HDF5 file (it begins with {brief(head[:16])}); give HDF5 files in "
            "LIBERO's layout"
        )


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """A file to read. Raises UserError that tells what is wrong with it."""
    check_kind(path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise _cannot_open(path, error) from error
    with understood(str(path)), file:
        yield file


def _cannot_open(path: Path, error: OSError) -> UserError:
    """By what HDF5 says: it has error numbers for the system's errors only."""
    said = str(error)
    if "unable to lock file" in said:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return UserError(
                f"{path} is locked: another process has it open to write; wait until it is done, "
                "or stop it"
            )
        return UserError(
            f"{path} cannot be locked ({os.strerror(error.errno or errno.ENOLCK)}); where nobody "
            "writes to it, set HDF5_USE_FILE_LOCKING=FALSE"
        )
    if "already open for write" in said:
        return UserError(
            f"{path} is marked as open to write; wait for the process that writes, or, where it "
            f"has died, clear the mark of a copy: h5clear -s {path.name}"
        )
    if "truncated file" in said:
        return UserError(
            f"{path} is damaged: it is truncated, a download or copy that broke off; delete the "
            "file and collect or download it again"
        )
    if error.errno is not None:
        return UserError(f"cannot read {path}: {os.strerror(error.errno)}")
    return UserError(f"{path} is damaged: HDF5 cannot open it ({said}); {SOURCE}")


SOURCE = "compare it with where it came from, and give an intact copy"


@contextmanager
def understood(where: str) -> Iterator[None]:
    """Raises UserError for whatever h5py makes of damaged contents."""
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{where} does not fit into memory; give smaller files") from error
    except (
        *(OSError, LookupError, RuntimeError, TypeError, AttributeError, ValueError),
        OverflowError,
    ) as error:
        raise UserError(f"{where} is damaged or no LIBERO file: {error}; {SOURCE}") from error


def child(group: h5py.Group, path: str, where: str) -> h5py.Group | h5py.Dataset | None:
    """The object at a path below a group, or None. Raises UserError rather than leave the file."""
    return _walk(group, path, where, _MOST_LINKS)


def _walk(group: Any, path: str, where: str, links: int) -> Any:
    for name in path.split("/"):
        if name in ("", "."):
            continue
        if not isinstance(group, h5py.Group) or not group.id.links.exists(name.encode()):
            return None
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.SoftLink):
            if links == 0:
                raise UserError(f"{where}: {name} is a link that leads nowhere; {SOURCE}")
            start = group.file if link.path.startswith("/") else group
            group = _walk(start, link.path, where, links - 1)
        elif isinstance(link, h5py.HardLink):
            group = group[name]
        else:
            to = getattr(link, "filename", "another place")
            raise UserError(
                f"{where}: {name} is a link to another file ({to}), which is not followed; "
                "copy what it points to into this one (h5copy)"
            )
    return group


def text(attributes: Mapping[str, Any], name: str, where: str, default: str = "") -> str:
    """An attribute that is text, stored as any kind of string. Raises UserError for other kinds."""
    value = attributes.get(name, default)
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, h5py.Empty):
        return default
    if not isinstance(value, str):
        raise UserError(f"{where}: attribute {name} is {brief(value)}, expected text")
    return value


def dataset(
    group: h5py.Group, path: str, shape: tuple[int | None, ...], kinds: str, where: str
) -> h5py.Dataset | None:
    """A dataset that may be read whole, or None where there is none at that path.

    `shape` has None for what may be of any size, `kinds` are numpy's letters for kinds of dtypes.
    Raises UserError for another shape or kind, for contents that lie in other files, were never
    written, cannot be decompressed here, or are larger than any demonstration's.
    """
    found = child(group, path, where)
    if found is None:
        return None
    if not isinstance(found, h5py.Dataset):
        raise UserError(f"{where}: {path} is a group, expected numbers; {SOURCE}")
    fits = found.shape is not None and len(found.shape) == len(shape)
    if not fits or any(b not in (None, a) for a, b in zip(found.shape, shape, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise UserError(f"{where}: {path} has shape {found.shape}, expected ({wanted})")
    if found.dtype.kind not in kinds:
        named = " or ".join(_KINDS[kind] for kind in kinds)
        raise UserError(f"{where}: {path} holds {found.dtype}, expected {named}; convert it")
    if found.is_virtual or found.external:
        raise UserError(
            f"{where}: {path} lies in another file, which is not read; copy it into this one "
            "(h5repack)"
        )
    chunk = math.prod(found.chunks or ()) * found.dtype.itemsize
    if max(found.nbytes, chunk) > MOST_BYTES:
        raise UserError(
            f"{where}: {path} claims {found.shape} of {found.dtype}, more than any demonstration "
            f"has ({MOST_BYTES} bytes)"
        )
    _check_stored(found, f"{where}: {path}")
    return found


_KINDS = {"f": "floats", "i": "integers", "u": "unsigned integers", "b": "true or false"}


def _check_stored(found: h5py.Dataset, where: str) -> None:
    """HDF5 gives zeros for what was never written."""
    settings = found.id.get_create_plist()
    for i in range(settings.get_nfilters()):
        code, _, _, name = settings.get_filter(i)
        if not h5py.h5z.filter_avail(code):
            named = name.decode("utf-8", "replace")
            raise UserError(
                f"{where} is compressed with filter {code} ({named}), which this HDF5 does not "
                "have; repack the file where it can be read (h5repack -f GZIP=1)"
            )
    if found.chunks:
        sizes = zip(found.shape, found.chunks, strict=True)
        complete = found.id.get_num_chunks() >= math.prod(
            -(-size // chunk) for size, chunk in sizes
        )
    else:
        complete = found.id.get_storage_size() >= found.nbytes
    if not complete:
        raise UserError(f"{where} was never written to its end; {SOURCE}")
