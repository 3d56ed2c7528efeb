"""Figures (PDF, SVG; their data as Parquet) and tables (LaTeX, Markdown) for a paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from rsd.outputs import write_file
from rsd.presentation import tables
from rsd.presentation.charts import Chart, Series, charts, color_of, symbol_of, wrapped
from rsd.presentation.evidence import Evidence
from rsd.presentation.figures import as_file, as_parquet

WIDTH = 6.3  # inches, of a text column
LEGEND_COLUMNS = 3
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
    "errorbar.capsize": 2,
}
_DASHES = {"solid": "-", "dash": "--", "dot": ":"}
_MARKERS = ("o", "s", "D", "^", "P", "X", "*", "v")


def write(evidence: Evidence, folder: Path) -> list[Path]:
    """All figures and tables that have something to show, as files of `folder`; returns their
    paths. Raises CannotWriteError."""
    files: dict[str, bytes | str] = {}
    with mpl.rc_context(STYLE):
        for chart in charts(evidence):
            figure = drawn(chart)
            for kind in ("pdf", "svg"):
                files[f"{chart.name}.{kind}"] = as_file(figure, kind)
            about = {"title": chart.title, "x": chart.x_title, "y": chart.y_title}
            files[f"{chart.name}.parquet"] = as_parquet(data(chart), about)
    for make in tables.PAPER:
        table = make(evidence)
        if table.rows:
            files[f"{table.name}.md"] = tables.as_markdown(table)
            files[f"{table.name}.tex"] = tables.as_latex(table)
    for name, made in files.items():
        write_file(folder / name, made, "--paper")
    return [folder / name for name in sorted(files)]


def data(chart: Chart) -> Iterator[dict[str, Any]]:
    """What is drawn: a row a point, null where it has no interval or nothing is told of it."""
    for series in chart.series:
        columns = (series.x, series.y, series.low, series.high, series.told)
        for x, y, low, high, told in zip_longest(*columns):
            point = {"x": float(x), "y": float(y), "low": low, "high": high, "told": told}
            yield {"series": series.name, **point}


def drawn(chart: Chart) -> Figure:
    """By matplotlib, without a window."""
    figure = Figure(figsize=(WIDTH, _height(chart)), layout="constrained")
    ax = figure.subplots()
    _DRAWN[chart.kind](ax, chart)
    ax.set_xlabel(_literal(chart.x_title))
    ax.set_ylabel(_literal(chart.y_title))
    if chart.x_range:
        ax.set_xlim(*chart.x_range)
    if chart.y_range:
        ax.set_ylim(*chart.y_range)
    if chart.rows:
        names = ["\n".join(wrapped(_literal(row))) for row in chart.rows]
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.grid(axis="y", visible=False)
    if chart.times:
        locator = AutoDateLocator()
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    for name, x in chart.marks:
        ax.axvline(_place(chart, x), color="#555555", lw=0.8, ls=":")
        ax.annotate(
            _literal(name),
            (_place(chart, x), 1),
            xycoords=("data", "axes fraction"),
            rotation=90,
            va="top",
            ha="right",
            fontsize=6,
        )
    if len(chart.series) > 1 and chart.kind != "heat":
        figure.legend(loc="outside lower center", ncols=min(LEGEND_COLUMNS, len(chart.series)))
    return figure


def _literal(text: str) -> str:
    """Without mathematics: names may hold a dollar."""
    return text.replace("$", r"\$")


def _height(chart: Chart) -> float:
    if not chart.rows:
        legend = -(-len(chart.series) // LEGEND_COLUMNS)
        return 2.8 + 0.17 * max(0, legend - 2)
    side_by_side = len(chart.series) if chart.kind == "intervals" else 1
    lines = max(len(wrapped(row)) for row in chart.rows)
    return 0.9 + len(chart.rows) * max(0.13 * side_by_side, 0.15 * lines, 0.18)


def _place(chart: Chart, x: float) -> Any:
    return datetime.fromtimestamp(x, UTC) if chart.times else x


def _marker(series: Series) -> str:
    return _MARKERS[symbol_of(series)]


def _apart(series: Series, values: Any) -> list[list[float]]:
    return [
        [max(0.0, value - low) for value, low in zip(values, series.low, strict=True)],
        [max(0.0, high - value) for value, high in zip(values, series.high, strict=True)],
    ]


def _intervals(ax: Axes, chart: Chart) -> None:
    for series in chart.series:
        ax.errorbar(
            series.x,
            series.y,
            xerr=_apart(series, series.x),
            fmt=_marker(series),
            ms=4,
            lw=1.2,
            color=color_of(series),
            label=_literal(series.name),
        )


def _lines(ax: Axes, chart: Chart) -> None:
    for series in chart.series:
        ax.plot(
            [_place(chart, x) for x in series.x],
            series.y,
            "" if series.loose else _DASHES[series.dash],
            marker=_marker(series) if series.loose or len(series.x) <= 12 else "",
            ms=4,
            lw=1.3,
            drawstyle="steps-post" if series.step else "default",
            color=color_of(series),
            label=_literal(series.name),
        )


def _points(ax: Axes, chart: Chart) -> None:
    for series in chart.series:
        if series.low:
            ax.errorbar(
                series.x,
                series.y,
                yerr=_apart(series, series.y),
                fmt=_marker(series),
                ms=6,
                color=color_of(series),
                label=_literal(series.name),
            )
        else:
            line = _DASHES[series.dash]
            label = _literal(series.name)
            ax.plot(series.x, series.y, line, color=color_of(series), label=label)


def _bars(ax: Axes, chart: Chart) -> None:
    width = 0.8 / len(chart.series)
    for place, series in enumerate(chart.series):
        offset = width * (place - (len(chart.series) - 1) / 2)
        x = [value + offset for value in series.x]
        ax.bar(x, series.y, width, color=color_of(series), label=_literal(series.name))


def _stack(ax: Axes, chart: Chart) -> None:
    left = [0.0] * len(chart.rows)
    for series in chart.series:
        label = _literal(series.name)
        ax.barh(series.y, series.x, 0.6, left=left, color=color_of(series), label=label)
        left = [before + value for before, value in zip(left, series.x, strict=True)]


def _heat(ax: Axes, chart: Chart) -> None:
    times = [_place(chart, x) for x in chart.series[0].x]
    values = [series.y for series in chart.series]
    drawn = ax.pcolormesh(
        times, range(len(values)), values, vmin=0, vmax=100, cmap="cividis", shading="nearest"
    )
    figure = ax.figure
    assert isinstance(figure, Figure)
    figure.colorbar(drawn, ax=ax, label="%")
    ax.grid(visible=False)


_DRAWN: Mapping[str, Callable[[Axes, Chart], None]] = {
    "intervals": _intervals,
    "lines": _lines,
    "points": _points,
    "bars": _bars,
    "stack": _stack,
    "heat": _heat,
}
