"""The curve of a factor of a study, as a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

from rsd.ablation import Curve, Level
from rsd.presentation.figures import as_file

_LONGEST = 24  # characters of a level's name
_COLOUR, _BASE = "C0", "C3"


def picture(curve: Curve, format: str) -> bytes:
    """Success with its interval, passes and latency against the levels; the base stands out."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    success, passes, latency = figure.subplots(1, 3)
    levels = [level for level in curve.levels if level.value is not None or not curve.number]
    places = _places(curve, levels)
    _draw(success, places, levels, lambda level: _scaled(100, level.arm.success.rate), curve.number)
    for x, level in zip(places, levels, strict=True):
        rate = level.arm.success
        if rate.rate is not None:
            success.vlines(x, 100 * rate.low, 100 * rate.high, color=_colour(level), linewidth=1.5)
    _draw(passes, places, levels, lambda level: level.arm.cost.passes_mean, curve.number)
    _draw(
        latency,
        places,
        levels,
        lambda level: _scaled(1000, level.arm.cost.total.median),
        curve.number,
    )
    success.set(ylabel="success, %", ylim=(-2, 102), title="success, 95 % intervals")
    passes.set(ylabel="passes a chunk", title="passes, mean")
    latency.set(ylabel="ms a chunk", title="latency, median in the chunk's batch")
    for axes in (passes, latency):  # from 0, with room for the marks at the top
        axes.set_ylim(0, 1.08 * axes.dataLim.ymax if axes.dataLim.ymax > 0 else 1)
    for axes in (success, passes, latency):
        axes.set_xlabel(f"{curve.factor} (red: the base)")
        axes.grid(alpha=0.3)
        axes.title.set_fontsize(10)
        labels = [_short(str(level.value)) for level in levels]
        if curve.number:
            axes.set_xticks(places, labels)
        else:
            axes.set_xticks(places, labels, rotation=25, ha="right", fontsize=8)
    return as_file(figure, format)


def _draw(
    axes: Any,
    places: Sequence[float],
    levels: Sequence[Level],
    of: Callable[[Level], float | None],
    line: bool,
) -> None:
    """Only what has an order is joined by a line."""
    told = [
        (x, y, level)
        for x, level in zip(places, levels, strict=True)
        if (y := of(level)) is not None
    ]
    if line:
        axes.plot([x for x, _, _ in told], [y for _, y, _ in told], color=_COLOUR, linewidth=1.2)
    for x, y, level in told:
        axes.plot([x], [y], "o", color=_colour(level), markersize=6)


def _places(curve: Curve, levels: Sequence[Level]) -> list[float]:
    if curve.number:
        return [float(level.value or 0) for level in levels]
    return [float(place) for place in range(len(levels))]


def _colour(level: Level) -> str:
    return _BASE if level.is_base else _COLOUR


def _scaled(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value


def _short(name: str) -> str:
    """The end of a path tells more than its beginning."""
    return name if len(name) <= _LONGEST else f"...{name[-_LONGEST:]}"
