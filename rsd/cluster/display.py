"""How a run goes: a panel on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rsd.console import LINE_PERIOD_S, duration

FRAMES_PER_S = 2


class Shown(Protocol):
    """Where a run is, as a display asks for it."""

    @property
    def over(self) -> bool:
        """Whether its line is the last one, and worth saying at once."""

    def line(self) -> str:
        """The whole of it in one line."""

    def panel(self) -> RenderableType:
        """The same for a terminal."""


@dataclass(frozen=True)
class Standing:
    """Where an evaluation is."""

    planned: int
    recorded_before: int  # by earlier sessions of a resumed run
    outcomes: Mapping[tuple[str, str], int]  # (arm, outcome) -> episodes of this session
    workers: int
    running: int
    elapsed_s: float

    @property
    def recorded_now(self) -> int:
        """Episodes of this session."""
        return sum(self.outcomes.values())

    @property
    def recorded(self) -> int:
        """Episodes in the books."""
        return self.recorded_before + self.recorded_now

    @property
    def errors(self) -> int:
        """Episodes of this session without a verdict."""
        return sum(count for (_, outcome), count in self.outcomes.items() if outcome == "error")

    @property
    def per_hour(self) -> float:
        """Episodes an hour in this session; 0 before the first one."""
        return 3600 * self.recorded_now / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def left_s(self) -> float | None:
        """Expected seconds to the end; None before the first episode."""
        left = self.planned - self.recorded
        return 3600 * left / self.per_hour if self.per_hour else None

    def arm(self, name: str) -> tuple[int, int, int]:
        """(successes, finished, errors) of an arm in this session."""
        successes = self.outcomes.get((name, "success"), 0)
        errors = self.outcomes.get((name, "error"), 0)
        return successes, successes + self.outcomes.get((name, "timeout"), 0), errors

    @property
    def over(self) -> bool:
        """Whether every episode is recorded."""
        return self.recorded == self.planned

    def line(self) -> str:
        """Counts, rates and arms."""
        arms = "; ".join(f"{name} {_rate(*self.arm(name))}" for name in self.arms)
        left = duration(self.left_s)
        return (
            f"{self.recorded}/{self.planned} episodes, {arms or 'none finished'}, "
            f"{self.per_hour:,.0f} an hour, {left} left"
        )

    def panel(self) -> Group:
        """Bar, rates and a row an arm."""
        rates = Text(
            f"{self.recorded}/{self.planned} episodes   {self.per_hour:,.0f} an hour   "
            f"{duration(self.left_s)} left   {self.running} running on {self.workers} workers"
        )
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("arm", "success so far"):
            table.add_column(column, overflow="fold")
        for name in self.arms:
            table.add_row(name, _rate(*self.arm(name)))
        bar = ProgressBar(total=max(1, self.planned), completed=self.recorded, width=60)
        return Group(bar, rates, table)

    @property
    def arms(self) -> list[str]:
        """Arms with a recorded episode."""
        return sorted({arm for arm, _ in self.outcomes})


@dataclass
class Count:
    """Where a run of many alike things is: counted up by whoever does them."""

    planned: int
    what: str  # is counted
    before: int = 0  # done by earlier sessions
    now: int = 0  # by this one
    noted: dict[str, int] = field(default_factory=dict)  # of those of this one, such as `failed`
    started: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        """By all sessions."""
        return self.before + self.now

    @property
    def over(self) -> bool:
        return self.done == self.planned

    def line(self) -> str:
        """Counts, and the time left."""
        elapsed = time.monotonic() - self.started
        left = elapsed * (self.planned - self.done) / self.now if self.now else None
        noted = [f"{count} {name}" for name, count in self.noted.items()]
        return ", ".join(
            [f"{self.done}/{self.planned} {self.what}", *noted, f"{duration(left)} left"]
        )

    def panel(self) -> Text:
        """The same."""
        return Text(self.line())


def _rate(successes: int, finished: int, errors: int) -> str:
    share = f" ({100 * successes / finished:.0f} %)" if finished else ""
    return f"{successes}/{finished}{share}" + (f", {errors} errors" if errors else "")


class Display(Protocol):
    """Where a run shows how it goes; a context."""

    def __enter__(self) -> Display: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, standing: Shown) -> None:
        """Called after every event; decides itself how often it writes."""

    def say(self, line: str) -> None:
        """Something worth a line of its own."""


class LineDisplay:
    """For logs."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._written = clock()

    def __enter__(self) -> LineDisplay:
        return self

    def __exit__(self, *_: object) -> None: ...

    def show(self, standing: Shown) -> None:
        if standing.over or self._clock() - self._written >= LINE_PERIOD_S:
            self._written = self._clock()
            self.say(standing.line())

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class LiveDisplay:
    """For terminals."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._clock = clock
        self._drawn = 0.0

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, standing: Shown) -> None:
        if self._clock() - self._drawn >= 1 / FRAMES_PER_S:
            self._drawn = self._clock()
            self._live.update(standing.panel(), refresh=True)

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False)


def make_display(console: Console) -> Display:
    """Live on a terminal, lines elsewhere."""
    return LiveDisplay(console) if console.is_terminal else LineDisplay(console)
