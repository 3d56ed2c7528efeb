"""A campaign of kills as values: what may be struck, the plan that follows from a seed, and what
came of it. No torch, no ray."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from rsd.errors import unknown

TITLES = {"ray::EnvWorkerActor": "worker", "ray::PolicyReplicaActor": "replica"}
PROGRAMS = {"raylet": "raylet", "gcs_server": "gcs"}
STORE = "store"


@dataclass(frozen=True)
class Strike:
    """One way to disturb a run."""

    victim: str  # worker | replica | raylet | gcs | driver | group (of the driver) | store
    signal: str  # SIGKILL, SIGTERM, SIGINT, SIGSTOP; of the store also `refuses` (connections)
    lasts_s: tuple[float, float] | None  # until SIGCONT or until it is back; None: for good
    weight: int  # how often it is drawn once every strike has been


STRIKES = (
    Strike("worker", "SIGKILL", None, 6),
    Strike("worker", "SIGSTOP", (0.5, 3), 2),
    Strike("worker", "SIGSTOP", None, 1),
    Strike("replica", "SIGKILL", None, 4),
    Strike("replica", "SIGSTOP", (0.5, 3), 1),
    Strike("replica", "SIGSTOP", None, 1),
    Strike("raylet", "SIGKILL", None, 2),
    Strike("raylet", "SIGSTOP", (1, 8), 1),
    Strike("raylet", "SIGSTOP", None, 1),
    Strike("gcs", "SIGKILL", None, 2),
    Strike("gcs", "SIGSTOP", (1, 8), 1),
    Strike("gcs", "SIGSTOP", None, 1),
    Strike("driver", "SIGKILL", None, 3),
    Strike("driver", "SIGSTOP", (0.5, 8), 1),
    Strike("group", "SIGTERM", None, 2),
    Strike("group", "SIGINT", None, 1),
    Strike(STORE, "refuses", (2, 60), 3),
    Strike(STORE, "SIGSTOP", (2, 30), 1),
)
VICTIMS = tuple(dict.fromkeys(strike.victim for strike in STRIKES))

COMPLETE = (0, 3)  # exit codes of a run with every episode recorded
HASTY = 0.25  # of the blows fall while the run still recovers from the one before
LONGEST_PAUSE_S = 2.0
LONGEST = 300  # characters of a driver's last line


def kind_of(command: Sequence[str]) -> str | None:
    """Which victim a process of a run is, by its command line; None: none of those."""
    if not command:
        return None
    for title, victim in TITLES.items():
        if command[0].startswith(title):
            return victim
    return PROGRAMS.get(PurePath(command[0]).name)


def may_stand_still(victim: str, command: Sequence[str]) -> bool:
    """Whether a run must notice that this process stands still for good.

    Not while an actor starts: that takes a run more than a minute, since one that loads a model for
    long says as little (docs/chaos.md).
    """
    if victim == "worker":
        return command[0].endswith(".episode")
    return not (victim == "replica" and command[0].endswith(".__init__"))


@dataclass(frozen=True)
class Event:
    """One planned blow."""

    number: int  # from 1
    victim: str
    signal: str
    lasts_s: float | None  # of SIGSTOP and outages; None: for good
    recovered: bool  # only when rows have gone on since the blow before
    pause_s: float  # from then on
    pick: float  # in [0, 1): which of several such processes


def plan_events(seed: int, kills: int, victims: Sequence[str]) -> list[Event]:
    """The blows of a campaign: each strike once in random order, then more by weight.

    Raises UserError for an unknown victim.
    """
    for victim in victims:
        if victim not in VICTIMS:
            raise unknown("victim", victim, VICTIMS)
    dice = random.Random(seed)
    strikes = [strike for strike in STRIKES if strike.victim in victims]
    weights = [strike.weight for strike in strikes]
    drawn = dice.sample(strikes, len(strikes))[:kills]
    drawn += dice.choices(strikes, weights, k=kills - len(drawn))
    return [
        Event(
            number=number,
            victim=strike.victim,
            signal=strike.signal,
            lasts_s=round(dice.uniform(*strike.lasts_s), 3) if strike.lasts_s else None,
            recovered=dice.random() >= HASTY,
            pause_s=round(dice.uniform(0, LONGEST_PAUSE_S), 3),
            pick=dice.random(),
        )
        for number, strike in enumerate(drawn, 1)
    ]


# --- what happened -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Blow:
    """An event that was carried out."""

    event: Event
    at: float  # s, Unix time
    run: str
    session: int  # of the run, from 0
    pid: int
    title: str  # of the process, as it was


@dataclass
class Ending:
    """A process of `rsd evaluate` that ended."""

    run: str
    session: int
    started: float  # s, Unix time
    ended: float
    exit_code: int  # negative: by that signal
    stuck: bool  # ended by the campaign: no row for longer than its patience
    log: str = field(repr=False)

    @property
    def opened(self) -> bool:
        """Whether it came so far as to open the books."""
        return "\noutput   " in self.log


def last_line(log: str) -> str:
    """What a driver said last, without colours and no longer than a sentence."""
    lines = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", log).strip().splitlines()
    line = lines[-1] if lines else ""
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."
