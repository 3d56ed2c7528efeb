"""openpi's protocol: msgpack over a websocket, the server speaks first.

Sources: openpi@15a9616 `serving/websocket_policy_server.py`, openpi-client 0.1.2
`msgpack_numpy.py`. An error comes as a text message that holds a traceback; then the server hangs
up. RoboArena's servers (RoboArena@6fa329f) read one field more, `endpoint`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from rsd.errors import UserError
from rsd.models.remote import wire
from rsd.models.remote.address import Access, Endpoint
from rsd.models.remote.conventions import Conventions, View
from rsd.models.remote.dialect import (
    CONNECT_S,
    Dialect,
    LostError,
    RefusedError,
    ServerError,
    last_line,
    plain,
    said_by_ours,
)
from rsd.models.remote.websocket import Socket


def mark(value: Any) -> Any:
    """Arrays as maps with keys of bytes."""
    if isinstance(value, np.ndarray):
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    return value


def unmark(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        return wire.array(value.get(b"data"), value.get(b"dtype"), value.get(b"shape"))
    if b"__npgeneric__" in value:
        return value.get(b"data")
    return value


class OpenPiLine:
    """`extra` fields stand beside the observation."""

    def __init__(
        self, endpoint: Endpoint, access: Access, extra: dict[str, Any] | None = None
    ) -> None:
        self._where = str(endpoint)
        self._extra = extra or {}
        self._socket = Socket(endpoint, access)
        self.metadata = plain(self._greeting())

    def _greeting(self) -> dict[str, Any]:
        """Raises RefusedError for one that is none of openpi's."""
        try:
            greeting = self._socket.receive(CONNECT_S)
        except LostError as error:
            self._socket.close()
            raise RefusedError(
                f"{self._where} is a websocket that waits to be spoken to; a server of openpi's "
                "protocol speaks first"
            ) from error
        try:
            if isinstance(greeting, str):
                raise wire.WireError(f"it is text: {last_line(greeting)}")
            metadata = wire.unpack(greeting, unmark)
            if not isinstance(metadata, dict):
                raise wire.WireError(f"it is a {type(metadata).__name__}")
        except wire.WireError as error:
            self._socket.close()
            raise RefusedError(
                f"{self._where} does not greet as a server of openpi's protocol: {error}"
            ) from error
        return metadata

    def ask(self, views: Sequence[View], settled: Conventions) -> list[Any]:
        (view,) = views
        fields = {"observation/image": view.agentview, "prompt": view.instruction}
        if view.wrist is not None:
            fields["observation/wrist_image"] = view.wrist
        if view.state is not None:
            fields["observation/state"] = view.state
        answer = self.exchange({**fields, **self._extra})
        if "actions" not in answer:
            raise ServerError(f"its answer has no `actions`, but {', '.join(map(str, answer))}")
        return [answer["actions"]]

    def exchange(self, message: dict[str, Any]) -> dict[Any, Any]:
        self._socket.send(wire.pack(message, mark))
        answer = self._socket.receive()
        if isinstance(answer, str):
            raise ServerError(f"it answers with an error: {last_line(answer)}")
        try:
            value = wire.unpack(answer, unmark)
        except wire.WireError as error:
            raise ServerError(f"its answer cannot be read: {error}") from error
        if not isinstance(value, dict):
            raise ServerError(f"its answer is a {type(value).__name__}, not a map")
        return value

    def close(self) -> None:
        self._socket.close()


def learn(metadata: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What `rsd serve` says; openpi's own servers say nothing of the kind. Raises UserError for one
    of starVLA's."""
    if "available_unnorm_keys" in metadata:
        raise UserError("it says of itself what starVLA's servers say: add ?dialect=starvla")
    return said_by_ours(metadata, given)


_USUAL = Conventions(replan=5)  # examples/libero/main.py

OPENPI = Dialect(
    OpenPiLine,
    _USUAL,
    "openpi (pi0, pi0.5)",
    connections=8,
    protocol="openpi",
    learn=learn,
)
ROBOARENA = Dialect(
    partial(OpenPiLine, extra={"endpoint": "infer"}),
    _USUAL,
    "RoboArena's variant of openpi, with LIBERO's fields",
    connections=8,
)
