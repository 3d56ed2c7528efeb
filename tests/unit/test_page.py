"""The page and the paper of runs: what they hold, against counts made by hand; and runs that are
unfinished, empty, damaged, hostile or not to be compared."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from made_up_runs import RUN, key, paired_results, result, sha, unjudged, write

from rsd.books import Books, read_chunks
from rsd.commands import call
from rsd.errors import UserError
from rsd.presentation import charts, interactive, paper, tables, verdict
from rsd.presentation.evidence import Evidence, read_evidence
from rsd.presentation.page import page, parted
from rsd.presentation.timeline import timeline
from rsd.provenance import ReplicaEvent
from rsd.summary.compute import Rows, summarise, summary_of
from rsd.summary.rules import EVERY_TWO, notes
from rsd.summary.sessions import Session
from rsd.summary.values import Provenance
from rsd.types import EpisodeResult

NOW = datetime(2027, 1, 15, 9, tzinfo=UTC)
ROOT = Path(__file__).parents[2]


def of(*outputs: str, margin: float = 0.02) -> Evidence:
    return read_evidence(outputs, margin, NOW)


def html(*outputs: str, path: Path = Path("page.html")) -> str:
    return page(of(*outputs), path, "rsd report run")


def with_chunks(
    trial: int, arm: str, names: Sequence[str], outcome: Any = "success"
) -> EpisodeResult:
    """An episode whose chunks do what their names say."""
    whole = result(key(trial, arm), outcome, chunks=len(names), final_state=" ".join(names))
    chunks = [
        dataclasses.replace(chunk, action_sha256=sha(name))
        for chunk, name in zip(whole.chunks, names, strict=True)
    ]
    return dataclasses.replace(whole, chunks=chunks)


class Text(HTMLParser):
    """What a reader sees, and the elements of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.words.append(data)

    @property
    def seen(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


# --- what it says --------------------------------------------------------------------------------


def test_the_page_says_what_ran_and_the_verdict_first(tmp_path: Path) -> None:
    text = Text(html(write(tmp_path, paired_results()))).seen
    ran = "100 episodes of 2 arms (autoregressive, speculative) on 10 tasks of libero_spatial"
    assert f"{ran}, 1 error." in text
    assert "no difference between speculative and autoregressive is shown" in text
    assert text.index("no difference") < text.index("Wilson's 95 % interval")


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (["success"] * 300, "ends in the same simulator state as autoregressive in all 300 shared"),
        (
            ["timeout"] * 40 + ["success"] * 260,
            "speculative succeeds less often than autoregressive",
        ),
        (
            ["timeout"] + ["success"] * 299,
            "speculative is not worse than autoregressive by 2 points",
        ),
        (["timeout"] * 4 + ["success"] * 296, "no difference between speculative and autoregress"),
    ],
)
def test_a_verdict_is_what_the_tests_show(second: list[Any], said: str) -> None:
    """The same final state is claimed where all are the same and nowhere else."""
    same = all(outcome == "success" for outcome in second)
    arms = {"autoregressive": ["success"] * len(second), "speculative": second}
    rows = [
        {
            "arm": arm,
            "suite": "s",
            "task_id": 0,
            "trial": trial,
            "seed": 0,
            "source": None,
            "outcome": outcome,
            "final_state_sha256": f"{trial}" if same else f"{trial} of {arm}",
        }
        for arm, ends in arms.items()
        for trial, outcome in enumerate(ends)
    ]
    made_by = Provenance(None, (), *["x"] * 6)
    summary = summary_of(Rows(pd.DataFrame(rows), {}), ("run",), made_by, 0.02, EVERY_TWO, {})
    told = verdict.pair_sentence(summary.pairs[0], summary)
    assert said in told


def test_its_tables_hold_the_summarys_numbers(tmp_path: Path) -> None:
    evidence = of(write(tmp_path, paired_results()))
    table = tables.success_by_suite(evidence)
    outcomes = [(one.key.arm, one.outcome) for one in paired_results()]
    for row in table.rows:
        arm, solved = row[0].text, row[2].text
        finished = [end for name, end in outcomes if name == arm and end != "error"]
        assert solved == f"{finished.count('success')}/{len(finished)}"
    (pair,) = tables.pairs(evidence).rows
    assert [cell.text for cell in pair[:5]] == [
        "autoregressive",
        "speculative",
        "49",
        *pair_counts(),
    ]
    assert len(tables.success_by_task(evidence).rows) == 20
    assert [row[1].text for row in tables.acceptance(evidence).rows] == ["0", "1", "2"]


def pair_counts() -> list[str]:
    """Worlds that one arm alone solved, by hand."""
    ends = {(one.key.arm, one.key.task_id, one.key.trial): one.outcome for one in paired_results()}
    worlds = [world[1:] for world in ends if world[0] == "autoregressive"]
    pairs = [(ends["autoregressive", *w], ends["speculative", *w]) for w in worlds]
    return [str(pairs.count(("success", "timeout"))), str(pairs.count(("timeout", "success")))]


def test_the_share_of_worlds_still_the_same_is_counted_chunk_by_chunk(tmp_path: Path) -> None:
    """Against a comparison of lists, over random episodes of different lengths."""
    rng = np.random.default_rng(3)
    names = {
        (arm, trial): [f"{c} {rng.integers(3) if rng.random() < 0.2 else 0}" for c in range(n)]
        for arm in ("a", "b", "c")
        for trial in range(40)
        for n in [int(rng.integers(3, 7))]
    }
    episodes = [with_chunks(trial, arm, own) for (arm, trial), own in names.items()]
    found = of(write(tmp_path, episodes)).partings
    assert [(one.first, one.second) for one in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    for one in found:
        first = {}
        for trial in range(40):
            both = itertools.zip_longest(names[one.first, trial], names[one.second, trial])
            apart = [place for place, (x, y) in enumerate(both) if x != y]
            if apart:
                first["libero_spatial", 0, trial, 0] = apart[0]
        assert one.chunk == first and one.worlds == 40
        assert one.together() == pytest.approx(
            [sum(first.get(w, 99) >= k for w in worlds()) / 40 for k in range(len(one.together()))]
        )


def worlds() -> list[tuple[str, int, int, int]]:
    return [("libero_spatial", 0, trial, 0) for trial in range(40)]


def test_a_disagreement_is_told_with_the_first_moment_and_what_differs(tmp_path: Path) -> None:
    first = with_chunks(0, "autoregressive", ["x", "y", "z"])
    second = with_chunks(0, "speculative", ["x", "q", "z"], "timeout")
    other = second.chunks[1].codes
    assert other is not None
    other = other.copy()
    other[0, :5, 2] = (other[0, :5, 2] + 1) % 7
    actions = second.chunks[1].actions
    assert actions is not None and len(actions) == 8
    actions = actions.copy()
    actions[3, 2] += 0.25
    second.chunks[1] = dataclasses.replace(second.chunks[1], codes=other, actions=actions)
    lossless = [with_chunks(1, arm, ["x"]) for arm in ("autoregressive", "speculative")]
    evidence = of(write(tmp_path, [first, second, *lossless]))
    (story,) = evidence.stories
    assert (evidence.unsolved, evidence.disagreements) == (1, 1)
    assert {"success", "timeout"} <= set(story.outcomes.values())
    told = (
        "autoregressive and speculative: chunk 1, control step 11, layer 2 (5 of 64 tokens), "
        "actions up to 0.25 apart"
    )
    assert parted(story) == told
    assert told in Text(page(evidence, Path("x.html"), "")).seen
    assert evidence.partings[0].together() == [1.0, 1.0, 0.5]


def test_the_pareto_figure_counts_worlds_that_all_arms_finished(tmp_path: Path) -> None:
    some = [result(key(trial, "a"), "success" if trial < 6 else "timeout") for trial in range(10)]
    more = [
        result(key(trial, "b"), "timeout" if trial < 3 else "success") for trial in range(5, 20)
    ]
    evidence = of(write(tmp_path, [*some, *more]))
    assert {arm: (one.successes, one.finished) for arm, one in evidence.shared.items()} == {
        "a": (1, 5),
        "b": (5, 5),
    }
    (chart,) = charts.pareto(evidence)
    assert "5 worlds that all arms finished" in chart.title
    assert [series.y for series in chart.series[:2]] == [[20.0], [100.0]]


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(1, 1), (2, 2)], [(1, 1), (2, 2)]),
        ([(1, 2), (2, 1)], [(1, 2)]),
        ([(3, 9), (1, 5), (2, 5), (1, 4)], [(1, 5), (3, 9)]),
    ],
)
def test_a_front_is_what_nothing_beats_in_both(points: Any, front: Any) -> None:
    assert charts._front(points) == front


def test_a_worker_is_busy_while_its_episodes_ran() -> None:
    start = datetime(2027, 1, 1, tzinfo=UTC)
    ends = [10, 20, 40, 30]
    rows = pd.DataFrame(
        {
            "arm": "a",
            "suite": "s",
            "task_id": 0,
            "trial": range(4),
            "worker": ["w0", "w0", "w0", "w1"],
            "node": "n",
            "outcome": ["success", "error", "timeout", "success"],
            "attempts": [1, 3, 1, 1],
            "wall_s": [10.0, 5.0, 10.0, 30.0],
            "finished_at": pd.to_datetime([start + timedelta(seconds=s) for s in ends]),
        }
    )
    line = timeline(rows, [Session(start, start, ())])
    assert line is not None and (line.bins, line.seconds) == (40, 1.0)
    first, second = line.lanes
    assert first.busy == [1] * 10 + [0] * 5 + [1] * 5 + [0] * 10 + [1] * 10
    assert second.busy == [1] * 30 + [0] * 10
    assert (first.episodes, first.again, first.errors) == (3, 1, 1)
    assert [(one.attempts, one.episode) for one in line.again] == [(3, "a, s 0, trial 1")]
    assert sum(line.per_hour) * line.seconds / 3600 == pytest.approx(4)


def test_a_replica_is_ready_between_its_deaths_and_to_the_end_of_its_session(
    tmp_path: Path,
) -> None:
    """Two sessions of 20 s with 20 s of nothing between them; a resumed run numbers its replicas
    from 0 again."""
    now = 1_800_000_000.0

    def session(begins: int, events: list[tuple[int, ReplicaEvent]], trial: int) -> None:
        nonlocal now
        now = 1_800_000_000.0 + begins
        books = Books.open(
            str(tmp_path), {**RUN, "planned_episodes": 2}, resume=begins > 0, clock=lambda: now
        )
        with books:
            for at, event in events:
                now = 1_800_000_000.0 + begins + at
                books.note_replica(event)
            now = 1_800_000_000.0 + begins + 20
            books.add(result(key(trial)), attempts=1, worker="worker-0", node="n")

    ready = ReplicaEvent("replica-0", "ready", "n", "EPYC")
    died = ReplicaEvent("replica-0", "died", why="it ran away")
    session(0, [(2, ReplicaEvent("replica-0", "started")), (4, ready), (8, died), (10, ready)], 0)
    session(40, [(1, ReplicaEvent("replica-0", "started")), (2, ready)], 1)
    found = of(str(tmp_path))
    assert found.timeline is not None
    (lane,) = found.timeline.replicas
    up = [*range(4, 8), *range(10, 20), *range(42, 60)]
    assert lane.ready == pytest.approx([float(second in up) for second in range(60)])
    assert (lane.deaths, lane.dead, lane.to_ready_s) == (1, False, 1.0)
    drawn = html(str(tmp_path))
    assert "figure-replicas" in drawn and "replica-0: it ran away" in drawn
    assert "table-replicas" in drawn and "books do not say it" not in drawn


def test_runs_of_before_replicas_were_noted_say_so(tmp_path: Path) -> None:
    drawn = html(write(tmp_path, paired_results()))
    assert "these runs' books do not say it" in Text(drawn).seen
    assert "table-replicas" not in drawn and "figure-replicas" not in drawn


def test_videos_beside_the_run_are_linked_to_their_episodes(tmp_path: Path) -> None:
    output = write(tmp_path / "run", paired_results())
    (tmp_path / "run" / "videos").mkdir()
    lost = next(story.world for story in of(output).stories)
    for name in (
        f"libero_spatial-{lost[1]}-{lost[2]:02d}-speculative.mp4",
        f"libero_spatial-{lost[1]}-{lost[2]:02d}-autoregressive_vs_speculative.mp4",
        "holiday.mp4",
    ):
        (tmp_path / "run" / "videos" / name).write_bytes(b"")
    text = Text(html(output, path=tmp_path / "pages" / "page.html"))
    sources = [video["src"] for video in text.all("video")]
    assert len(sources) == 2 and "rsd replay" not in text.seen
    for source in sources:
        assert (tmp_path / "pages" / str(source)).resolve().exists()


def test_without_videos_the_command_that_makes_them_is_told(tmp_path: Path) -> None:
    """As a shell reads it."""
    output = write(tmp_path / "my run", paired_results())
    assert f"rsd replay '{output}' --disagreements" in Text(html(output)).seen


# --- one file, for everybody ---------------------------------------------------------------------


def test_nothing_is_loaded_and_every_part_has_a_name(tmp_path: Path) -> None:
    text = Text(html(write(tmp_path, paired_results())))
    assert not text.all("link") and not text.all("img")
    assert not [script for script in text.all("script") if "src" in script]
    (policy,) = [m["content"] for m in text.all("meta") if m.get("http-equiv")]
    assert policy is not None and policy.startswith("default-src 'none'; script-src 'sha256-")
    ids = [attrs["id"] for _, attrs in text.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for link in text.all("a"):
        assert str(link["href"]).removeprefix("#") in ids
    for tag in ("main", "nav", "header", "footer", "h1"):
        assert len(text.all(tag)) == 1, tag
    assert len(text.all("caption")) == len(text.all("table"))
    assert all("scope" in head for head in text.all("th"))
    drawn = [div for div in text.all("div") if "data-chart" in div]
    assert len(drawn) >= 8 and all(len(str(div["aria-label"])) > 40 for div in drawn)
    for labelled in [attrs for _, attrs in text.elements if "aria-labelledby" in attrs]:
        assert labelled["aria-labelledby"] in ids


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'</table>"


def test_html_in_a_file_stays_text(tmp_path: Path) -> None:
    config = RUN["config"] | {"policy": HOSTILE, "arms": {HOSTILE: {"mode": HOSTILE}}}
    run = RUN | {"run_id": HOSTILE, "config": config, "planned_episodes": 9, "renderer": HOSTILE}
    lost = dataclasses.replace(result(key(0, HOSTILE), "error"), error=HOSTILE)
    failed = dataclasses.replace(result(key(1, HOSTILE), "timeout"), instruction=HOSTILE)
    with Books.open(str(tmp_path / "run"), run, resume=False) as books:
        for episode in (lost, failed):
            books.add(episode, attempts=2, worker=HOSTILE, node=HOSTILE)
    made = html(str(tmp_path / "run"))
    text = Text(made)
    assert not text.all("img")
    assert len([one for one in text.all("script") if one.get("type") != "application/json"]) == 2
    assert "<script>alert" not in made and HOSTILE in text.seen
    for chart in charts.charts(of(str(tmp_path / "run"))):
        drawn = interactive.as_json(chart)
        assert "<script" not in drawn and "<img" not in drawn
    plot = json.loads(next(data for data in text.scripts if data.startswith('{"data"')))
    assert plot["layout"]


def test_a_page_needs_neither_ray_nor_torch(tmp_path: Path) -> None:
    output = write(tmp_path / "run", paired_results())
    script = (
        "import sys\nfrom rsd.commands import call\n"
        f"assert call('report', [{output!r}, '--html', {str(tmp_path / 'x.html')!r}]) == 0\n"
        f"assert call('status', [{output!r}]) == 0\n"
        "print(sorted({'ray', 'torch', 'mujoco'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr
    assert (tmp_path / "x.html").read_text().startswith("<!doctype html>")


# --- bad input -----------------------------------------------------------------------------------


def test_a_run_in_progress_says_so_at_the_top(tmp_path: Path) -> None:
    output = write(tmp_path, [result(key(trial)) for trial in range(4)], planned=10)
    text = Text(html(output)).seen
    assert "Not finished." in text and "4 of 10 episodes are stored" in text
    assert text.index("Not finished.") < text.index("4 episodes of 1 arm")
    whole = write(tmp_path / "whole", [result(key(0))])
    assert "Not finished." not in Text(html(whole)).seen


def test_an_empty_run_is_a_page_that_says_it(tmp_path: Path) -> None:
    text = Text(html(write(tmp_path, [], planned=5)))
    assert "No episode is stored yet. No episode has a verdict yet." in text.seen
    assert "0 of 5 episodes" in text.seen and not text.all("figure")


def test_a_run_without_actions_or_codes_is_told_as_far_as_it_was_recorded(tmp_path: Path) -> None:
    episodes = [
        with_chunks(0, "autoregressive", ["x", "y"]),
        with_chunks(0, "speculative", ["x", "z"], "timeout"),
    ]
    for episode in episodes:
        episode.chunks[:] = [
            dataclasses.replace(chunk, codes=None, actions=None) for chunk in episode.chunks
        ]
    output = write(tmp_path, episodes)
    assert read_chunks(output, ["actions"])["actions"].null_count == 4
    (story,) = of(output).stories
    assert parted(story) == "autoregressive and speculative: chunk 1"


def test_runs_that_cannot_be_compared_name_the_field(tmp_path: Path) -> None:
    first = write(tmp_path / "a", [result(key(0))])
    second = write(tmp_path / "b", [result(key(1))])
    path = tmp_path / "b" / "run.json"
    run = json.loads(path.read_text())
    path.write_text(json.dumps(run | {"renderer": "egl"}))
    with pytest.raises(UserError, match=r'(?s)cannot be compared.*renderer: "osmesa" -> "egl"'):
        of(first, second)
    run["config"]["arms"]["speculative"] = {"mode": "parallel"}
    path.write_text(json.dumps(run))
    with pytest.raises(UserError, match=r"arm speculative of .* decodes by"):
        of(first, second)


def test_an_episode_of_two_runs_is_counted_once_or_not_at_all(tmp_path: Path) -> None:
    first = write(tmp_path / "a", [result(key(0)), result(key(1))])
    second = write(tmp_path / "b", [result(key(1))])
    with pytest.raises(UserError, match=r"1 episodes are in two of .*a, .*b") as refused:
        of(first, second)
    assert "('speculative', 'libero_spatial', 0, 1, 0); report each once" in str(refused.value)


def test_runs_together_say_what_one_run_of_both_would(tmp_path: Path) -> None:
    episodes = list(paired_results())
    halves = [
        write(tmp_path / arm, [one for one in episodes if one.key.arm == arm])
        for arm in ("autoregressive", "speculative")
    ]
    together, whole = of(*halves).summary, of(write(tmp_path / "whole", episodes)).summary
    assert (together.arms, together.pairs) == (whole.arms, whole.pairs)


@pytest.mark.parametrize("harm", ["truncated", "older"])
def test_a_damaged_or_older_run_is_refused_and_leaves_no_page(
    tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = write(tmp_path / "run", [result(key(0))])
    if harm == "truncated":
        (part,) = (tmp_path / "run" / "chunks").iterdir()
        part.write_bytes(part.read_bytes()[:-100])
    else:
        path = tmp_path / "run" / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": "1"}))
    assert call("report", [output, "--html", str(tmp_path / "x.html")]) == 2
    told = capsys.readouterr().err
    assert ("cannot be read" if harm == "truncated" else "schema version '1'") in " ".join(
        told.split()
    )
    assert not (tmp_path / "x.html").exists()


def test_a_place_for_no_page_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reading this run would fail, too."""
    output = write(tmp_path / "run", [result(key(0))])
    (part,) = (tmp_path / "run" / "chunks").iterdir()
    part.write_bytes(b"")
    (tmp_path / "file").touch()
    for flag, place in (("--html", tmp_path), ("--paper", tmp_path / "file")):
        assert call("report", [output, flag, str(place)]) == 2
        assert f"choose another {flag}" in " ".join(capsys.readouterr().err.split())
    new = tmp_path / "new" / "page.html"
    assert call("report", [output, "--html", str(new)]) == 2
    assert "cannot be read" in " ".join(capsys.readouterr().err.split()) and not new.exists()


# --- print ---------------------------------------------------------------------------------------


def test_a_paper_gets_figures_and_tables_that_are_the_same_each_time(tmp_path: Path) -> None:
    evidence = of(write(tmp_path / "run", paired_results()))
    made = [paper.write(evidence, tmp_path / name) for name in ("a", "b")]
    names = {path.name for path in made[0]}
    assert {"success.pdf", "success.svg", "pairs.tex", "acceptance.md", "pareto.pdf"} <= names
    for path in made[0]:
        content = path.read_bytes()
        assert content == (tmp_path / "b" / path.name).read_bytes(), path.name
        assert path.suffix != ".pdf" or content.startswith(b"%PDF")
        assert path.suffix != ".svg" or b"<svg" in content


def test_a_figure_comes_with_its_data(tmp_path: Path) -> None:
    evidence = of(write(tmp_path / "run", paired_results()))
    paper.write(evidence, tmp_path / "paper")
    (chart,) = charts.pareto(evidence)
    table = pq.read_table(tmp_path / "paper" / "pareto.parquet")
    rows = {row["series"]: row for row in table.to_pylist()}
    for series in chart.series[: len(evidence.arms)]:
        own = rows[series.name]
        mean_ms = 1000 * sum(evidence.latencies[series.name].stages.values())
        assert own["x"] == series.x[0] == pytest.approx(mean_ms)
        assert [own[name] for name in ("y", "low", "high")] == [
            series.y[0],
            series.low[0],
            series.high[0],
        ]
    assert table.schema.metadata[b"x"] == b"mean time of a chunk, ms"


def test_latex_escapes_what_would_be_a_command() -> None:
    table = tables.Table("t", "50 % of a_b & c", ("arm_name", "%"))
    table.add("a_b & $x$ \\input{x}", tables.Cell("93.4", 93.4))
    lines = tables.as_latex(table).splitlines()
    body = "\n".join(line for line in lines if not line.startswith("%"))
    assert r"\caption{50 \% of a\_b \& c}" in body and r"arm\_name & \% \\" in body
    assert r"\input" not in body and r"\toprule" in body and r"\label{tab:t}" in body
    assert "a\\_b \\& \\$x\\$" in body


def test_markdown_keeps_its_columns() -> None:
    table = tables.Table("t", "caption", ("arm", "%"))
    table.add("a|b", "1")
    assert tables.as_markdown(table).splitlines()[2:] == [
        "| arm | % |",
        "| :-- | --: |",
        "| a\\|b | 1 |",
    ]


@pytest.mark.parametrize("draw", [interactive.as_json, paper.drawn], ids=["page", "paper"])
def test_every_chart_can_be_drawn_both_ways(draw: Any, tmp_path: Path) -> None:
    made = charts.charts(of(write(tmp_path, paired_results())))
    assert {chart.kind for chart in made} == set(charts.Kind.__args__)
    assert all(draw(chart) for chart in made)


def test_arms_that_did_other_episodes_are_not_set_side_by_side_in_silence(tmp_path: Path) -> None:
    """Neither on the page, beside its numbers, nor on the terminal."""
    even = write(tmp_path / "even", [result(key(0, arm)) for arm in ("a", "b")])
    uneven = write(tmp_path / "uneven", [result(key(0, "a")), result(key(0, "b", task_id=1))])
    said = "The arms did not do the same episodes"
    for run, times in ((even, 0), (uneven, 2)):
        assert Text(html(run)).seen.count(said) == times
        assert any(said in note for note in notes(summarise(run))) == bool(times)


def test_many_arms_are_told_apart_and_leave_the_figure_its_height(tmp_path: Path) -> None:
    def drawn(count: int) -> tuple[charts.Chart, float, int]:
        arms = [f"autoregressive@{depth}" for depth in range(1, count + 1)]
        output = write(tmp_path / str(count), [result(key(0, arm)) for arm in arms])
        (chart,) = charts.pareto(of(output))
        return chart, paper.drawn(chart).get_size_inches()[1], interactive.height(chart)

    few, inches, pixels = drawn(2)
    many, more_inches, more_pixels = drawn(30)
    looks = {(charts.color_of(series), charts.symbol_of(series)) for series in many.series[:30]}
    assert len(looks) == 30 and len(few.series) <= 3
    assert more_inches - inches > 1 and more_pixels - pixels > 150


def test_an_arm_that_takes_no_pass_is_in_the_figure_of_passes(tmp_path: Path) -> None:
    run = write(tmp_path, [*paired_results(tasks=1), unjudged(key(0, "draft"))])
    (drawn,) = (chart for chart in charts.charts(of(run)) if chart.name == "passes")
    (own,) = (series for series in drawn.series if series.name.startswith("draft"))
    assert (own.name, own.x, own.y) == ("draft, mean 0.00", [0.0], [100.0])


def test_the_numbers_in_a_page_are_those_of_its_tables(tmp_path: Path) -> None:
    """The order by which a column sorts is the number that it shows."""
    evidence = of(write(tmp_path, paired_results()))
    for table in (make(evidence) for make in tables.PAPER):
        for cells in table.rows:
            for cell in cells:
                shown = re.fullmatch(r"[+-]?[\d,]+(\.\d+)?(e-\d+)?", cell.text)
                if shown and isinstance(cell.order, float):
                    value = float(cell.text.replace(",", ""))
                    assert value == pytest.approx(cell.order, rel=0.06, abs=0.06), table.name
