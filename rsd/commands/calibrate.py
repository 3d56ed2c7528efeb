"""Calibrate when a draft may be trusted: `rsd calibrate --help`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console

from rsd import arithmetic, calibration, commands, installation
from rsd.arms import arm_of
from rsd.calibration import Closeness, Observed, Reliability, together
from rsd.cluster.address import check_cluster
from rsd.cluster.display import Count, make_display
from rsd.cluster.worker import WorkerSettings
from rsd.commands import DONE, as_called, called, go_on
from rsd.conditions import ROW_PACKAGES
from rsd.config import ClusterConfig
from rsd.console import PLAIN, complain
from rsd.demos import FIRST_SEED
from rsd.envs import assets, rendering
from rsd.envs.rendering import NO_RENDERER
from rsd.errors import CannotWriteError, RunStoppedError, UserError
from rsd.flags import Least, check_least, read
from rsd.models import PolicyInfo, inspect_policy
from rsd.outputs import local_folder, prove_writable, write_file
from rsd.plan import refuse_repeats
from rsd.provenance import code, packages
from rsd.rollouts import Rollouts
from rsd.suites import TRIALS_PER_TASK, get_suite, get_task
from rsd.tables import Grid, print_grid
from rsd.types import Arm, Decoding, EpisodeKey, Trust

STREAM = 15  # of the shares of rollouts, beside the draws in them

DESCRIPTION = """\
Calibrate when the draft of a policy may be trusted, for arms `temporal-confident=N`
(docs/temporal.md). Rolls the policy out on fresh placements, never on the 50 stored states that
evaluation uses. In each rollout the draft's chunks are executed by lot, another share of them each
time, so that states are seen to which any mixture leads; draft and target are asked in all of them.
What is fitted is the probability that all of the target's chunk lies within --mm and --degrees of
the draft's, gripper included. Written beside the checkpoint: calibration.json, with its reliability
on placements that were held out from the fit.

What is seen is kept in --seen, rollout by rollout. After an interruption of any kind --resume goes
on with it, to the same calibration; and where all is there, it fits again in a second, with other
--mm and --degrees.

Examples:
  rsd calibrate --policy checkpoints/mine --suite libero_goal
  rsd calibrate --policy libero --suite libero_goal --tasks 0 --rollouts 2       # quick look
  rsd calibrate --policy libero --rollouts 10 --seen results/seen                # 40 tasks x 10
  rsd calibrate --policy libero --rollouts 10 --seen results/seen --resume --mm 5    # fits again
  rsd calibrate --policy libero --check fresh --first-seed 700000   # how good is it, elsewhere?
  rsd calibrate --policy libero --check stored --json stored.json   # and on trials 0, 1, ...

With RAY_ADDRESS set (`ray job submit` sets it) it uses that cluster, else this machine.
Exit codes: 0 done; 1 stopped (no worker starts, rollouts keep failing, the disk is full); 2 bad
request; 130 interrupted. After 1 and 130 --resume goes on.
"""


@dataclass(frozen=True)
class CalibrateConfig:
    """One calibration, as a user asks for it."""

    policy: str = "libero"
    """Name of a bundled checkpoint, or the folder of one"""

    suite: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[STR [STR ...]]")] = ()
    """Suites of LIBERO; left out: those that the policy was trained on"""

    tasks: tuple[int, ...] = ()
    """Task numbers of each suite, from 0; all tasks if left out"""

    rollouts: int = 5
    """Of each task"""

    first_seed: int = 500_000
    """Of the fresh placements; trainings draw theirs from lower ones"""

    mm: float = Closeness.mm
    """How far a step's translation may lie from the target's, along any axis"""

    degrees: float = Closeness.degrees
    """The same of its rotation about any axis"""

    check: str = ""
    """fresh, stored: judge the calibration that the checkpoint has, and write none"""

    assets: str = "auto"
    """auto, lite, official, or the folder of an asset tree"""

    renderer: str = "auto"
    """auto, osmesa, egl"""

    workers: int | None = None
    """Simulators at a time; None: as many as the cluster has CPUs and memory for"""

    time_limit_s: float = ClusterConfig.time_limit_s
    """Wall seconds a rollout may take, making its simulator included"""

    seen: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for what is seen: a Parquet file a rollout, a row a chunk. None:
    results/<time>-calibration"""

    resume: bool = False
    """Do not roll out again what --seen holds: after an interruption, with more --rollouts, or to
    fit again"""

    json: Path | None = None
    """Also write the figures to this file"""


_LEAST = {
    "rollouts": Least(1, "there is nothing to see otherwise"),
    "first_seed": Least(FIRST_SEED, "seed 0 draws the fixtures of the evaluation's worlds"),
    "mm": Least(0, "0 is exactly the same"),
    "degrees": Least(0, "0 is exactly the same"),
    "workers": Least(1, "somebody has to simulate"),
    "time_limit_s": Least(1, "a simulator takes seconds to make"),
}
_CHECKS = ("", "fresh", "stored")


def main(words: Sequence[str], console: Console) -> int:
    """Check, roll out, fit or judge, write; returns the exit code that `--help` explains."""
    config: CalibrateConfig = read(
        CalibrateConfig, words, called("calibrate"), as_called(DESCRIPTION)
    )
    info = _check(config)
    check_cluster()
    path = _folder(info) / calibration.FILE
    if config.json is not None:
        prove_writable(config.json, "--json")
    if not config.check:
        prove_writable(path, "--policy")
    judged = _found(config, info) if config.check else None
    folder, settings = _place(config), _settings(config, info)
    with closing(Rollouts(folder, _facts(config, info, settings), config.resume)) as kept:
        console.print(f"seen {kept.folder}", **PLAIN)
        seen = _roll_out(config, info, settings, kept, console)
    made = judged or _made(config, info, seen, folder)
    found = made.reliability if judged is None else _judge(judged, seen)
    _show(found, f"{config.policy}: {config.check or 'held-out'} placements", console)
    if judged is None:
        write_file(path, made.content(), "--policy")
        console.print(f"wrote {path}", **PLAIN)
    if config.json:
        figures = {"reliability": dataclasses.asdict(found), "origin": made.origin}
        write_file(config.json, json.dumps(figures, indent=2) + "\n", "--json")
    return DONE


def _check(config: CalibrateConfig) -> PolicyInfo:
    """Raises UserError for what cannot be calibrated."""
    check_least(vars(config), _LEAST)
    if config.check not in _CHECKS:
        raise UserError(f"--check {config.check!r}: choose fresh or stored, or leave it out")
    if config.check == "stored" and config.rollouts > TRIALS_PER_TASK:
        raise UserError(f"--rollouts {config.rollouts}: a task has {TRIALS_PER_TASK} stored trials")
    if config.renderer == NO_RENDERER:
        raise UserError("--renderer none: a policy needs frames; choose auto, osmesa or egl")
    info = inspect_policy(config.policy)
    if "temporal" not in info.modes:
        raise UserError(
            f"--policy {config.policy}: it decodes {', '.join(info.modes)} only, so that there is "
            "no draft to trust; choose a policy that has the mode temporal"
        )
    if len(_keys(config, info)) < 2 and not config.check:
        raise UserError("--rollouts 1 of one task: give more; some are held out from the fit")
    return info


def _suites(config: CalibrateConfig, info: PolicyInfo) -> tuple[str, ...]:
    suites = config.suite or info.suites
    if not suites:
        raise UserError(f"--suite is needed: policy {config.policy!r} does not say its suites")
    return suites


def _keys(config: CalibrateConfig, info: PolicyInfo) -> list[EpisodeKey]:
    """Of the rollouts. Raises UserError for suites and tasks that there are not, or twice: the same
    chunks would be held out from the fit and in it."""
    refuse_repeats("suite", config.suite)
    refuse_repeats("task", config.tasks)
    first = 0 if config.check == "stored" else config.first_seed
    return [
        EpisodeKey("calibration", suite, get_task(suite, task).task_id, first + rollout)
        for suite in _suites(config, info)
        for task in config.tasks or range(get_suite(suite).num_tasks)
        for rollout in range(config.rollouts)
    ]


def _place(config: CalibrateConfig) -> Path:
    """Where what is seen is kept. Raises UserError for an address."""
    if config.seen is not None:
        return local_folder(config.seen)
    if config.resume:
        raise UserError("--resume goes on with what a calibration has seen: name its --seen, too")
    return local_folder(f"results/{datetime.now(UTC):%Y%m%d-%H%M%S}-calibration")


def _settings(config: CalibrateConfig, info: PolicyInfo) -> WorkerSettings:
    return WorkerSettings(
        assets.resolve(config.assets, _suites(config, info)),
        rendering.resolve(config.renderer),
        info.images,
        config.time_limit_s,
    )


def _facts(config: CalibrateConfig, info: PolicyInfo, settings: WorkerSettings) -> dict[str, Any]:
    """How rollouts are made."""
    return {
        "placements": config.check or "fresh",
        "checkpoint_sha256": info.sha256,
        "assets": settings.assets.name,
        "assets_fingerprint": settings.assets.fingerprint,
        "renderer": settings.renderer,
        "images": dataclasses.asdict(info.images),
        "arithmetic": arithmetic.name(),
        "simulator": installation.check(),
        "packages": packages(ROW_PACKAGES),
        "code": code(),
    }


def _roll_out(
    config: CalibrateConfig,
    info: PolicyInfo,
    settings: WorkerSettings,
    kept: Rollouts,
    console: Console,
) -> Observed:
    """All chunks, once `kept` lacks no rollout. Raises RunStoppedError where one came to nothing,
    retries included, or has no place."""
    keys = _keys(config, info)
    seen = {key: found for key in keys if (found := kept.get(key)) is not None}
    left = [key for key in keys if key not in seen]
    if left:
        with commands.importing():  # ray takes a second
            from rsd.cluster.calibrating import CalibrationPlan, named, observe

        plan = CalibrationPlan(
            {key: acting(key) for key in left},
            config.policy,
            info.sha256,
            config.check == "stored",
            settings,
            config.workers,
        )
        count = Count(len(keys), "rollouts", before=len(seen), noted={"failed": 0})
        failed: list[str] = []

        def came(key: EpisodeKey, found: Observed | None, why: str) -> None:
            if found is None:
                failed.append(f"{named(key)}: {why}")
                count.noted["failed"] += 1
            else:
                kept.add(key, found)
                seen[key] = found
                count.now += 1
            display.show(count)

        with _told_how_to_go_on(kept, count), make_display(console) as display:
            observe(plan, came, display.say)
            if failed:
                raise RunStoppedError(f"{len(failed)} rollout(s) failed, the first at {failed[0]}")
    return together([seen[key] for key in keys])


@contextmanager
def _told_how_to_go_on(kept: Rollouts, count: Count) -> Iterator[None]:
    """Raises RunStoppedError where files have no place, too."""

    def told() -> str:
        again = go_on("calibrate", f"--seen {kept.folder}")
        return f"{count.planned - count.done} rollouts left; {again}"

    try:
        yield
    except (RunStoppedError, CannotWriteError) as error:
        raise RunStoppedError(f"{error}: {told()}") from error
    except KeyboardInterrupt:
        complain(f"interrupted: {told()}")
        raise


def acting(key: EpisodeKey) -> Arm:
    """What acts in a rollout: the draft in some share of the chunks, no guard holds it."""
    name = [ord(letter) for letter in key.suite]
    share = np.random.default_rng([STREAM, key.task_id, key.trial, *name]).random()
    trust = Trust(f"random={share:.3f}", refresh=0, gripper=0, stall=0.0)
    return arm_of(Decoding("temporal", trust=trust))


def _made(
    config: CalibrateConfig, info: PolicyInfo, seen: Observed, folder: Path
) -> calibration.Calibration:
    closeness = Closeness(config.mm, config.degrees)
    close = seen.close(closeness)
    if not 0 < close.mean() < 1:
        raise UserError(
            f"{'all' if close.any() else 'none'} of {len(close)} chunks are within --mm "
            f"{config.mm:g} and --degrees {config.degrees:g}: there is nothing to tell apart; give "
            f"others, with --seen {folder} --resume"
        )
    every = range(len(seen.names))
    origin = {
        "checkpoint_sha256": info.sha256,
        "placements": "fresh",
        "code": code(),
        "suites": list(_suites(config, info)),
        "tasks": list(config.tasks),
        "rollouts": config.rollouts,
        "first_seed": config.first_seed,
        "assets": config.assets,
    }
    alone = {
        name: calibration.area(calibration.held_out(seen, close, columns), close)
        for name, columns in _families(seen.names).items()
    }
    return calibration.Calibration(
        info.sha256,
        closeness,
        calibration.fit(seen.features, close, seen.names),
        calibration.reliability(calibration.held_out(seen, close, every), close),
        {**origin, "area_of_each_feature_alone": alone},
    )


def _families(names: Sequence[str]) -> dict[str, list[int]]:
    """Where the features of each kind stand."""
    found: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        found.setdefault(calibration.family(name), []).append(index)
    return found


def _found(config: CalibrateConfig, info: PolicyInfo) -> calibration.Calibration:
    """What the checkpoint has; raises UserError where it has none."""
    return calibration.read(_folder(info), info.sha256, config.policy)


def _folder(info: PolicyInfo) -> Path:
    assert info.folder is not None, "a policy with the mode temporal has one"
    return info.folder


def _judge(judged: calibration.Calibration, seen: Observed) -> Reliability:
    """Of a calibration, on chunks that it does not know."""
    features = seen.of(judged.confidence.features)
    predicted = calibration.probability(judged.confidence, features)
    return calibration.reliability(predicted, seen.close(judged.closeness))


def _show(found: Reliability, title: str, console: Console) -> None:
    """The reliability diagram as a table."""
    table = Grid(
        f"{title}: {found.chunks} chunks, {100 * found.close:.1f} % close; error "
        f"{100 * found.error:.1f} points, Brier {found.brier:.3f}, area {found.area:.3f}",
        ("predicted, %", "observed, %", "chunks"),
    )
    for each in found.bins:
        table.add(f"{100 * each.predicted:.1f}", f"{100 * each.observed:.1f}", f"{each.chunks}")
    print_grid(console, table)
