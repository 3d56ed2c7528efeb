"""The processes that train one model together (torch.distributed); alone, nothing is exchanged.

Who starts them, and the process group with them, is elsewhere (rsd/cluster/training.py).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from rsd.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """This process among those that train together. `objects` carries Python values and CPU
    tensors, whatever carries the gradients. Where the target is `sharded`, a process keeps its part
    of every trained weight, with the gradient and the optimiser's state of that part."""

    rank: int = 0
    size: int = 1
    objects: dist.ProcessGroup | None = None
    sharded: bool = False

    @classmethod
    def joined(cls, shard: bool = False) -> Workers:
        """Of the process group that torch.distributed has been given; alone without one."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return ALONE
        group = dist.new_group(backend="gloo")
        return cls(dist.get_rank(), dist.get_world_size(), group, shard)

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

    def split(self, objective: nn.Module, parts: Iterable[nn.Module]) -> nn.Module:
        """`wrap`; where the target is sharded, each process keeps its part of what is trained in
        `objective` (FSDP2). Only while one of its `parts` computes are the weights of that part
        whole, those of no part while the objective does."""
        if not self.sharded:
            return self.wrap(objective)
        device = next(objective.parameters()).device.type
        mesh = dist.init_device_mesh(device, (self.size,))
        frozen = {each for each in objective.parameters() if not each.requires_grad}
        for module in (*parts, objective):
            fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=frozen)
        return objective

    def gathered(self, held: T) -> T:
        """Values in dicts and lists, with sharded tensors whole, on the CPU of the leading process;
        elsewhere nothing of them. Every process calls it."""
        if isinstance(held, dict):
            return type(held)((key, self.gathered(value)) for key, value in held.items())
        if isinstance(held, list):
            return type(held)(map(self.gathered, held))
        if not isinstance(held, DTensor):
            return held
        whole = held.full_tensor()
        return whole.cpu() if self.leads else whole.new_empty(0)  # type: ignore[return-value]

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


def local(tensor: Tensor) -> Tensor:
    """What this process holds of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_as(whole: Tensor, place: Tensor) -> Tensor:
    """A tensor that every process has, sharded like `place` if that is."""
    if not isinstance(place, DTensor):
        return whole
    mesh, placements = place.device_mesh, place.placements
    return distribute_tensor(whole.to(place.device), mesh, placements, src_data_rank=None)


def hollow(module: nn.Module) -> nn.Module:
    """A copy whose parameters hold no numbers yet."""
    empty = {
        id(each): nn.Parameter(each.detach().to("meta"), each.requires_grad)
        for each in module.parameters()
    }
    return copy.deepcopy(module, memo=empty)


def fill(empty: nn.Module, sharded: nn.Module) -> None:
    """Give a `hollow` copy all numbers that processes hold parts of. Every process calls it."""
    state: dict[str, Any] = sharded.state_dict()
    for name, tensor in state.items():
        state[name] = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    empty.load_state_dict(state, assign=True)


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
