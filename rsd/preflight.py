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
from rsd.config import EvaluateConfig
from rsd.errors import UserError
from rsd.latency import settled
from rsd.models import PolicyInfo, inspect_policy
from rsd.outputs import lasting
from rsd.plan import Plan, execution, identity, ready_arms, resolve
from rsd.protocols import recorded
from rsd.provenance import provenance
from rsd.suites import SUITES, get_task
from rsd.tracking import trackers

if TYPE_CHECKING:
    from rsd.envs.assets import ResolvedAssets


@dataclass(frozen=True)
class RunPlan(Plan):
    """A plan that this machine can carry out, and what it has for it."""

    run_id: str
    policy: PolicyInfo
    assets: ResolvedAssets
    renderer: str

    @property
    def batch_size(self) -> int:
        """Requests that a replica may decode together."""
        return self.config.cluster.max_batch_size if self.policy.batches else 1


def prepare(config: EvaluateConfig) -> RunPlan:
    """Check a configuration against this machine; writes nothing but the asset cache.

    Raises UserError for whatever the user has to mend: names, numbers, checkpoint, assets,
    renderer. The cheapest checks come first.
    """
    plan = resolve(config)
    trackers.check(config.output.log)
    suites = list(config.episodes.task_suite)
    policy = inspect_policy(plan.config.policy.policy)
    plan = _with_arms(_pinned(plan, policy), policy)
    asking = [arm for arm in plan.arms.values() if arm.decoding.mode != "expert"]
    ready = {arm.name: arm for arm in ready_arms(asking, plan.config.policy.policy, policy)}
    plan = dataclasses.replace(plan, arms=plan.arms | ready)
    _check_tasks(plan, policy)
    _check_patience(plan, policy)
    _check_experts(plan)
    plan = _with_latency(plan)
    return RunPlan(
        **vars(plan),
        run_id=_new_run_id(suites),
        policy=policy,
        renderer=plan.family.renderer(config.simulator.renderer),
        assets=plan.family.assets(config.simulator.assets, suites),
    )


def _pinned(plan: Plan, policy: PolicyInfo) -> Plan:
    """The same of a policy that is called by what names it for good."""
    if not policy.pinned:
        return plan
    named = dataclasses.replace(plan.config.policy, policy=policy.pinned)
    return resolve(dataclasses.replace(plan.config, policy=named))


def _with_arms(plan: Plan, policy: PolicyInfo) -> Plan:
    """The policy's best mode instead of arms that nobody asked for and it does not decode."""
    episodes = plan.config.episodes
    left_out = episodes.arms is None and episodes.use_speculative_decoding is None
    if not left_out or plan.modes & set(policy.modes):
        return plan
    chosen = dataclasses.replace(episodes, arms=(policy.modes[0],))
    return resolve(dataclasses.replace(plan.config, episodes=chosen))


def _with_latency(plan: Plan) -> Plan:
    """The same with measured delays as --latency says them, and its arms called by them."""
    source = plan.config.episodes.latency
    if source is None:
        return plan
    arms = {name: settled(arm, source) for name, arm in plan.arms.items()}
    keys = [dataclasses.replace(key, arm=arms[key.arm].name) for key in plan.keys]
    if len(set(keys)) < len(keys):
        raise UserError(
            f"--latency {source} makes two arms one: {', '.join(plan.arms)} become "
            f"{', '.join(arm.name for arm in arms.values())}; leave one out"
        )
    return dataclasses.replace(plan, arms={arm.name: arm for arm in arms.values()}, keys=keys)


def _check_tasks(plan: Plan, policy: PolicyInfo) -> None:
    """Raises UserError for a suite that the policy cannot act on, and for words that it cannot
    read."""
    for suite in plan.config.episodes.task_suite:
        policy.check_suite(suite, plan.config.policy.policy)
    for suite, task in dict.fromkeys((key.suite, key.task_id) for key in plan.keys):
        if suite in SUITES:
            policy.check_instruction(get_task(suite, task).instruction)


def _check_patience(plan: Plan, policy: PolicyInfo) -> None:
    """Raises UserError where a replica would be given up while it waits for its server."""
    limit_s, answer_s = plan.config.cluster.decode_limit_s, policy.answer_limit_s
    if answer_s is not None and answer_s >= limit_s:
        raise UserError(
            f"policy {plan.config.policy.policy!r} gives its server {answer_s:g} s for an answer "
            f"(timeout), which is not below --decode-limit-s {limit_s:g}: its replicas would be "
            "replaced as hung before they hear that the server is; lower the one or raise the other"
        )


def _check_experts(plan: Plan) -> None:
    if "expert" not in plan.modes:
        return
    from rsd.experts import EXPERTS

    for suite in plan.config.episodes.task_suite:
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
        "config": identity(run),
        "protocol": recorded(run.protocol),
        "planned_episodes": len(run.keys),
        "execution": execution(run),
        "checkpoint_sha256": run.policy.sha256,
        "policy_says": run.policy.says,
        "settles_on_gpu": run.policy.settles_on_gpu,
        "assets": run.assets.name,
        "assets_fingerprint": run.assets.fingerprint,
        "renderer": run.renderer,
        "images": dataclasses.asdict(run.policy.images),
        "arithmetic": arithmetic.name(),
        "simulator": run.family.content(),
        **provenance(),
    }
