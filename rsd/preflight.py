"""Everything that can be found wrong with a run before it starts. No torch, no ray."""

from __future__ import annotations

import dataclasses
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rsd import arithmetic
from rsd.books import Books, holds_a_run
from rsd.config import (
    EvaluateConfig,
    check,
    check_layers,
    execution,
    identity,
    modes_of,
    plan,
    resolve_arms,
)
from rsd.envs import FAMILIES, family_of
from rsd.errors import UserError
from rsd.models import PolicyInfo, inspect_policy
from rsd.models.small_vla.checkpoint import for_suites
from rsd.outputs import lasting
from rsd.provenance import provenance
from rsd.types import Arm, EpisodeKey

if TYPE_CHECKING:
    from rsd.envs.assets import ResolvedAssets


@dataclass(frozen=True)
class RunPlan:
    """A checked run: what is asked for, and what the machine has for it."""

    run_id: str
    config: EvaluateConfig
    arms: dict[str, Arm]
    keys: list[EpisodeKey]
    policy: PolicyInfo
    assets: ResolvedAssets
    renderer: str


def prepare(config: EvaluateConfig) -> RunPlan:
    """Check a configuration against this machine; writes nothing but the asset cache.

    Raises UserError for whatever the user has to mend: names, numbers, checkpoint, assets,
    renderer. The cheapest checks come first.
    """
    check(config)
    suites = list(config.episodes.task_suite)
    if config.policy.policy == "auto":
        chosen = dataclasses.replace(config.policy, policy=for_suites(suites))
        config = dataclasses.replace(config, policy=chosen)
    family = FAMILIES[family_of(suites[0])]
    policy = inspect_policy(config.policy.policy)
    _check_modes(config, policy)
    check_layers(config, policy.layers)
    _check_experts(config)
    return RunPlan(
        run_id=_new_run_id(suites),
        config=config,
        arms={arm.name: arm for arm in resolve_arms(config)},
        keys=plan(config),
        policy=policy,
        renderer=family.renderer(config.simulator.renderer),
        assets=family.assets(config.simulator.assets, suites),
    )


def _check_modes(config: EvaluateConfig, policy: PolicyInfo) -> None:
    """Raises UserError for an arm that the policy does not decode."""
    known = (*policy.modes, "expert")
    for arm in resolve_arms(config):
        if arm.decoding.mode not in known:
            raise UserError(
                f"arm {arm.name!r}: policy {config.policy.policy!r} decodes "
                f"{', '.join(policy.modes)} only; leave the arm out, or choose another policy"
                f"{_HINTS.get(arm.decoding.mode, '')}"
            )


_HINTS = {"regression": " (jobs/train.py gives one a regression head by default)"}


def _check_experts(config: EvaluateConfig) -> None:
    if "expert" not in modes_of(config):
        return
    from rsd.experts import EXPERTS

    for suite in config.episodes.task_suite:
        if suite not in EXPERTS:
            raise UserError(
                f"arm 'expert': no expert solves {suite!r}; there are experts for "
                f"{', '.join(EXPERTS)}: choose one of these, or leave the arm out"
            )


def _new_run_id(suites: list[str]) -> str:
    """Sorts by time, says what it is, and differs between runs of one second."""
    started = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return f"{started}-{re.sub(r'[^a-z0-9_]', '', '+'.join(suites))}-{uuid.uuid4().hex[:4]}"


def output_of(run: RunPlan) -> str:
    """Where the run's folder is: `--output`, else results/<run_id>."""
    output = run.config.output.output
    return lasting(f"results/{run.run_id}" if output is None else output)


def open_books(run: RunPlan, say: Callable[[str], None]) -> Books:
    """The books of a run in its output folder.

    `--resume` on a folder without a run starts one, so that one command line serves every
    restart. Raises UserError for an output that cannot be used.
    """
    output = output_of(run)
    resume = run.config.output.resume and holds_a_run(output)
    if run.config.output.resume and not resume:
        say(f"nothing is recorded in {output} yet: this is a new run")
    return Books.open(output, run_record(run), resume=resume)


def check_output(run: RunPlan) -> None:
    """Every check of `open_books`, for a run that is not to start; leaves nothing behind."""
    output = output_of(run)
    resume = run.config.output.resume and holds_a_run(output)
    Books.check(output, run_record(run), resume=resume)


def run_record(run: RunPlan) -> dict[str, Any]:
    """What run.json says of a run."""
    return {
        "run_id": run.run_id,
        "config": identity(run.config),
        "planned_episodes": len(run.keys),
        "execution": execution(run.config),
        "checkpoint_sha256": run.policy.sha256,
        "assets": run.assets.name,
        "assets_fingerprint": run.assets.fingerprint,
        "renderer": run.renderer,
        "images": dataclasses.asdict(run.policy.images),
        "arithmetic": arithmetic.name(),
        "simulator": FAMILIES[family_of(run.keys[0].suite)].content(),
        **provenance(),
    }
