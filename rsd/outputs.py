"""Where outputs go: a folder of a disk or an address in an object store, and what is neither; and
how a file gets there, whole or not at all."""

from __future__ import annotations

import os
import re
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rsd.errors import UserError, writing

UPLOADED = "working_dir_files"  # part of the path where Ray unpacks an uploaded working folder
ASIDE = ".tmp"  # how names of files end that are not yet in place; they begin with a dot
SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "file")  # of pyarrow

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_NEARLY = re.compile(rf"([A-Za-z][A-Za-z0-9+.-]*):(?:[/\\]|$)|({'|'.join(SCHEMES)}|https?):", re.I)
_A_PATH_FOR_SURE = ("/", "./", "../", "~")


def lasting(output: str) -> str:
    """A folder or address for what a job writes.

    A working folder that `ray job submit` uploaded is deleted some time after the job, so there
    relative paths start at the home folder. Raises UserError as `check_address`.
    """
    check_address(output)
    if UPLOADED in Path.cwd().parts and not is_address(output):
        return str(_home() / Path(output).expanduser())
    return output


def local_folder(output: str) -> Path:
    """The same for a job that writes to a disk only. Raises UserError also for an address."""
    if is_address(output):
        raise UserError(
            f"{output!r} is an address; this job writes to a folder of a disk, which every node "
            "may have mounted: name one, and copy it afterwards"
        )
    return Path(lasting(output)).expanduser()


def is_address(output: str) -> bool:
    """Whether it has the form of an address in an object store, of whatever scheme."""
    return _ADDRESS.match(output) is not None


def check_address(output: str) -> None:
    """Raises UserError for what is no address that pyarrow writes to and, most likely, not meant as
    the name of a folder either; and for what no file system or file can name."""
    check_name(output)
    address = _ADDRESS.fullmatch(output)
    if address:
        _check_scheme(output, *address.groups())
    elif output.startswith("~"):
        try:
            Path(output).expanduser()
        except RuntimeError as error:
            name = Path(output).parts[0]
            raise UserError(
                f"{output!r}: there is no home folder of {name}; write ./{output} for a folder of "
                "that name"
            ) from error
    elif not output.startswith(_A_PATH_FOR_SURE):
        _refuse_look_alikes(output)


def check_name(name: str, of: str = "folder") -> None:
    """Raises UserError for a path, or the name of something else that is recorded, which is empty,
    begins or ends with a space, or holds characters that cannot be written down: control characters
    and undecodable bytes. `of`: what it names, for people."""
    if not name.strip():
        raise UserError(f"{name!r} names no {of}: it is empty; name one, or leave the flag out")
    odd = [char for char in name if unicodedata.category(char) in ("Cc", "Cs")]
    if odd:
        raise UserError(
            f"{name!a} cannot be the name of a {of} here: it holds {odd[0]!a}, a character that "
            "records cannot hold; choose another"
        )
    if name != name.strip():
        raise UserError(f"{name!r} begins or ends with a space; leave it out")


def _check_scheme(output: str, scheme: str, rest: str) -> None:
    ways = "give a local path, s3://, gs://, abfs:// or file://"
    if scheme not in SCHEMES:
        again = f"write {scheme.lower()}://" if scheme.lower() in SCHEMES else ways
        raise UserError(f"cannot open output {output!r}: nothing is kept at {scheme}://; {again}")
    if scheme == "file" and not rest.startswith("/"):
        raise UserError(f"cannot open output {output!r}: write file:/// and the path from the root")
    if "@" in rest.partition("/")[0] and scheme not in ("abfs", "abfss"):
        raise UserError(
            f"an address with a key or a password ({scheme}://...@...) would be shown and kept in "
            "records; give those in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        )
    if not rest.strip("/"):
        raise UserError(f"cannot open output {output!r}: it names no folder; {ways}")


def _refuse_look_alikes(output: str) -> None:
    nearly = _NEARLY.match(output)
    if nearly and len(nearly[1] or nearly[2]) > 1:
        scheme = nearly[1] or nearly[2]
        raise UserError(
            f"{output!r} is no address; write {scheme.lower()}://..., or ./{output} for a folder "
            "of that name"
        )
    if nearly or "\\" in output:
        raise UserError(
            f"{output!r} is a path of Windows; write / between folders, or ./{output} for a folder "
            "of that name"
        )
    if "$" in output:
        raise UserError(
            f"{output!r}: variables are the shell's business, nothing replaces them here; write "
            f"./{output} for a folder of that name"
        )


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise UserError(f"{error} Set HOME, or give an --output from the root") from error


@contextmanager
def aside(path: Path) -> Iterator[IO[bytes]]:
    """A new file beside `path` that takes its place when the context ends well.

    It is on the disk before it is renamed: a reader sees the old content, the new one or no file,
    also after a power cut. Nothing is left of it after an exception; what a kill leaves is named
    `.<name>.*.tmp`. Raises OSError, on a full disk for one, and makes the folder where it is
    missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=ASIDE, dir=path.parent)
    unfinished = Path(name)
    try:
        with os.fdopen(handle, "w+b") as stream:
            yield stream
            stream.flush()
            os.fchmod(stream.fileno(), 0o644)  # mkstemp lets nobody else read
            os.fsync(stream.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Put a file in place whole; see `aside`."""
    with aside(path) as stream:
        stream.write(content)


def write_file(path: Path, content: bytes | str, flag: str = "--output") -> None:
    """The same for the user: raises CannotWriteError, where `flag` chooses another place."""
    with writing(path, flag):
        write_atomically(path, content.encode() if isinstance(content, str) else content)


def prove_writable(path: Path, flag: str) -> None:
    """Raises CannotWriteError where a file could not be kept; before hours are spent on it. Makes
    the folder where it is missing, as the writing would."""
    with writing(path, flag):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        path.open("a").close()
        if new:
            path.unlink()


def sweep(folder: Path, *, below: bool = False) -> None:
    """Delete what a killed writer left unfinished in a folder, and `below` it. Raises OSError."""
    pattern = f".*{ASIDE}"
    for left in folder.rglob(pattern) if below else folder.glob(pattern):
        left.unlink()
