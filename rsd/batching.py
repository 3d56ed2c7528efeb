"""Micro-batching: one device, many askers, no lockstep."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rsd.errors import PolicyAwayError
from rsd.types import Chunk, ChunkRequest, Deliver

Act = Callable[[list[ChunkRequest], Deliver], list[Chunk]]


class StuckError(RuntimeError):
    """The device has worked on another batch for suspiciously long: ask elsewhere, or again."""


@dataclass(frozen=True)
class BatchLimits:
    """How far requests are gathered."""

    max_batch_size: int
    max_wait_s: float  # 0: an idle device starts at once on what is there
    patience_s: float = math.inf  # of a decode, after which those who wait behind it are sent away


@dataclass
class _Waiting:
    request: ChunkRequest
    arrived: float  # s on the batcher's clock
    alone: bool
    answer: asyncio.Future[Chunk]


class MicroBatcher:
    """Puts requests of one decoding together and hands them to `act` in one thread.

    While the device works, requests gather by themselves, so waiting for more is worth little:
    it happens only up to `max_wait_s`, with an idle device, and while `callers` (the workers that
    ask here) have not all asked already. The oldest request chooses the decoding. An answer goes
    out as soon as it is final, while the rest of its batch is still being decoded. Nobody waits
    behind a device that seems to hang: the end of its process is then nobody else's fault.
    """

    def __init__(
        self, act: Act, limits: BatchLimits, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.callers = limits.max_batch_size
        self._act = act
        self._limits = limits
        self._clock = clock
        self._queue: deque[_Waiting] = deque()
        self._grown = asyncio.Event()
        self._stuck = False
        self._device = ThreadPoolExecutor(1, "policy")
        self._loop: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    async def submit(self, request: ChunkRequest, alone: bool = False) -> Chunk:
        """The answer to one request, its trace with `queue_s` and `batch_size`. With `alone`, or
        where the request says so, it shares its batch with nobody.

        An exception of the policy goes to the request that causes it alone. Raises StuckError where
        the device seems to hang.
        """
        if self._stuck:
            raise StuckError(self._reason)
        if self._loop is None:
            self._loop = asyncio.create_task(self._run())
        answer: asyncio.Future[Chunk] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(request, self._clock(), alone or request.alone, answer)
        self._queue.append(waiting)
        self._grown.set()
        return await waiting.answer

    async def _run(self) -> None:
        while True:
            while not self._queue:
                self._grown.clear()
                await self._grown.wait()
            await self._gather()
            await self._decode(self._take())

    async def _gather(self) -> None:
        """Return when a batch is full, when nobody else can come, or when the oldest request has
        waited long enough."""
        enough = min(self._limits.max_batch_size, self.callers)
        deadline = self._queue[0].arrived + self._limits.max_wait_s
        while len(self._queue) < enough and (left_s := deadline - self._clock()) > 0:
            self._grown.clear()
            try:
                await asyncio.wait_for(self._grown.wait(), left_s)
            except TimeoutError:
                return

    def _take(self) -> list[_Waiting]:
        oldest = self._queue.popleft()
        batch = [oldest]
        if oldest.alone:
            return batch
        others: deque[_Waiting] = deque()
        while self._queue:
            waiting = self._queue.popleft()
            joins = not waiting.alone and waiting.request.decoding == oldest.request.decoding
            fits = joins and len(batch) < self._limits.max_batch_size
            (batch if fits else others).append(waiting)
        self._queue = others
        return batch

    async def _decode(self, batch: list[_Waiting]) -> None:
        started = self._clock()
        loop = asyncio.get_running_loop()

        def answer(index: int, chunk: Chunk) -> None:
            self._stuck = False  # who answers does not hang, and may be asked at once
            waiting = batch[index]
            queue_s = started - waiting.arrived + chunk.trace.queue_s
            trace = replace(chunk.trace, queue_s=queue_s, batch_size=len(batch))
            if not waiting.answer.done():  # delivered before, or the asker is gone
                waiting.answer.set_result(replace(chunk, trace=trace))

        def deliver(index: int, chunk: Chunk) -> None:  # called in the device's thread
            loop.call_soon_threadsafe(answer, index, chunk)

        try:
            requests = [waiting.request for waiting in batch]
            with self._watched(loop):
                chunks = await loop.run_in_executor(self._device, self._act, requests, deliver)
            if len(chunks) != len(batch):
                raise RuntimeError(f"{len(chunks)} answers to {len(batch)} requests")
        except PolicyAwayError as error:  # of all of them: each alone would wait as long
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            return
        except Exception as error:  # belongs to requests without an answer; the batcher goes on
            if len(batch) > 1:
                for waiting in batch:
                    if not waiting.answer.done():
                        await self._decode([waiting])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        for index, chunk in enumerate(chunks):
            answer(index, chunk)

    @contextmanager
    def _watched(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Around a decode."""
        patience = self._limits.patience_s
        alarm = None if math.isinf(patience) else loop.call_later(patience, self._send_away)
        try:
            yield
        finally:
            self._stuck = False
            if alarm is not None:
                alarm.cancel()

    def _send_away(self) -> None:
        self._stuck = True
        for waiting in self._queue:
            if not waiting.answer.done():
                waiting.answer.set_exception(StuckError(self._reason))
        self._queue.clear()

    @property
    def _reason(self) -> str:
        return f"a batch has been decoded for {self._limits.patience_s:g} s; it seems to hang"
