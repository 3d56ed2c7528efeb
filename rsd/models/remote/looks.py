"""What a server is that does not speak the protocol it was asked in."""

from __future__ import annotations

import contextlib
import http.client
import socket

from rsd.foreign import parse_json
from rsd.models.remote.address import Endpoint

_LOOK_S = 1.0
_ZMQ_GREETING = b"\xff\x00"  # how ZMTP 3 begins, before anything was sent


def looks_like(endpoint: Endpoint) -> str:
    """A sentence; empty where nothing is recognised. Takes some seconds at most."""
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        if _first_bytes(endpoint).startswith(_ZMQ_GREETING):
            asked = endpoint.scheme == "groot"  # already, and in vain
            return "" if asked else "it looks like GR00T's (ZeroMQ): groot://HOST:PORT"
        if _get(endpoint, "/health").startswith(b"{"):
            return "it looks like vla-eval's: vla-eval://HOST:PORT?chunk=N"
        if _get(endpoint, "/healthz").startswith(b"OK"):
            return "it looks like openpi's or starVLA's: ws://HOST:PORT?dialect=openpi|starvla"
        described = parse_json(_get(endpoint, "/openapi.json") or b"{}")
        if isinstance(described, dict) and "/act" in (described.get("paths") or ()):
            return "it looks like OpenVLA's or OFT's: http://HOST:PORT/act?dialect=openvla|oft"
    return ""


def _first_bytes(endpoint: Endpoint) -> bytes:
    """What it says unasked."""
    with socket.create_connection((endpoint.host, endpoint.port), _LOOK_S) as connection:
        connection.settimeout(_LOOK_S / 2)
        with contextlib.suppress(TimeoutError):
            return connection.recv(64)
    return b""


def _get(endpoint: Endpoint, path: str) -> bytes:
    """The body of a page that is there."""
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=_LOOK_S)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.read(2**20) if answer.status == 200 else b""
