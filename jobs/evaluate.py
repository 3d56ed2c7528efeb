"""Evaluate a policy: `python jobs/evaluate.py --help`."""

from __future__ import annotations

import sys
from pathlib import Path

# A working folder that `ray job submit` has uploaded is not installed, and wins over what is.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rsd import commands

if __name__ == "__main__":
    commands.leave_on_interrupt()

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console

from rsd import arithmetic
from rsd.cluster.address import check_cluster, cluster_address
from rsd.config import parse
from rsd.console import PLAIN, complain, make_console
from rsd.errors import RunStoppedError, UserError
from rsd.leaving import is_left_behind, terminable
from rsd.preflight import RunPlan, check_output, open_books, output_of, prepare

if TYPE_CHECKING:
    from rsd.records import Books

DONE, STOPPED, BAD_REQUEST, WITH_ERRORS, INTERRUPTED = 0, 1, 2, 3, commands.INTERRUPTED


def main(arguments: Sequence[str]) -> int:
    """Parse, check, plan, run, summarise; returns the exit code that `--help` explains."""
    console = make_console()
    try:
        with terminable():
            run = prepare(parse(arguments))
            check_place(run)
            if run.config.output.dry_run:
                check_output(run)
            describe(run, console)
            if run.config.output.dry_run:
                return DONE
            return carry_out(run, console)
    except UserError as error:
        complain(f"error: {error}")
        return BAD_REQUEST
    except KeyboardInterrupt:  # before the driver listens for it
        return INTERRUPTED


def check_place(run: RunPlan) -> None:
    """Raises UserError where a run finds no cluster, or asks for GPUs that this machine lacks."""
    check_cluster()
    if run.config.cluster.gpus_per_replica and cluster_address() is None:
        with commands.importing():
            from rsd.cluster.session import check_gpus  # ray takes a second to import
        check_gpus(run.config.cluster.gpus_per_replica)


def describe(run: RunPlan, console: Console) -> None:
    """Say what is going to run on what; in a dry run also what it will take."""
    arms = ", ".join(run.arms)
    worlds = len(run.keys) // len(run.arms)
    lines = [
        f"episodes {len(run.keys)}: {worlds} worlds (suite, task, trial) x arms {arms}",
        f"policy   {run.config.policy.policy} (sha256 {run.policy.sha256[:12]}){_training(run)}",
        f"assets   {run.assets.name}: {run.assets.reason}",
        f"renderer {run.renderer}",
    ]
    if (computes := arithmetic.name()) != arithmetic.REFERENCE:
        lines.append(
            f"numbers  {computes}: not the arithmetic of other machines ({arithmetic.REFERENCE}), "
            "so states can be compared bit for bit with runs of this kind of machine only"
        )
    if run.config.output.dry_run:
        lines += _forecast_lines(run)
    for line in lines:
        console.print(line, **PLAIN)


def _training(run: RunPlan) -> str:
    """What the policy was trained on, and what it has never seen."""
    known = run.policy.suites
    if not known:
        return ""
    new = [suite for suite in run.config.episodes.task_suite if suite not in known]
    never = f", never on {', '.join(new)}" if new else ""
    return f", trained on {', '.join(known)}{never}"


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
        f"time     about {timedelta(seconds=round(plan.seconds))} if every episode takes all steps",
        "dry run: nothing was started",
    ]


def carry_out(run: RunPlan, console: Console) -> int:
    """Run on Ray what is not recorded of a checked plan, and print the summary.

    There is none where the run is left in a hurry: `python -m rsd.report` makes it at leisure.
    """
    planned = set(run.keys)
    books = open_books(run, lambda line: console.print(line, **PLAIN))
    output, done = books.output, len(books.recorded())
    stopped, hurry = "", False
    try:
        with books:
            console.print(f"output   {output} (run {books.run_id}, {done} recorded)", **PLAIN)
            if not planned <= books.recorded():
                try:
                    stopped = work(run, books, console)
                except KeyboardInterrupt:
                    hurry = True
    except (UserError, OSError) as error:  # the books cannot be written
        again = f"make room or mend it, then the same command with --output {output} --resume"
        complain(f"{stopped or 'stopped'}: {error}; {again} goes on")
        return INTERRUPTED if hurry else STOPPED
    except KeyboardInterrupt:  # while the books waited for their store
        hurry = True
    left = len(planned - books.recorded())
    hurry = hurry or is_left_behind()
    try:
        errors = 0 if left and hurry else summarise(output, console)
    except (UserError, OSError) as error:  # a store that is away now; what is recorded is recorded
        again = f"`python -m rsd.report {output}` prints it when it can"
        complain(f"no summary: {error}; {again}")
        if not left:
            return STOPPED
    if left:
        how = f"{stopped or 'interrupted'}: {left} episodes left"
        resume = f"go on with the same arguments and --output {output} --resume"
        complain(f"{how}; {resume}")
        return STOPPED if stopped else INTERRUPTED
    return WITH_ERRORS if errors else DONE


def work(run: RunPlan, books: Books, console: Console) -> str:
    """Run a plan to its end or to an interrupt; returns why it cannot go on, if so."""
    with commands.importing():  # after all checks: ray takes a second
        from rsd.cluster.evaluate import evaluate
        from rsd.cluster.session import connected

    try:
        with connected():
            evaluate(run, books, console)
    except RunStoppedError as error:
        return f"stopped: {error}"
    return ""


def summarise(output: str, console: Console) -> int:
    """Print the tables of everything that is recorded in `output`; returns its error rows."""
    with commands.importing():
        from rsd import report  # so does pandas

    summary = report.summarise(output)
    report.print_summary(summary, console)
    return summary.errors


if __name__ == "__main__":
    commands.run(main)
