"""The configuration of an evaluation: one frozen tree, each default written once, and its plan.

The command line is made from the tree by tyro: a group per class, a flag per field. A YAML file
uses the flags' names as keys and is read as flags that come before those of the command line, so
that both have one meaning and one set of errors.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from rsd.envs import family_of, suite_of
from rsd.errors import UserError, unknown
from rsd.foreign import read_settings
from rsd.outputs import check_address, check_name, local_folder
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
    "native": Decoding("native"),
    "expert": Decoding("expert"),
}


_WITHOUT_CODES = {
    "expert": "the expert",
    "regression": "a regression head",
    "native": "a policy without codes",
}


def _true_or_false(values: list[str]) -> bool:
    if values[0] not in ("true", "false"):
        raise ValueError(f"{values[0]!r} is neither true nor false")
    return values[0] == "true"


# A flag that wants its value spelt out: `bool` would read `maybe` as true or take no value at all.
ExplicitBool = Annotated[
    bool | None,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="{true,false}",
        instance_from_str=_true_or_false,
        is_instance=lambda value: value is None or isinstance(value, bool),
        str_from_instance=lambda value: ["none" if value is None else str(value).lower()],
    ),
]

# Read as it was written: `Path` would make s3:/b of s3://b, and . of an empty word.
LocalFolder = Annotated[
    Path,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="DIR",
        instance_from_str=lambda words: local_folder(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    ),
]


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


DESCRIPTION = """\
Evaluate a policy on LIBERO in parallel on a Ray cluster; Parquet comes out.

With RAY_ADDRESS set (`ray job submit` sets it) the run uses that cluster, else this machine.
--config run.yaml reads flags from a YAML file (task_suite: [libero_goal]); of several files the
later one wins, and flags of the command line win over all.

Examples:
  python jobs/evaluate.py                                            # 10 tasks, 1 trial, 2 arms
  python jobs/evaluate.py --task-suite libero_spatial --tasks 0 --num-trials 3
  python jobs/evaluate.py --num-trials 50 --use-speculative-decoding true
  python jobs/evaluate.py --arms autoregressive speculative parallel autoregressive@3 \\
      --num-trials 50 --output results/spatial --resume
  ray job submit --working-dir . -- python jobs/evaluate.py --num-trials 50

Exit codes: 0 every episode is recorded; 1 the run stopped early; 2 the request cannot be run,
nothing was started; 3 every episode is recorded, some as errors; 130 interrupted. After 1 and 130
--resume goes on.
"""


def parse(arguments: Sequence[str]) -> EvaluateConfig:
    """The configuration that the command line asks for.

    Raises UserError for an unreadable `--config` file; tyro prints its own errors and exits
    with 2.
    """
    return tyro.cli(
        EvaluateConfig,
        prog="jobs/evaluate.py",
        description=DESCRIPTION,
        args=_with_config_file(arguments),
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff),
    )


def _with_config_file(arguments: Sequence[str]) -> list[str]:
    """Replace every `--config FILE` by the file's flags, put before all others in the order of the
    files: the last one wins."""
    flags: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, path = word.partition("=")
        if name != "--config":
            rest.append(word)
            continue
        path = path if equals else next(words, "")
        if not path:
            raise UserError("--config needs the path of a YAML file")
        flags += _flags_of(Path(path))
    return [*flags, *rest]


def _flags_of(path: Path) -> list[str]:
    """A YAML mapping as flags: lists are several values, null is the default."""
    flags: list[str] = []
    for setting, value in read_settings(path, f"--config {path}").items():
        if setting not in _FIELDS:
            raise unknown(f"setting in {path}", setting, _FIELDS)
        if value is None:
            continue
        flag = setting.replace("_", "-")
        if _FIELDS[setting].type == "bool":
            if not isinstance(value, bool):
                raise UserError(f"{path}: {setting} is true or false, not {value!r}")
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words = [_word(each) for each in (value if isinstance(value, list) else [value])]
            for word in words:
                if word.startswith("--"):
                    raise UserError(f"{path}: {setting} holds {word!r}; a value is not a flag")
            flags += [f"--{flag}", *words]
    return flags


def _word(value: object) -> str:
    """YAML reads `true` as a boolean; as a flag's value it is a word again."""
    return str(value).lower() if isinstance(value, bool) else str(value)


_FIELDS: dict[str, dataclasses.Field[Any]] = {
    setting.name: setting
    for group in (EpisodesConfig, PolicyConfig, SimulatorConfig, OutputConfig, ClusterConfig)
    for setting in dataclasses.fields(group)
}


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


@dataclass(frozen=True)
class Least:
    """The smallest value of a number in the configuration."""

    value: float
    why: str


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


def check_least(values: Mapping[str, Any], table: Mapping[str, Least]) -> None:
    """Raises UserError, by its flag, for a number that is not finite or too small; None passes."""
    for name, least in table.items():
        value = values[name]
        if value is not None and not math.isfinite(value):
            raise UserError(f"--{name.replace('_', '-')} {value}: a finite number is needed")
        if value is not None and value < least.value:
            raise UserError(
                f"--{name.replace('_', '-')} {value}: at least {least.value:g} ({least.why})"
            )


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
