"""What the files of weights hold and where, read without torch and without running anything of
theirs: safetensors, and the archives that torch.save writes."""

from __future__ import annotations

import hashlib
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rsd.errors import UserError, brief, reading
from rsd.foreign import MOST_BYTES
from rsd.models.safetensors_file import StoredTensor
from rsd.models.safetensors_file import tensors_of as safetensors_of

_PIECE = 2**20  # bytes read at once


@dataclass(frozen=True)
class WeightFile:
    """A file of weights, its tensors by name; their bytes count from the file's first."""

    path: Path
    tensors: dict[str, StoredTensor]


def weight_file(path: Path) -> WeightFile:
    """Raises UserError for one that is missing, truncated or of another kind."""
    with reading(path), path.open("rb") as stream:
        if path.suffix == ".pt":
            return WeightFile(path, _torch_tensors(path))
        stored = safetensors_of(stream, path)
        begin = path.stat().st_size - max((each.last for each in stored.values()), default=0)
    placed = {
        name: StoredTensor(each.shape, each.dtype, begin + each.first, begin + each.last)
        for name, each in stored.items()
    }
    return WeightFile(path, placed)


class Content(NamedTuple):
    """What reading all of a file tells."""

    sha256: str
    broken: str  # the first tensor that holds NaN or infinity; empty: none does


Take = Callable[[str, int, memoryview], None]  # a tensor's name, first byte in it, bytes


def content(file: WeightFile, take: Take = lambda *_: None) -> Content:
    """Reads a file once, in pieces that are gone when `take` returns."""
    digest, broken, buffer = hashlib.sha256(), "", memoryview(bytearray(_PIECE))
    by_place = sorted(file.tensors.items(), key=lambda item: item[1].first)
    with reading(file.path), file.path.open("rb") as stream:
        for name, tensor in by_place:
            digest.update(stream.read(tensor.first - stream.tell()))
            for begin in range(tensor.first, tensor.last, _PIECE):
                piece = buffer[: min(_PIECE, tensor.last - begin)]
                if stream.readinto(piece) != len(piece):
                    raise UserError(f"{file.path} is shorter than when it was opened")
                digest.update(piece)
                if not broken and not tensor.finite(piece):
                    broken = name
                take(name, begin - tensor.first, piece)
        digest.update(stream.read())
    return Content(digest.hexdigest(), broken)


def _torch_tensors(path: Path) -> dict[str, StoredTensor]:
    """Of a state dictionary in the archive that torch.save writes: a pickle that names storages,
    and each storage's bytes, not compressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            (listing,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
            if archive.getinfo(listing).file_size > MOST_BYTES:
                raise ValueError("its list of tensors is too long")
            with archive.open(listing) as stream:
                state = _StateReader(stream).load()
            if not isinstance(state, dict):
                raise ValueError(f"it holds a {type(state).__name__}, expected tensors by name")
            root = listing.removesuffix("data.pkl")
            placed = {
                _checked_name(name): _placed(path, archive, root, name, tensor)
                for name, tensor in state.items()
            }
            _check_apart(placed)
            return placed
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is truncated or no file of torch.save: {error}") from error
    except (pickle.UnpicklingError, ValueError, KeyError, EOFError, TypeError) as error:
        raise UserError(f"{path} holds no state dictionary of tensors: {error}") from error


def _check_apart(placed: Mapping[str, StoredTensor]) -> None:
    end, before = 0, ""
    for name, tensor in sorted(placed.items(), key=lambda item: item[1].first):
        if tensor.first < end:
            raise ValueError(f"{brief(name)} and {brief(before)} share numbers; save copies")
        end, before = tensor.last, name


class _Storage(NamedTuple):
    dtype: str
    key: str


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int  # elements
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuilt(storage: Any, offset: int, shape: Any, stride: Any, *_: Any) -> _Tensor:
    """Stands in for torch's own; the rest of its arguments does not matter here."""
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
}
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}


class _StateReader(pickle.Unpickler):
    """Knows what a state dictionary is made of, and nothing that does anything."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it holds {brief(f'{module}.{name}')}")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, *_ = pid
        return _Storage(str(dtype), str(key))


def _checked_name(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(f"a tensor is named {brief(name)}")
    return name


def _placed(
    path: Path, archive: zipfile.ZipFile, root: str, name: str, tensor: Any
) -> StoredTensor:
    if not isinstance(tensor, _Tensor) or tensor.storage.dtype not in _SIZES:
        raise ValueError(f"{brief(name)} is {brief(tensor)}, expected a tensor of floats")
    strides = [math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
    if any(n > 1 and a != b for n, a, b in zip(tensor.shape, tensor.stride, strides, strict=True)):
        raise ValueError(f"{brief(name)} is not contiguous; save it as it lies in memory")
    entry = archive.getinfo(f"{root}data/{tensor.storage.key}")
    size = _SIZES[tensor.storage.dtype]
    first, last = (size * (tensor.offset + n) for n in (0, math.prod(tensor.shape)))
    if entry.compress_type != zipfile.ZIP_STORED or not 0 <= first <= last <= entry.file_size:
        raise ValueError(f"{brief(name)} reaches behind its storage of {entry.file_size} bytes")
    begin = _begin(path, entry)
    return StoredTensor(tensor.shape, tensor.storage.dtype, begin + first, begin + last)


def _begin(path: Path, entry: zipfile.ZipInfo) -> int:
    """Where the bytes of an entry lie: behind its own header, whose extra field differs in length
    from that in the directory."""
    with path.open("rb") as stream:
        stream.seek(entry.header_offset + 26)
        name, extra = struct.unpack("<HH", stream.read(4))
    return entry.header_offset + 30 + int(name) + int(extra)
