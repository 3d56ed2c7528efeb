"""Recorded episodes on a simulator once more, here or on Ray: what `rsd replay` and `rsd verify`
share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from rsd import arithmetic, conditions, repeat
from rsd.cluster.address import check_cluster
from rsd.cluster.display import make_display
from rsd.cluster.replayer import Replayed, Replayer
from rsd.cluster.worker import WorkerSettings
from rsd.commands import DONE, STOPPED, importing
from rsd.config import ClusterConfig
from rsd.console import PLAIN, duration
from rsd.envs import FAMILIES, family_of
from rsd.envs.rendering import NO_RENDERER, process_variables
from rsd.errors import UserError
from rsd.flags import Least, check_least
from rsd.protocols import read_recorded
from rsd.provenance import provenance
from rsd.replay.choice import Take
from rsd.replay.recording import Recording
from rsd.types import ImageSpec

DIFFERS = 3  # exit code


@dataclass(frozen=True)
class StageConfig:
    """Where episodes are simulated."""

    assets: str | None = None
    """The folder of the asset tree, where the run was on neither lite nor official assets"""

    workers: int | None = None
    """Simulators at a time, on Ray; left out: one, in this process, without Ray"""

    time_limit_s: float = ClusterConfig.time_limit_s
    """Wall seconds an episode may take, making its simulator included"""


@dataclass
class Standing:
    """Where it is."""

    planned: int
    what: str  # is counted
    started: float
    done: int = 0
    differing: int = 0  # takes with an episode that ended otherwise
    failed: int = 0  # takes that could not be simulated

    @property
    def over(self) -> bool:
        return self.done == self.planned

    def line(self) -> str:
        """Counts, and the time left."""
        elapsed = time.monotonic() - self.started
        left = elapsed * (self.planned - self.done) / self.done if self.done else None
        return (
            f"{self.done}/{self.planned} {self.what}, {self.differing} differ, {self.failed} "
            f"failed, {duration(left)} left"
        )

    def panel(self) -> Text:
        return Text(self.line())


@dataclass(frozen=True)
class Stage:
    """What simulates, and what it was asked for."""

    recording: Recording
    takes: list[Take]
    worker: WorkerSettings
    draws: bool
    workers: int | None  # None: this process
    here: dict[str, Any]  # what decides states here, as run.json says it

    @classmethod
    def of(
        cls,
        recording: Recording,
        takes: list[Take],
        config: StageConfig,
        renderer: str = NO_RENDERER,
        size: int = 256,
    ) -> Stage:
        """Raises UserError for assets or a renderer that are not to be had, and where the run did
        not record its actions."""
        check_least(vars(config), _LEAST)
        recording.read(takes[0])
        if config.workers is not None:
            check_cluster()
        suites = sorted({take.key.suite for take in takes})
        family = FAMILIES[family_of(suites[0])]
        assets = family.assets(repeat.assets_for(recording.run, config.assets), suites)
        draws = renderer != NO_RENDERER
        if draws:
            renderer = family.renderer(renderer)
        protocol = read_recorded(recording.run.get("protocol"))
        images = ImageSpec(size, size)
        settings = WorkerSettings(assets, renderer, images, config.time_limit_s, protocol)
        here = {
            "assets_fingerprint": assets.fingerprint,
            "arithmetic": arithmetic.name(),
            "simulator": family.content(),
            **provenance(),
        }
        return cls(recording, takes, settings, draws, config.workers, here)

    def play(self, keep: Callable[[Take, Replayed], str], what: str, console: Console) -> int:
        """Simulate all takes and say how they end; `keep` does something with each and says what.
        Returns the exit code."""
        standing = Standing(len(self.takes), what, time.monotonic())
        with make_display(console) as display:

            def came(take: Take, replayed: Replayed | None, why: str) -> None:
                standing.done += 1
                if replayed is None:
                    standing.failed += 1
                    display.say(f"{take}: could not be simulated: {why}")
                else:
                    told = keep(take, replayed)
                    different = [text for text in replayed.differs if text]
                    standing.differing += bool(different)
                    for text in different:
                        display.say(f"DIFFERS: {take}: {text}")
                    if told:
                        display.say(f"{take}: {told}")
                display.show(standing)

            if self.workers is None:
                self._here(came)
            else:
                self._on_ray(self.workers, came, display.say)
        if standing.differing:
            self._explain(standing, console)
            return DIFFERS
        return STOPPED if standing.failed else DONE

    def _here(self, came: Callable[[Take, Replayed | None, str], None]) -> None:
        os.environ.update(process_variables(self.worker.renderer))  # before mujoco is loaded
        replayer = Replayer(self.worker, self.draws)
        for take in self.takes:
            replayed, why = None, ""
            try:
                replayed = replayer.replay(self.recording.read(take))
            except UserError as error:
                why = str(error)
            except Exception as error:  # whatever the simulator raises: others may still do
                why = f"{type(error).__name__}: {error}"
            came(take, replayed, why)

    def _on_ray(
        self,
        workers: int,
        came: Callable[[Take, Replayed | None, str], None],
        say: Callable[[str], None],
    ) -> None:
        with importing():
            from rsd.cluster.replaying import replay_on_ray
        replay_on_ray(self.takes, self.recording.read, self.worker, self.draws, workers, came, say)

    def _explain(self, standing: Standing, console: Console) -> None:
        """What may have made a difference."""
        facts = [
            {"code": run["code"]} | conditions.of_states(run) | conditions.of_machine(run)
            for run in (self.recording.run, self.here)
        ]
        found = conditions.then_and_here(*facts)
        lines = [f"{standing.differing} of {standing.done} do not end as recorded.", *found]
        if not found:
            lines.append("Code, packages, assets, arithmetic and processor are those of the run.")
        for line in lines:
            console.print(line, style="bold red", **PLAIN)


_LEAST = {
    "workers": Least(1, "somebody has to simulate"),
    "time_limit_s": Least(1, "a simulator takes seconds to make"),
}
