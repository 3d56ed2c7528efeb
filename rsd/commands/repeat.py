"""Evaluate a sample of recorded results again, and compare: `rsd repeat --help`."""

from __future__ import annotations

import dataclasses
import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro
from rich.console import Console

from rsd import commands, repeat
from rsd.cluster.address import check_cluster
from rsd.cluster.display import Count, make_display
from rsd.commands import DONE, as_called, called
from rsd.config import ClusterConfig, EvaluateConfig, SimulatorConfig
from rsd.console import PLAIN
from rsd.envs.rendering import process_variables
from rsd.errors import CannotWriteError, RunStoppedError, UserError
from rsd.flags import WITHOUT_GROUPS, Least, check_least, read
from rsd.preflight import RunPlan, open_books, prepare, run_record
from rsd.tables import Grid, print_grid

DIFFERS = 3

DESCRIPTION = """\
Evaluate a sample of recorded results again, here, and say how many outcomes, steps and final states
agree. States are the same bits on every x86-64 machine with AVX2, with any build of torch. Chunks
of arms with +delay=measured come as late as they did then, whatever decoding takes here.

Examples:
  rsd repeat docs/results/machines/epyc.parquet            # 3 worlds of each suite
  rsd repeat docs/results/libero_lite_spatial.parquet --worlds 20
  rsd repeat results/spatial --arms speculative            # a run's own folder

Exit codes: 0 every final state agrees; 1 the evaluation stopped early; 2 the request cannot be run;
3 some final states differ; 130 interrupted.
"""


@dataclass(frozen=True)
class RepeatConfig:
    """What is evaluated again."""

    source: tyro.conf.Positional[str]
    """A file of `rsd results keep`, or the folder or address of a run"""

    worlds: int = 3
    """Worlds (task, trial) of each suite, drawn from those that are recorded for all arms"""

    arms: tuple[str, ...] = ()
    """Arms to repeat; all that are recorded if left out"""

    seed: int = 0
    """Of the draw"""

    policy: str | None = None
    """The policy; a bundled one is found by its hash"""

    assets: str | None = None
    """The folder of the asset tree, where the results are not on lite or official assets"""

    renderer: str = SimulatorConfig.renderer
    """auto, osmesa, egl"""

    output: Annotated[str | None, tyro.conf.arg(metavar="DIR|URI")] = None
    """Where the new rows go; None: nowhere"""

    alone: bool = False
    """Without Ray, one episode after the other in this process: also under an emulator of another
    processor"""

    cluster: ClusterConfig = field(default_factory=ClusterConfig)


def main(words: Sequence[str], console: Console) -> int:
    """Parse, sample, evaluate, compare; returns the exit code that `--help` explains."""
    config: RepeatConfig = read(
        RepeatConfig, words, called("repeat"), as_called(DESCRIPTION), WITHOUT_GROUPS
    )
    return carry_out(config, console)


def carry_out(config: RepeatConfig, console: Console) -> int:
    """Sample, evaluate and compare; returns the exit code. Raises RunStoppedError where the run
    stops or its rows have no place, UserError for what cannot be run, KeyboardInterrupt for an
    interrupt."""
    check_least({"worlds": config.worlds}, {"worlds": Least(1, "nothing to repeat otherwise")})
    kept = repeat.load(config.source)
    if not config.alone:
        check_cluster()
    plan = plan_of(config, kept)
    console.print(f"{len(plan.keys)} episodes of {config.source} again", **PLAIN)
    for line in repeat.differences(kept, run_record(plan)):
        console.print(f"  {line}", **PLAIN)
    with tempfile.TemporaryDirectory() as aside:
        output = config.output or f"{aside}/run"
        try:
            (alone if config.alone else on_ray)(plan_in(plan, output), console)
        except CannotWriteError as error:
            raise RunStoppedError(str(error)) from error
        return compared(plan, kept, output, console)


def plan_of(config: RepeatConfig, kept: repeat.Kept) -> RunPlan:
    """The sample as a run. Raises UserError where the policy or the assets are others."""
    asked = repeat.config_of(kept, config.arms, config.policy)
    simulator = SimulatorConfig(repeat.assets_for(kept.origin, config.assets), config.renderer)
    output = dataclasses.replace(asked.output, output=config.output)
    run = prepare(EvaluateConfig(asked.episodes, asked.policy, simulator, output, config.cluster))
    if run.policy.sha256 != kept.origin["checkpoint_sha256"]:
        raise UserError(
            f"policy {run.config.policy.policy!r} is {run.policy.sha256[:12]}, the results are "
            f"those of {str(kept.origin['checkpoint_sha256'])[:12]}"
        )
    keys = repeat.worlds_of(kept, config.arms, config.worlds, config.seed)
    lateness = repeat.lateness_of(config.source, keys, run.arms)
    return dataclasses.replace(run, keys=keys, lateness=lateness)


def plan_in(run: RunPlan, output: str) -> RunPlan:
    """The same plan with its rows in `output`."""
    where = dataclasses.replace(run.config.output, output=output)
    return dataclasses.replace(run, config=dataclasses.replace(run.config, output=where))


def on_ray(run: RunPlan, console: Console) -> None:
    """Evaluate a plan as `rsd evaluate` does. Raises RunStoppedError where it stops early,
    KeyboardInterrupt where the user interrupts it."""
    with commands.importing():  # after all checks: ray takes a second
        from rsd.cluster.evaluate import evaluate
        from rsd.cluster.session import connected

    with open_books(run, lambda line: console.print(line, **PLAIN)) as books, connected():
        standing = evaluate(run, books, console)
    if standing.recorded < standing.planned:  # a single Ctrl-C: what was running has ended
        raise KeyboardInterrupt


def alone(run: RunPlan, console: Console) -> None:
    """Evaluate a plan here; a task's episodes share its simulator."""
    os.environ.update(process_variables(run.renderer))  # before torch and mujoco are loaded
    with commands.importing():  # ray and torch take seconds
        from rsd.cluster.worker import EnvWorker, WorkerSettings
        from rsd.models import load_policy

    limit_s = run.config.cluster.time_limit_s
    worker = EnvWorker(
        WorkerSettings(run.assets, run.renderer, run.policy.images, limit_s, run.protocol)
    )
    settings = run.config.policy
    policy = load_policy(settings.policy, deterministic=settings.deterministic, device="cpu")
    count = Count(len(run.keys), "episodes")
    with make_display(console) as display, open_books(run, display.say) as books:
        for key in run.keys:
            arm = run.arm_of(key)
            result = worker.run(key, arm, lambda request: policy.act([request])[0])
            books.add(result, attempts=1, worker="alone", node=platform.node())
            name = f"{key.arm} {key.suite} {key.task_id} {key.trial}"
            display.say(f"{name}: {result.outcome} after {result.steps} steps")
            count.now += 1
            display.show(count)


def compared(run: RunPlan, kept: repeat.Kept, output: str, console: Console) -> int:
    """Print how the rows in `output` compare; returns the exit code."""
    lines = repeat.compare(kept, repeat.load(output))
    print_grid(console, table(lines))
    finished = sum(line.episodes for line in lines)
    if finished < len(run.keys):
        console.print(f"{len(run.keys) - finished} episodes did not finish here", **PLAIN)
    for line in lines:
        for task, trial in line.parted:
            console.print(f"another state: {line.arm} {line.suite} {task} {trial}", **PLAIN)
    states = sum(line.states for line in lines)
    console.print(f"{states} of {finished} final states agree", **PLAIN)
    return DONE if states == finished == len(run.keys) else DIFFERS


def table(lines: Sequence[repeat.Agreement]) -> Grid:
    """A row an arm and suite."""
    counts = ("episodes", "outcomes", "steps", "final\nstates", "with\nnear ties")
    grid = Grid("As recorded", ("suite", "arm", *counts), names=2)
    for line in lines:
        numbers = (line.episodes, line.outcomes, line.steps, line.states, line.near_ties)
        grid.add(line.suite, line.arm, *map(str, numbers))
    return grid
