"""Kill a run again and again, and audit its books: `rsd chaos --help`."""

from __future__ import annotations

import json
import shutil
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from rich.console import Console

from rsd import provenance
from rsd.chaos.audit import Check, account, audit
from rsd.chaos.blows import STORE, VICTIMS, Ending, last_line, plan_events
from rsd.chaos.campaign import Campaign
from rsd.chaos.store import Store
from rsd.cluster.worker import KILL_GRACE_S
from rsd.commands import DONE, as_called, called, program
from rsd.config import parse
from rsd.console import PLAIN
from rsd.errors import UserError
from rsd.flags import read
from rsd.outputs import prove_writable, write_file
from rsd.preflight import RunPlan, prepare
from rsd.tables import Grid, print_grid

TOY: tuple[str, ...] = ("--task-suite", "toy_slow", "--policy", "toy", "--num-trials", "20")
TOY += ("--workers", "2", "--worker-memory-gb", "0.2")
LIMITS = ("--time-limit-s", "60", "--decode-limit-s", "10")
BROKEN = 1
RECOVERY_S = 90.0  # beside the time limit: Ray's start, and how long it takes to miss a node
SHORT = 70  # characters of what a run did, in the table
SHOWN = 5  # broken cases of a promise; the report has them all

DESCRIPTION = """\
Kill a run again and again, resume it until it is complete, and audit its books.

  rsd chaos --kills 50                                 # toy episodes, about 10 minutes
  rsd chaos --kills 20 --report chaos.json -- --policy libero --assets lite \\
      --task-suite libero_spatial --tasks 0 1 --num-trials 5
  rsd chaos --victims worker replica --seed 3          # only those, other moments
  rsd chaos --victims store driver                     # rows in an object store

What follows `--` are flags of `rsd evaluate`. First it is run in peace. Then the same run is
struck: workers, replicas, raylet, GCS and driver are killed (SIGKILL) or stopped (SIGSTOP, for a
moment or for good), the driver's process group gets SIGTERM or SIGINT; with `store` among the
victims an S3 server (--store-command) is started, and it goes away and comes back. Whatever ends
is started again with --resume. A run that is complete is audited, and another one begins, until
all kills are spent. What is struck when follows from --seed alone.

Audited: planned = rows = unique keys; chunk rows = what episodes say; every failed attempt has a
kill that explains it; rows, final states and actions are those of the run in peace; drivers end
with the exit code that --help of `rsd evaluate` explains and name --resume; no process and no
temporary file is left.

Everything is run on a Ray of its own on this machine, whatever RAY_ADDRESS says; only processes
that were started here are struck. Use short limits: the defaults here are those of LIMITS, and
flags after `--` win.

Exit codes: 0 every promise held; 1 one was broken; 2 the request cannot be run; 130 interrupted.
"""


@dataclass(frozen=True)
class ChaosConfig:
    """A campaign, as a user asks for it."""

    output: Path = Path("results/chaos")
    """Folder of the runs and of what they printed; must not exist or be empty"""

    seed: int = 0
    """Decides what is struck, when, and for how long"""

    kills: int = 20
    """Blows; each kind falls once before one falls twice"""

    victims: tuple[str, ...] = tuple(victim for victim in VICTIMS if victim != STORE)
    """worker, replica, raylet, gcs, driver, group (the driver's, as by timeout, Ctrl-C), store"""

    store_command: str = "moto_server -H 127.0.0.1 -p {port}"
    """With the victim `store`: starts an S3 server that takes any credentials, on {port}"""

    patience_s: float | None = None
    """Seconds without a new row after which a run counts as stuck; None: its --time-limit-s and
    100 more"""

    report: Path | None = None
    """Write the campaign to this file as JSON: every blow, every ending, the audit"""


def summed(audits: Sequence[tuple[str, Check]]) -> dict[str, list[str]]:
    """Broken cases by promise, over all rounds."""
    return {
        promise: [
            f"{run}: {case}" for run, c in audits if c.promise == promise for case in c.broken
        ]
        for promise in dict.fromkeys(check.promise for _, check in audits)
    }


def print_report(
    entries: Sequence[dict[str, object]], broken: dict[str, list[str]], console: Console
) -> None:
    """A row a blow, then a row a promise."""
    columns = ("#", "run", "blow", "what the run did", "next row", "gap")
    table = Grid("Campaign", columns, names=4)
    for entry in entries:
        lasts = f" {entry['lasts_s']:.1f} s" if entry["lasts_s"] else ""
        table.add(
            str(entry["number"]),
            f"{entry['run']}.{entry['session']}",
            f"{entry['signal']}{lasts} {entry['victim']}",
            textwrap.shorten(str(entry["then"]), SHORT, placeholder=" ..."),
            _seconds(entry["rows_after_s"]),
            _seconds(entry["longest_gap_s"]),
        )
    print_grid(console, table)
    promises = Grid("Audit", ("promise", "broken"), names=2)
    for promise, cases in broken.items():
        shown = [*cases[:SHOWN], *([f"and {len(cases) - SHOWN} more"] if cases[SHOWN:] else [])]
        promises.add(promise, "\n".join(shown) or "never")
    print_grid(console, promises)


def _seconds(value: object) -> str:
    return "none" if value is None else f"{value:.1f} s"


def carry_out(config: ChaosConfig, flags: Sequence[str], console: Console) -> int:
    """Peace, campaign, audit, report; returns the exit code."""
    plan = checked(config, flags)
    events = plan_events(config.seed, config.kills, config.victims)
    config.output.mkdir(parents=True, exist_ok=True)
    if config.report is not None:
        prove_writable(config.report, "--report")
    started = time.time()

    def say(line: str) -> None:
        console.print(f"{time.time() - started:6.1f} s {line}", **PLAIN)

    with ExitStack() as stack:
        ray = stack.enter_context(ray_folder())
        store = None
        if STORE in config.victims:
            store = Store(config.store_command, config.output / "store.log")
            stack.callback(store.close)
        limit_s = plan.config.cluster.time_limit_s + KILL_GRACE_S + RECOVERY_S
        campaign = Campaign(
            folder=config.output,
            command=[*program("evaluate"), *flags],
            planned=plan.keys,
            events=events,
            patience_s=config.patience_s or limit_s,
            store=store,
            ray=ray,
            say=say,
        )
        stack.callback(campaign.close)
        say(f"{len(plan.keys)} episodes in peace")
        calm = campaign.calm()
        calm_s = time.time() - started
        say(f"done in {calm_s:.0f} s; {len(events)} kills follow")
        campaign.run()
        proofs = {round_.name: campaign.evidence(round_, calm) for round_ in campaign.rounds}
    audits = [(name, check) for name, proof in proofs.items() for check in audit(proof)]
    finished = {
        name: proof.episodes["finished_at"].map(pd.Timestamp.timestamp).to_list()
        for name, proof in proofs.items()
    }
    entries = account(campaign.blows, campaign.endings, finished)
    broken = summed(audits)
    print_report(entries, broken, console)
    held = not any(broken.values())
    verdict = "every promise held" if held else "promises were broken"
    console.print(
        f"{len(entries)} blows, {len(proofs)} complete runs of {len(plan.keys)} episodes, "
        f"{len(campaign.endings)} sessions: {verdict}",
        **PLAIN,
    )
    if config.report is not None:
        record = {
            "held": held,
            "seed": config.seed,
            "kills": config.kills,
            "victims": config.victims,
            "flags": list(flags),
            "episodes": len(plan.keys),
            "calm_s": round(calm_s, 1),
            "campaign_s": round(time.time() - started - calm_s, 1),
            "started_at": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
            **provenance.provenance(),
            "events": [{**e, "at": round(float(str(e["at"])) - started, 3)} for e in entries],
            "sessions": [_as_reported(ending) for ending in campaign.endings],
            "audit": [{"run": run, **asdict(check)} for run, check in audits],
        }
        write_file(config.report, json.dumps(record, indent=1) + "\n", "--report")
    return DONE if held else BROKEN


def _as_reported(ending: Ending) -> dict[str, object]:
    return {
        "run": ending.run,
        "session": ending.session,
        "seconds": round(ending.ended - ending.started, 1),
        "exit_code": ending.exit_code,
        "stuck": ending.stuck,
        "last_line": last_line(ending.log),
    }


def checked(config: ChaosConfig, flags: Sequence[str]) -> RunPlan:
    """The plan of the run; raises UserError for whatever cannot be run."""
    if config.kills < 1:
        raise UserError(f"--kills {config.kills}: at least 1")
    if config.patience_s is not None and not config.patience_s > 0:
        raise UserError(f"--patience-s {config.patience_s}: more than 0 seconds")
    if not config.victims:
        raise UserError(f"--victims needs one or more of {', '.join(VICTIMS)}")
    if config.output.exists() and (not config.output.is_dir() or any(config.output.iterdir())):
        raise UserError(f"--output {config.output} is not an empty folder; choose another one")
    asked = parse(flags)
    if asked.output.output is not None or asked.output.resume or asked.output.dry_run:
        raise UserError(
            "after `--`: leave --output, --resume and --dry-run out; the campaign gives them"
        )
    return prepare(asked)


@contextmanager
def ray_folder() -> Iterator[str]:
    """For Ray's temporary files. Below /tmp: its sockets' paths may have 107 characters."""
    folder = tempfile.mkdtemp(prefix="rsd-chaos-", dir="/tmp")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(words: Sequence[str], console: Console) -> int:
    """Parse and carry out; returns the exit code."""
    at = list(words).index("--") if "--" in words else len(words)
    config: ChaosConfig = read(ChaosConfig, words[:at], called("chaos"), as_called(DESCRIPTION))
    try:
        return carry_out(config, [*LIMITS, *(words[at + 1 :] or TOY)], console)
    except OSError as error:  # of the campaign's own folder and processes
        raise UserError(str(error)) from error
