"""Success against delay: `rsd delay --help`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro
from rich.console import Console

from rsd import commands
from rsd.arms import UNNAMED, WAITING, read_arm
from rsd.books.folder import Folder
from rsd.commands import DONE, as_called, called, go_on
from rsd.commands.evaluate import WITH_ERRORS, carry_out, ready
from rsd.config import EvaluateConfig, parse_tree
from rsd.console import PLAIN
from rsd.errors import UserError, unknown
from rsd.plan import resolve_arms
from rsd.preflight import output_of

DESCRIPTION = """\
How success falls with the delay of chunks: arms x delays x what the robot does meanwhile, on the
same worlds, as one run of `rsd evaluate`; then a picture of it, delay.png and delay.svg, in the
run's folder, and what 10 ms are worth.

Examples:
  rsd delay --arms autoregressive speculative --tasks 0 1 --num-trials 2 --delays 0 2 4
  rsd delay --policy libero --task-suite libero_spatial libero_object libero_goal libero_10 \\
      --num-trials 5 --delays 0 1 2 3 4 5 6 7 8 --output results/delay --resume
  rsd delay --draw results/delay                           # draw a run again, run nothing
  rsd delay --draw results/trials-0 results/trials-1       # the rows of several in one picture

Arms that should show their own decode on the time axis want --max-batch-size 1. Exit codes are
those of `rsd evaluate`; --resume goes on after any interruption.
"""


@dataclass(frozen=True)
class Sweep:
    """How late chunks are."""

    delays: Annotated[tuple[int, ...], tyro.conf.arg(metavar="STEPS [STEPS ...]")] = (0, 1, 2, 4, 8)
    """Control steps (50 ms) of every arm; 0 is the arm itself"""

    meanwhile: tuple[str, ...] = tuple(WAITING)
    """What the robot does while it waits: continue (the rest of the chunk before), hold (it stands
    still)"""

    draw: Annotated[tuple[str, ...], tyro.conf.arg(metavar="RUN [RUN ...]")] = ()
    """Draw these runs in one picture, in the folder of the first, and run nothing"""


@dataclass(frozen=True)
class DelayConfig(EvaluateConfig):
    """An evaluation whose arms are late."""

    sweep: Sweep = field(default_factory=Sweep)


def main(words: Sequence[str], console: Console) -> int:
    """Run the grid and draw it; returns the exit code."""
    config = parse_tree(DelayConfig, words, called("delay"), as_called(DESCRIPTION))
    if config.sweep.draw:
        draw(config.sweep.draw, console)
        return DONE
    run = ready(evaluation(config), console)
    if run.config.output.dry_run:
        return DONE
    code = carry_out(run, console, go_on("delay", f"--output {output_of(run)}"))
    if code in (DONE, WITH_ERRORS):
        draw([output_of(run)], console)
    return code


def evaluation(config: DelayConfig) -> EvaluateConfig:
    """The same with every arm at every delay. Raises UserError for words that mean nothing."""
    sweep, episodes = config.sweep, config.episodes
    if not sweep.delays or not sweep.meanwhile:
        raise UserError("--delays and --meanwhile need a value each")
    for word in sweep.meanwhile:
        if word not in WAITING:
            raise unknown("--meanwhile", word, WAITING)
    if episodes.while_waiting is not None or episodes.latency is not None:
        raise UserError("--while-waiting and --latency: the grid has --meanwhile and --delays")
    asked = resolve_arms(config)
    late = [arm.name for arm in asked.values() if arm.delay is not None]
    if late:
        raise UserError(f"arm {late[0]!r} has a delay; the grid has --delays")
    names = [
        read_arm(f"{arm}+delay={steps}+{waiting}").name
        for arm in asked
        for waiting in sweep.meanwhile
        for steps in sweep.delays
    ]
    grid = dataclasses.replace(
        episodes, arms=tuple(dict.fromkeys(names)), use_speculative_decoding=None
    )
    groups = {each.name: getattr(config, each.name) for each in dataclasses.fields(EvaluateConfig)}
    policy = dataclasses.replace(config.policy, rule=UNNAMED)  # names say another one
    return EvaluateConfig(**{**groups, "episodes": grid, "policy": policy})


def draw(outputs: Sequence[str], console: Console) -> None:
    """Put the pictures of runs into the folder of the first. Raises UserError for runs without
    late arms, and for such as cannot stand in one table."""
    with commands.importing():
        from rsd.presentation.delays import picture  # takes seconds
        from rsd.presentation.figures import FORMATS
        from rsd.summary import delays

    found = delays.curves(*outputs)
    folder = Folder.at(outputs[0])
    for line in delays.sentences(found):
        console.print(line, **PLAIN)
    for format in FORMATS:
        with folder.opening():
            folder.write(f"delay.{format}", picture(found, format))
        console.print(f"picture  {folder.shown}/delay.{format}", **PLAIN)
