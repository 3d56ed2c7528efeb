"""Timing of asynchronous device work: every section ends with a synchronisation."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Seconds by section name. On a GPU a section waits for the work it launched."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._cuda = torch.device(device).type == "cuda"
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, section: str) -> Iterator[None]:
        self._synchronise()
        started = time.perf_counter()
        yield
        self._synchronise()
        self.seconds[section] += time.perf_counter() - started

    def _synchronise(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()
