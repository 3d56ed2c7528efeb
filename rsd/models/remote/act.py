"""The `/act` endpoint of OpenVLA and OpenVLA-OFT: HTTP POST of JSON with arrays in base64.

Source: `vla-scripts/deploy.py` of openvla (port 8000) and openvla-oft (port 8777); json-numpy's
form of arrays. An error arrives as status 200 with the text "error".
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from rsd.errors import brief
from rsd.foreign import parse_json
from rsd.models.remote import wire
from rsd.models.remote.address import Access, Endpoint
from rsd.models.remote.conventions import Conventions, View
from rsd.models.remote.dialect import CONNECT_S, Dialect, LostError, RefusedError, ServerError


def mark(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        encoded = base64.b64encode(value.tobytes()).decode()
        return {"__numpy__": encoded, "dtype": value.dtype.str, "shape": value.shape}
    raise TypeError(f"no JSON of a {type(value).__name__}")


def unmark(value: dict[str, Any]) -> Any:
    if "__numpy__" not in value:
        return value
    try:
        data = base64.b64decode(value["__numpy__"], validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise wire.WireError(f"an array that is no base64: {error}") from error
    return wire.array(data, value.get("dtype"), value.get("shape"))


class ActLine:
    def __init__(
        self, endpoint: Endpoint, access: Access, fields: Callable[[View, str], dict[str, Any]]
    ) -> None:
        self._httpx = wire.library("httpx")
        self._where = str(endpoint)
        self._fields = fields
        scheme = "https" if endpoint.secure else "http"
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        base = f"{scheme}://{host}:{endpoint.port}"
        self._url = base + (endpoint.path or "/act")
        key = {"Authorization": f"Bearer {access.api_key}"} if access.api_key else {}
        self._client = self._httpx.Client(headers=key, timeout=CONNECT_S, trust_env=False)
        self._answer_s = self._httpx.Timeout(access.timeout, connect=CONNECT_S)
        self._check()
        self.metadata = self._description(f"{base}/openapi.json")

    def _check(self) -> None:
        """A page that takes POSTs answers a GET with 405, or otherwise; raises RefusedError where
        there is none, or a websocket."""
        status, _ = self._get(self._url)
        if status in (404, 426):
            raise RefusedError(f"{self._where} is no /act: a GET is answered with HTTP {status}")

    def _description(self, url: str) -> dict[str, Any]:
        """Name and version, where the server's framework tells them."""
        status, body = self._get(url)
        try:
            told = parse_json(body) if status == 200 else {}
            return {"info": told["info"]} if isinstance(told, dict) and "info" in told else {}
        except ValueError:
            return {}

    def _get(self, url: str) -> tuple[int, bytes]:
        return self._exchange(self._client.stream("GET", url))

    def _post(self, content: bytes) -> tuple[int, bytes]:
        """A question, whose answer takes longer than a page."""
        return self._exchange(
            self._client.stream(
                "POST",
                self._url,
                content=content,
                headers={"Content-Type": "application/json"},
                timeout=self._answer_s,
            )
        )

    def _exchange(self, under_way: AbstractContextManager[Any]) -> tuple[int, bytes]:
        """Status and body, which is read no further than a message may be long."""
        try:
            with under_way as answer:
                body = b""
                for part in answer.iter_bytes():
                    body += part
                    if len(body) > wire.MOST_BYTES:
                        most = wire.MOST_BYTES >> 20
                        raise ServerError(f"its answer is longer than {most} MiB")
                return answer.status_code, body
        except self._httpx.RemoteProtocolError as error:
            if "disconnected" in str(error):
                raise LostError(f"{self._where} hung up: {error}") from error
            raise RefusedError(f"{self._where} speaks no HTTP: {error}") from error
        except self._httpx.HTTPError as error:
            told = f"{type(error).__name__} {error}".strip()
            raise LostError(f"{self._where} does not answer: {told}") from error

    def ask(self, views: Sequence[View], settled: Conventions) -> list[Any]:
        (view,) = views
        fields = self._fields(view, settled.unnorm_key)
        status, body = self._post(json.dumps(fields, default=mark).encode())
        if status in (401, 403):
            raise RefusedError(
                f"{self._where} refuses the API key (HTTP {status}); give the right one by "
                "api_key_file=PATH"
            )
        if status != 200:
            raise ServerError(f"it answers HTTP {status}: {brief(body.decode(errors='replace'))}")
        return [_answer(body)]

    def close(self) -> None:
        self._client.close()


def _answer(body: bytes) -> Any:
    """The actions; also those that were encoded twice."""
    try:
        value = json.loads(body, object_hook=unmark)
        if isinstance(value, str) and value != "error":
            value = json.loads(value, object_hook=unmark)
    except (ValueError, RecursionError) as error:
        raise ServerError(f"its answer cannot be read: {error}") from error
    if value == "error" if isinstance(value, str) else isinstance(value, dict):
        raise ServerError(
            f"it answers {brief(value)} instead of actions: its own log says what went wrong"
        )
    return value


def fields_oft(view: View, unnorm_key: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"full_image": view.agentview, "instruction": view.instruction}
    if view.wrist is not None:
        fields["wrist_image"] = view.wrist
    if view.state is not None:
        fields["state"] = view.state
    return fields


def fields_openvla(view: View, unnorm_key: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"image": view.agentview, "instruction": view.instruction}
    return {**fields, "unnorm_key": unnorm_key} if unnorm_key else fields


OFT = Dialect(
    lambda endpoint, access: ActLine(endpoint, access, fields_oft),
    Conventions(image=256, gripper="one-opens"),
    "OpenVLA-OFT's /act (port 8777)",
    protocol="oft",
)
OPENVLA = Dialect(
    lambda endpoint, access: ActLine(endpoint, access, fields_openvla),
    Conventions(chunk=1, wrist=False, state="none", gripper="one-opens"),
    "OpenVLA's /act (port 8000)",
)
