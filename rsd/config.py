"""The configuration of an evaluation: one frozen tree, each default written once.

The command line is made from the tree by tyro: a group per class, a flag per field. A YAML file
uses the flags' names as keys and is read as flags that come before those of the command line, so
that both have one meaning and one set of errors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from rsd.arms import ARMS_HELP, RULE_HELP, UNNAMED, WAITING_HELP
from rsd.flags import WITHOUT_GROUPS, ExplicitBool, read, with_config_files
from rsd.models import forms
from rsd.protocols import OFT, PROTOCOL_HELP
from rsd.suites import SUITES
from rsd.tracking.trackers import TRACKERS

SUITES_HELP = f"{', '.join(SUITES)}; `toy` and `toy_slow` test the cluster without a simulator"


@dataclass(frozen=True)
class EpisodesConfig:
    """Every arm runs the same (suite, task, trial): the arms of a run are paired."""

    task_suite: Annotated[tuple[str, ...], tyro.conf.arg(help=SUITES_HELP)] = ("libero_spatial",)

    tasks: tuple[int, ...] = ()
    """Task numbers from 0, of each suite; all tasks if left out"""

    num_trials: int = 1
    """The first N of the 50 stored trials of each task"""

    trials: tuple[int, ...] = ()
    """Trial numbers from 0, instead of the first N: not together with --num-trials"""

    arms: Annotated[
        tuple[str, ...] | None, tyro.conf.arg(help=ARMS_HELP, metavar="[STR [STR ...]]")
    ] = None

    use_speculative_decoding: ExplicitBool = None
    """Shorthand: true is `--arms speculative`, false is `--arms autoregressive`"""

    while_waiting: Annotated[str | None, tyro.conf.arg(help=WAITING_HELP)] = None

    latency: Annotated[str | None, tyro.conf.arg(metavar="MS|RUN")] = None
    """Where arms with +delay=measured have it from: milliseconds a chunk, or a run that decoded the
    arm (its median); None: every decode of this run, which no second run repeats"""

    protocol: Annotated[str, tyro.conf.arg(help=PROTOCOL_HELP)] = OFT.name

    seed: int = 0
    """Seed of the policy's sampling; the simulated worlds do not depend on it"""


POLICY_HELP = (
    f"auto (the bundled policy that was trained on the suites), or {forms()}. On a cluster a "
    "folder or module is one that every node has"
)


@dataclass(frozen=True)
class PolicyConfig:
    """What decides."""

    policy: Annotated[str, tyro.conf.arg(help=POLICY_HELP)] = "auto"

    rule: Annotated[str, tyro.conf.arg(help=RULE_HELP)] = UNNAMED

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


LOG_HELP = (
    f"Also log the run's summary and curves to {', '.join(TRACKERS)} (docs/exchange.md); one that "
    "fails is dropped, the run goes on"
)


@dataclass(frozen=True)
class OutputConfig:
    """Where the Parquet goes."""

    output: Annotated[str | None, tyro.conf.arg(metavar="DIR|URI")] = None
    """Folder, or a URI such as s3://bucket/run; None: results/<run_id>. In a job that uploaded its
    working folder, relative paths start at the home folder of the head node"""

    resume: bool = False
    """Go on with the run in --output: only what is not recorded there is run"""

    log: Annotated[tuple[str, ...], tyro.conf.arg(help=LOG_HELP, metavar="[STR [STR ...]]")] = ()

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


Tree = TypeVar("Tree", bound=EvaluateConfig)


def parse(
    arguments: Sequence[str], prog: str = "rsd evaluate", description: str = ""
) -> EvaluateConfig:
    """The configuration that the command line asks for.

    Raises UserError for an unreadable `--config` file; tyro prints its own errors and exits
    with 2.
    """
    return parse_tree(EvaluateConfig, arguments, prog, description)


def parse_tree(tree: type[Tree], arguments: Sequence[str], prog: str, description: str) -> Tree:
    """The same for a class of groups with more of them."""
    groups = get_type_hints(tree, include_extras=True).values()
    fields = (field for group in groups for field in dataclasses.fields(group))
    words = with_config_files(arguments, fields)
    made: Tree = read(tree, words, prog, description, WITHOUT_GROUPS)
    return made


def settings(config: EvaluateConfig) -> dict[str, Any]:
    """All settings by flag name, without their groups."""
    groups = (getattr(config, group.name) for group in dataclasses.fields(config))
    return {name: value for group in groups for name, value in dataclasses.asdict(group).items()}
