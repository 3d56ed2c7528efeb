"""Whether recorded episodes end as recorded when they are simulated again: `rsd verify --help`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import tyro
from rich.console import Console

from rsd.cluster.replayer import Replayed
from rsd.commands import DONE, as_called, called
from rsd.commands.replay import Stage, StageConfig
from rsd.console import PLAIN
from rsd.flags import WITHOUT_GROUPS, Least, check_least, read
from rsd.replay import choice
from rsd.replay.choice import Filter, Take
from rsd.replay.recording import Recording
from rsd.tables import Grid, print_grid

DESCRIPTION = """\
Simulate a sample of recorded episodes again from their actions, without the policy and without
drawing, and say how many end in the recorded state.

Examples:
  rsd verify results/spatial
  rsd verify results/spatial --sample 200 --workers 8 --arm speculative

Exit codes: 0 every episode ends as recorded; 1 some could not be simulated, or it stopped early; 2
the request cannot be carried out; 3 some end in another state; 130 interrupted.
"""


@dataclass(frozen=True)
class VerifyConfig:
    """What is simulated again."""

    run: tyro.conf.Positional[str]
    """Folder or address of a run, finished or going on"""

    sample: int = 20
    """So many episodes"""

    seed: int = 0
    """Of the draw"""

    which: Filter = field(default_factory=Filter)

    stage: StageConfig = field(default_factory=StageConfig)


def main(words: Sequence[str], console: Console) -> int:
    """Parse, simulate, count; returns the exit code that `--help` explains."""
    config: VerifyConfig = read(
        VerifyConfig, words, called("verify"), as_called(DESCRIPTION), WITHOUT_GROUPS
    )
    check_least(vars(config), {"sample": Least(1, "nothing to verify otherwise")})
    recording = Recording.of(config.run)
    outcomes = config.which.of(recording.outcomes)
    takes = choice.sample(outcomes, config.sample, config.seed)
    if unfinished := recording.unfinished():
        console.print(unfinished, **PLAIN)
    if not takes:
        console.print("no episode came to a verdict yet", **PLAIN)
        return DONE
    counts: Counter[tuple[str, str, bool]] = Counter()  # suite, arm, as recorded

    def count(take: Take, replayed: Replayed) -> str:
        counts[take.key.suite, take.key.arm, not any(replayed.differs)] += 1
        return ""

    stage = Stage.of(recording, takes, config.stage)
    try:
        return stage.play(count, "episodes", console)
    finally:  # also of what was simulated until an interrupt
        if counts:
            tell(counts, len(takes), console)


def tell(counts: Counter[tuple[str, str, bool]], planned: int, console: Console) -> None:
    """How many ended as recorded, by (suite, arm, as recorded), and of how many."""
    grid = Grid("Simulated again", ("suite", "arm", "episodes", "as\nrecorded"), names=2)
    for suite, arm in sorted({(suite, arm) for suite, arm, _ in counts}):
        same, other = counts[suite, arm, True], counts[suite, arm, False]
        grid.add(suite, arm, str(same + other), str(same))
    print_grid(console, grid)
    agree = sum(number for (_, _, same), number in counts.items() if same)
    console.print(f"{agree} of {planned} final states agree", **PLAIN)
    if counts.total() < planned:
        console.print(f"{planned - counts.total()} were not simulated", **PLAIN)
