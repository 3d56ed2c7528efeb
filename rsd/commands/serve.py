"""Serve a policy to the harnesses of others: `rsd serve --help`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console

from rsd import commands
from rsd.arms import read_arm
from rsd.batching import BatchLimits, MicroBatcher
from rsd.commands import DONE, as_called, called
from rsd.console import PLAIN
from rsd.errors import UserError, unknown
from rsd.flags import Least, check_least, read
from rsd.models import inspect_policy, load_policy
from rsd.models.remote.address import api_key
from rsd.models.remote.wire import library
from rsd.plan import ready_arms
from rsd.serving import PROTOCOLS
from rsd.serving.served import Served
from rsd.serving.server import Server

DESCRIPTION = """\
Serve a policy over a websocket, so that other harnesses evaluate it and other programs use it.

  openpi     one message, one chunk; `openpi-client`'s WebsocketClientPolicy and its forks
  vla-eval   one message, one action; `vla-eval run`

Frames of any size are taken (uint8, turned by 180 degrees as OpenVLA-OFT does) and brought to the
policy's own; the state is eef position, axis-angle without the antipodal flip, gripper qpos; the
gripper's column is -1 open, +1 closed. GET /healthz (vla-eval: /health) answers once the policy is
loaded. Who asks at the same time is decoded in one batch. Ctrl-C or SIGTERM: what has been asked
is answered, then connections are closed.

Examples:
  rsd serve --policy libero
  rsd serve --policy libero --protocol vla-eval --port 8001
  rsd serve --policy my_policy:Reach --device cuda --host 0.0.0.0 --api-key-file ~/.rsd-key
  rsd evaluate --policy ws://localhost:8000      # from another shell: the same episodes as without

Whoever reaches the port may use the policy: it is this machine's alone unless --host says
otherwise, and then a key is in order.

Exit codes: 0 stopped as asked; 2 the request cannot be served.
"""


@dataclass(frozen=True)
class ServeConfig:
    """What is served, and where."""

    policy: str
    """Name of a bundled policy, folder of a checkpoint, module:factory; also a server's address,
    whose protocol is translated"""

    protocol: str = "openpi"
    """openpi, vla-eval"""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every network that this machine is in"""

    port: int = 8000
    """0 takes a free one"""

    api_key_file: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """File with the key that clients have to send (Authorization: Api-Key ...)"""

    arm: str = ""
    """How it decodes, as `--arms` of `rsd evaluate`; left out: the policy's best"""

    device: str = "cpu"
    """cpu, cuda"""

    deterministic: bool = True
    """Greedy arms give the same answer to the same request in any batch, bit for bit"""

    max_batch_size: int = 16
    """Chunks that are decoded together at most"""

    max_wait_ms: float = 0.0
    """How long an idle policy waits for more requests"""


_LEAST = {
    "port": Least(0, "0 takes a free one"),
    "max_batch_size": Least(1, "1 is no batching"),
    "max_wait_ms": Least(0, "0 never waits"),
}


def main(words: Sequence[str], console: Console) -> int:
    """Check, load, serve until a signal; returns the exit code that `--help` explains."""
    config: ServeConfig = read(ServeConfig, words, called("serve"), as_called(DESCRIPTION))
    check_least(vars(config), _LEAST)
    if config.protocol not in PROTOCOLS:
        raise unknown("protocol", config.protocol, PROTOCOLS)
    if config.device not in ("cpu", "cuda"):
        raise unknown("device", config.device, ("cpu", "cuda"))
    if config.port > 65535:
        raise UserError(f"--port {config.port}: ports go up to 65535")
    library("websockets")
    key = api_key(config.api_key_file)
    info = inspect_policy(config.policy)
    (arm,) = ready_arms([read_arm(config.arm or info.modes[0])], config.policy, info)
    with commands.importing():  # torch takes seconds, and so may weights
        policy = load_policy(
            config.policy, deterministic=config.deterministic, device=config.device
        )
    batcher = MicroBatcher(
        policy.act, BatchLimits(config.max_batch_size, config.max_wait_ms / 1000)
    )
    served = Served(config.policy, info, arm, batcher)
    what = f"{config.policy} ({arm.name}, sha256 {info.sha256[:12]}) as {config.protocol}"

    def started(port: int) -> None:
        console.print(f"serving  {what} on {config.host}:{port}; Ctrl-C ends it", **PLAIN)

    server = Server(PROTOCOLS[config.protocol], served, key)
    asyncio.run(_until_stopped(server, config, started))
    console.print(f"served   {server.answers} messages", **PLAIN)
    return DONE


async def _until_stopped(
    server: Server, config: ServeConfig, started: Callable[[int], None]
) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, server.stop)
    await server.run(config.host, config.port, started)
