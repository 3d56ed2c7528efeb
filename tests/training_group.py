"""Two processes that train together, for tests: what `torch.multiprocessing.spawn` starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

SIZE = 2


@contextmanager
def joined(rank: int, folder: str) -> Iterator[None]:
    """This process is one of them; they meet in a folder."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=SIZE)
    yield
    dist.destroy_process_group()
