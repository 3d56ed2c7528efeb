"""Weights from disk to the device: every file is read once, in pieces, each piece hashed, checked
and put where it belongs, so that memory holds the model and little else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rsd.errors import UserError, brief
from rsd.models.openvla_oft import folder, names
from rsd.models.openvla_oft.folder import Adapter, Checkpoint
from rsd.models.openvla_oft.model import OpenVLAOFT, make
from rsd.models.openvla_oft.quantised import quantise
from rsd.models.openvla_oft.weight_files import Content, WeightFile, content

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_THREADS = 4  # files read side by side


@dataclass(frozen=True)
class Loaded:
    """A model with a checkpoint's weights."""

    model: OpenVLAOFT
    sha256: str  # of the checkpoint, as `folder.inspect` has it


def load_model(
    checkpoint: Checkpoint,
    device: torch.device | str,
    dtype: torch.dtype = torch.bfloat16,
    settles: bool = False,
) -> Loaded:
    """In the bits that the checkpoint's options ask for: whole in main memory first where they are
    fewer. Memory counts a copy in double precision where it `settles`. What the checkpoint has no
    weights for is zero. Raises UserError where memory does not do, and where files and model do not
    fit or hold NaN."""
    device, bits = torch.device(device), checkpoint.options.bits
    _check_memory(checkpoint, device, dtype.itemsize, settles)
    with _unfilled():
        model = make(checkpoint.config, device if bits == 16 else "cpu", dtype)
    places = dict(model.named_parameters()) | dict(_stored_buffers(model))
    moved = {file.path: _moved(part, file) for part, file in _files(checkpoint)}
    if checkpoint.heads:  # what was trained stands for the base's
        replaced = set(moved[checkpoint.heads.path])
        for path in moved.keys() - {checkpoint.heads.path}:
            moved[path] = {n: place for n, place in moved[path].items() if place not in replaced}
    _check_places(checkpoint, places, moved)
    digests = _filled(checkpoint.weight_files, places, moved)
    with torch.no_grad():
        for name in places.keys() - {each for names_ in moved.values() for each in names_.values()}:
            places[name].zero_()
        for adapter in checkpoint.adapters:
            digests[adapter.file.path] = _add(adapter, places)
    if bits < 16:
        quantise(model, bits, device)
    return Loaded(model, checkpoint.identity(digests))


def _files(checkpoint: Checkpoint) -> Iterator[tuple[str, WeightFile]]:
    """Files of weights with the part that each holds; empty for RSD's own heads."""
    for part, files in checkpoint.parts.items():
        for file in files:
            yield part, file
    if checkpoint.heads:
        yield "", checkpoint.heads


def _moved(part: str, file: WeightFile) -> dict[str, str]:
    """A file's tensors -> what they are in the model."""
    if not part:
        return {name: name for name in file.tensors}
    plain = {
        name: name.removeprefix(names.WRAPPED) if part != names.BACKBONE else name
        for name in file.tensors
        if not names.COMPUTED.fullmatch(name)
    }
    return {name: str(names.in_model(part, each)) for name, each in plain.items()}


def _stored_buffers(model: OpenVLAOFT) -> Iterator[tuple[str, Tensor]]:
    """Those that a state dictionary has."""
    kept = model.state_dict().keys()
    return ((name, buffer) for name, buffer in model.named_buffers() if name in kept)


def _check_places(
    checkpoint: Checkpoint,
    places: Mapping[str, Tensor],
    moved: Mapping[Path, Mapping[str, str]],
) -> None:
    """Raises UserError that names a tensor which the model and the files do not share. Those of the
    published parts fit their description already; here it is these libraries' turn, and RSD's own
    heads'."""
    found = set()
    for _, file in _files(checkpoint):
        for name, place in moved[file.path].items():
            shape = file.tensors[name].shape
            if place not in places or tuple(places[place].shape) != shape:
                wanted = tuple(places[place].shape) if place in places else "nothing"
                raise UserError(
                    f"{file.path}: {brief(name)} is {shape}, and the model has {wanted} in its "
                    "place: it was trained by other code, or timm and transformers changed"
                )
            found.add(place)
    left = sorted(places.keys() - found)
    optional = () if checkpoint.heads else folder.OWN
    if not checkpoint.regresses:
        optional = (*optional, folder.L1_HEAD)
    if missing := [name for name in left if not name.startswith(optional)]:
        raise UserError(
            f"{checkpoint.spec} has no {missing[0]}"
            + (f" and {len(missing) - 1} more tensors" if len(missing) > 1 else "")
            + "; copy or train it again"
        )


def _filled(
    files: list[WeightFile],
    places: Mapping[str, Tensor],
    moved: Mapping[Path, Mapping[str, str]],
) -> dict[Path, str]:
    """Puts the numbers of files in their places; sha256 of each file."""

    def fill(file: WeightFile) -> Content:
        def take(name: str, first: int, piece: memoryview) -> None:
            if name in moved[file.path]:
                numbers = torch.frombuffer(piece, dtype=_DTYPES[file.tensors[name].dtype])
                begin = first // numbers.itemsize
                place = places[moved[file.path][name]].detach().view(-1)
                place[begin : begin + len(numbers)].copy_(numbers)

        return content(file, take)

    files = [file for file in files if file.path in moved]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="load") as threads:
        told = list(threads.map(fill, files))
    for file, each in zip(files, told, strict=True):
        if each.broken:
            raise UserError(
                f"{file.path}: {each.broken} holds NaN or infinity; copy or train it again"
            )
    return {file.path: each.sha256 for file, each in zip(files, told, strict=True)}


def _add(adapter: Adapter, places: Mapping[str, Tensor]) -> str:
    """Adds low-rank changes to the weights, in float32, rounded once; the file's sha256."""
    pieces = {
        name: torch.empty(tensor.shape, dtype=_DTYPES[tensor.dtype])
        for name, tensor in adapter.file.tensors.items()
    }
    moved = {adapter.file.path: {name: name for name in pieces}}
    digest = _filled([adapter.file], pieces, moved)[adapter.file.path]
    for changed, (a, b) in adapter.pairs.items():
        place = places[str(names.in_model(names.BACKBONE, changed))]
        low, high = (pieces[name].to(place.device, torch.float32) for name in (a, b))
        place.copy_(torch.addmm(place.float(), high, low, alpha=adapter.scale))
    return digest


def _check_memory(checkpoint: Checkpoint, device: torch.device, width: int, settles: bool) -> None:
    """Before anything of the model is made."""
    main = psutil.virtual_memory()
    if device.type == "cuda":
        folder.check_memory(checkpoint, *torch.cuda.mem_get_info(device), str(device), width)
    else:
        folder.check_memory(checkpoint, main.available, main.total, str(device), width, settles)
    if checkpoint.options.bits < 16 and (whole := width * checkpoint.parameters) > main.available:
        raise UserError(
            f"{checkpoint.spec} is read whole before it is put in fewer bits, which needs "
            f"{folder.gb(whole)} of main memory; {folder.gb(main.available)} of "
            f"{folder.gb(main.total)} are free"
        )


class _Unfilled(TorchFunctionMode):
    """Skips filling new tensors with random numbers."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _FILLING:
            return args[0]
        return func(*args, **(kwargs or {}))


_FILLING = {torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_}


@contextmanager
def _unfilled() -> Iterator[None]:
    """Also outside of inference mode, whose tensors the loading threads could not fill."""
    with torch.inference_mode(False), torch.no_grad(), _Unfilled():
        yield
