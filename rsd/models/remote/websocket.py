"""A connection over a websocket, as all of its dialects use it."""

from __future__ import annotations

import logging
from contextlib import ExitStack

from rsd.models.remote.address import Access, Endpoint
from rsd.models.remote.dialect import CONNECT_S, LostError, RefusedError
from rsd.models.remote.wire import MOST_BYTES, library

_SILENT = logging.Logger("websockets", logging.CRITICAL)  # whatever it logs is raised, too


class Socket:
    """Messages in, messages out. Every exception of the library becomes one of ours."""

    def __init__(self, endpoint: Endpoint, access: Access) -> None:
        """Raises LostError where nobody answers, RefusedError where it is no such server."""
        client = library("websockets.sync.client")
        self._open = ExitStack()
        self._errors = library("websockets.exceptions")
        self._where = str(endpoint)
        self._timeout = access.timeout
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        scheme = "wss" if endpoint.secure else "ws"
        key = {"Authorization": f"Api-Key {access.api_key}"} if access.api_key else {}
        try:
            self._socket = self._open.enter_context(
                client.connect(
                    f"{scheme}://{host}:{endpoint.port}{endpoint.path}",
                    additional_headers=key,
                    compression=None,
                    max_size=MOST_BYTES,
                    open_timeout=CONNECT_S,
                    close_timeout=1.0,
                    ping_interval=None,  # a server that compiles its model answers no ping
                    proxy=None,
                    logger=_SILENT,
                )
            )
        except self._errors.InvalidStatus as error:
            status = error.response.status_code
            if status in (401, 403):
                raise RefusedError(
                    f"{self._where} refuses the API key (HTTP {status}); give the right one by "
                    "api_key_file=PATH"
                ) from error
            raise RefusedError(
                f"{self._where} is no websocket: it answers HTTP {status}"
            ) from error
        except TimeoutError as error:
            raise LostError(f"{self._where} does not answer within {CONNECT_S:g} s") from error
        except OSError as error:
            raise LostError(f"{self._where}: {error.strerror or error}") from error
        # AssertionError: websockets' own, of a server that speaks before it is asked
        except (self._errors.WebSocketException, AssertionError) as error:
            raise RefusedError(f"{self._where} is no websocket: {error}") from error

    def send(self, message: bytes) -> None:
        try:
            self._socket.send(message)
        except (self._errors.ConnectionClosed, OSError) as error:
            raise LostError(self._end(error)) from error

    def receive(self, timeout: float | None = None) -> bytes | str:
        """The next message, within the access's time-out unless another is given."""
        limit_s = self._timeout if timeout is None else timeout
        try:
            message: bytes | str = self._socket.recv(timeout=limit_s)
            return message
        except TimeoutError as error:
            self.close()
            raise LostError(f"{self._where} has not answered for {limit_s:g} s") from error
        except (self._errors.ConnectionClosed, OSError) as error:
            raise LostError(self._end(error)) from error

    def _end(self, error: Exception) -> str:
        sent = getattr(error, "sent", None)
        if sent is not None and sent.code == 1009:
            return f"{self._where} sent a message of more than {MOST_BYTES >> 20} MiB"
        return f"{self._where} closed the connection: {error}"

    def close(self) -> None:
        self._open.close()
