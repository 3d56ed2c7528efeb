"""What the tests of servers and their clients share."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from rsd.types import ChunkRequest, Decoding, ImageSpec, Observation

ROOT = Path(__file__).parents[1]
FOREIGN = ROOT / "tests" / "remote" / "foreign"


def observations(count: int, images: ImageSpec = ImageSpec()) -> list[Observation]:  # noqa: B008
    """Frames of noise: whatever goes wrong with a byte shows."""
    random = np.random.default_rng(7)
    shape = (images.height, images.width, 3)
    return [
        Observation(
            random.integers(0, 256, shape, np.uint8),
            random.integers(0, 256, shape, np.uint8),
            random.normal(0, 0.3, 8).astype(np.float32),
            f"pick up bowl {index}",
        )
        for index in range(count)
    ]


def requests(seen: list[Observation], mode: str = "native") -> list[ChunkRequest]:
    return [
        ChunkRequest(each, Decoding(mode), f"draw {index}", 0)  # type: ignore[arg-type]
        for index, each in enumerate(seen)
    ]


def save(path: Path, seen: list[Observation], size: int = 224) -> None:
    """For a program of `foreign`."""
    np.savez(
        path,
        agentview=np.stack([each.agentview for each in seen]),
        wrist=np.stack([each.wrist for each in seen]),
        state=np.stack([each.proprio for each in seen]),
        prompt=np.array([each.instruction for each in seen]),
        size=size,
    )


@contextmanager
def serving(policy: str, protocol: str, api_key: str = "") -> Iterator[int]:
    """A policy of ours behind `rsd serve`'s server, in a thread; its port."""
    pytest.importorskip("websockets")
    from rsd.arms import read_arm
    from rsd.batching import BatchLimits, MicroBatcher
    from rsd.models import inspect_policy, load_policy
    from rsd.serving import PROTOCOLS
    from rsd.serving.served import Served
    from rsd.serving.server import Server

    info = inspect_policy(policy)
    loaded = load_policy(policy, deterministic=True, device="cpu")
    up = threading.Event()
    place: list[tuple[asyncio.AbstractEventLoop, Server, int]] = []

    async def run() -> None:
        batcher = MicroBatcher(loaded.act, BatchLimits(8, 0.0))
        served = Served(policy, info, read_arm(info.modes[0]), batcher)
        server = Server(PROTOCOLS[protocol], served, api_key)

        def started(port: int) -> None:
            place.append((asyncio.get_running_loop(), server, port))
            up.set()

        await server.run("127.0.0.1", 0, started)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert up.wait(60)
    loop, server, port = place[0]
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(server.stop)
        thread.join(30)
        assert not thread.is_alive()


def foreign_python(package: str) -> str:
    """The interpreter of a package's own environment; skips the test where there is none."""
    python = ROOT / ".foreign" / package / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{package} is not installed: `make foreign` puts it into {python.parents[1]}")
    return str(python)


@contextmanager
def foreign_server(package: str, program: str, *arguments: str) -> Iterator[int]:
    """A server of somebody else's software; its port."""
    command = [foreign_python(package), str(FOREIGN / program), *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield int(line)
        finally:
            process.kill()


def ask_with(
    package: str, port: int, folder: Path, seen: list[Observation], *arguments: str, size: int = 224
) -> tuple[np.ndarray, str]:
    """Have somebody else's client ask a server; its actions, and what it printed."""
    save(folder / "asked.npz", seen, size)
    program, answered = FOREIGN / f"ask_with_{package}.py", folder / "answered.npz"
    command = [foreign_python(package), program, str(port), folder / "asked.npz", answered]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return np.load(answered)["actions"], done.stdout


@contextmanager
def rsd_serve(policy: str, port: int, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command itself, in a process of its own."""
    command = [sys.executable, "-m", "rsd", "serve", "--policy", policy, "--port", str(port)]
    with subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()
