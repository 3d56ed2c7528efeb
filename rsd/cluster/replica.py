"""A loaded policy that answers chunks."""

from __future__ import annotations

import faulthandler
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from rsd.batching import BatchLimits, MicroBatcher
from rsd.cluster.worker import STANDARD_ERROR
from rsd.errors import PolicyAwayError
from rsd.models import load_policy
from rsd.provenance import Machine, machine, source_sha256
from rsd.types import Chunk, ChunkRequest, Deliver


@dataclass(frozen=True)
class ReplicaSettings:
    """What a replica is made from."""

    policy: str
    deterministic: bool
    device: str  # cpu | cuda
    limits: BatchLimits
    decode_limit_s: float  # for one batch, after which the process ends itself


@dataclass(frozen=True)
class ReplicaInfo:
    """What a replica says of itself."""

    checkpoint_sha256: str
    source_sha256: str  # of the code that it runs
    machine: Machine
    process: str  # another one after every restart
    away: str = ""  # why what it asks does not answer; empty if it does


class PolicyReplica:
    """One model and its micro-batcher. Holds nothing of an episode: any replica answers any chunk,
    and the same request gets the same answer after a replica's death."""

    def __init__(
        self, settings: ReplicaSettings, on_queue: Callable[[int], None] = lambda length: None
    ) -> None:
        self._policy = load_policy(
            settings.policy, deterministic=settings.deterministic, device=settings.device
        )
        self._batcher = MicroBatcher(self._decode, settings.limits)
        self._decode_limit_s = settings.decode_limit_s
        self._on_queue = on_queue
        self._source_sha256 = source_sha256()
        self._machine = machine("replica", settings.device)
        self._process = uuid.uuid4().hex
        self._away = ""

    async def act(self, request: ChunkRequest, alone: bool = False) -> Chunk:
        """Decode one chunk, `alone` or in a batch; raises what the policy raises."""
        self._on_queue(len(self._batcher) + 1)
        try:
            return await self._batcher.submit(request, alone)
        finally:
            self._on_queue(len(self._batcher))

    async def expect(self, callers: int) -> None:
        """So many workers ask here: a batch never waits for more than those."""
        self._batcher.callers = callers

    async def info(self) -> ReplicaInfo:
        """Answers while the model works; also tells that the replica lives."""
        return ReplicaInfo(
            self._policy.checkpoint_sha256,
            self._source_sha256,
            self._machine,
            self._process,
            self._away,
        )

    def _decode(self, requests: list[ChunkRequest], deliver: Deliver) -> list[Chunk]:
        """The policy's answers, or the end of this process: a device that hangs does not come back
        to the interpreter, so a thread without it dumps the stack and exits."""
        faulthandler.dump_traceback_later(self._decode_limit_s, exit=True, file=STANDARD_ERROR)
        try:
            chunks = self._policy.act(requests, deliver)
            self._away = ""
            return chunks
        except PolicyAwayError as error:
            self._away = str(error)
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
