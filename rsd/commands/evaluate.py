"""Evaluate a policy: `rsd evaluate --help`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from rsd import arithmetic, commands, provenance
from rsd.cluster.address import check_cluster, cluster_address
from rsd.commands import DONE, INTERRUPTED, STOPPED, as_called, called, go_on
from rsd.config import EvaluateConfig, parse
from rsd.console import PLAIN, complain, duration
from rsd.errors import RunStoppedError, UserError
from rsd.leaving import is_left_behind
from rsd.preflight import RunPlan, check_output, open_books, output_of, prepare
from rsd.tracking.log import RunLog

if TYPE_CHECKING:
    from rsd.books import Books
    from rsd.summary.values import Summary

WITH_ERRORS = 3

DESCRIPTION = """\
Evaluate a policy on LIBERO in parallel on a Ray cluster; Parquet comes out.

With RAY_ADDRESS set (`ray job submit` sets it) the run uses that cluster, else this machine.
--config run.yaml reads flags from a YAML file (task_suite: [libero_goal]); of several files the
later one wins, and flags of the command line win over all.

Examples:
  rsd evaluate                                                        # 10 tasks, 1 trial, 2 arms
  rsd evaluate --task-suite libero_spatial --tasks 0 --num-trials 3
  rsd evaluate --num-trials 50 --use-speculative-decoding true
  rsd evaluate --arms autoregressive speculative parallel autoregressive@3 \\
      --num-trials 50 --output results/spatial --resume
  ray job submit --working-dir . -- python jobs/evaluate.py --num-trials 50

Exit codes: 0 every episode is recorded; 1 the run stopped early; 2 the request cannot be run,
nothing was started; 3 every episode is recorded, some as errors; 130 interrupted. After 1 and 130
--resume goes on.
"""


def main(words: Sequence[str], console: Console) -> int:
    """Parse, check, plan, run, summarise; returns the exit code that `--help` explains."""
    run = ready(parse(words, called("evaluate"), as_called(DESCRIPTION)), console)
    if run.config.output.dry_run:
        return DONE
    return carry_out(run, console, go_on("evaluate", f"--output {output_of(run)}"))


def ready(config: EvaluateConfig, console: Console) -> RunPlan:
    """The run that was asked for, checked and told. Raises UserError where it cannot be carried
    out."""
    run = prepare(config)
    check_place(run)
    if run.config.output.dry_run:
        check_output(run)
    describe(run, console)
    return run


def check_place(run: RunPlan) -> None:
    """Raises UserError where a run finds no cluster, or asks for GPUs or memory that this machine
    lacks."""
    check_cluster()
    if cluster_address() is not None:
        return  # its nodes say what they have when replicas are there
    gpus = run.config.cluster.gpus_per_replica
    if gpus:
        with commands.importing():
            from rsd.cluster.session import check_gpus  # ray takes a second to import
        check_gpus(gpus)
    on_gpu = bool(provenance.gpus()) if gpus is None else gpus > 0
    sizes = provenance.gpu_memory_bytes() if on_gpu else [provenance.memory_bytes()]
    if sizes and run.asks_policy:
        device = "cuda" if on_gpu else "cpu"
        run.policy.check_memory(device, max(sizes), run.config.policy.deterministic)


def describe(run: RunPlan, console: Console) -> None:
    """Say what is going to run on what; in a dry run also what it will take."""
    arms = ", ".join(run.arms)
    worlds = len(run.keys) // len(run.arms)
    lines = [
        f"episodes {len(run.keys)}: {worlds} worlds (suite, task, trial) x arms {arms}",
        f"policy   {run.config.policy.policy} (sha256 {run.policy.sha256[:12]}){_training(run)}",
        f"assets   {run.assets.name}: {run.assets.reason}",
        f"renderer {run.renderer}",
        f"protocol {run.protocol.name}{_other_protocol(run)}",
    ]
    if any(arm.delay is not None and arm.delay.steps is None for arm in run.arms.values()):
        lines.append(
            "delay    measured: chunks are decoded one at a time, and a second run is not as late; "
            "--latency takes it from a run"
        )
    if run.config.policy.deterministic and not run.policy.settles_on_gpu:
        lines.append(
            "answers  of a GPU are rounded to bfloat16 and not settled: the same in the same batch "
            "only; those of a CPU depend on the request alone"
        )
    if (computes := arithmetic.name()) != arithmetic.REFERENCE:
        lines.append(
            f"numbers  {computes}: not the arithmetic of other machines ({arithmetic.REFERENCE}), "
            "so states can be compared bit for bit with runs of this kind of machine only"
        )
    if run.config.output.dry_run:
        lines += _forecast_lines(run)
    for line in lines:
        console.print(line, **PLAIN)


def _other_protocol(run: RunPlan) -> str:
    wanted = run.policy.protocol
    if wanted in ("", run.protocol.name):
        return ""
    return f": the policy's scores are known under {wanted} (--protocol {wanted})"


def _training(run: RunPlan) -> str:
    """What the policy was trained on, and what it has never seen."""
    known = run.policy.suites
    if not known:
        return _CLIPS if run.policy.clips else ""
    new = [suite for suite in run.config.episodes.task_suite if suite not in known]
    never = f", never on {', '.join(new)}" if new else ""
    return f", trained on {', '.join(known)}{never}{_CLIPS if run.policy.clips else ''}"


_CLIPS = ", whose actions are cut off at -1 and 1"


def _forecast_lines(run: RunPlan) -> list[str]:
    with commands.importing():
        from rsd.cluster.forecast import forecast  # ray takes a second to import

    try:
        plan = forecast(run)
    except RunStoppedError as error:  # a cluster that went away since it was looked for
        raise UserError(str(error)) from error
    workers, replicas, gpus = plan.sizing.workers, plan.sizing.replicas, plan.sizing.replica.gpus
    kind = f"{gpus:g} GPU each" if gpus else "on CPUs"
    return [
        f"output   {output_of(run)}",
        f"cluster  {plan.cluster}",
        f"workers  {workers.change}: {workers.reason}",
        f"replicas {replicas.change} {kind}: {replicas.reason}",
        f"time     about {duration(plan.seconds)} if every episode takes all steps",
        "dry run: nothing was started",
    ]


def carry_out(run: RunPlan, console: Console, again: str) -> int:
    """Run on Ray what is not recorded of a checked plan, and print the summary; `again` says how to
    go on after an interruption (`go_on`).

    There is none where the run is left in a hurry: `rsd report` makes it at leisure.
    """
    planned = set(run.keys)
    books = open_books(run, lambda line: console.print(line, **PLAIN))
    output, done = books.output, len(books.recorded())
    stopped, hurry = "", False
    log = RunLog.open(run.config.output.log, output)
    try:
        with books:
            console.print(f"output   {output} (run {books.run_id}, {done} recorded)", **PLAIN)
            if not planned <= books.recorded():
                try:
                    stopped = work(run, books, console, log)
                except KeyboardInterrupt:
                    hurry = True
    except (UserError, OSError) as error:  # the books cannot be written
        end_log(log, None, console, over=False, hurry=hurry)
        complain(f"{stopped or 'stopped'}: {error}; make room or mend it, then {again}")
        return INTERRUPTED if hurry else STOPPED
    except KeyboardInterrupt:  # while the books waited for their store
        hurry = True
    left = len(planned - books.recorded())
    hurry = hurry or is_left_behind()
    try:
        summary = None if left and hurry else summarise(output, console)
        end_log(log, summary, console, over=not left, hurry=hurry)
    except (UserError, OSError) as error:  # a store that is away now; what is recorded is recorded
        end_log(log, None, console, over=not left, hurry=hurry)
        later = f"`{called('report')} {output}` prints it when it can"
        complain(f"no summary: {error}; {later}")
        if not left:
            return STOPPED
    if left:
        complain(f"{stopped or 'interrupted'}: {left} episodes left; {again}")
        return STOPPED if stopped else INTERRUPTED
    return WITH_ERRORS if summary and summary.errors else DONE


def end_log(
    log: RunLog, summary: Summary | None, console: Console, *, over: bool, hurry: bool
) -> None:
    """Bring the log to its end, and say what became of it."""
    for line in log.close(summary, over=over, hurry=hurry):
        console.print(line, **PLAIN)


def work(run: RunPlan, books: Books, console: Console, log: RunLog) -> str:
    """Run a plan to its end or to an interrupt; returns why it cannot go on, if so."""
    with commands.importing():  # after all checks: ray takes a second
        from rsd.cluster.evaluate import evaluate
        from rsd.cluster.session import connected

    try:
        with connected():
            evaluate(run, books, console, log)
    except RunStoppedError as error:
        return f"stopped: {error}"
    return ""


def summarise(output: str, console: Console) -> Summary:
    """Print the tables of everything that is recorded in `output`."""
    with commands.importing():
        from rsd.summary import compute, terminal  # so does pandas

    summary = compute.summarise(output)
    terminal.print_summary(summary, console)
    return summary
