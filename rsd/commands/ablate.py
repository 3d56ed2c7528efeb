"""Ablations: `rsd ablate --help`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from rsd import commands
from rsd.books import holds_a_run
from rsd.books.folder import Folder
from rsd.commands import DONE, as_called, called, go_on
from rsd.commands.evaluate import WITH_ERRORS, carry_out, check_place
from rsd.config import ClusterConfig, OutputConfig
from rsd.console import PLAIN, duration
from rsd.errors import UserError
from rsd.flags import WITHOUT_GROUPS, read
from rsd.outputs import lasting
from rsd.preflight import RunPlan, check_output, output_of
from rsd.study import FACTORS, Cell, begin, cells_of, check_study, read_study

DESCRIPTION = f"""\
One base cell, and factors of which each changes one thing of it, on the same worlds: every cell a
run of `rsd evaluate` in DIR/cells, then one Parquet (study.parquet: a row an episode, its levels
beside it), a table (study.md) and a curve a factor (FACTOR.png, FACTOR.svg).

  base:                       # the names of rsd evaluate's flags
    policy: libero
    task_suite: [libero_spatial, libero_goal]
    num_trials: 10
    arms: speculative         # one: the base cell's
  factors:
    layers: [1, 2, 3, 4, 5]
    rule: [relaxed=1, relaxed=2, agreement=0.9]
    replan: [2, 4]

Factors: {". ".join(f"{name}: {factor.what}" for name, factor in FACTORS.items())}.

Examples:
  rsd ablate study.yaml --output results/study --dry-run
  rsd ablate study.yaml --output results/study
  rsd ablate study.yaml --output results/study --resume    # after any interruption; draws again
  rsd report results/study/cells/base                      # a cell is a run like any other

Exit codes are those of `rsd evaluate`, of the first cell that did not end well.
"""


@dataclass(frozen=True)
class AblateConfig:
    """A study, and how its cells are carried out."""

    study: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="STUDY.yaml")]]
    """The base and the factors"""

    output: OutputConfig = field(default_factory=OutputConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


def main(words: Sequence[str], console: Console) -> int:
    """Check every cell, run them one after the other, write what they say; returns the exit code.

    The checks of all cells come before the first episode of any.
    """
    config: AblateConfig = read(
        AblateConfig, words, called("ablate"), as_called(DESCRIPTION), WITHOUT_GROUPS
    )
    if config.output.output is None:
        raise UserError("name a folder for the study, as in --output results/study")
    output = dataclasses.replace(config.output, output=lasting(config.output.output))
    folder = Folder.at(str(output.output))
    study = read_study(config.study)
    check_study(study, folder, output.resume)
    cells = [_going_on(cell) for cell in cells_of(study, output, config.cluster)]
    for cell in cells:
        check_place(cell.run)
        check_output(cell.run)
    describe(cells, console)
    if output.dry_run:
        forecast_lines(cells, console)
        return DONE
    begin(study, folder)
    again = go_on("ablate", f"--output {output.output}")
    code = run_all(cells, again, console)
    if code in (DONE, WITH_ERRORS):
        write(cells, folder, console)
    return code


def _going_on(cell: Cell) -> Cell:
    """With --resume exactly where a session before has begun the cell."""
    config = cell.run.config
    begun = config.output.resume and holds_a_run(output_of(cell.run))
    output = dataclasses.replace(config.output, resume=begun)
    run = dataclasses.replace(cell.run, config=dataclasses.replace(config, output=output))
    return dataclasses.replace(cell, run=run)


def describe(cells: Sequence[Cell], console: Console) -> None:
    """A line a cell, and one for all of them."""
    for cell in cells:
        console.print(
            f"{cell.name}: {_episodes(cell.run)}, {', '.join(map(str, cell.points))}", **PLAIN
        )
    total = sum(len(cell.run.keys) for cell in cells)
    arms = sum(len(cell.points) for cell in cells)
    console.print(f"{len(cells)} cells, {arms} arms, {total} episodes", **PLAIN)


def _episodes(run: RunPlan) -> str:
    return f"{len(run.keys)} {'episode' if len(run.keys) == 1 else 'episodes'}"


def forecast_lines(cells: Sequence[Cell], console: Console) -> None:
    """How long each cell takes, and all of them."""
    with commands.importing():
        from rsd.cluster.forecast import forecast  # ray takes a second to import

    total = 0.0
    for cell in cells:
        seconds = forecast(cell.run).seconds
        total += seconds
        console.print(f"{cell.name}: about {duration(seconds)}", **PLAIN)
    console.print(f"time: about {duration(total)} if every episode takes all steps", **PLAIN)
    console.print("dry run: nothing was started", **PLAIN)


def run_all(cells: Sequence[Cell], again: str, console: Console) -> int:
    """Cell by cell, to the end or to the first that does not come to its own; returns the worst
    exit code."""
    worst = DONE
    for number, cell in enumerate(cells, 1):
        console.print(f"cell     {number} of {len(cells)}: {cell.name}", **PLAIN)
        code = carry_out(cell.run, console, again)
        if code not in (DONE, WITH_ERRORS):
            return code
        worst = max(worst, code)
    return worst


def write(cells: Sequence[Cell], folder: Folder, console: Console) -> None:
    """Put Parquet, table and pictures of a finished study into its folder."""
    with commands.importing():
        from rsd.ablation import curves, page, study_parquet, table  # pandas takes a second
        from rsd.presentation.ablations import picture
        from rsd.presentation.figures import FORMATS

    found = curves(cells)
    files = {"study.parquet": study_parquet(cells), "study.md": page(found, FORMATS).encode()}
    for curve in found:
        for format in FORMATS:
            files[f"{curve.factor}.{format}"] = picture(curve, format)
        for line in table(curve):
            console.print(line, **PLAIN)
        console.print("", **PLAIN)
    for name, content in files.items():
        with folder.opening():
            folder.write(name, content)
        console.print(f"wrote    {folder.shown}/{name}", **PLAIN)
