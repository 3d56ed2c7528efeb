"""The configuration of an evaluation: one frozen tree, each default written once, and its plan.

The command line is made from the tree by tyro: a group per class, a flag per field. A YAML file
uses the flags' names as keys and is read as flags that come before those of the command line, so
that both have one meaning and one set of errors.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from rsd.envs import family_of, suite_of
from rsd.errors import UserError, unknown
from rsd.flags import WITHOUT_GROUPS, ExplicitBool, Least, check_least, read, with_config_files
from rsd.outputs import check_address, check_name
from rsd.suites import TRIALS_PER_TASK, Suite
from rsd.types import Arm, Decoding, EpisodeKey, Mode

RULES = {
    "exact": "keeps a drafted token that equals the target's argmax; lossless, greedy",
    "sampling": "rejection sampling; lossless in distribution",
}

ARMS: dict[str, Decoding] = {
    "autoregressive": Decoding("autoregressive"),
    "parallel": Decoding("parallel"),
    "speculative": Decoding("speculative"),
    **{f"speculative-{rule}": Decoding("speculative", rule) for rule in RULES if rule != "exact"},
    "autoregressive-sampling": Decoding("autoregressive", "sampling"),
    "regression": Decoding("regression"),
    "expert": Decoding("expert"),
}


_WITHOUT_CODES = {"expert": "the expert", "regression": "a regression head"}


@dataclass(frozen=True)
class EpisodesConfig:
    """Every arm runs the same (suite, task, trial): the arms of a run are paired."""

    task_suite: tuple[str, ...] = ("libero_spatial",)
    """libero_spatial, libero_object, libero_goal, libero_10, libero_90; `toy` and `toy_slow` test
    the cluster without a simulator"""

    tasks: tuple[int, ...] = ()
    """Task numbers from 0, of each suite; all tasks if left out"""

    num_trials: int = 1
    """The first N of the 50 stored trials of each task"""

    trials: tuple[int, ...] = ()
    """Trial numbers from 0, instead of the first N: not together with --num-trials"""

    arms: tuple[str, ...] = ("autoregressive", "speculative")
    """autoregressive, speculative (exact rule), parallel; autoregressive-sampling and
    speculative-sampling draw tokens instead of taking the best. NAME@K decodes the K coarsest
    layers only, as in autoregressive@3. regression: a head of the same trunk that says actions as
    numbers; no codes. expert: the scripted expert, which sees the simulator's state and decides
    every step anew; an upper baseline"""

    use_speculative_decoding: ExplicitBool = None
    """Shorthand: true is `--arms speculative`, false is `--arms autoregressive`"""

    seed: int = 0
    """Seed of the policy's sampling; the simulated worlds do not depend on it"""


@dataclass(frozen=True)
class PolicyConfig:
    """What decides."""

    policy: str = "auto"
    """auto (the bundled checkpoint that was trained on the suites), the name of a bundled one, or
    the folder of a checkpoint (on a cluster: on every node); `toy` tests the cluster"""

    rule: str = "exact"
    """Acceptance rule of the arm `speculative`: exact, sampling (the arm `autoregressive` then
    samples too)"""

    layers: int | None = None
    """Decode the K coarsest layers in the arms that do not say @K themselves; None: all"""

    draft_layers: int | None = None
    """Layers drafted before the first pass; None: as many as the policy likes"""

    deterministic: bool = True
    """Greedy arms give the same answer to the same request in any batch, bit for bit; off is
    faster"""


@dataclass(frozen=True)
class SimulatorConfig:
    """What it decides for."""

    assets: str = "auto"
    """auto (official ones if downloaded before, else lite), lite, official, or the folder of an
    asset tree"""

    renderer: str = "auto"
    """auto, osmesa, egl"""


@dataclass(frozen=True)
class OutputConfig:
    """Where the Parquet goes."""

    output: Annotated[str | None, tyro.conf.arg(metavar="DIR|URI")] = None
    """Folder, or a URI such as s3://bucket/run; None: results/<run_id>. In a job that uploaded its
    working folder, relative paths start at the home folder of the head node"""

    resume: bool = False
    """Go on with the run in --output: only what is not recorded there is run"""

    dry_run: bool = False
    """Check everything, print the plan (episodes, actors, resources, time), start nothing"""


@dataclass(frozen=True)
class ClusterConfig:
    """How it is spread. Nothing here changes a result. None: derived from the cluster."""

    workers: int | None = None
    """Simulators at a time; more than fit now are a demand to an autoscaler"""

    replicas: int | None = None
    """Loaded copies of the policy"""

    gpus_per_replica: float | None = None
    """GPUs of one replica, 0.5 lets two share one, above 1 a whole number; None: 1 where
    the cluster has any, else 0"""

    replica_threads: int = 1
    """CPU threads of one replica's model"""

    worker_memory_gb: float = 2.0
    """Memory that a worker asks of Ray"""

    max_batch_size: int = 16
    """Chunks that a replica decodes together at most"""

    max_wait_ms: float = 0.0
    """How long a replica with nothing to do waits for more requests while others may come"""

    decode_limit_s: float = 120.0
    """Wall seconds a replica may take to decode one batch before it counts as hung: it is replaced
    and what it decoded is asked again"""

    retries: int = 2
    """Times an episode is tried again after an exception, a dead worker or a hang, before it is
    recorded as an error"""

    time_limit_s: float = 600.0
    """Wall seconds an episode may take, making its simulator included"""

    episodes_per_worker: int = 200
    """Episodes after which a worker's process is replaced, which bounds leaks"""


@dataclass(frozen=True)
class EvaluateConfig:
    """One evaluation, as a user asks for it."""

    episodes: EpisodesConfig = field(default_factory=EpisodesConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    simulator: SimulatorConfig = field(default_factory=SimulatorConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


def parse(
    arguments: Sequence[str], prog: str = "rsd evaluate", description: str = ""
) -> EvaluateConfig:
    """The configuration that the command line asks for.

    Raises UserError for an unreadable `--config` file; tyro prints its own errors and exits
    with 2.
    """
    groups = (EpisodesConfig, PolicyConfig, SimulatorConfig, OutputConfig, ClusterConfig)
    fields = (field for group in groups for field in dataclasses.fields(group))
    words = with_config_files(arguments, fields)
    return read(EvaluateConfig, words, prog, description, WITHOUT_GROUPS)


def resolve_arms(config: EvaluateConfig) -> tuple[Arm, ...]:
    """The arms by their full names, so that a recorded name says how its rows were decoded.

    `--rule sampling` turns `speculative` into `speculative-sampling` (and `autoregressive`, its
    baseline, likewise), `--layers 3` turns `parallel` into `parallel@3`. Raises UserError for
    unknown and repeated names.
    """
    names: Sequence[str] = config.episodes.arms
    if config.episodes.use_speculative_decoding is not None:
        if config.episodes.arms != EpisodesConfig.arms:
            raise UserError("--use-speculative-decoding chooses the arms: leave --arms out")
        names = ["speculative" if config.episodes.use_speculative_decoding else "autoregressive"]
    if not names:
        raise UserError(f"--arms needs a name ({', '.join(ARMS)})")
    arms = tuple(_resolve_arm(name, config.policy) for name in names)
    _refuse_repeats("arm", [arm.name for arm in arms])
    return arms


def modes_of(config: EvaluateConfig) -> set[Mode]:
    """The modes of its arms; raises UserError as resolve_arms."""
    return {arm.decoding.mode for arm in resolve_arms(config)}


def _resolve_arm(name: str, policy: PolicyConfig) -> Arm:
    if policy.rule not in RULES:
        raise unknown("acceptance rule", policy.rule, RULES)
    kind, at, depth = name.partition("@")
    if f"{kind}-{policy.rule}" in ARMS:
        kind = f"{kind}-{policy.rule}"
    if kind == "speculative-exact":
        kind = "speculative"
    if kind not in ARMS and kind.startswith("speculative-"):
        raise unknown("acceptance rule", kind.removeprefix("speculative-"), RULES)
    if kind not in ARMS:
        raise unknown("arm", kind, ARMS)
    if at and not depth.isdecimal():
        raise UserError(f"arm {name!r}: after @ comes a number of layers, as in {kind}@3")
    if kind in _WITHOUT_CODES:
        if at:
            raise UserError(f"arm {name!r}: {_WITHOUT_CODES[kind]} decodes no layers; write {kind}")
        return Arm(kind, ARMS[kind])
    layers = int(depth) if at else policy.layers
    decoding = dataclasses.replace(ARMS[kind], layers=layers, draft_layers=policy.draft_layers)
    return Arm(kind if layers is None else f"{kind}@{layers}", decoding)


def _refuse_repeats(what: str, values: Sequence[object]) -> None:
    repeated = sorted({str(value) for value in values if values.count(value) > 1})
    if repeated:
        raise UserError(f"{what} named twice: {', '.join(repeated)}")


def plan(config: EvaluateConfig) -> list[EpisodeKey]:
    """Every episode of the run: long suites first, the arms of one world next to each other.

    Raises UserError for names and numbers that do not exist.
    """
    episodes = config.episodes
    arms = resolve_arms(config)
    trials = _trials(episodes)
    suites = sorted(map(suite_of, episodes.task_suite), key=lambda suite: -suite.max_steps)
    _refuse_repeats("suite", episodes.task_suite)
    return [
        EpisodeKey(arm.name, suite.name, task, trial, episodes.seed)
        for suite in suites
        for task in _tasks(episodes, suite)
        for trial in trials
        for arm in arms
    ]


def _trials(episodes: EpisodesConfig) -> Sequence[int]:
    if not episodes.trials:
        if not 1 <= episodes.num_trials <= TRIALS_PER_TASK:
            raise UserError(
                f"--num-trials {episodes.num_trials}: LIBERO stores {TRIALS_PER_TASK} trials a "
                f"task; choose 1 to {TRIALS_PER_TASK}"
            )
        return range(episodes.num_trials)
    if episodes.num_trials not in (EpisodesConfig.num_trials, len(episodes.trials)):
        raise UserError(
            f"--num-trials {episodes.num_trials} beside --trials of {len(episodes.trials)}: "
            "leave one of them out"
        )
    for trial in episodes.trials:
        if not 0 <= trial < TRIALS_PER_TASK:
            raise UserError(
                f"trial {trial} does not exist; a task has trials 0..{TRIALS_PER_TASK - 1}"
            )
    _refuse_repeats("trial", episodes.trials)
    return episodes.trials


def _tasks(episodes: EpisodesConfig, suite: Suite) -> Sequence[int]:
    for task in episodes.tasks:
        if not 0 <= task < suite.num_tasks:
            raise UserError(
                f"{suite.name} has tasks 0..{suite.num_tasks - 1}; task {task} does not exist"
            )
    _refuse_repeats("task", episodes.tasks)
    return episodes.tasks or range(suite.num_tasks)


_LEAST: dict[str, Least] = {
    "workers": Least(1, "somebody has to simulate"),
    "replicas": Least(1, "somebody has to decide"),
    "gpus_per_replica": Least(0, "0 is a CPU replica"),
    "replica_threads": Least(1, "a model needs a thread"),
    "worker_memory_gb": Least(0.1, "a simulator takes more than 1"),
    "max_batch_size": Least(1, "1 is no batching"),
    "max_wait_ms": Least(0, "0 never waits"),
    "decode_limit_s": Least(1, "a model needs time"),
    "retries": Least(0, "0 records the first error"),
    "time_limit_s": Least(1, "a simulator takes seconds to make"),
    "episodes_per_worker": Least(1, "1 is a process an episode"),
    "layers": Least(1, "layer 0 is the coarsest"),
    "draft_layers": Least(1, "use the arm autoregressive to draft nothing"),
}


def check(config: EvaluateConfig) -> None:
    """Check what can be checked without looking at the machine; raises UserError."""
    check_least(settings(config), _LEAST)
    cluster = config.cluster
    if cluster.decode_limit_s >= cluster.time_limit_s:
        raise UserError(
            f"--decode-limit-s {cluster.decode_limit_s:g} is not below --time-limit-s "
            f"{cluster.time_limit_s:g}: a hung replica would cost its episodes attempts before it "
            "is replaced; lower the one or raise the other"
        )
    gpus = cluster.gpus_per_replica
    if gpus is not None and gpus > 1 and gpus != int(gpus):
        raise UserError(
            f"--gpus-per-replica {gpus:g}: above 1 Ray gives whole GPUs only; choose {int(gpus)} "
            f"or {math.ceil(gpus)}"
        )
    families = {family_of(suite) for suite in config.episodes.task_suite}
    if len(families) != 1:
        raise UserError(
            "--task-suite needs one or more suites of one simulator, not "
            f"{list(config.episodes.task_suite)}"
        )
    for name in (config.policy.policy, config.simulator.assets):
        check_name(name)
    if config.output.output is not None:
        check_address(config.output.output)
    if config.output.resume and config.output.output is None:
        raise UserError("--resume needs --output: the folder of the run to go on with")
    plan(config)


def check_layers(config: EvaluateConfig, available: int) -> None:
    """Check the arms against the layers that the policy has; raises UserError."""
    for arm in resolve_arms(config):
        for asked in (arm.decoding.layers, arm.decoding.draft_layers):
            if asked is not None and not 1 <= asked <= available:
                raise UserError(
                    f"arm {arm.name!r} asks for {asked} layers; policy {config.policy.policy!r} "
                    f"has 1 to {available}"
                )


def settings(config: EvaluateConfig) -> dict[str, Any]:
    """All settings by flag name, without their groups."""
    groups = (getattr(config, group.name) for group in dataclasses.fields(config))
    return {name: value for group in groups for name, value in dataclasses.asdict(group).items()}


def identity(config: EvaluateConfig) -> dict[str, Any]:
    """The settings that decide what a run's rows hold; a resumed run must have the same."""
    decided = {
        **dataclasses.asdict(config.episodes),
        **dataclasses.asdict(config.policy),
        "arms": {arm.name: dataclasses.asdict(arm.decoding) for arm in resolve_arms(config)},
    }
    del decided["use_speculative_decoding"]  # the arms say it
    return decided


def execution(config: EvaluateConfig) -> dict[str, Any]:
    """The settings that decide how a run is carried out; they may change on resume."""
    return {**dataclasses.asdict(config.simulator), **dataclasses.asdict(config.cluster)}
