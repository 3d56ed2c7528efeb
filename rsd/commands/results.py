"""Published results: `rsd results --help`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from rsd import results
from rsd.commands import DONE, as_called, called
from rsd.console import PLAIN
from rsd.errors import UserError
from rsd.flags import read
from rsd.outputs import write_file
from rsd.summary import markdown
from rsd.summary.rules import MARGIN, margin_of

FOLDER = Path("docs/results")
ALL, BRIEF = "results", "results in brief"  # what a page may hold

DESCRIPTION = """\
Published results: keep a run compactly in the repository, and make the tables of a page from it.

  rsd results keep results/spatial --name lite             # -> docs/results/lite.parquet
  rsd results table                                        # print the tables of docs/results
  rsd results table --tasks                                # and the successes of every task
  rsd results table --write docs/results.md README.md      # put them where the pages have them

Exit codes: 0 done, 2 bad request.
"""


@dataclass(frozen=True)
class Keep:
    """Keep a run compactly."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder or address of a run"""

    name: str
    """Name of the file: letters, digits, - and _"""

    folder: Path = FOLDER
    """Where the file goes"""

    def run_it(self, console: Console) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise UserError(f"--name {self.name!r}: letters, digits, - and _ only")
        path = self.folder / f"{self.name}{results.SUFFIX}"
        count = results.keep(self.run, path)
        console.print(f"{path}: {count} episodes, {path.stat().st_size / 1024:.0f} KiB", **PLAIN)


@dataclass(frozen=True)
class TableOf:
    """Make the tables."""

    folder: Path = FOLDER
    """Where the files are that `keep` made"""

    tasks: bool = False
    """Also the successes of every task"""

    margin: float = 100 * MARGIN
    """Points of success rate by which an arm may be worse and still count as not worse"""

    write: tuple[Path, ...] = ()
    """Pages to write them into, between the lines that say so"""

    def run_it(self, console: Console) -> None:
        files = sorted(self.folder.glob(f"*{results.SUFFIX}"))
        if not files:
            raise UserError(f"no results in {self.folder}; `{called('results')} keep` makes some")
        topics = topics_of(files, margin_of(self.margin), self.tasks)
        if not self.write:
            console.print("\n".join(topics[ALL]), **PLAIN)
        for path in self.write:
            write_into(path, topics)
            console.print(f"wrote {path}", **PLAIN)


def topics_of(files: Sequence[Path], margin: float, tasks: bool = False) -> dict[str, list[str]]:
    """What pages hold of compact files, by topic: every table, and the largest comparison's."""
    summaries = [results.summary(group, margin) for group in results.published(files)]
    lines: list[str] = []
    for summary in summaries:
        lines += [*markdown.section(summary, tasks), ""]
    lines += ["\n\n".join(markdown.all_notes(summaries))]
    largest = max(summaries, key=lambda summary: (bool(summary.pairs), summary.episodes))
    return {ALL: lines, BRIEF: markdown.brief_table(largest)}


def write_into(path: Path, topics: Mapping[str, Sequence[str]]) -> None:
    """Fill a page; raises UserError for one that cannot be read, filled or written."""
    try:
        page = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no page in UTF-8: {error}") from error
    write_file(path, markdown.filled(page, topics), "--write")


Job = (
    Annotated[Keep, tyro.conf.subcommand("keep")]
    | Annotated[TableOf, tyro.conf.subcommand("table")]
)


def main(words: Sequence[str], console: Console) -> int:
    """Keep or tabulate; returns the exit code."""
    job: Any = read(Job, words, called("results"), as_called(DESCRIPTION))
    try:
        job.run_it(console)
    except OSError as error:  # of a folder or a store
        raise UserError(str(error)) from error
    return DONE
