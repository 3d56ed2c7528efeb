"""The spec of a policy behind servers: where they are, and what is said about them.

SCHEME://HOST:PORT[,HOST:PORT...][/PATH][?NAME=VALUE&...]
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from rsd.errors import UserError, unknown
from rsd.foreign import expanded, read_bytes, read_settings
from rsd.models.remote import conventions
from rsd.models.remote.conventions import Conventions

_ENDPOINT = re.compile(r"([\w.-]+|\[[0-9a-fA-F:.]+\])(?::(\d{1,5}))?(/[^,?#]*)?", re.ASCII)
_MOST_KEY_BYTES = 4096


@dataclass(frozen=True)
class Endpoint:
    """Where one server is."""

    scheme: str  # of the spec
    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}{self.path}"

    @property
    def secure(self) -> bool:
        return self.scheme in ("wss", "https")


@dataclass(frozen=True)
class Access:
    """How it is asked. Nothing here changes an answer."""

    timeout: float = 60.0  # s until an answer counts as lost; a first one may compile a model
    connections: int = 0  # to a server at a time; 0: as many as its dialect takes
    api_key: str = field(default="", repr=False)


@dataclass(frozen=True)
class Address:
    """A spec, read."""

    endpoints: tuple[Endpoint, ...]
    dialect: str
    given: dict[str, Any]  # conventions that differ from the dialect's
    access: Access
    name: str = ""  # what the user calls the policy, for servers that do not say it


_CONVENTIONS = tuple(f.name for f in dataclasses.fields(Conventions) if f.name != "images")
_OTHERS = {
    "dialect": "which protocol it speaks",
    "conventions": "a YAML file of these settings",
    "name": "what the policy is called, for a server that does not say it",
    "timeout": "seconds until an answer counts as lost",
    "connections": "requests to one server at a time",
    "api_key_file": "a file that holds the server's API key",
}


def read(spec: str, dialects: Sequence[str], port: int) -> Address:
    """`dialects` of the scheme, the usual one first; `port` where the spec names none. Raises
    UserError for a spec that means nothing."""
    place, _, query = spec.partition("?")
    scheme, _, rest = place.partition("://")
    words = _words(spec, query)
    dialect = words.pop("dialect", dialects[0])
    if dialect not in dialects:
        raise unknown(f"dialect of {scheme}://", dialect, dialects)
    endpoints = tuple(_endpoint(spec, scheme, each, port) for each in rest.split(","))
    if len(set(endpoints)) != len(endpoints):
        raise UserError(f"policy {spec!r} names a server twice")
    others = {name: words.pop(name) for name in tuple(words) if name in _OTHERS}
    given = conventions.read(words, f"policy {spec!r}")
    return Address(endpoints, dialect, given, _access(spec, others), others.get("name", ""))


def _words(spec: str, query: str) -> dict[str, str]:
    """What the query says, after what its file says."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise UserError(f"policy {spec!r}: after ? comes name=value&name=value: {error}") from error
    words = dict(pairs)
    if len(words) != len(pairs):
        raise UserError(f"policy {spec!r} says something twice after ?")
    if file := words.pop("conventions", ""):
        settings = read_settings(expanded(file), f"conventions {file}")
        words = {name: _word(file, name, value) for name, value in settings.items()} | words
    for name in words:
        if name not in (*_CONVENTIONS, *_OTHERS):
            raise unknown(f"setting of {spec!r}", name, (*_CONVENTIONS, *_OTHERS))
    return words


def _word(file: str, name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        raise UserError(f"conventions {file}: {name} is one value")
    return value


def _endpoint(spec: str, scheme: str, written: str, port: int) -> Endpoint:
    """Written with or without the scheme, which all of a spec share."""
    found = _ENDPOINT.fullmatch(written.removeprefix(f"{scheme}://"))
    is_host = found is not None and _is_host(found[1].strip("[]"))
    if found is None or not is_host or (found[2] and not 1 <= int(found[2]) <= 65535):
        secret = " (an API key goes into a file: api_key_file=PATH)" if "@" in written else ""
        shown = "***" if "@" in written else repr(written)
        raise UserError(
            f"a policy behind a server is written {scheme}://HOST:PORT, or with several servers "
            f"{scheme}://HOST:PORT,HOST:PORT; {shown} is no host and port{secret}"
        )
    return Endpoint(scheme, found[1].strip("[]"), int(found[2] or port), found[3] or "")


def _is_host(name: str) -> bool:
    """Whether a resolver takes it: each part of it has 1 to 63 letters."""
    try:
        return bool(name.encode("idna"))
    except UnicodeError:
        return False


def _access(spec: str, words: dict[str, str]) -> Access:
    numbers: dict[str, Any] = {}
    for name, kind, most in (("timeout", float, 3600), ("connections", int, 256)):
        if name in words:
            try:
                value = kind(words[name])
            except ValueError:
                value = -1
            if not 0 < value <= most:
                raise UserError(
                    f"policy {spec!r}: {name} is a number above 0 and up to {most}, not "
                    f"{words[name]!r}"
                )
            numbers[name] = value
    return Access(**numbers, api_key=api_key(words.get("api_key_file", "")))


def api_key(file: str) -> str:
    """The API key that a file holds; empty for no file. Raises UserError."""
    if not file:
        return ""
    key = read_bytes(expanded(Path(file)), _MOST_KEY_BYTES).decode("ascii", "replace").strip()
    if not key or not key.isprintable() or not key.isascii():
        raise UserError(f"{file} holds no API key: one line of printable ASCII is needed")
    return key


def identity(address: Address, settled: Conventions, metadata: object) -> str:
    """sha256 over what decides the answers: not over where the server is."""
    decides = (address.dialect, address.name, dataclasses.asdict(settled), metadata)
    return hashlib.sha256(repr(decides).encode()).hexdigest()
