"""What a server between simulator and policy costs: `rsd benchmark remote`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np

from rsd.batching import BatchLimits, MicroBatcher
from rsd.models import PolicyInfo, load_policy
from rsd.types import ChunkRequest, Decoding, ImageSpec, Observation, Policy

CHUNK = 8
PIXELS = 256


class Still:
    """A plug-in that takes no time: what is left is the way there and back."""

    info = PolicyInfo(images=ImageSpec(PIXELS, PIXELS), chunk_steps=CHUNK)

    def __init__(self, device: str) -> None:
        pass

    def batch(self, observations: list[Observation]) -> list[np.ndarray]:
        return [np.zeros((CHUNK, 7), np.float32) for _ in observations]


POLICY = f"{Still.__module__}:{Still.__name__}"
WAYS = {  # to the same policy: protocol, spec
    "in-process": ("", POLICY),
    "openpi": ("openpi", "ws://127.0.0.1:{port}"),
    "vla-eval": ("vla-eval", f"vla-eval://127.0.0.1:{{port}}?chunk={CHUNK}"),
}


@dataclass(frozen=True)
class RemoteCost:
    """One way to the policy, with so many callers at a time; times in ms from question to
    answer."""

    way: str
    callers: int
    median_ms: float
    p95_ms: float
    chunks_per_s: float
    sent_bytes: int  # a chunk, frames of both cameras included; on the wire, TCP's own not counted
    received_bytes: int


def measure(serve: list[str], chunks: int, callers: tuple[int, ...]) -> list[RemoteCost]:
    """`chunks` for every way and number of callers, after some that warm up. `serve`: the words
    that start the server."""
    costs = []
    for way, (protocol, spec) in WAYS.items():
        with _served(serve, protocol) as port:
            sent, received = _bytes_of_a_chunk(spec, port) if protocol else (0, 0)
            policy = load_policy(spec.format(port=port), deterministic=True, device="cpu")
            for count in callers:
                asyncio.run(_ask(policy, count, max(2 * count, chunks // 10)))
                started = time.perf_counter()
                ms = sorted(asyncio.run(_ask(policy, count, chunks)))
                seconds = time.perf_counter() - started
                costs.append(
                    RemoteCost(
                        way,
                        count,
                        statistics.median(ms),
                        ms[int(0.95 * len(ms))],
                        len(ms) / seconds,
                        sent,
                        received,
                    )
                )
    return costs


async def _ask(policy: Policy, callers: int, chunks: int) -> list[float]:
    """As replicas do; each caller asks again once it has its answer."""
    batcher = MicroBatcher(policy.act, BatchLimits(16, 0.0))
    batcher.callers = callers

    async def caller(number: int) -> list[float]:
        request, times = _request(number), []
        for _ in range(chunks // callers):
            started = time.perf_counter()
            await batcher.submit(request)
            times.append(1000 * (time.perf_counter() - started))
        return times

    every = await asyncio.gather(*(caller(number) for number in range(callers)))
    return [ms for times in every for ms in times]


def _request(number: int) -> ChunkRequest:
    random = np.random.default_rng(number)
    frames = random.integers(0, 256, (2, PIXELS, PIXELS, 3), np.uint8)
    proprio = random.normal(size=8).astype(np.float32)
    observation = Observation(frames[0], frames[1], proprio, "put the bowl on the plate")
    return ChunkRequest(observation, Decoding("native"), "", 0)


@contextmanager
def _served(serve: list[str], protocol: str) -> Iterator[int]:
    """`rsd serve` in a process of its own; its port, or 0 where nobody is asked."""
    if not protocol:
        yield 0
        return
    port = _free_port()
    words = ["--policy", POLICY, "--protocol", protocol, "--port", str(port)]
    with subprocess.Popen([*serve, *words], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # that it serves
            yield port
        finally:
            process.terminate()


def _free_port() -> int:
    with closing(socket.socket()) as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


def _bytes_of_a_chunk(spec: str, port: int) -> tuple[int, int]:
    """Sent and received for one more chunk of a connection, through a tap."""
    with _Tap(port) as tap:
        policy = load_policy(
            f"{spec.format(port=tap.port)}{'&' if '?' in spec else '?'}connections=1",
            deterministic=True,
            device="cpu",
        )
        policy.act([_request(0)])
        before = tap.sent, tap.received
        policy.act([_request(0)])
        return tap.sent - before[0], tap.received - before[1]


class _Tap:
    """Passes bytes on between clients and a server, and counts them."""

    def __init__(self, port: int) -> None:
        self.sent = self.received = 0
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> _Tap:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server))
                for pair in ((client, server, "sent"), (server, client, "received")):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, count: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                setattr(self, count, getattr(self, count) + len(data))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
