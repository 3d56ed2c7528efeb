"""What calls cost, and how long a device takes for them: FLOP, bytes, dispatches. No torch.

One model for a CPU, whose rates are measured beside what they predict (rsd/models/operations.py),
and for GPUs, whose rates are data sheets' or were measured once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rsd.errors import unknown


@dataclass(frozen=True)
class Cost:
    """Of one call, or of several that overlap as one."""

    flops: float = 0.0
    bytes: float = 0.0  # read and written
    dispatches: float = 0.0  # operations of torch, or kernels that a GPU launches

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops,
            self.bytes + other.bytes,
            self.dispatches + other.dispatches,
        )

    def times(self, share: float) -> Cost:
        """Of a share of the calls."""
        return Cost(share * self.flops, share * self.bytes, share * self.dispatches)


Work = Sequence[Cost]  # one after the other: each waits for the one before


@dataclass(frozen=True)
class Device:
    """What a device does at best, or was measured to do."""

    name: str
    flops: float  # a second
    bandwidth: float  # bytes a second
    dispatch_s: float = 0.0  # before a dispatched operation begins

    def seconds(self, cost: Cost) -> float:
        """Of one call: memory and arithmetic overlap, dispatching does not."""
        busy = max(cost.flops / self.flops, cost.bytes / self.bandwidth)
        return busy + cost.dispatches * self.dispatch_s

    def ms(self, work: Work) -> float:
        """By a data sheet, which dispatches for nothing, a floor: no version runs faster."""
        return 1000 * sum(self.seconds(cost) for cost in work)

    def __str__(self) -> str:
        """For people."""
        tera = self.flops >= 1e12
        rates = (
            f"{self.flops / 1e12:.0f} TFLOP/s, {self.bandwidth / 1e12:.2f} TB/s"
            if tera
            else f"{self.flops / 1e9:.1f} GFLOP/s, {self.bandwidth / 1e9:.1f} GB/s"
        )
        dispatch = f", {1e6 * self.dispatch_s:.1f} us a dispatch" if self.dispatch_s else ""
        return f"{self.name}: {rates}{dispatch}"


SHEETS = {  # by a part of the name that the driver gives: dense bf16, SXM parts
    "H200": Device("H200 data sheet", 989e12, 4.8e12),
    "H100": Device("H100 SXM data sheet", 989e12, 3.35e12),
    "A100": Device("A100 SXM data sheet", 312e12, 2.04e12),
}


def sheet_named(name: str) -> Device:
    """Raises UserError for a device without a data sheet here."""
    if name not in SHEETS:
        raise unknown("device with a data sheet", name, SHEETS)
    return SHEETS[name]
