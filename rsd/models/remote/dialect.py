"""What a protocol provides to be asked like every other: `client` knows nothing else of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rsd.errors import brief
from rsd.models.remote.address import Access, Endpoint
from rsd.models.remote.conventions import Conventions, View
from rsd.types import ImageSpec

CONNECT_S = 5.0  # to be connected, and greeted


class LostError(Exception):
    """No server there, or not any more, or it does not answer: it may be asked again."""


class RefusedError(Exception):
    """It wants another API key, or speaks another protocol: asking again changes nothing."""


class ServerError(RuntimeError):
    """It answered, and not with actions: an error of its own, or something that makes no sense."""


class Line(Protocol):
    """One connection to a server; one question at a time. Raises LostError, after which it is
    closed, and ServerError, after which it may be asked again."""

    metadata: dict[str, Any]  # what the server says of itself; values as JSON has them

    def ask(self, views: Sequence[View], settled: Conventions) -> list[Any]:
        """For each view its actions, (n, 7) as the server means them."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Dialect:
    """A protocol and the conventions of the real servers that speak it."""

    connect: Callable[[Endpoint, Access], Line]  # raises LostError, RefusedError
    usual: Conventions
    what: str  # for people
    connections: int = 1  # at a time, that a server makes use of
    batch: int = 1  # views that a message may hold
    protocol: str = ""  # under which its real servers' scores are known (rsd/protocols.py)
    learn: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] = lambda metadata, given: {}
    """From a server's metadata and what the user gives, the conventions that the former tell;
    raises UserError for what cannot be met"""


def is_ours(description: Any) -> bool:
    """Whether `rsd serve` describes itself so."""
    return isinstance(description, dict) and description.get("server") == "rsd"


def said_by_ours(description: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The conventions of a policy behind `rsd serve`, which says them all, so that it is asked as
    it would be in-process; none where it is another's server."""
    if not is_ours(description):
        return {}
    chunk = description["chunk"]
    told: dict[str, Any] = {} if chunk is None else {"chunk": chunk}
    if "replan" not in given:
        told["replan"] = chunk
    frames = {"images": ImageSpec(**description["images"]), "image": None, "rotated": True}
    return {**told, **frames, "wrist": True, "state": "axis-angle", "gripper": "minus-opens"}


def last_line(text: object) -> str:
    """What a traceback comes down to."""
    lines = [line for line in str(text).splitlines() if line.strip()]
    return brief(lines[-1].strip() if lines else "", 300)


def plain(value: Any) -> Any:
    """Metadata as JSON has it; what JSON has not is told by its type and shape."""
    if isinstance(value, dict):
        return {str(_text(name)): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "tolist") and getattr(value, "size", 1000) <= 100:
        return value.tolist()
    return f"{type(value).__name__} {getattr(value, 'shape', '')}".strip()


def _text(name: object) -> object:
    return name.decode(errors="replace") if isinstance(name, bytes) else name
