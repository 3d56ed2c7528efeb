"""Collect demonstrations of the scripted experts: `rsd collect --help`."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from rsd import arithmetic, commands, installation
from rsd.arms import name_of, read_arm
from rsd.cluster.address import check_cluster
from rsd.cluster.display import make_display
from rsd.commands import DONE, INTERRUPTED, STOPPED, as_called, called, go_on
from rsd.conditions import WORLD_PACKAGES
from rsd.config import ClusterConfig
from rsd.console import PLAIN, duration
from rsd.demos import (
    FIRST_SEED,
    CollectionSettings,
    NoiseSettings,
    NoviceSettings,
    Store,
)
from rsd.demos.settings import DRIVERS_DECODING
from rsd.envs import assets, rendering
from rsd.envs.looks import Looks
from rsd.errors import RunStoppedError, UserError, unknown
from rsd.experts import EXPERTS, has_other_rim
from rsd.flags import Least, LocalFolder, check_least, read
from rsd.models import PolicyInfo, inspect_policy
from rsd.plan import ready_arms, refuse_repeats
from rsd.provenance import code, packages
from rsd.suites import Task, get_suite, get_task
from rsd.types import Decoding, ImageSpec

if TYPE_CHECKING:
    from rsd.cluster.collect import CollectionPlan, CollectionRun, Cost, TaskStanding

INCOMPLETE = 3

DRIVERS_SHARE = 0.5  # of the decisions
DRIVERS_PART = 0.6  # of the steps that an episode may take

DESCRIPTION = """\
Collect demonstrations of the scripted experts in parallel on a Ray cluster; HDF5 files in LIBERO's
own layout come out, one a task, for `rsd train`.

Placements are drawn from seeds, never from the 50 stored states that evaluation uses. Only solved
episodes are kept. The same arguments give the same demonstrations on any number of workers.
With RAY_ADDRESS set (`ray job submit` sets it) the run uses that cluster and grows with it, else
this machine.

A placement that the expert does not solve is replaced by the next seed. So is a void one, whose
goal holds before anything was done; it says nothing of the expert. A placement that something else
breaks off three times (an exception, a hang, a dead worker, NaN in what was recorded) is an error:
it is skipped, errors/<task>/<seed>.txt says why, and it keeps its place until --resume tries it
again. Where it never works, --demos with one more goes past it.

Examples:
  rsd collect --tasks 0 --demos 2 --output data/look               # quick look
  rsd collect --demos 50 --output data/spatial                     # 10 tasks x 50
  rsd collect --demos 100 --output data/spatial --resume           # 50 more of each
  rsd collect --demos 20 --jitter 1 --first-seed 1000 --output data/other_looks
  rsd collect --demos 20 --either-rim --output data/two_modes
  rsd collect --demos 20 --driver checkpoints/spatial --output data/dagger
  rsd collect --demos 20 --driver libero --driver-arm draft --driver-share 1 --noise 0 \
      --output data/of_the_draft
  ray job submit --working-dir . -- python jobs/collect.py --demos 50 --output /shared/spatial

The output folder lies with the job's own process: under `ray job submit` it lies on the head node,
and relative paths start at the home folder.

Exit codes: 0 every task has its demonstrations; 1 the run stopped early (no worker starts, the disk
is full); 2 the request cannot be run, or --output holds damaged files, nothing was started; 3 tasks
lack demonstrations: given up since too many placements failed, or placements were skipped for
errors; 130 interrupted. After 1, 3 and 130 --resume goes on.
"""


@dataclass(frozen=True)
class CollectConfig:
    """One collection, as a user asks for it."""

    output: LocalFolder
    """Folder for `<task>_demo.hdf5`"""

    suite: Annotated[
        str, tyro.conf.arg(help=f"A suite that has an expert: {', '.join(EXPERTS)}")
    ] = "libero_spatial"

    tasks: tuple[int, ...] = ()
    """Task numbers from 0; all tasks if left out"""

    demos: int = 50
    """Demonstrations of each task that the folder holds in the end"""

    first_seed: int = FIRST_SEED
    """Seed of the first placement"""

    resume: bool = False
    """Add to what --output holds: after an interrupt, or with more --demos or other --tasks"""

    assets: str = "auto"
    """auto (official ones if downloaded before, else lite), lite, official, or the folder of an
    asset tree"""

    renderer: str = "auto"
    """auto, osmesa, egl"""

    image_size: int = 96
    """Pixels of the square frames. These image settings become those of the trained policy"""

    samples: int = 0
    """Multisampling; LIBERO asks for 4, 0 draws in half to two thirds of the time on a CPU"""

    reflection: bool = False
    """Draw reflections, as LIBERO does, where the scene has any (lite has none); costs a third of
    the time on a CPU"""

    frame_every: int = CollectionSettings.frame_every
    """Steps from frame to frame; 1 gives files that LIBERO's own loader reads as well"""

    noise: float = NoiseSettings.sigma
    """Standard deviation of the xyz offset (1 is the largest action) that bursts of disturbance add
    to what the expert does; labels stay clean. 0: the expert undisturbed"""

    slips: float = NoiseSettings.slip_probability
    """Probability a step that the gripper slips for a moment; without effect where --noise is 0"""

    misses: float = 0.0
    """Probability that a grasp is missed on purpose: the hand rises, closes on nothing and drifts
    on, and the expert goes back. Such steps are no examples, what follows them is"""

    either_rim: bool = False
    """Take a vessel by its own rim or by a second one that will do as well, half and half by the
    seed: demonstrations of two modes (docs/ambiguity.md)"""

    jitter: float = 0.0
    """How much what is drawn varies from placement to placement. 1: cameras by up to 1 cm and 1
    degree an axis, lamps by 30 cm and 30 %, colours by 20 %; physics stays"""

    driver: str | None = None
    """A checkpoint that drives while the expert labels (DAgger): the demonstrations then hold the
    states that it leads to, and the way back"""

    driver_share: float | None = None
    """Probability that the driver executes the next chunk, 0.5 if left out; else the expert
    executes two. Noise falls on the expert's actions alone. After three fifths of the steps that an
    episode may take, the expert drives alone"""

    driver_arm: str | None = None
    """How the driver decodes, autoregressive if left out: an arm of `rsd evaluate`, such as draft,
    whose states a draft is then trained on (`rsd train --draft-only`, docs/temporal.md)"""

    hold_steps: int = CollectionSettings.hold_steps
    """Steps recorded after the goal is reached, which fill the last chunk of actions"""

    workers: int | None = None
    """Simulators at a time; more than fit now are a demand to an autoscaler. None: as many as the
    cluster has CPUs and memory for, more while nodes join it"""

    worker_memory_gb: float = ClusterConfig.worker_memory_gb
    """Memory that a worker asks of Ray"""

    demos_per_worker: int = 100
    """Episodes after which a worker's process is replaced, which bounds leaks"""

    time_limit_s: float = 300.0
    """Wall seconds an episode may take, making its simulator included"""


def main(words: Sequence[str], console: Console) -> int:
    """Parse, check, collect, summarise; returns the exit code that `--help` explains."""

    def say(line: str) -> None:
        console.print(line, **PLAIN)

    config: CollectConfig = read(CollectConfig, words, called("collect"), as_called(DESCRIPTION))
    plan = prepare(config)
    check_cluster()
    say(f"assets   {plan.worker.assets.name}: {plan.worker.assets.reason}")
    say(f"renderer {plan.worker.renderer}")
    with contextlib.closing(Store(config.output, _shared(config, plan), config.resume)) as store:
        with commands.importing():
            from rsd.cluster.collect import CollectionRun  # ray takes a second to import
        run = CollectionRun(plan, store, say)
        ending = carry_out(run, console, say)
        return conclude(run.standings(), ending, config.output, say)


def prepare(config: CollectConfig) -> CollectionPlan:
    """Check a request against this machine; writes nothing but the asset cache.

    Raises UserError.
    """
    with commands.importing():  # ray takes a second
        from rsd.cluster.collect import CollectionPlan
        from rsd.cluster.worker import WorkerSettings

    _check(config)
    noise = NoiseSettings(config.noise, slip_probability=config.slips) if config.noise else None
    size = config.image_size
    images = ImageSpec(size, size, config.samples, config.reflection)
    max_steps = get_suite(config.suite).max_steps
    return CollectionPlan(
        tasks=_tasks(config),
        demos=config.demos,
        first_seed=config.first_seed,
        worker=WorkerSettings(
            assets.resolve(config.assets, [config.suite]),
            rendering.resolve(config.renderer),
            images,
            config.time_limit_s,
        ),
        collection=CollectionSettings(
            max_steps,
            config.frame_every,
            config.hold_steps,
            noise,
            Looks().scaled(config.jitter) if config.jitter else None,
            _novice(config, images, max_steps) if config.driver else None,
            config.misses or None,
            config.either_rim or None,
        ),
        policy=config.driver,
        code=code(),
        workers=config.workers,
        worker_memory_gb=config.worker_memory_gb,
        demos_per_worker=config.demos_per_worker,
    )


_LEAST: dict[str, Least] = {
    "demos": Least(1, "nothing to collect otherwise"),
    "first_seed": Least(FIRST_SEED, "seed 0 draws the fixtures of the evaluation's worlds"),
    "image_size": Least(8, "there is nothing to see otherwise"),
    "samples": Least(0, "0 is none"),
    "frame_every": Least(1, "1 is every step"),
    "noise": Least(0, "0 is none"),
    "slips": Least(0, "it is a probability"),
    "misses": Least(0, "it is a probability"),
    "jitter": Least(0, "0 is none"),
    "hold_steps": Least(0, "0 stops at the goal"),
    "workers": Least(1, "somebody has to simulate"),
    "worker_memory_gb": Least(0, "0 asks for none"),
    "demos_per_worker": Least(1, "1 is a process an episode"),
    "time_limit_s": Least(1, "a simulator takes seconds to make"),
}


def _check(config: CollectConfig) -> None:
    check_least(vars(config), _LEAST)
    for name in ("slips", "misses"):
        if getattr(config, name) > 1:
            raise UserError(f"--{name} {getattr(config, name)}: at most 1 (it is a probability)")
    share = config.driver_share
    if share is not None and not 0 < share <= 1:
        raise UserError(f"--driver-share {share}: above 0 and at most 1 (it is a probability)")
    for flag, said in (("--driver-share", share), ("--driver-arm", config.driver_arm)):
        if said is not None and config.driver is None:
            raise UserError(f"{flag} {said}: nobody drives; name a policy with --driver")
    if config.renderer == rendering.NO_RENDERER:
        raise UserError("--renderer none: demonstrations need frames; choose auto, osmesa or egl")
    get_suite(config.suite)
    if config.suite not in EXPERTS:
        raise unknown("suite with an expert", config.suite, EXPERTS)
    tasks = [task.task_id for task in _tasks(config)]
    if config.either_rim and not any(has_other_rim(config.suite, task) for task in tasks):
        raise UserError(
            f"--either-rim: in no task of {config.suite} {sorted(tasks)} a vessel is taken by "
            "either of two rims; libero_spatial has such tasks"
        )


def _novice(config: CollectConfig, images: ImageSpec, max_steps: int) -> NoviceSettings:
    policy = inspect_policy(str(config.driver))
    policy.check_suite(config.suite, str(config.driver))
    if policy.images != images:
        raise UserError(
            f"--driver {config.driver} reads frames drawn as {policy.images}, the demonstrations "
            f"would hold {images}; give its settings by --image-size, --samples, --reflection"
        )
    if policy.chunk_steps is None:
        raise UserError(
            f"--driver {config.driver} decides chunk by chunk how long it acts; collecting needs "
            "one whose chunks have a known length"
        )
    steps = round(max_steps * DRIVERS_PART)
    share = DRIVERS_SHARE if config.driver_share is None else config.driver_share
    decoding = _drivers_decoding(config.driver_arm, str(config.driver), policy)
    return NoviceSettings(policy.sha256, policy.chunk_steps, share, steps, decoding=decoding)


def _drivers_decoding(name: str | None, spec: str, policy: PolicyInfo) -> Decoding | None:
    """Of an arm; None: DRIVERS_DECODING, as older collections have it. Raises UserError for one
    that cannot drive, or that the policy does not decode."""
    if name is None:
        return None
    (arm,) = ready_arms([read_arm(name)], spec, policy)
    if arm.delay is not None:
        raise UserError(
            f"--driver-arm {name}: nobody waits for a driver; leave out +delay, as in "
            f"{name_of(arm.decoding)}"
        )
    return None if arm.decoding == DRIVERS_DECODING else arm.decoding


def _tasks(config: CollectConfig) -> tuple[Task, ...]:
    refuse_repeats("task", config.tasks)
    numbers = config.tasks or range(get_suite(config.suite).num_tasks)
    return tuple(get_task(config.suite, number) for number in numbers)


def _shared(config: CollectConfig, plan: CollectionPlan) -> dict[str, Any]:
    """What all demonstrations of a folder have in common."""
    return {
        "suite": config.suite,
        "assets": plan.worker.assets.name,
        "assets_fingerprint": plan.worker.assets.fingerprint,
        "renderer": plan.worker.renderer,
        "images": dataclasses.asdict(plan.worker.images),
        "settings": dataclasses.asdict(plan.collection),
        "first_seed": config.first_seed,
        "packages": packages(WORLD_PACKAGES),
        "arithmetic": arithmetic.name(),
        "simulator": installation.check(),
    }


@dataclass(frozen=True)
class Ending:
    """Why a run is over; neither: it has nothing left to do."""

    stopped: str = ""  # by what
    interrupted: bool = False


def carry_out(run: CollectionRun, console: Console, say: Callable[[str], None]) -> Ending:
    """Collect what the folder lacks, and show what it holds then."""
    from rsd.cluster.session import connected
    from rsd.cluster.watch import Interrupts, beside

    ending = Ending()
    try:
        with (
            make_display(console) as display,
            connected(),
            Interrupts(lambda _: say("stopping")) as interrupts,
        ):
            started = time.monotonic()
            beside(
                lambda: run.run(
                    lambda: interrupts.finish,
                    lambda standings: display.show(
                        CollectionStanding(standings, time.monotonic() - started)
                    ),
                ),
                lambda: interrupts.leave,
            )
            ending = Ending(interrupted=interrupts.count > 0)
    except (RunStoppedError, UserError, OSError) as error:  # the last two: of writing files
        ending = Ending(stopped=str(error))
    except KeyboardInterrupt:  # before the run began, or in a hurry
        say("stopping")
        ending = Ending(interrupted=True)
    console.print(_table(run.standings()))
    _say_costs(run.costs, say)
    return ending


def conclude(
    standings: dict[Task, TaskStanding], ending: Ending, folder: Path, say: Callable[[str], None]
) -> int:
    """Say how a run ended; returns the exit code."""
    if ending.stopped:
        say(f"stopped: {ending.stopped}")
    skipped = sum(standing.errors_now for standing in standings.values())
    if skipped:
        say(
            f"{skipped} placement(s) skipped for errors, told in {folder / 'errors'}; --resume "
            "tries them again"
        )
    given_up = [task for task, standing in standings.items() if standing.given_up]
    for task in given_up:
        say(f"gave up on task {task.task_id}: {standings[task].given_up}")
    if not ending.stopped and all(standing.complete for standing in standings.values()):
        say(f"complete: {folder}")
        return DONE
    if ending.stopped or ending.interrupted:
        how = "incomplete" if ending.stopped else "interrupted"
        say(f"{how}; {go_on('collect')}")
        return STOPPED if ending.stopped else INTERRUPTED
    say(f"incomplete: what was kept lies in {folder}")
    return INCOMPLETE


# --- what is shown ---------------------------------------------------------------------------


@dataclass(frozen=True)
class CollectionStanding:
    """Where a collection is."""

    tasks: dict[Task, TaskStanding]
    elapsed_s: float
    over: bool = False  # a table of its own says how it ended

    def line(self) -> str:
        """Counts of all tasks, and rates."""
        tasks = self.tasks.values()
        done = sum(min(task.done, task.wanted) for task in tasks)
        wanted = sum(task.wanted for task in tasks)
        now = sum(task.done_now for task in tasks)
        failed = sum(task.failed_now for task in tasks)
        errors = sum(task.errors_now for task in tasks)
        left = duration(self.elapsed_s * (wanted - done) / now if now else None)
        return (
            f"{done}/{wanted} demonstrations, {failed} placements not solved, {errors} errors, "
            f"{3600 * now / self.elapsed_s:,.0f} an hour, {left} left"
        )

    def panel(self) -> Table:
        """A row a task, under that line."""
        return _table(self.tasks, self.line())


def _table(standings: dict[Task, TaskStanding], title: str | None = None) -> Table:
    names = ("task", "stored", "solved now", "void", "errors", "instruction")
    table = Table(title=title, box=None)
    for name in names:
        table.add_column(name, overflow="fold")
    table.title_justify = "left"
    for task, standing in standings.items():
        tried = standing.done_now + standing.failed_now
        share = f" ({100 * standing.done_now / tried:.0f} %)" if tried else ""
        table.add_row(
            str(task.task_id),
            f"{standing.done}/{standing.wanted}",
            f"{standing.done_now}/{tried}{share}",
            str(standing.void_now),
            str(standing.errors_now),
            task.instruction,
        )
    return table


def _say_costs(costs: Sequence[Cost], say: Callable[[str], None]) -> None:
    """Where the workers' time went."""
    if not costs:
        return
    wall_s = statistics.mean(cost.wall_s for cost in costs)
    parts = ", ".join(
        f"{name} {statistics.mean(getattr(cost.timings, f'{name}_s') for cost in costs):.2f}"
        for name in ("physics", "render", "reset")
    )
    peak_gb = max(cost.peak_memory_bytes for cost in costs) / 1e9
    say(f"an attempt took {wall_s:.2f} s ({parts}); a worker held {peak_gb:.1f} GB at most")
