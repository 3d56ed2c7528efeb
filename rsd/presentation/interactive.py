"""Charts drawn by Plotly, for a page: one can zoom, point at a value, switch a series off.

Colours of text and lines are the page's (page.css), so that light and dark are one figure.
"""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import plotly.graph_objects as go

from rsd.presentation.charts import SYMBOLS, Chart, Series, color_of, symbol_of, wrapped

ROW_HEIGHT = 26  # px a series in a row of a chart of rows
_MARGIN = {"l": 8, "r": 16, "t": 44, "b": 8}  # on top: buttons, and names of marks


def as_json(chart: Chart) -> str:
    """Data and layout as Plotly.js takes them."""
    figure = go.Figure(_DRAWN[chart.kind](chart), _layout(chart))
    if chart.rows and chart.kind != "heat":
        lines = ["<br>".join(map(html.escape, wrapped(row))) for row in chart.rows]
        places = list(range(len(lines)))
        figure.update_yaxes(tickvals=places, ticktext=lines, range=[len(lines) - 0.5, -0.5])
    for place, (name, x) in enumerate(chart.marks):
        at = _time(x) if chart.times else x
        figure.add_shape(type="line", x0=at, x1=at, y0=0, y1=1, yref="paper", line={"dash": "dot"})
        figure.add_annotation(
            x=at,
            y=1,
            yref="paper",
            yanchor="bottom",
            xanchor="right" if place % 2 else "left",
            text=html.escape(name),
            showarrow=False,
        )
    made: str = figure.to_json()
    return made


def height(chart: Chart) -> int:
    """px"""
    if chart.kind == "heat":
        return 166 + max(60, min(900, 22 * len(chart.rows)))
    if chart.rows:
        side_by_side = len(chart.series) if chart.kind == "intervals" else 1
        lines = max(len(wrapped(row)) for row in chart.rows)
        row = max(ROW_HEIGHT * 0.7 * side_by_side, 15 * lines, ROW_HEIGHT) + 12
        return round(166 + row * len(chart.rows))
    legend = -(-len(chart.series) // 2)  # lines of it, where a page is narrow
    return 400 + 19 * max(0, legend - 4)


def _layout(chart: Chart) -> dict[str, Any]:
    axis = {"automargin": True, "zeroline": False, "ticks": "", "fixedrange": False}
    title = {"standoff": 8, "font": {"size": 13}}
    return {
        "template": "none",
        "height": height(chart),
        "margin": _MARGIN,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "legend": {
            "orientation": "h",
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
            "x": 0,
            "traceorder": "normal",
        },
        "showlegend": chart.kind != "heat" and (len(chart.series) > 1),
        "barmode": "stack" if chart.kind == "stack" else "group",
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "xaxis": axis | {"title": title | {"text": chart.x_title}, "range": chart.x_range},
        "yaxis": axis | {"title": title | {"text": chart.y_title}, "range": chart.y_range},
    }


def _common(series: Series) -> dict[str, Any]:
    told = [html.escape(text) for text in series.told]
    return {
        "name": html.escape(series.name),
        "text": told or None,
        "hovertemplate": "%{text}<extra></extra>" if told else None,
    }


def _interval(series: Series, values: Any) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value for value, high in zip(values, series.high, strict=True)],
        "arrayminus": [value - low for value, low in zip(values, series.low, strict=True)],
        "thickness": 1.8,
        "width": 4,
    }


def _marker(series: Series, size: int = 9) -> dict[str, Any]:
    symbol = SYMBOLS[symbol_of(series)]
    return {"color": color_of(series), "symbol": symbol, "size": size}


def _intervals(chart: Chart) -> list[go.Scatter]:
    return [
        go.Scatter(
            x=series.x,
            y=series.y,
            error_x=_interval(series, series.x),
            mode="markers",
            marker=_marker(series),
            **_common(series),
        )
        for series in chart.series
    ]


def _lines(chart: Chart) -> list[go.Scatter]:
    return [
        go.Scatter(
            x=[_time(x) for x in series.x] if chart.times else series.x,
            y=series.y,
            mode=_mode(series),
            line={
                "color": color_of(series),
                "dash": series.dash,
                "width": 2,
                "shape": "hv" if series.step else "linear",
            },
            marker=_marker(series, 7),
            **_common(series),
        )
        for series in chart.series
    ]


def _mode(series: Series) -> str:
    """Long lines have no dots."""
    if series.loose:
        return "markers"
    return "lines+markers" if len(series.x) <= 12 else "lines"


def _points(chart: Chart) -> list[go.Scatter]:
    drawn = []
    for series in chart.series:
        if series.low:
            drawn.append(
                go.Scatter(
                    x=series.x,
                    y=series.y,
                    error_y=_interval(series, series.y),
                    mode="markers",
                    marker=_marker(series, 12),
                    **_common(series),
                )
            )
        else:
            line = {"color": color_of(series), "dash": series.dash}
            drawn.append(
                go.Scatter(x=series.x, y=series.y, mode="lines", line=line, **_common(series))
            )
    return drawn


def _bars(chart: Chart, **sideways: Any) -> list[go.Bar]:
    return [
        go.Bar(
            x=series.x,
            y=series.y,
            textposition="none",
            marker={"color": color_of(series)},
            **sideways,
            **_common(series),
        )
        for series in chart.series
    ]


def _heat(chart: Chart) -> list[go.Heatmap]:
    return [
        go.Heatmap(
            x=[_time(x) for x in chart.series[0].x],
            y=[html.escape(row) for row in chart.rows],
            z=[series.y for series in chart.series],
            zmin=0,
            zmax=100,
            ygap=2,
            colorscale="Cividis",
            colorbar={"title": {"text": "%"}, "thickness": 12, "outlinewidth": 0},
            hovertemplate="%{y}<br>%{x}: %{z:.0f} %<extra></extra>",
        )
    ]


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


_DRAWN: Mapping[str, Callable[[Chart], list[Any]]] = {
    "intervals": _intervals,
    "lines": _lines,
    "points": _points,
    "bars": _bars,
    "stack": functools.partial(_bars, orientation="h", width=0.6),
    "heat": _heat,
}
