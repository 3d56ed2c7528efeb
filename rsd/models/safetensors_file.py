"""What a safetensors file holds, read without torch and without believing it: a header may claim
anything."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from rsd.errors import UserError, brief
from rsd.foreign import MOST_BYTES, parse_json

_MOST_DIMENSIONS = 8
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # of numbers that weights are made of


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file."""

    shape: tuple[int, ...]
    dtype: str
    first: int  # byte behind the header
    last: int  # the byte behind it

    def finite(self, content: bytes | memoryview) -> bool:
        """Whether its bytes, all or some numbers' of them, hold neither NaN nor infinity."""
        if self.dtype == "BF16":  # the upper half of a float32
            return not bool(((np.frombuffer(content, "<u2") & 0x7F80) == 0x7F80).any())
        numbers = np.frombuffer(content, f"<f{_BYTES[self.dtype]}")
        return bool(np.isfinite(numbers).all())


def tensors_of(stream: IO[bytes], path: Path) -> dict[str, StoredTensor]:
    """By name in their order, from the header of a safetensors file. Raises UserError for one that
    is truncated or foreign, or whose tensors do not lie side by side to its end."""
    size = os.fstat(stream.fileno()).st_size
    prefix = stream.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
    if 8 + length > size:
        raise UserError(f"{path} is truncated or no safetensors file ({size} bytes)")
    try:
        if length > MOST_BYTES:
            raise ValueError(f"a header of {length} bytes")
        header = parse_json(stream.read(length))
        if not isinstance(header, dict):
            raise ValueError(f"its header is {brief(header)}")
        header.pop("__metadata__", None)
        stored = {name: _stored(name, entry) for name, entry in header.items()}
    except ValueError as error:
        raise UserError(f"{path} is no safetensors file: {error}") from error
    stored = dict(sorted(stored.items(), key=lambda item: (item[1].first, item[1].last)))
    end = 0
    for name, tensor in stored.items():
        if tensor.first != end:
            raise UserError(
                f"{path} is no safetensors file: {brief(name)} begins at byte {tensor.first} "
                f"instead of {end}"
            )
        end = tensor.last
    if 8 + length + end != size:
        raise UserError(f"{path} is truncated: {size} bytes instead of {8 + length + end}")
    return stored


def _stored(name: str, entry: Any) -> StoredTensor:
    """A tensor by its entry in the header; raises ValueError where that contradicts itself."""
    fits = isinstance(entry, dict) and {"dtype", "shape", "data_offsets"} == set(entry)
    if not fits or not (_sizes(entry["shape"]) and _sizes(entry["data_offsets"])):
        raise ValueError(f"tensor {brief(name)} is {brief(entry)}")
    shape, offsets, dtype = entry["shape"], entry["data_offsets"], entry["dtype"]
    if not isinstance(dtype, str) or dtype not in _BYTES:
        raise ValueError(f"tensor {brief(name)} holds {brief(dtype)}, expected floats")
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * _BYTES[dtype]:
        raise ValueError(
            f"tensor {brief(name)} lies at data_offsets {brief(offsets)}, which {brief(shape)} of "
            f"{dtype} do not fill"
        )
    return StoredTensor(tuple(shape), dtype, *offsets)


def contents(stream: IO[bytes], stored: Mapping[str, StoredTensor]) -> Iterator[tuple[str, bytes]]:
    """All bytes of a file: the header under no name, and each tensor's. `stream` is behind the
    header."""
    begin = stream.tell()
    stream.seek(0)
    yield "", stream.read(begin)
    for name, tensor in stored.items():
        yield name, stream.read(tensor.last - tensor.first)


def _sizes(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= _MOST_DIMENSIONS
        and all(type(value) is int and 0 <= value < 2**63 for value in values)
    )
