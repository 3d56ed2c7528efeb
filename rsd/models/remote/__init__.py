"""Policies behind a server: websocket, ZeroMQ or HTTP, in the protocols that are out there.

A dialect is a module with a codec and a `Dialect`, and an entry below. What a protocol does not say
stands in `conventions`; how servers are asked, lost and found again, in `client`. docs/remote.md
has the rest.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

from rsd.errors import UserError
from rsd.models.remote import act, groot, openpi, starvla, vla_eval
from rsd.models.remote import address as addresses
from rsd.models.remote.address import Address, Endpoint
from rsd.models.remote.client import RemotePolicy, Server, meet
from rsd.models.remote.dialect import Dialect, LostError, RefusedError, ServerError, is_ours
from rsd.models.remote.looks import looks_like
from rsd.models.seam import Family, PolicyInfo
from rsd.types import Policy

LOAD_PATIENCE_S = 300.0  # for a server that is away when a replica starts
LOAD_PAUSE_S = 2.0


@dataclass(frozen=True)
class Scheme:
    """What may stand before ://."""

    dialects: Mapping[str, Dialect]  # the usual one first
    port: int  # where the spec names none


_SOCKETS = Scheme(
    {"openpi": openpi.OPENPI, "roboarena": openpi.ROBOARENA, "starvla": starvla.STARVLA}, 8000
)
_HTTP = Scheme({"oft": act.OFT, "openvla": act.OPENVLA}, 8777)
SCHEMES = {
    "ws": _SOCKETS,
    "wss": _SOCKETS,
    "vla-eval": Scheme({"vla-eval": vla_eval.VLA_EVAL}, 8000),
    "groot": Scheme({"n1.6": groot.GROOT_N16, "n1.5": groot.GROOT_N15}, 5555),
    "http": _HTTP,
    "https": _HTTP,
}


def read(spec: str) -> tuple[Dialect, Address]:
    """Raises UserError for a spec that means nothing."""
    scheme = SCHEMES[spec.partition("://")[0]]
    address = addresses.read(spec, list(scheme.dialects), scheme.port)
    return scheme.dialects[address.dialect], address


def inspect(spec: str) -> PolicyInfo:
    """Ask every server what it is. Raises UserError for one that is not there, speaks another
    protocol, or is another policy than the first."""
    dialect, address = read(spec)
    try:
        server = _meet_all(dialect, address)
    except LostError as error:
        raise UserError(
            f"no server of the policy at {error}; start it, or mend the address"
        ) from error
    settled = server.settled
    return PolicyInfo(
        sha256=server.sha256,
        chunk_steps=settled.replan or settled.chunk,
        images=settled.images,
        clips=settled.range == "clip",
        elsewhere=True,
        answer_limit_s=address.access.timeout,
        protocol="" if is_ours(server.metadata) else dialect.protocol,
        says=json.dumps(server.metadata, sort_keys=True),
    )


def load(spec: str, deterministic: bool, device: str) -> Policy:
    """A client; waits for servers that are away. Raises UserError for those that stay away."""
    dialect, address = read(spec)
    deadline = time.monotonic() + LOAD_PATIENCE_S
    while True:
        try:
            return RemotePolicy(dialect, address, _meet_any(dialect, address))
        except LostError as error:
            if time.monotonic() > deadline:
                raise UserError(f"no server of the policy at {error}") from error
            time.sleep(LOAD_PAUSE_S)


def _meet_all(dialect: Dialect, address: Address) -> Server:
    servers = [_meet(dialect, address, endpoint) for endpoint in address.endpoints]
    for endpoint, server in zip(address.endpoints, servers, strict=True):
        if server.sha256 != servers[0].sha256:
            raise UserError(
                f"{endpoint} is another policy than {address.endpoints[0]}: they say "
                f"{server.metadata} and {servers[0].metadata}; the servers of a policy are alike"
            )
    return servers[0]


def _meet_any(dialect: Dialect, address: Address) -> Server:
    for endpoint in address.endpoints[:-1]:
        try:
            return _meet(dialect, address, endpoint)
        except LostError:
            continue
    return _meet(dialect, address, address.endpoints[-1])


def _meet(dialect: Dialect, address: Address, endpoint: Endpoint) -> Server:
    """Raises LostError where nobody is there, UserError for somebody else."""
    try:
        line = dialect.connect(endpoint, address.access)
    except (LostError, RefusedError, ServerError) as error:
        guess = looks_like(endpoint)
        if isinstance(error, LostError) and not guess:
            raise
        raise UserError(f"{error}{'; ' if guess else ''}{guess}") from error
    try:
        return meet(dialect, address, line)
    except UserError as error:
        raise UserError(f"{endpoint}: {error}") from error
    finally:
        line.close()


_FORMS = {
    "ws": "ws://HOST:PORT, a server of openpi's protocol; ?dialect=roboarena|starvla",
    "vla-eval": "vla-eval://HOST:PORT?chunk=N, a model server of vla-eval's",
    "groot": "groot://HOST:PORT, a server of GR00T N1.6; ?dialect=n1.5",
    "http": "http://HOST:PORT/act, OpenVLA-OFT's deploy.py; ?dialect=openvla",
}
FAMILIES = {
    scheme: Family(_FORMS.get(scheme, _FORMS["ws" if scheme == "wss" else "http"]), inspect, load)
    for scheme in SCHEMES
}
