"""What an evaluation's configuration asks for, resolved once. No look at the machine is taken."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rsd import calibration
from rsd.arms import (
    DEFAULT_ARMS,
    MODES,
    NAMES,
    WAITING,
    described,
    is_lossy,
    read_arm,
    read_rule,
)
from rsd.config import EpisodesConfig, EvaluateConfig, settings
from rsd.envs import FAMILIES, Family, family_of
from rsd.errors import UserError, unknown
from rsd.flags import Least, check_least
from rsd.models import PolicyInfo, for_suites
from rsd.outputs import check_address, check_name
from rsd.protocols import Protocol, get_protocol
from rsd.suites import TRIALS_PER_TASK, Suite
from rsd.types import Arm, Delay, EpisodeKey, Mode, Waiting


@dataclass(frozen=True)
class Plan:
    """A configuration whose every name and number exists, and what follows from it."""

    config: EvaluateConfig  # the policy by its own name, never `auto`
    family: Family  # the simulator of all its suites
    protocol: Protocol
    arms: dict[str, Arm]  # by name
    keys: list[EpisodeKey]  # every episode: long suites first, arms of a world side by side
    # of episodes that are repeated: how late their chunks were, in control steps
    lateness: Mapping[EpisodeKey, tuple[int, ...]] = field(default_factory=dict, kw_only=True)

    def arm_of(self, key: EpisodeKey) -> Arm:
        """How an episode is run."""
        arm = self.arms[key.arm]
        if arm.delay is None or key not in self.lateness:
            return arm
        return dataclasses.replace(
            arm, delay=dataclasses.replace(arm.delay, recorded=self.lateness[key])
        )

    @property
    def modes(self) -> set[Mode]:
        """How its arms decide."""
        return {arm.decoding.mode for arm in self.arms.values()}

    @property
    def asks_policy(self) -> bool:
        """Whether any arm does; the expert decides alone."""
        return self.modes != {"expert"}


def resolve(config: EvaluateConfig) -> Plan:
    """Resolve a configuration; raises UserError for names and numbers that do not exist or do not
    go together."""
    _check_numbers(config)
    _check_places(config)
    episodes = config.episodes
    protocol = get_protocol(episodes.protocol)
    arms = resolve_arms(config)
    trials = _trials(episodes)
    family = _family(episodes.task_suite)
    refuse_repeats("suite", episodes.task_suite)
    suites = [family.suites[name] for name in episodes.task_suite]
    suites.sort(key=lambda suite: -protocol.most_steps(suite))
    keys = [
        EpisodeKey(arm, suite.name, task, trial, episodes.seed)
        for suite in suites
        for task in _tasks(episodes, suite)
        for trial in trials
        for arm in arms
    ]
    return Plan(_with_policy(config), family, protocol, arms, keys)


def _with_policy(config: EvaluateConfig) -> EvaluateConfig:
    if config.policy.policy != "auto":
        return config
    spec = for_suites(list(config.episodes.task_suite))
    return dataclasses.replace(config, policy=dataclasses.replace(config.policy, policy=spec))


def resolve_arms(config: EvaluateConfig) -> dict[str, Arm]:
    """The arms by their full names.

    `--rule sampling` turns `speculative` into `speculative-sampling` (and `autoregressive`, its
    baseline, likewise), `--layers 3` turns `parallel` into `parallel@3`. Raises UserError for
    unknown and repeated names.
    """
    policy = config.policy
    names: Sequence[str] = DEFAULT_ARMS if config.episodes.arms is None else config.episodes.arms
    if config.episodes.use_speculative_decoding is not None:
        if config.episodes.arms is not None:
            raise UserError("--use-speculative-decoding chooses the arms: leave --arms out")
        names = ["speculative" if config.episodes.use_speculative_decoding else "autoregressive"]
    if not names:
        raise UserError(f"--arms needs a name ({', '.join(NAMES)})")
    rule = read_rule(policy.rule)
    waiting = _waiting(config.episodes.while_waiting)
    arms = [read_arm(name, rule, policy.layers, policy.draft_layers, waiting) for name in names]
    refuse_repeats("arm", [arm.name for arm in arms])
    _check_delays(config.episodes, arms)
    return {arm.name: arm for arm in arms}


def _waiting(name: str | None) -> Waiting:
    if name is None:
        return Delay.waiting
    for each in WAITING:
        if each == name:
            return each
    raise unknown("--while-waiting", name, WAITING)


def _check_delays(episodes: EpisodesConfig, arms: Sequence[Arm]) -> None:
    """Raises UserError for a flag that says something of delays where there are none."""
    late = [arm.delay for arm in arms if arm.delay is not None]
    if episodes.while_waiting is not None and not late:
        raise UserError(
            f"--while-waiting {episodes.while_waiting}: no arm has a delay, so that nothing is "
            f"waited for; name one, as in --arms {arms[0].name}+delay=3, or leave it out"
        )
    if episodes.latency is not None and all(delay.steps is not None for delay in late):
        raise UserError(
            f"--latency {episodes.latency}: no arm's delay is measured; name one, as in --arms "
            f"{arms[0].name.partition('+')[0]}+delay=measured, or leave it out"
        )


def _family(suites: Sequence[str]) -> Family:
    names = {family_of(suite) for suite in suites}
    if len(names) != 1:
        raise UserError(
            f"--task-suite needs one or more suites of one simulator, not {list(suites)}"
        )
    return FAMILIES[names.pop()]


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
    refuse_repeats("trial", episodes.trials)
    return episodes.trials


def _tasks(episodes: EpisodesConfig, suite: Suite) -> Sequence[int]:
    for task in episodes.tasks:
        if not 0 <= task < suite.num_tasks:
            raise UserError(
                f"{suite.name} has tasks 0..{suite.num_tasks - 1}; task {task} does not exist"
            )
    refuse_repeats("task", episodes.tasks)
    return episodes.tasks or range(suite.num_tasks)


def refuse_repeats(what: str, values: Sequence[object]) -> None:
    """Raises UserError for values that are named more than once."""
    repeated = sorted({str(value) for value in values if values.count(value) > 1})
    if repeated:
        raise UserError(f"{what} named twice: {', '.join(repeated)}")


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


def _check_numbers(config: EvaluateConfig) -> None:
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


def _check_places(config: EvaluateConfig) -> None:
    check_name(config.policy.policy, "policy")
    check_name(config.simulator.assets)
    if config.output.output is not None:
        check_address(config.output.output)
    if config.output.resume and config.output.output is None:
        raise UserError("--resume needs --output: the folder of the run to go on with")


def check_arms(arms: Iterable[Arm], spec: str, policy: PolicyInfo) -> None:
    """Raises UserError for an arm that the policy does not decode: its mode, rule or layers."""
    for arm in arms:
        if arm.decoding.mode not in policy.modes:
            raise UserError(
                f"arm {arm.name!r}: policy {spec!r} decodes {', '.join(policy.modes)} only; leave "
                "the arm out, or choose another policy"
                + (f" ({policy.other_modes})" if policy.other_modes else "")
            )
        if is_lossy(arm.decoding.rule) and not policy.lossy_rules:
            raise UserError(
                f"arm {arm.name!r}: policy {spec!r} has no tokens that are the gripper's alone, "
                "which a lossy rule must never change; choose the rule exact or sampling, or a "
                "policy whose tokeniser has no encoder (latent_dim 7, hidden 0)"
            )
        _check_depth(arm, spec, policy.layers)


def ready_arms(arms: Sequence[Arm], spec: str, policy: PolicyInfo) -> list[Arm]:
    """The arms as the policy decodes them. Raises UserError as `check_arms` and `with_confidence`
    do."""
    check_arms(arms, spec, policy)
    return [with_confidence(arm, spec, policy) for arm in arms]


def with_confidence(arm: Arm, spec: str, policy: PolicyInfo) -> Arm:
    """The same, and where it trusts a draft by its confidence, that of the policy. Raises UserError
    where that is not known."""
    trust = arm.decoding.trust
    if trust is None or trust.by.partition("=")[0] != "confident":
        return arm
    if policy.folder is None:
        raise UserError(
            f"arm {arm.name!r}: policy {spec!r} has no folder with a calibration; use "
            "temporal-random=N"
        )
    found = calibration.read(policy.folder, policy.sha256, spec)
    trusting = dataclasses.replace(trust, confidence=found.confidence)
    return dataclasses.replace(arm, decoding=dataclasses.replace(arm.decoding, trust=trusting))


def _check_depth(arm: Arm, spec: str, available: int) -> None:
    decoding, lacks = arm.decoding, MODES[arm.decoding.mode].lacks
    most = available - lacks
    if decoding.layers is not None and not 1 <= decoding.layers <= most:
        raise UserError(
            f"arm {arm.name!r} asks for {decoding.layers} layers; policy {spec!r} has 1 to {most}"
            + (f" in this mode, {available} in others" if lacks else "")
        )
    if decoding.draft_layers is not None and not 1 <= decoding.draft_layers < available:
        raise UserError(
            f"arm {arm.name!r} of policy {spec!r}, {decoding.draft_layers} draft layers: of "
            f"{available} layers a draft has all but the finest; choose 1 to {available - 1}"
        )


def identity(plan: Plan) -> dict[str, Any]:
    """The settings that decide what a run's rows hold; a resumed run must have the same."""
    decided = {
        **dataclasses.asdict(plan.config.episodes),
        **dataclasses.asdict(plan.config.policy),
        "arms": {arm.name: described(arm) for arm in plan.arms.values()},
    }
    for said in ("use_speculative_decoding", "while_waiting", "latency"):  # the arms say it
        del decided[said]
    del decided["protocol"]  # recorded whole, beside this
    return decided


def execution(plan: Plan) -> dict[str, Any]:
    """The settings that decide how a run is carried out; they may change on resume."""
    config = plan.config
    return {
        "latency": config.episodes.latency,
        **dataclasses.asdict(config.simulator),
        **dataclasses.asdict(config.cluster),
    }
