"""Make docs/pictures/pareto.svg, success against time in every arm of `libero`, and the table of
docs/pareto.md; the data of both go to docs/pareto/drawn/arms.parquet.

  python docs/pictures/pareto.py
  python docs/pictures/pareto.py --times results/a results/b    # new times first, from runs

Success is that of kept results on ten trials of each task. Times are those of runs in which
`autoregressive` took part, too, as a share of its own; of an arm in several runs the mean.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from rsd import results
from rsd.books import read_chunks, read_run
from rsd.delay import STAGES
from rsd.presentation.figures import as_file, as_parquet
from rsd.summary.rules import BASELINE

DOCS = Path(__file__).parents[1]
PICTURE, ARMS = Path(__file__).with_name("pareto.svg"), DOCS / "pareto" / "drawn" / "arms.parquet"
TIMES = ARMS.with_name("times.parquet")
TRIALS = range(3, 13)
POINTS = ("difference", "difference_low", "difference_high")
KINDS = {  # by how an arm's name begins: its mark
    "autoregressive": ("o", "C0"),
    "speculative": ("s", "C2"),
    "temporal-confident": ("D", "C1"),
    "temporal-random": ("v", "C4"),
    "parallel": ("P", "C3"),
    "regression": ("X", "C5"),
    "draft": ("*", "C6"),
}


def times(runs: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row an arm and run: mean time of a chunk, queues aside. Of runs in which an arm decodes
    otherwise than in the last one that has it, none."""
    described = {run: read_run(run) for run in runs}
    last = {arm: how for run in runs for arm, how in described[run]["config"]["arms"].items()}
    for run in runs:
        chunks = read_chunks(run, ["arm", *STAGES]).to_pandas()
        chunks["ms"] = 1000 * chunks[list(STAGES)].sum(axis=1)
        means = chunks.groupby("arm", observed=True).ms.agg(["mean", "count"])
        for arm, own in means.iterrows():
            if described[run]["config"]["arms"][arm] != last[str(arm)]:
                continue
            yield {
                "arm": str(arm),
                "run": described[run]["run_id"],
                "chunks": int(own["count"]),
                "ms": float(own["mean"]),
                "of_baseline": float(own["mean"] / means.loc[BASELINE, "mean"]),
            }


def arms() -> list[dict[str, Any]]:
    """What is drawn: a row an arm that has a time, the fastest first."""
    timed = pd.read_parquet(TIMES).groupby("arm").of_baseline.mean()
    files = [file for folder in ("results", "pareto") for file in (DOCS / folder).glob("*.parquet")]
    groups = results.of_trials(results.published(sorted(files)), TRIALS)
    group = max(groups, key=lambda each: len(each.rows))
    said = results.summary(group)
    against = {pair.second: pair for pair in said.pairs}
    rows = []
    for arm in said.arms:
        if arm.arm not in timed.index:
            continue
        pair = against.get(arm.arm)
        difference = pair and pair.comparison
        rows.append(
            {
                "arm": arm.arm,
                "worlds": arm.success.finished,
                "solved": arm.success.successes,
                "low": arm.success.low,
                "high": arm.success.high,
                "pairs": difference.pairs if difference else None,
                "lost": difference.only_first if difference else None,
                "won": difference.only_second if difference else None,
                "difference": difference.difference if difference else None,
                "difference_low": difference.low if difference else None,
                "difference_high": difference.high if difference else None,
                "p": difference.p_value if difference else None,
                "passes": arm.cost.passes_mean,
                "fast": arm.cost.unjudged,
                "of_baseline": float(timed[arm.arm]),
            }
        )
    return sorted(rows, key=lambda row: float(row["of_baseline"]))


def kind_of(arm: str) -> tuple[str, str]:
    return next(mark for start, mark in KINDS.items() if arm.startswith(start))


def picture(rows: Sequence[dict[str, Any]]) -> bytes:
    """Marks are numbered: names would lie over each other."""
    most = max(row["worlds"] for row in rows)
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for number, row in enumerate(rows, 1):
        marker, color = kind_of(row["arm"])
        own, low, high = (100 * (row[name] or 0.0) for name in POINTS)
        reach = [[own - low], [high - own]]
        worlds = "" if row["worlds"] == most else f" ({row['worlds']})"
        axes.errorbar(
            row["of_baseline"],
            own,
            reach,
            fmt=marker,
            color=color,
            ms=6,
            lw=0.8,
            alpha=0.85,
            label=f"{number}  {row['arm']}{worlds}",
        )
        place = (row["of_baseline"], own)
        axes.annotate(
            str(number), place, xytext=(4, 3), textcoords="offset points", fontsize=8, color=color
        )
    axes.set_xlabel(f"mean time of a chunk, as a share of {BASELINE}'s")
    axes.set_ylabel(f"success against {BASELINE} in the same worlds, points (95 %)")
    some = "" if all(row["worlds"] == most for row in rows) else ", or as many as stand there"
    axes.set_title(f"{most} worlds{some}", fontsize=10)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return as_file(figure, "svg")


def table(rows: Sequence[dict[str, Any]]) -> str:
    head = (
        "| arm | solved | lost, won | points (95 % interval) | p | passes | fast, % | time |\n"
        "|---|--:|--:|--:|--:|--:|--:|--:|"
    )
    lines = [head]
    for row in rows:
        lost = difference = p = ""
        if row["pairs"]:
            low, high = 100 * row["difference_low"], 100 * row["difference_high"]
            lost = f"{row['lost']}, {row['won']}"
            difference = f"{100 * row['difference']:+.1f} ({low:+.1f} to {high:+.1f})"
            p = f"{row['p']:.2g}"
        passes = "" if row["passes"] is None else f"{row['passes']:.2f}"
        fast = f"{100 * row['fast']:.0f}" if row["fast"] else ""
        lines.append(
            f"| `{row['arm']}` | {row['solved']}/{row['worlds']} | {lost} | {difference} | {p} "
            f"| {passes} | {fast} | {row['of_baseline']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", nargs="+", metavar="RUN", help="runs to take new times from")
    asked = parser.parse_args()
    if asked.times:
        TIMES.parent.mkdir(parents=True, exist_ok=True)
        TIMES.write_bytes(as_parquet(times(asked.times)))
    rows = arms()
    ARMS.write_bytes(as_parquet(rows))
    PICTURE.write_bytes(picture(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
