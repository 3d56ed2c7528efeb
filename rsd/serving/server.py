"""A websocket server around a policy: connections, health, keys, and a graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import http
import logging
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from rsd.errors import UserError
from rsd.models.remote.wire import MOST_BYTES, WireError, library
from rsd.serving.served import Served

END_S = 10.0  # for answers that are being decoded when the server ends

_SILENT = logging.getLogger(__name__)  # websockets logs a traceback for whoever drops by
_SILENT.setLevel(logging.CRITICAL + 1)

Answer = Callable[[bytes | str], Awaitable[list[bytes]]]  # what is sent back to a message


@dataclass(frozen=True)
class Protocol:
    """How one connection is spoken on."""

    health: tuple[str, str]  # a path, and what a GET of it is answered with
    greeting: Callable[[Served], bytes | None]  # said before anything is asked
    open: Callable[[Served], Answer]  # for a new connection
    error: Callable[[bytes | str, str], bytes | str]  # the reply to a message that went wrong
    hangs_up: bool  # after an error


class Server:
    """Serves until it is told to stop; then it answers what has been asked and hangs up."""

    def __init__(self, protocol: Protocol, served: Served, api_key: str = "") -> None:
        self._protocol = protocol
        self._served = served
        self._api_key = api_key
        self._leaving = asyncio.Event()
        self._idle = asyncio.Event()
        self._busy = 0
        self._idle.set()
        self.answers = 0

    async def run(self, host: str, port: int, started: Callable[[int], None]) -> None:
        """`started` is called with the port once connections are taken. Raises UserError for a
        place that is taken."""
        websockets = library("websockets.asyncio.server")
        try:
            server = await websockets.serve(
                self._handle,
                host,
                port,
                process_request=self._check,
                compression=None,
                max_size=MOST_BYTES,
                ping_interval=None,  # clients stand still while they simulate
                logger=_SILENT,
            )
        except OSError as error:
            raise UserError(
                f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port"
            ) from error
        started(server.sockets[0].getsockname()[1])
        await self._leaving.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), END_S)
        server.close()
        await server.wait_closed()

    def stop(self) -> None:
        """From within its event loop."""
        self._leaving.set()

    def _check(self, connection: Any, request: Any) -> Any:
        """Health, and the key; None goes on to the websocket."""
        path, body = self._protocol.health
        if request.path.partition("?")[0] == path:
            return connection.respond(http.HTTPStatus.OK, body)
        given = request.headers.get("Authorization", "").removeprefix("Api-Key ")
        if self._api_key and not hmac.compare_digest(given.encode(), self._api_key.encode()):
            return connection.respond(
                http.HTTPStatus.UNAUTHORIZED, "the API key is missing or another one\n"
            )
        return None

    async def _handle(self, connection: Any) -> None:
        with contextlib.suppress(library("websockets.exceptions").ConnectionClosed):
            await self._converse(connection)

    async def _converse(self, connection: Any) -> None:
        """Until the client is gone."""
        if (greeting := self._protocol.greeting(self._served)) is not None:
            await connection.send(greeting)
        answer = self._protocol.open(self._served)
        async for message in connection:
            self._busy += 1
            self._idle.clear()
            try:
                await self._reply(connection, answer, message)
            finally:
                self._busy -= 1
                if self._busy == 0:
                    self._idle.set()
            if self._leaving.is_set():
                await connection.close(1001, "the server ends")

    async def _reply(self, connection: Any, answer: Answer, message: bytes | str) -> None:
        try:
            answers = await answer(message)
        except WireError as error:
            told = str(error)
        except Exception as error:  # the policy's: whoever asked is told, and the log has the rest
            traceback.print_exc()
            told = f"{type(error).__name__}: {error}"
        else:
            for each in answers:
                await connection.send(each)
            self.answers += 1
            return
        await connection.send(self._protocol.error(message, told))
        if self._protocol.hangs_up:
            await connection.close(1011, "see the message before")
