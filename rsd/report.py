"""Tables of a run, finished or going on.

python -m rsd.report results/<run> [--margin POINTS] [--json]
"""

from __future__ import annotations

from rsd import commands

if __name__ == "__main__":
    commands.leave_on_interrupt()

import argparse
import dataclasses
import json
from collections.abc import Sequence

from rsd.console import PLAIN, complain, make_console
from rsd.errors import UserError
from rsd.summary.compute import summarise
from rsd.summary.rules import MARGIN, margin_of
from rsd.summary.terminal import print_summary


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m rsd.report`; 2 where the user has to mend something."""
    parser = argparse.ArgumentParser(
        prog="python -m rsd.report", description="Tables of a run, finished or going on."
    )
    parser.add_argument("run", help="folder or URI of a run, such as results/<run_id>")
    parser.add_argument(
        "--margin",
        type=float,
        default=100 * MARGIN,
        metavar="POINTS",
        help="how much worse still counts as not worse (%(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="print the values, not the tables")
    options = parser.parse_args(arguments)
    try:
        summary = summarise(options.run, margin_of(options.margin))
    except UserError as error:
        complain(f"error: {error}")
        return 2
    console = make_console()
    if options.json:
        console.print(json.dumps(dataclasses.asdict(summary), indent=2), **PLAIN)
    else:
        print_summary(summary, console)
    return 0


if __name__ == "__main__":
    commands.run(main)
