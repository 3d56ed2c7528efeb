from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from rsd.batching import BatchLimits, MicroBatcher, StuckError
from rsd.cluster.replica import PolicyReplica, ReplicaSettings
from rsd.models.toy import ToyPolicy
from rsd.types import Chunk, ChunkRequest, Decoding, Deliver, Observation

PARALLEL = Decoding("parallel")
AUTOREGRESSIVE = Decoding("autoregressive")


def request(trial: int = 0, decoding: Decoding = PARALLEL) -> ChunkRequest:
    """The toy's observation holds its trial."""
    frame = np.zeros((2, 2, 3), np.uint8)
    proprio = np.array([0, 0, 0, 0, 0, trial, 0, 0], np.float32)
    return ChunkRequest(Observation(frame, frame, proprio, "reach"), decoding, f"draw {trial}", 0)


def trial_of(request: ChunkRequest) -> int:
    return int(request.observation.proprio[5])


class Device:
    """A policy that notes its batches and can be held up."""

    def __init__(self, seconds: float = 0.0, variant: str = "toy") -> None:
        self.batches: list[list[ChunkRequest]] = []
        self.threads: set[int] = set()
        self._policy = ToyPolicy(variant)
        self._seconds = seconds

    def act(self, requests: list[ChunkRequest], deliver: Deliver) -> list[Chunk]:
        self.batches.append(requests)
        self.threads.add(threading.get_ident())
        time.sleep(self._seconds)
        return self._policy.act(requests, deliver)

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


def answers(
    device: Device,
    requests: list[ChunkRequest],
    size: int = 8,
    wait_s: float = 0.0,
    prepare: Callable[[MicroBatcher], None] = lambda batcher: None,
) -> list[Chunk]:
    async def work() -> list[Chunk]:
        batcher = MicroBatcher(device.act, BatchLimits(size, wait_s))
        prepare(batcher)
        return await asyncio.gather(*(batcher.submit(r) for r in requests))

    return asyncio.run(work())


def test_requests_that_wait_are_decoded_together_up_to_the_limit() -> None:
    device = Device(seconds=0.02)
    chunks = answers(device, [request(trial) for trial in range(11)], size=4)
    assert device.sizes == [4, 4, 3]
    assert [chunk.trace.batch_size for chunk in chunks] == [4] * 8 + [3] * 3


def test_each_answer_belongs_to_its_request() -> None:
    requests = [request(trial, replace(AUTOREGRESSIVE, layers=1 + trial % 3)) for trial in range(9)]
    chunks = answers(Device(), requests, size=4)
    assert [chunk.trace.layers for chunk in chunks] == [1 + trial % 3 for trial in range(9)]


def test_decodings_are_not_mixed_and_the_oldest_request_goes_first() -> None:
    device = Device()
    answers(device, [request(t, (PARALLEL, AUTOREGRESSIVE)[t % 2]) for t in range(6)])
    assert [{r.decoding for r in batch} for batch in device.batches] == [
        {PARALLEL},
        {AUTOREGRESSIVE},
    ]


def test_the_model_runs_in_one_thread_of_its_own() -> None:
    device = Device()
    answers(device, [request(trial) for trial in range(20)], size=2)
    assert len(device.threads) == 1
    assert threading.get_ident() not in device.threads


def test_the_queue_time_is_each_requests_own() -> None:
    chunks = answers(Device(seconds=0.05), [request(trial) for trial in range(2)], size=1)
    assert chunks[1].trace.queue_s >= chunks[0].trace.queue_s + 0.02


def test_an_idle_device_waits_for_more_no_longer_than_told() -> None:
    started = time.perf_counter()
    answers(Device(), [request()], wait_s=0.1)
    assert time.perf_counter() - started > 0.09


def test_it_does_not_wait_when_nobody_else_can_come() -> None:
    def expect_one(batcher: MicroBatcher) -> None:
        batcher.callers = 1

    started = time.perf_counter()
    answers(Device(), [request()], wait_s=30.0, prepare=expect_one)
    assert time.perf_counter() - started < 15.0


def test_an_exception_reaches_the_request_that_caused_it_and_no_other() -> None:
    async def work() -> list[Chunk | BaseException]:
        device = Device(variant="toy-crash")  # odd trials crash
        batcher = MicroBatcher(device.act, BatchLimits(8, 0.0))
        requests = [batcher.submit(request(trial)) for trial in range(4)]
        return await asyncio.gather(*requests, return_exceptions=True)

    results = asyncio.run(work())
    assert [isinstance(result, Chunk) for result in results] == [True, False, True, False]


def test_too_few_answers_are_an_error() -> None:
    async def work() -> None:
        await MicroBatcher(lambda requests, deliver: [], BatchLimits(8, 0.0)).submit(request())

    with pytest.raises(RuntimeError, match="0 answers to 1"):
        asyncio.run(work())


def test_a_replica_reports_its_queue_also_when_it_is_empty_again() -> None:
    async def work() -> list[int]:
        lengths: list[int] = []
        settings = ReplicaSettings("toy", True, "cpu", BatchLimits(2, 0.0), decode_limit_s=60.0)
        replica = PolicyReplica(settings, lengths.append)
        await asyncio.gather(*(replica.act(request(trial)) for trial in range(5)))
        return lengths

    lengths = asyncio.run(work())
    assert max(lengths) >= 2
    assert lengths[-1] == 0


def test_a_request_that_wants_to_be_alone_shares_its_batch_with_nobody() -> None:
    device = Device()

    async def work() -> list[Chunk]:
        batcher = MicroBatcher(device.act, BatchLimits(8, 0.0))
        return await asyncio.gather(*(batcher.submit(request(i), alone=i == 2) for i in range(5)))

    assert len(asyncio.run(work())) == 5
    batches = [[trial_of(r) for r in batch] for batch in device.batches]
    assert [2] in batches
    assert sorted(trial for batch in batches for trial in batch) == list(range(5))


def test_an_early_answer_does_not_wait_for_the_slowest_of_its_batch() -> None:
    policy, early = ToyPolicy(), threading.Event()

    def act(requests: list[ChunkRequest], deliver: Deliver) -> list[Chunk]:
        first, second = policy.act(requests)
        deliver(0, first)
        assert early.wait(timeout=30), "the first answer came with the second"
        return [first, second]

    async def work() -> None:
        batcher = MicroBatcher(act, BatchLimits(2, 10.0))
        first, second = (asyncio.create_task(batcher.submit(request(i))) for i in range(2))
        chunk = await first
        assert not second.done()
        assert chunk.trace.batch_size == 2
        early.set()
        await second

    asyncio.run(work())


def test_a_failure_after_an_early_answer_concerns_the_others_alone() -> None:
    policy, sizes = ToyPolicy(), []

    def act(requests: list[ChunkRequest], deliver: Deliver) -> list[Chunk]:
        sizes.append(len(requests))
        chunks = policy.act(requests)
        if len(requests) == 2:
            deliver(0, chunks[0])
            raise RuntimeError("the second half is lost")
        return chunks

    async def work() -> list[Chunk]:
        batcher = MicroBatcher(act, BatchLimits(2, 10.0))
        return await asyncio.gather(*(batcher.submit(request(i)) for i in range(2)))

    assert len(asyncio.run(work())) == 2
    assert sizes == [2, 1]  # only the lost one is asked again


def test_nobody_waits_behind_a_device_that_hangs() -> None:
    """Nor is anybody let in while it does; afterwards it answers again."""
    device = Device(seconds=0.5)

    async def work() -> None:
        batcher = MicroBatcher(device.act, BatchLimits(1, 0.0, patience_s=0.1))
        first, second = (asyncio.create_task(batcher.submit(request(trial))) for trial in (0, 2))
        with pytest.raises(StuckError, match=r"decoded for 0.1 s"):
            await second
        with pytest.raises(StuckError):
            await batcher.submit(request(4))
        await first
        await batcher.submit(request(6))

    asyncio.run(work())
    assert [trial_of(batch[0]) for batch in device.batches] == [0, 6]
