"""What comes over a wire, read within bounds: whoever sends it may be broken, or not what it says.

Every protocol marks arrays in its own way; what all of them come down to is made here, in one
place that refuses objects (a pickle runs whatever code its sender likes).
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from rsd.errors import UserError, brief

MOST_BYTES = 64 * 2**20  # of a message: two 1080p frames are 12 MB
_MOST_ITEMS = 2**16  # of a list or a map; msgpack allots them before it has seen them
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class WireError(ValueError):
    """A message that is not what its protocol says."""


def library(name: str) -> Any:
    """A library that only policies behind servers need; raises UserError where it is missing."""
    try:
        return import_module(name)
    except ImportError as error:
        package = {"zmq": "pyzmq"}.get(name.partition(".")[0], name.partition(".")[0])
        raise UserError(
            f"this needs the package {package!r} ({error}); install what policies behind a server "
            "need: pip install -r requirements-remote.txt, or pip install 'rsd[remote]'"
        ) from error


def pack(value: object, mark: Callable[[Any], Any]) -> bytes:
    """msgpack; `mark` says how the protocol writes arrays."""
    packed: bytes = library("msgpack").packb(value, default=mark)
    return packed


def unpack(message: bytes, unmark: Callable[[dict[Any, Any]], Any]) -> Any:
    """The value of a msgpack message; `unmark` reads arrays out of maps. Raises WireError."""
    try:
        return library("msgpack").unpackb(
            message,
            object_hook=unmark,
            ext_hook=_no_extensions,
            max_array_len=_MOST_ITEMS,
            max_map_len=_MOST_ITEMS,
        )
    except WireError:
        raise
    except Exception as error:  # of many types, some of them msgpack's own
        raise WireError(
            f"it is no msgpack ({type(error).__name__}: {error}): {brief(message[:40])}"
        ) from error


def _no_extensions(code: int, data: bytes) -> None:
    raise WireError(f"it holds a msgpack extension (type {code}), which is not read here")


def array(data: Any, dtype: Any, shape: Any) -> np.ndarray:
    """An array of plain numbers from its bytes. Raises WireError for anything else."""
    try:
        kind = np.dtype(dtype)
        sizes = tuple(int(size) for size in shape)
    except (TypeError, ValueError) as error:
        raise WireError(f"an array of {brief(dtype)} and shape {brief(shape)}: {error}") from error
    if kind.hasobject:
        raise WireError(
            "an array of Python objects, which travel as a pickle: refused, since a pickle runs "
            "its sender's code"
        )
    if kind.kind not in "biuf":
        raise WireError(f"an array of {brief(dtype)}; only booleans and numbers are read here")
    if not isinstance(data, bytes | bytearray | memoryview) or min(sizes, default=0) < 0:
        raise WireError(f"an array whose data is a {type(data).__name__}, shape {brief(shape)}")
    if len(data) != math.prod(sizes) * kind.itemsize:
        raise WireError(f"an array of shape {sizes} and {dtype} in {len(data)} bytes")
    return np.frombuffer(data, kind).reshape(sizes)


def from_npy(data: Any) -> np.ndarray:
    """An array in numpy's file format, as `np.save` writes it. Raises WireError."""
    if not isinstance(data, bytes):
        raise WireError(f"an array in numpy's format that is a {type(data).__name__}")
    stream = io.BytesIO(data)
    try:
        shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
    except Exception as error:  # of many types: the header is read as Python
        raise WireError(f"an array in numpy's format that is damaged: {error}") from error
    rest = data[stream.tell() :]
    return array(rest, dtype, shape[::-1]).T if fortran else array(rest, dtype, shape)


def to_npy(value: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, value, allow_pickle=False)
    return stream.getvalue()
