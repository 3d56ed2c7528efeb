"""What the results of other software say, as values; and checks of what stands in its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rsd.errors import UserError, brief
from rsd.foreign import finite
from rsd.suites import SUITES, get_task
from rsd.types import Outcome


@dataclass(frozen=True)
class Episode:
    """One verdict. None is what the software does not say."""

    suite: str
    task_id: int  # 0-based, the suite's order
    number: int  # of the task's episodes; which world it was, nobody knows
    outcome: Outcome  # timeout: it did not succeed
    instruction: str | None = None
    steps: int | None = None  # control steps
    wall_s: float | None = None
    error: str = ""

    @property
    def name(self) -> tuple[str, int, int]:
        """What no other episode has."""
        return self.suite, self.task_id, self.number


@dataclass(frozen=True)
class Results:
    """What one file holds."""

    software: str
    version: str | None
    episodes: tuple[Episode, ...]
    complete: bool  # whether it says that none is missing
    says: Mapping[str, Any]  # settings and figures of its own, kept as they are

    @property
    def source(self) -> str:
        """Software and version."""
        return f"{self.software} {self.version}" if self.version else self.software


def count(value: Any, what: str) -> int:
    """An integer of 0 or more; raises UserError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise UserError(f"{what} is {brief(value)}, expected an integer of 0 or more")
    return value


def seconds(value: Any, what: str) -> float:
    """Raises UserError for what is no duration."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not finite(value) or value < 0:
        raise UserError(f"{what} is {brief(value)}, expected seconds")
    return float(value)


def member(holder: Any, name: str, kind: type, what: str) -> Any:
    """A field of a mapping; raises UserError where there is none of that kind."""
    value = holder.get(name) if isinstance(holder, dict) else None
    if not isinstance(value, kind):
        has = brief(sorted(map(str, holder))) if isinstance(holder, dict) else brief(holder)
        raise UserError(f"{what} has no {name!r} that is a {kind.__name__} (it has {has})")
    return value


def suite_name(software: str, suite: str, tasks: int, libero: bool = True) -> str:
    """LIBERO's own name for a suite of LIBERO. That of a benchmark which only borrows the names
    (LIBERO-plus has 2402 tasks in its libero_spatial) is said to be the software's own, so that
    nobody takes its tasks for LIBERO's."""
    known = SUITES.get(suite)
    borrowed = known is not None and (not libero or tasks > known.num_tasks)
    return f"{software}:{suite}" if borrowed else suite


def task_called(suite: str, instruction: str) -> int | None:
    """The one task of a suite of LIBERO with this instruction; None where there is not one."""
    if suite not in SUITES:
        return None
    tasks = range(SUITES[suite].num_tasks)
    found = [task for task in tasks if get_task(suite, task).instruction == instruction]
    return found[0] if len(found) == 1 else None
