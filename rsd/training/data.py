"""Demonstrations as tensors: one example per rendered frame."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from rsd.demos import Demonstration, named_demonstrations, read_demonstrations
from rsd.errors import UserError
from rsd.types import ImageSpec

K = TypeVar("K")
V = TypeVar("V")

HOLD = np.array([0, 0, 0, 0, 0, 0], dtype=np.float32)  # motion after a demonstration's end


@dataclass(frozen=True)
class Examples:
    """All examples of a training run, in memory. N examples; T steps a chunk."""

    images: Tensor  # uint8 (N, 2, H, W, 3): agentview, wrist; or features of them (N, ...)
    words: Tensor  # int64 (N, words): the instruction, as the model reads it
    proprio: Tensor  # float32 (N, 8), as the model reads it
    actions: Tensor  # float32 (N, T, 7): the expert's labels from this frame on
    previous: Tensor  # float32 (N, T, 7): the labels of the chunk before
    has_previous: Tensor  # bool (N,): False in the first T steps of an episode
    task: Tensor  # int64 (N,)
    placement: Tensor  # float64 (N,): a hash of the example's placement, uniform in [0, 1)
    spec: ImageSpec
    origin: dict[str, object]  # what the data were: for config.json

    def __len__(self) -> int:
        return len(self.images)

    @property
    def drawn(self) -> bool:
        """Whether images are frames, which can be augmented."""
        return self.images.dtype == torch.uint8


class Reader(Protocol):
    """How a family of policies sees demonstrations."""

    def check(self, demo: Demonstration, spec: ImageSpec) -> None:
        """Raises ValueError for one that it cannot read."""

    def __call__(self, demo: Demonstration, frames: np.ndarray) -> dict[str, np.ndarray]:
        """`images`, `words` and `proprio` of `Examples`, of some frames (bool (M,))."""


def load_examples(
    paths: Sequence[Path], steps: int, reader: Reader, *, labelled: bool = True
) -> Examples:
    """Read every demonstration of `paths`: files, and folders of LIBERO HDF5 files. With
    `labelled` only frames whose labels are a chunk that the expert would execute; without, all:
    for a draft, which learns what the target says of them.

    Raises UserError for an empty folder, for frames of different sizes or settings, and whatever
    `read_demonstrations` finds wrong with a file.
    """
    columns = {name: _Growing() for name in _PER_EXAMPLE}
    specs: dict[ImageSpec, str] = {}
    assets: set[str] = set()
    tasks: dict[tuple[str, int], int] = {}
    digest = hashlib.sha256()
    demonstrations = 0
    for where, demo in named_demonstrations(*paths):
        spec = demo.images or ImageSpec(*demo.agentview.shape[1:3])
        specs.setdefault(spec, where)
        _check_alike(specs)
        try:
            reader.check(demo, spec)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        assets.add(demo.assets)
        task = tasks.setdefault((demo.suite, demo.task_id), len(tasks))
        seen = _examples(demo, steps, reader, labelled)
        for name, values in seen.items():
            columns[name].add(values)
        count = len(seen["proprio"])
        columns["task"].add(np.full(count, task))
        columns["placement"].add(np.full(count, placement_hash(demo)))
        digest.update(f"{demo.suite}/{demo.task_id}/{demo.seed}\n".encode())
        read = [demo.actions, demo.proprio, demo.frame_steps, demo.agentview, demo.wrist]
        if demo.driven is not None:
            read += [demo.driven, demo.executed_actions]
            if not labelled:
                digest.update(b"all frames")
        for array in read:
            digest.update(np.ascontiguousarray(array).data)
        demonstrations += 1
    tensors = {name: column.tensor() for name, column in columns.items()}
    origin = {
        "demonstrations": demonstrations,
        "examples": len(tensors["images"]),
        "suites": sorted({suite for suite, _ in tasks}),
        "tasks": len(tasks),
        "assets": sorted(assets),
        "sha256": digest.hexdigest(),
    }
    return Examples(spec=next(iter(specs)), origin=origin, **tensors)


def _check_alike(specs: Mapping[ImageSpec, str]) -> None:
    """Raises UserError for frames drawn otherwise; values: a demonstration of each kind."""
    if len(specs) > 1:
        kinds = "; ".join(f"{where} has {spec}" for spec, where in specs.items())
        raise UserError(f"mixed image settings ({kinds}); train on one kind")


def load_chunks(paths: Sequence[Path], steps: int) -> Tensor:
    """float32 (N, T, 7): the expert's labels from every frame of `paths` on that is an example."""
    chunks = [
        chunk_labels(demo.actions, steps)[demo.frame_steps[_labelled_frames(demo, steps)]]
        for demo in read_demonstrations(*paths)
    ]
    return torch.from_numpy(np.concatenate(chunks))


_PER_EXAMPLE = (
    "images",
    "words",
    "proprio",
    "actions",
    "previous",
    "has_previous",
    "task",
    "placement",
)


class _Growing:
    """Arrays joined along the first axis as they come. Images take gigabytes: a list of them would
    be held twice while it is joined, and what is freed of it the allocator keeps."""

    BLOCK = 4096  # rows by which it grows, in place where the system can

    def __init__(self) -> None:
        self._array: np.ndarray | None = None
        self._count = 0

    def add(self, rows: np.ndarray) -> None:
        if self._array is None:
            self._array = np.empty((0, *rows.shape[1:]), rows.dtype)
        end = self._count + len(rows)
        if end > len(self._array):
            size = -(-end // self.BLOCK) * self.BLOCK
            self._array.resize((size, *rows.shape[1:]), refcheck=False)
        self._array[self._count : end] = rows
        self._count = end

    def tensor(self) -> Tensor:
        assert self._array is not None
        return torch.from_numpy(self._array[: self._count])


def _examples(
    demo: Demonstration, steps: int, reader: Reader, labelled: bool = True
) -> dict[str, np.ndarray]:
    chunks = chunk_labels(demo.actions, steps)
    seen = _labelled_frames(demo, steps) if labelled else np.ones(len(demo.frame_steps), bool)
    at = demo.frame_steps[seen]
    before = np.maximum(at - steps, 0)
    return {
        **reader(demo, seen),
        "actions": chunks[at],
        "previous": chunk_labels(_said(demo), steps)[before],
        "has_previous": at >= steps,
    }


def _labelled_frames(demo: Demonstration, steps: int) -> np.ndarray:
    """bool (M,): frames behind which the expert drives for a chunk. While another drives, the
    labels of consecutive steps answer the states that the policy led to; strung together they are
    no chunk that the expert would execute."""
    if demo.driven is None:
        return np.ones(len(demo.frame_steps), bool)
    return np.array([not demo.driven[at : at + steps].any() for at in demo.frame_steps])


def _said(demo: Demonstration) -> np.ndarray:
    """float32 (N, 7): what whoever drove wanted, before any noise."""
    if demo.driven is None:
        return demo.actions
    return np.where(demo.driven[:, None], demo.executed_actions, demo.actions)


def chunk_labels(actions: np.ndarray, steps: int) -> np.ndarray:
    """float32 (N, 7) actions -> (N, T, 7): the next T from every step on; behind the end the arm
    holds still and the gripper stays as it was."""
    hold = np.concatenate([HOLD, actions[-1:, 6]])
    padded = np.concatenate([actions, np.tile(hold, (steps - 1, 1))]).astype(np.float32)
    return np.stack([padded[i : i + steps] for i in range(len(actions))])


def placement_hash(demo: Demonstration) -> float:
    """Uniform in [0, 1), of the suite and the first state to a thousandth: of where things stand.

    It decides the side of `split`, whatever else is trained on: a policy that starts from another
    one is validated on what neither has seen, and tasks that a seed gives the same scene, as those
    of libero_goal, are on one side.
    """
    state = np.round(demo.states[0], 3) + 0.0  # no -0.0
    digest = hashlib.sha256(demo.suite.encode() + state.tobytes()).digest()
    return int.from_bytes(digest[:6]) / 2**48


def split(placements: Tensor, held_out: float) -> tuple[Tensor, Tensor]:
    """Indices of training and validation examples, by `Examples.placement`: about the share
    `held_out` is for validation, all of a placement on one side, at least one on each.

    Raises UserError where there is only one.
    """
    known = placements.unique()
    if len(known) < 2:
        raise UserError("all demonstrations start from one placement; training needs two or more")
    validation = (placements < held_out) & (placements < known[-1]) | (placements == known[0])
    return torch.nonzero(~validation)[:, 0], torch.nonzero(validation)[:, 0]


def batches(indices: Tensor, size: int, seed: int) -> Iterable[Tensor]:
    """Endless shuffled batches of `indices`; the order depends on `seed` alone."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = indices[torch.randperm(len(indices), generator=generator)]
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]
        if len(order) < size:
            yield order


@dataclass(frozen=True)
class Augmentation:
    """Random shifts, brightness and contrast of a batch of frame pairs, drawn and not yet applied:
    workers draw for the whole batch and apply their share."""

    rows: Tensor  # int64 (B, cameras, H): where every row of the shifted image comes from
    columns: Tensor  # int64 (B, cameras, W)
    contrast: Tensor  # float32 (B, cameras)
    brightness: Tensor  # float32 (B, cameras)

    @classmethod
    def draw(
        cls, shape: torch.Size, shift: int, jitter: float, generator: torch.Generator
    ) -> Augmentation:
        """For images (B, cameras, H, W, 3): shifts by up to `shift` pixels (edges repeated),
        brightness and contrast scaled by up to 1 +- `jitter`, per example and camera."""
        batch, cameras, height, width, _ = shape
        rows = _shifted_index(batch * cameras, height, shift, generator)
        columns = _shifted_index(batch * cameras, width, shift, generator)
        gains = 1 + jitter * (2 * torch.rand(2, batch * cameras, generator=generator) - 1)
        parts = (rows, columns, gains[0], gains[1])
        return cls(*(part.unflatten(0, (batch, cameras)) for part in parts))

    def of(self, share: slice) -> Augmentation:
        """For a part of the batch."""
        parts = (self.rows, self.columns, self.contrast, self.brightness)
        return Augmentation(*(part[share] for part in parts))

    def apply(self, images: Tensor) -> Tensor:
        """uint8 (B, cameras, H, W, 3) -> the same."""
        flat = images.flatten(0, 1)
        index = torch.arange(len(flat))[:, None, None]
        rows, columns = self.rows.flatten(0, 1), self.columns.flatten(0, 1)
        moved = flat[index, rows[:, :, None], columns[:, None, :]].float()
        contrast = self.contrast.flatten()[:, None, None, None]
        brightness = self.brightness.flatten()[:, None, None, None]
        mean = moved.mean(dim=(1, 2, 3), keepdim=True)
        jittered = ((moved - mean) * contrast + mean) * brightness
        return jittered.clamp(0, 255).to(torch.uint8).unflatten(0, images.shape[:2])


def _shifted_index(count: int, size: int, shift: int, generator: torch.Generator) -> Tensor:
    offsets = torch.randint(-shift, shift + 1, (count, 1), generator=generator)
    return (torch.arange(size) + offsets).clamp(0, size - 1)


def ahead(make: Callable[[K], V], keys: Iterable[K], threads: int) -> Iterator[V]:
    """`make(key)` for each key in order, made by `threads` threads before it is asked for (0: when
    it is asked for), so that a GPU does not wait for its next batch."""
    if threads == 0:
        yield from map(make, keys)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[V]] = deque()
        for key in keys:
            waiting.append(pool.submit(make, key))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
