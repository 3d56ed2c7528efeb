"""openpi's protocol, as `openpi-client` and its forks speak it."""

from __future__ import annotations

import time
import uuid

from rsd.models.remote import wire
from rsd.models.remote.openpi import mark, unmark
from rsd.serving.served import Episode, Served
from rsd.serving.server import Answer, Protocol

FIELDS = ("observation/image", "observation/wrist_image", "observation/state", "prompt")


def _greeting(served: Served) -> bytes:
    return wire.pack(served.description, mark)


def _open(served: Served) -> Answer:
    """Every message is a chunk by itself: nothing tells where an episode begins."""

    async def answer(message: bytes | str) -> list[bytes]:
        started = time.perf_counter()
        if isinstance(message, str):
            raise wire.WireError("a text message; observations are binary (msgpack)")
        asked = wire.unpack(message, unmark)
        if not isinstance(asked, dict):
            raise wire.WireError(f"a {type(asked).__name__}; observations are maps")
        missing = [name for name in FIELDS if name not in asked]
        if missing:
            raise wire.WireError(
                f"an observation without {', '.join(missing)}; LIBERO's has {', '.join(FIELDS)}"
            )
        observation = served.observation(*(asked[name] for name in FIELDS))
        chunk = await Episode(served, uuid.uuid4().hex).decide(observation)
        infer_ms = 1000 * (time.perf_counter() - started)
        told = {"actions": chunk.actions, "server_timing": {"infer_ms": infer_ms}}
        return [wire.pack(told, mark)]

    return answer


def _error(message: bytes | str, told: str) -> str:
    return told


PROTOCOL = Protocol(("/healthz", "OK\n"), _greeting, _open, _error, hangs_up=True)
