"""What every policy tells of itself before it is loaded, and what a family of policies provides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rsd.errors import UserError
from rsd.types import ImageSpec, Mode, Policy


@dataclass(frozen=True)
class PolicyInfo:
    """What is known of a policy before it is loaded. Nothing else asks which family it is of."""

    sha256: str = ""  # its identity: of the checkpoint, a plug-in's sources, what a server says
    modes: tuple[Mode, ...] = ("native",)  # that it decodes, its best one first
    chunk_steps: int | None = None  # T; None: it decides chunk by chunk
    layers: int = 0  # L; 0: it has no codes, so neither layers nor acceptance
    images: ImageSpec = field(default_factory=ImageSpec)
    suites: tuple[str, ...] = ()  # that it was trained on; empty: not known
    suites_only: bool = False  # whether it cannot act on any other
    lossy_rules: bool = False  # whether some tokens are the gripper's alone
    batches: bool = True  # answers several requests sooner together than one after the other
    clips: bool = False  # what its actions have beyond [-1, 1] is cut off and counted, not refused
    pinned: str = ""  # names the same for good, where its spec may come to name another
    folder: Path | None = None  # of a checkpoint, where a calibration of its draft may lie
    settles_on_gpu: bool = True  # greedy answers depend on the request alone there, too
    other_modes: str = ""  # how one of its family comes to decode those that it lacks
    elsewhere: bool = False  # it computes on a server, so that its replicas need no GPU
    answer_limit_s: float | None = None  # that its server may take; None: it computes here
    protocol: str = ""  # that its scores are known under (rsd/protocols.py); empty: any
    says: str = ""  # what its server, or the package that offers it, says of itself, as JSON
    check_instruction: Callable[[str], None] = lambda text: None  # raises UserError: unreadable
    # of a replica: device (`cpu`, `cuda`), bytes that this has in all, whether it is deterministic;
    # raises UserError where these do not do
    check_memory: Callable[[str, int, bool], None] = lambda device, size, deterministic: None

    def check_suite(self, suite: str, spec: str) -> None:
        """Raises UserError for one that it cannot act on."""
        if self.suites_only and suite not in self.suites:
            raise UserError(
                f"policy {spec!r} has no statistics of {suite!r}, so its actions there would mean "
                f"nothing; it has those of {', '.join(self.suites)}: choose one of these, or a "
                "policy that was trained on it"
            )


@dataclass(frozen=True)
class Family:
    """One kind of policy: how it is checked without loading it, and loaded."""

    forms: str  # what its specs are, for people
    inspect: Callable[[str], PolicyInfo]  # raises UserError for what cannot be
    load: Callable[[str, bool, str], Policy]  # spec, deterministic, device
