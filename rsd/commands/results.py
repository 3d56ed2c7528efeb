"""Published results: `rsd results --help`."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from rsd import results
from rsd.commands import DONE, as_called, called
from rsd.console import PLAIN
from rsd.errors import UserError, unknown
from rsd.exchange import model_card, vla_eval
from rsd.exchange.importing import import_files
from rsd.flags import read
from rsd.outputs import write_file
from rsd.summary import markdown, unpaired
from rsd.summary.rules import MARGIN, margin_of

FOLDER = Path("docs/results")
ALL, BRIEF = "results", "results in brief"  # what a page may hold

DESCRIPTION = """\
Published results: keep a run compactly in the repository, and make the tables of a page from it;
import results of other software, and export ours to it (docs/exchange.md).

  rsd results keep results/spatial --name lite             # -> docs/results/lite.parquet
  rsd results table                                        # print the tables of docs/results
  rsd results table --tasks                                # and the successes of every task
  rsd results table --folder docs/results docs/pareto --trials 3 4 5   # these worlds, all arms
  rsd results table --write docs/results.md README.md      # put them where the pages have them
  rsd results import recording-1f0c.sqlite                 # vla-eval's -> results/vla-eval-<hash>
  rsd results import outputs/eval/eval_info.json --arm act # LeRobot's; then `rsd report RUN IT`
  rsd results export results/spatial --to model-card       # -> model-card.md

Exit codes: 0 done, 2 bad request.
"""


@dataclass(frozen=True)
class Keep:
    """Keep a run compactly."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder or address of a run"""

    name: str
    """Name of the file: letters, digits, - and _"""

    arms: tuple[str, ...] = ()
    """Only these of the run's; all if left out"""

    folder: Path = FOLDER
    """Where the file goes"""

    def run_it(self, console: Console) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise UserError(f"--name {self.name!r}: letters, digits, - and _ only")
        path = self.folder / f"{self.name}{results.SUFFIX}"
        count = results.keep(self.run, path, self.arms)
        console.print(f"{path}: {count} episodes, {path.stat().st_size / 1024:.0f} KiB", **PLAIN)


@dataclass(frozen=True)
class TableOf:
    """Make the tables."""

    folder: tuple[Path, ...] = (FOLDER,)
    """Where the files are that `keep` made; of several folders all"""

    trials: tuple[int, ...] = ()
    """Only these of each task, so that arms with more are counted on the worlds of the others;
    all if left out"""

    tasks: bool = False
    """Also the successes of every task"""

    margin: float = 100 * MARGIN
    """Points of success rate by which an arm may be worse and still count as not worse"""

    write: tuple[Path, ...] = ()
    """Pages to write them into, between the lines that say so"""

    def run_it(self, console: Console) -> None:
        files = []
        for folder in self.folder:
            found = sorted(folder.glob(f"*{results.SUFFIX}"))
            if not found:
                raise UserError(f"no results in {folder}; `{called('results')} keep` makes some")
            files += found
        topics = topics_of(files, margin_of(self.margin), self.tasks, self.trials)
        if not self.write:
            console.print("\n".join(topics[ALL]), **PLAIN)
        for path in self.write:
            write_into(path, topics)
            console.print(f"wrote {path}", **PLAIN)


def topics_of(
    files: Sequence[Path], margin: float, tasks: bool = False, trials: Sequence[int] = ()
) -> dict[str, list[str]]:
    """What pages hold of compact files, by topic: every table, and the largest comparison's."""
    groups = results.published(files)
    if trials:
        groups = results.of_trials(groups, trials)
    summaries = [results.summary(group, margin) for group in groups]
    lines: list[str] = []
    for summary in summaries:
        lines += [*markdown.section(summary, tasks), ""]
    notes = markdown.all_notes(summaries)
    two = itertools.combinations(summaries, 2)
    if found := unpaired.compare_runs(pair for pair in two if unpaired.one_is_imported(*pair)):
        lines += [*markdown.unpaired_table(found), ""]
        notes += unpaired.notes(found)
    lines += ["\n\n".join(notes)]
    largest = max(summaries, key=lambda summary: (bool(summary.pairs), summary.episodes))
    return {ALL: lines, BRIEF: markdown.brief_table(largest)}


def write_into(path: Path, topics: Mapping[str, Sequence[str]]) -> None:
    """Fill a page; raises UserError for one that cannot be read, filled or written."""
    try:
        page = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no page in UTF-8: {error}") from error
    write_file(path, markdown.filled(page, topics), "--write")


@dataclass(frozen=True)
class Import:
    """Make a run of results of other software: vla-eval's or LeRobot's."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """recording-<eval_id>.sqlite, <benchmark>_aggregate.json, a folder of episodes' .jsonl
    (vla-eval), eval_info.json (LeRobot), or a folder with one of them"""

    output: Annotated[str | None, tyro.conf.arg(metavar="DIR|URI")] = None
    """Folder or address of the run; None: results/<software>-<hash of the files>"""

    arm: str | None = None
    """What its arm is called in tables, such as the policy's name; None: the software"""

    software_version: str | None = None
    """Version of the software, where the files do not say it (LeRobot's do not)"""

    def run_it(self, console: Console) -> None:
        done = import_files(self.files, self.output, self.arm, self.software_version)
        held = len(done.results.episodes)
        errors = sum(episode.outcome == "error" for episode in done.results.episodes)
        lines = [
            f"{done.output}: {held} episodes of {done.results.source}, {done.new} of them new",
            *([f"{errors} are errors; they are in no rate here"] if errors else []),
            *(
                []
                if done.results.complete
                else ["episodes may be missing: the files do not say that they are complete"]
            ),
            f"`{called('report')} RUN {done.output}` compares its arm with those of a run",
        ]
        for line in lines:
            console.print(line, **PLAIN)


def _model_card(run: str) -> dict[str, str]:
    return {"model-card.md": model_card.card_of(run)}


def _vla_eval(run: str) -> dict[str, str]:
    bodies = vla_eval.aggregates_of(run)
    return {name: json.dumps(body, indent=2) + "\n" for name, body in bodies.items()}


# What a run goes out as: file names and contents.
FORMATS: dict[str, Callable[[str], dict[str, str]]] = {
    "model-card": _model_card,
    "vla-eval": _vla_eval,
}


@dataclass(frozen=True)
class Export:
    """Write a run as others do: the head and tables of a model card, or vla-eval's aggregates."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder or address of a run"""

    to: Annotated[str, tyro.conf.arg(metavar="{model-card,vla-eval}")]
    """model-card: model-index and tables, for the README.md of a repository on the Hugging Face
    Hub; vla-eval: a <benchmark>_aggregate.json for each arm and suite"""

    folder: Path = Path()
    """Where the files go"""

    def run_it(self, console: Console) -> None:
        if self.to not in FORMATS:
            raise unknown("format", self.to, FORMATS)
        for name, content in FORMATS[self.to](self.run).items():
            write_file(self.folder / name, content, "--folder")
            console.print(f"wrote {self.folder / name}", **PLAIN)


Job = (
    Annotated[Keep, tyro.conf.subcommand("keep")]
    | Annotated[TableOf, tyro.conf.subcommand("table")]
    | Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[Export, tyro.conf.subcommand("export")]
)


def main(words: Sequence[str], console: Console) -> int:
    """Keep or tabulate; returns the exit code."""
    job: Any = read(Job, words, called("results"), as_called(DESCRIPTION))
    try:
        job.run_it(console)
    except OSError as error:  # of a folder or a store
        raise UserError(str(error)) from error
    return DONE
