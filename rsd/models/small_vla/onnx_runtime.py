"""SmallVLA's towers and trunk computed by ONNX Runtime, which has less to do around the products of
a small model than torch (docs/decisions.md). What is around them stays torch's: embeddings, heads,
the draft, and the copy in double precision that settles near ties.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

from rsd.models.small_vla.model import SmallVLA
from rsd.models.small_vla.transformer import Trunk

_OPSET = 20


def take_over(model: SmallVLA) -> None:
    """Let ONNX Runtime compute a model's towers and trunk from here on. It decodes, and trains no
    more."""
    size, depth = model.image_size, len(model.target.trunk)
    batch = {0: "batch"}
    for index, tower in enumerate(model.towers):
        image = torch.zeros(2, 3, size, size)
        model.towers[index] = _Tower(_session(tower, {"image": image}, {"image": batch}))
    layers, context = model.target.trunk, model.target_context.position.shape[0]
    heads, width = model.target.config.heads, model.target.config.width
    x, mask = torch.zeros(2, context + 3, width), torch.ones(context + 3, context + 3).bool()
    first = _session(
        _First(layers, context),
        {"x": x, "mask": mask},
        {"x": {**batch, 1: "length"}, "mask": {0: "length", 1: "length"}},
    )
    past = torch.zeros(depth, 2, 2, heads, context + 3, width // heads)
    later = _session(
        _Later(layers),
        {"x": x[:, :3], "mask": torch.ones(3, context + 6).bool(), "past": past},
        {
            "x": {**batch, 1: "length"},
            "mask": {0: "length", 1: "seen"},
            "past": {2: "batch", 4: "before"},
        },
    )
    model.target.trunk = _Trunk(first, later)


class _Session:
    """A module as a graph."""

    def __init__(self, graph: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        self._inputs = [each.name for each in self._session.get_inputs()]

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        arrays = [each.contiguous().numpy() for each in inputs]
        found = self._session.run(None, dict(zip(self._inputs, arrays, strict=True)))
        return [torch.from_numpy(each) for each in found]


def _session(module: nn.Module, inputs: dict[str, Tensor], axes: dict[str, Any]) -> _Session:
    """Of a module in the form of its example inputs, those axes free that are named."""
    with (
        torch.no_grad(),
        warnings.catch_warnings(),
        tempfile.TemporaryDirectory(prefix="rsd-") as folder,
    ):
        graph = Path(folder) / "graph.onnx"
        warnings.simplefilter("ignore")  # of its age; the newer wants onnxscript, too
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            graph,
            input_names=list(inputs),
            dynamic_axes=axes,
            opset_version=_OPSET,
            dynamo=False,
        )
        return _Session(graph)


class _Tower(nn.Module):
    def __init__(self, session: _Session) -> None:
        super().__init__()
        self._session = session

    def forward(self, image: Tensor) -> Tensor:
        """As rsd.models.small_vla.model.ImageTower."""
        (tokens,) = self._session(image)
        return tokens


class _Trunk(Trunk):
    """The layers at once."""

    def __init__(self, first: _Session, later: _Session) -> None:
        super().__init__()
        self._first, self._later = first, later

    def forward(
        self, x: Tensor, mask: Tensor | None, entries: Tensor | None, start: int, read: int = 0
    ) -> Tensor:
        length = x.shape[1]
        if start == 0:
            assert mask is not None
            hidden, kv = self._first(x, mask)
        else:
            assert entries is not None
            seen = torch.ones(length, start + length, dtype=torch.bool) if mask is None else mask
            hidden, kv = self._later(x, seen, entries[:, :, :, :, :start])
        if entries is not None:
            entries[:, :, :, :, start : start + length] = kv
        return hidden


class _First(nn.Module):
    """Context and blocks -> outputs of the blocks, and all keys and values."""

    def __init__(self, layers: Trunk, context: int) -> None:
        super().__init__()
        self.layers, self.context = layers, context

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return _run(self.layers, x, mask, None, self.context)


class _Later(nn.Module):
    """Blocks, and the keys and values before them -> their outputs, and their own."""

    def __init__(self, layers: Trunk) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor, mask: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        return _run(self.layers, x, mask, past, 0)


def _run(
    layers: Trunk, x: Tensor, mask: Tensor, past: Tensor | None, read: int
) -> tuple[Tensor, Tensor]:
    """`Trunk`, with keys and values (depth, 2, B, heads, N, head width) that go in and come out: a
    graph overwrites nothing."""
    own = []
    for index, layer in enumerate(layers):
        qkv = layer.project(x)
        own.append(qkv[1:])
        kv = qkv[1:] if past is None else torch.cat([past[index], qkv[1:]], dim=3)
        if index < len(layers) - 1:
            x = layer.finish(x, qkv[0], kv, mask)
        else:
            x = layer.finish(x[:, read:], qkv[0, :, :, read:], kv, mask[read:])
    return x, torch.stack(own)
