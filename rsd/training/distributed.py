"""The processes that train one model together (torch.distributed); alone, nothing is exchanged.

Who starts them, and the process group with them, is elsewhere (rsd/cluster/training.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rsd.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """This process among those that train together. `objects` carries Python values and CPU
    tensors, whatever carries the gradients."""

    rank: int = 0
    size: int = 1
    objects: dist.ProcessGroup | None = None

    @classmethod
    def joined(cls) -> Workers:
        """Of the process group that torch.distributed has been given; alone without one."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return ALONE
        return cls(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo"))

    @property
    def leads(self) -> bool:
        """Whether this process validates, reports and saves."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This process's part of a batch of rows (B, ...): (B / size, ...)."""
        return rows[self.rank :: self.size]

    def weight(self, batch_size: int) -> float:
        """Of this process's mean loss: with it, the mean over processes is that over the batch."""
        mine = len(range(self.rank, batch_size, self.size))
        return mine * self.size / batch_size

    def wrap(self, objective: nn.Module) -> nn.Module:
        """The objective with gradients averaged over all processes."""
        if self.size == 1:
            return objective
        return DistributedDataParallel(objective, broadcast_buffers=False)

    def mean(self, value: Tensor) -> float:
        """Mean over all processes of a scalar on the training device."""
        if self.size > 1:
            dist.all_reduce(value)
        return float(value) / self.size

    def from_leader(self, value: T) -> T:
        """What the leading process has; the others' is ignored."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.objects)
        return box[0]

    def interleaved(self, mine: list[T]) -> list[T]:
        """Parts 0, 1, 2, ... of which process r made r, r + size, ...: all of them, everywhere."""
        if self.size == 1:
            return mine
        gathered: list[list[T]] = [[] for _ in range(self.size)]
        dist.all_gather_object(gathered, mine, group=self.objects)
        longest = max(len(parts) for parts in gathered)
        rounds = ([parts[i] for parts in gathered if i < len(parts)] for i in range(longest))
        return list(chain.from_iterable(rounds))


ALONE = Workers()


def check_batch(batch_size: int, workers: int) -> None:
    """Raises UserError for a batch that the workers cannot share evenly."""
    if batch_size < 1 or batch_size % workers:
        below = max(workers, batch_size // workers * workers)
        raise UserError(
            f"batch size {batch_size} cannot be shared by {workers} workers; "
            f"give a multiple, like --train.batch-size {below}"
        )


def use_threads(count: int) -> None:
    """CPU threads of this process's tensor operations."""
    torch.set_num_threads(count)
