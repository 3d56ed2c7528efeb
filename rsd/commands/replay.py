"""Recorded episodes as videos: `rsd replay --help`."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from rsd import arithmetic, conditions, repeat
from rsd.cluster.address import check_cluster
from rsd.cluster.display import Count, make_display
from rsd.cluster.replayer import Replayed, Replayer
from rsd.cluster.worker import WorkerSettings
from rsd.commands import DONE, STOPPED, as_called, called, importing
from rsd.config import ClusterConfig, SimulatorConfig
from rsd.console import PLAIN
from rsd.envs import FAMILIES, family_of
from rsd.envs.rendering import NO_RENDERER, process_variables
from rsd.errors import UserError, writing
from rsd.flags import WITHOUT_GROUPS, Least, check_least, read
from rsd.outputs import is_address, local_folder, prove_writable, write_file
from rsd.protocols import read_recorded
from rsd.provenance import provenance
from rsd.replay import choice, video
from rsd.replay.choice import Filter, Take
from rsd.replay.recording import Recording
from rsd.types import ImageSpec

DIFFERS = 3

DESCRIPTION = """\
Simulate recorded episodes again from their actions, without the policy, compare how they end, and
draw them: both cameras, and below them chunks, passes and what became of the draft's guesses.

Examples:
  rsd replay results/spatial --task 3 --trial 7 --arm speculative
  rsd replay results/spatial --failures --arm speculative
  rsd replay results/spatial --disagreements          # two arms beside each other, in step
  rsd replay results/spatial --all --workers 8        # on Ray; videos that are there are skipped

Exit codes: 0 every episode ends as recorded; 1 some could not be simulated, or it stopped early; 2
the request cannot be carried out; 3 some end in another state; 130 interrupted.
"""


@dataclass(frozen=True)
class StageConfig:
    """Where episodes are simulated."""

    assets: str | None = None
    """The folder of the asset tree, where the run was on neither lite nor official assets"""

    workers: int | None = None
    """Simulators at a time, on Ray; left out: one, in this process, without Ray"""

    time_limit_s: float = ClusterConfig.time_limit_s
    """Wall seconds an episode may take, making its simulator included"""


@dataclass(frozen=True)
class ReplayConfig:
    """What is drawn."""

    run: tyro.conf.Positional[str]
    """Folder or address of a run, finished or going on"""

    which: Filter = field(default_factory=Filter)

    failures: tyro.conf.FlagCreatePairsOff[bool] = False
    """Of these, those in which the policy failed"""

    disagreements: tyro.conf.FlagCreatePairsOff[bool] = False
    """Of these, every two arms of a world of which one succeeds and the other fails, beside each
    other and in step, with the moment from which they act otherwise"""

    all: tyro.conf.FlagCreatePairsOff[bool] = False
    """Every episode"""

    output: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Where the videos go; None: `videos` in the run's folder, or videos/<run_id> of a run at an
    address"""

    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Make videos again that are there"""

    size: int = 256
    """Pixels of a camera's view, both ways"""

    renderer: str = SimulatorConfig.renderer
    """auto, osmesa, egl"""

    stage: StageConfig = field(default_factory=StageConfig)


def main(words: Sequence[str], console: Console) -> int:
    """Parse, simulate, draw; returns the exit code that `--help` explains."""
    config: ReplayConfig = read(
        ReplayConfig, words, called("replay"), as_called(DESCRIPTION), WITHOUT_GROUPS
    )
    check_least(vars(config), {"size": Least(128, "the words below need room")})
    recording = Recording.of(config.run)
    takes = takes_of(config, recording)
    say = functools.partial(console.print, **PLAIN)
    if unfinished := recording.unfinished():
        say(unfinished)
    folder = folder_of(config, recording)
    left = [take for take in takes if config.overwrite or not (folder / take.file).exists()]
    if len(left) < len(takes):
        there = len(takes) - len(left)
        say(f"{there} of {len(takes)} videos are there already; --overwrite makes them again")
    if not left:
        say("nothing to draw" if takes else nothing(config))
        return DONE
    prove(folder)
    video.check()
    stage = Stage.of(recording, left, config.stage, config.renderer, config.size)

    def keep(take: Take, replayed: Replayed) -> str:
        path = folder / take.file
        write_file(path, replayed.video)
        return f"{path} ({len(replayed.video) / 1e6:.1f} MB)"

    return stage.play(keep, "videos", console)


def takes_of(config: ReplayConfig, recording: Recording) -> list[Take]:
    """Raises UserError where nothing is asked for, or what is not there."""
    if not (config.which or config.failures or config.disagreements or config.all):
        raise UserError(
            "say which episodes: --task, --trial, --arm and --suite name some, --failures and "
            "--disagreements choose, --all takes every one"
        )
    outcomes = config.which.of(recording.outcomes)
    takes = choice.failures(outcomes) if config.failures else []
    if config.disagreements:
        arms = sorted({key.arm for key in outcomes})
        if len(arms) < 2:
            raise UserError(f"--disagreements are those of two arms; here is only {arms[0]}")
        takes += choice.disagreements(outcomes)
    if config.all or not (config.failures or config.disagreements):
        takes = choice.each(outcomes)
        if not takes:
            raise UserError(
                f"all {len(outcomes)} episodes ended in errors, before a verdict: of those no "
                "actions are recorded"
            )
    return takes


def nothing(config: ReplayConfig) -> str:
    """Why there is none."""
    asked = {"no episode failed": config.failures, "no two arms disagree": config.disagreements}
    return ", ".join(why for why, is_asked in asked.items() if is_asked)


def folder_of(config: ReplayConfig, recording: Recording) -> Path:
    """Raises UserError for an address."""
    if config.output is not None:
        return local_folder(config.output)
    if is_address(config.run):
        return local_folder(f"videos/{recording.run['run_id']}")
    return Path(config.run).expanduser() / "videos"


def prove(folder: Path) -> None:
    """Raises CannotWriteError where videos have no place; before anything is simulated."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    prove_writable(folder / ".writable", "--output")


# --- simulating, for `rsd verify` too -----------------------------------------------------------

DIFFER = "differ"  # takes with an episode that ended otherwise
FAILED = "failed"  # takes that could not be simulated


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
        standing = Count(len(self.takes), what, noted={DIFFER: 0, FAILED: 0})
        with make_display(console) as display:

            def came(take: Take, replayed: Replayed | None, why: str) -> None:
                standing.now += 1
                if replayed is None:
                    standing.noted[FAILED] += 1
                    display.say(f"{take}: could not be simulated: {why}")
                else:
                    told = keep(take, replayed)
                    different = [text for text in replayed.differs if text]
                    standing.noted[DIFFER] += bool(different)
                    for text in different:
                        display.say(f"DIFFERS: {take}: {text}")
                    if told:
                        display.say(f"{take}: {told}")
                display.show(standing)

            if self.workers is None:
                self._here(came)
            else:
                self._on_ray(self.workers, came, display.say)
        if standing.noted[DIFFER]:
            self._explain(standing, console)
            return DIFFERS
        return STOPPED if standing.noted[FAILED] else DONE

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

    def _explain(self, standing: Count, console: Console) -> None:
        """What may have made a difference."""
        facts = [
            {"code": run["code"]} | conditions.of_states(run) | conditions.of_machine(run)
            for run in (self.recording.run, self.here)
        ]
        found = conditions.then_and_here(*facts)
        lines = [f"{standing.noted[DIFFER]} of {standing.done} do not end as recorded.", *found]
        if not found:
            lines.append("Code, packages, assets, arithmetic and processor are those of the run.")
        for line in lines:
            console.print(line, style="bold red", **PLAIN)


_LEAST = {
    "workers": Least(1, "somebody has to simulate"),
    "time_limit_s": Least(1, "a simulator takes seconds to make"),
}
