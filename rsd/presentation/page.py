"""The page: one file that opens from a disk, without a network.

Names, instructions and error texts come out of files that others wrote: everything is escaped, and
the page's own policy lets no other script run than the two that are in it, and nothing be loaded
but videos beside it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from rsd.console import duration
from rsd.presentation import interactive, tables, verdict
from rsd.presentation.charts import Chart, charts
from rsd.presentation.evidence import Difference, Evidence, Story
from rsd.summary.rules import UNEVEN, notes, uneven

_SECTIONS = (
    ("success", "Success"),
    ("pairs", "Arms"),
    ("pareto", "Latency"),
    ("acceptance", "Draft"),
    ("passes", "Passes"),
    ("cluster", "Cluster"),
    ("apart", "Failures"),
    ("provenance", "Provenance"),
)
_TABLES = (*tables.PAPER, tables.workers, tables.replicas, tables.failures, tables.runs)


@dataclass(frozen=True)
class Drawn:
    """A chart in the page."""

    chart: Chart
    json: str  # safe inside <script>
    height: int  # px


@dataclass(frozen=True)
class Tile:
    """A number that stands out."""

    name: str
    value: str
    more: str


@dataclass(frozen=True)
class Video:
    """One beside the page."""

    id: str
    name: str
    source: str  # URL, relative to the page where it can be
    told: str


def page(evidence: Evidence, path: Path, command: str) -> str:
    """HTML of what will be written to `path`; `command` makes it again."""
    environment = Environment(
        loader=PackageLoader("rsd.presentation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    template = environment.get_template("page.html.j2")
    return template.render(_content(evidence, path, command))


def _content(evidence: Evidence, path: Path, command: str) -> dict[str, Any]:
    made = {table.name: table for table in (make(evidence) for make in _TABLES)}
    drawn = {
        chart.name: Drawn(chart, _in_script(interactive.as_json(chart)), interactive.height(chart))
        for chart in charts(evidence)
    }
    scripts = [get_plotlyjs(), _own("page.js")]
    made_at = f"{evidence.made_at:%Y-%m-%d %H:%M} UTC"
    stories = _Stories(evidence, path)
    present = {
        "success": bool(made["success"].rows),
        "pairs": bool(made["pairs"].rows),
        "pareto": "pareto" in drawn,
        "acceptance": bool(made["acceptance"].rows),
        "passes": bool(made["passes"].rows),
        "cluster": evidence.timeline is not None,
        "apart": bool(evidence.unsolved or evidence.partings or evidence.failures),
        "provenance": True,
    }
    return {
        "title": _title(evidence),
        "policy": _policy(scripts),
        "style": _own("page.css"),
        "plotly": scripts[0],
        "script": scripts[1],
        "standing": [
            line
            for run in evidence.progress
            if (line := verdict.standing(run, made_at)) is not None
        ],
        "unfinished": verdict.UNFINISHED,
        "ran": verdict.what_ran(evidence),
        "headline": verdict.headline(evidence),
        "sentences": verdict.sentences(evidence),
        "tiles": _tiles(evidence),
        "uneven": UNEVEN if uneven(evidence.summary) else "",
        "sections": [(id_, name) for id_, name in _SECTIONS if present[id_]],
        "present": [name for name, is_there in present.items() if is_there],
        "charts": drawn,
        "task_charts": [name for name in drawn if name.startswith("tasks_")],
        "tables": made,
        "tasks": verdict.plural(len(evidence.instructions), "task"),
        "arms": evidence.arms,
        "unsolved": stories.heading(),
        "stories": stories.rows(),
        "more_stories": evidence.unsolved > len(evidence.stories),
        "videos": stories.videos(),
        "replay": [
            shlex.join(["rsd", "replay", run.output, which])
            for which in ("--failures", "--disagreements")
            for run in evidence.runs
        ],
        "facts": _facts(evidence),
        "notes": notes(evidence.summary),
        "runs": [
            {"name": run.run_id, "json": json.dumps(run.description, indent=2)}
            for run in evidence.runs
        ],
        "made_at": made_at,
        "command": command,
    }


def _own(name: str) -> str:
    return files("rsd.presentation").joinpath(name).read_text("utf-8")


def _in_script(text: str) -> str:
    """JSON that cannot end its <script>, nor begin a comment there."""
    return text.replace("<", "\\u003c")


def _policy(scripts: Sequence[str]) -> str:
    """Content-Security-Policy: these scripts alone, and no network."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; media-src 'self' file:; base-uri 'none'; form-action 'none'"
    )


def _title(evidence: Evidence) -> str:
    policies = sorted(
        {str(run.description["config"].get("policy", "")) for run in evidence.runs} - {""}
    )
    named = ", ".join(policies) or evidence.summary.names[0]
    return f"{named} on {', '.join(evidence.suites)}" if evidence.suites else named


def _tiles(evidence: Evidence) -> list[Tile]:
    summary = evidence.summary
    found = []
    for arm in summary.arms:
        rate = arm.success
        if rate.rate is not None:
            interval = f"{100 * rate.low:.1f} to {100 * rate.high:.1f}, n = {rate.finished:,}"
            found.append(Tile(arm.arm, f"{100 * rate.rate:.1f} %", interval))
    if summary.episodes_per_hour and summary.elapsed_s:
        took = f"in {duration(summary.elapsed_s)}"
        found.append(Tile("episodes an hour", f"{summary.episodes_per_hour:,.0f}", took))
    return found


def _facts(evidence: Evidence) -> list[tuple[str, str]]:
    made_by = evidence.summary.provenance
    decodings = {
        arm: ", ".join(f"{name} {value}" for name, value in decoding.items() if value is not None)
        for run in evidence.runs
        for arm, decoding in run.description["config"]["arms"].items()
    }
    packages = evidence.runs[0].description.get("packages") or {}
    return [
        ("Checkpoint", str(made_by.checkpoint_sha256 or "none")),
        ("Code", "; ".join(made_by.code)),
        ("Assets", made_by.assets),
        ("Renderer", made_by.renderer),
        ("Frames", made_by.frames),
        ("Arithmetic", made_by.arithmetic),
        ("Processors", made_by.processors),
        ("Packages", ", ".join(f"{name} {version}" for name, version in packages.items())),
        *((f"Arm {arm}", decoding) for arm, decoding in decodings.items()),
    ]


class _Stories:
    """The worlds that not every arm solved, as the page tells them."""

    def __init__(self, evidence: Evidence, path: Path) -> None:
        self._evidence = evidence
        self._folder = path.absolute().parent

    def heading(self) -> str:
        """How many there are."""
        evidence = self._evidence
        worlds = verdict.plural(evidence.unsolved, "world")
        apart = f"in {evidence.disagreements:,} of them one arm succeeded where another did not"
        return f"Not solved by every arm that tried: {worlds}; {apart}."

    def rows(self) -> list[dict[str, Any]]:
        """A table's."""
        return [
            {
                "suite": story.world[0],
                "task": story.world[1],
                "trial": story.world[2],
                "instruction": self._evidence.instructions.get(story.world[:2], ""),
                "outcomes": [story.outcomes.get(arm) for arm in self._evidence.arms],
                "parted": parted(story),
                "videos": self._of(story),
            }
            for story in self._evidence.stories
        ]

    def videos(self) -> list[Video]:
        """All, in the order of the rows."""
        return [video for story in self._evidence.stories for video in self._of(story)]

    def _of(self, story: Story) -> list[Video]:
        suite, task, trial, _ = story.world
        outcome = ", ".join(f"{arm}: {end}" for arm, end in story.outcomes.items())
        return [
            Video(
                id=f"video-{suite}-{task}-{trial}-{place}",
                name=name,
                source=quote(os.path.relpath(path, self._folder)),
                told=f"{suite} {task}, trial {trial}, {name} ({outcome})",
            )
            for place, (name, path) in enumerate(story.videos.items())
        ]


def parted(story: Story) -> str:
    """The first moment two arms part, in words."""
    if story.parted is None:
        return ""
    first, second, chunk = story.parted
    told = f"{first} and {second}: chunk {chunk}"
    return told + _differ(story.difference) if story.difference else told


def _differ(found: Difference) -> str:
    step = "" if found.step is None else f", control step {found.step}"
    layer = (
        ""
        if found.layer is None
        else f", layer {found.layer} ({found.tokens} of {found.of_tokens} tokens)"
    )
    action = "" if found.action is None else f", actions up to {found.action:.2g} apart"
    return step + layer + action
