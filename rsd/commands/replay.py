"""Recorded episodes as videos: `rsd replay --help`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from rsd.cluster.replayer import Replayed
from rsd.commands import DONE, as_called, called
from rsd.commands.stage import Stage, StageConfig
from rsd.config import SimulatorConfig
from rsd.console import PLAIN
from rsd.errors import UserError, writing
from rsd.flags import WITHOUT_GROUPS, Least, check_least, read
from rsd.outputs import is_address, local_folder, prove_writable, write_file
from rsd.replay import choice, video
from rsd.replay.choice import Filter, Take
from rsd.replay.recording import Recording

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
