"""How success falls when chunks come late, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from rsd.delay import steps_of
from rsd.presentation.figures import as_file
from rsd.suites import CONTROL_HZ
from rsd.summary.delays import STEP_MS, Curve

_LINES = {"continue": "-", "hold": "--"}


def picture(found: Sequence[Curve], format: str) -> bytes:
    """Success against control steps, and against milliseconds with each arm's own decode marked."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    by_steps, by_ms = figure.subplots(1, 2, sharey=True)
    arms = list(dict.fromkeys(curve.arm for curve in found))
    for place, curve in enumerate(found):
        colour, width = f"C{arms.index(curve.arm)}", 1 + 1.2 * (len(found) - 1 - place)
        for axes, unit in ((by_steps, 1), (by_ms, STEP_MS)):
            _draw(axes, curve, unit, colour, width)
    for arm in arms:
        latency = next(curve.decode_ms for curve in found if curve.arm == arm)
        if latency is not None:
            by_ms.axvline(latency, color=f"C{arms.index(arm)}", linewidth=1, linestyle=":")
            steps = steps_of(latency / 1000)
            late = "1 step" if steps == 1 else f"{steps} steps"
            label = f"{arm} decodes in {latency:.0f} ms: {late}"
            by_ms.plot([], [], color=f"C{arms.index(arm)}", linewidth=1, linestyle=":", label=label)
            by_ms.legend(fontsize=8, loc="lower left")
    by_steps.set(xlabel="delay, control steps", ylabel="success, %", ylim=(-2, 102))
    most = max(point.steps for curve in found for point in curve.points)
    by_ms.set_xlim(-0.05 * STEP_MS * most, 1.05 * STEP_MS * most)  # a slower decode is in words
    by_steps.xaxis.get_major_locator().set_params(integer=True)
    by_steps.set_title("Success against delay, 95 % intervals", fontsize=10)
    by_ms.set(xlabel=f"delay, ms at {CONTROL_HZ} Hz")
    by_ms.set_title("the same in milliseconds; dotted: a chunk of the arm, alone", fontsize=10)
    by_steps.legend(fontsize=8, loc="lower left")
    for axes in (by_steps, by_ms):
        axes.grid(alpha=0.3)
    return as_file(figure, format)


def _draw(axes: Any, curve: Curve, unit: int, colour: str, width: float) -> None:
    """Wide lines first, so that curves that agree (lossless arms do) are all seen."""
    told = [point for point in curve.points if point.success.rate is not None]
    x = [unit * point.steps for point in told]
    rates = [100 * (point.success.rate or 0.0) for point in told]
    low, high = ([100 * getattr(point.success, end) for point in told] for end in ("low", "high"))
    style = _LINES[curve.waiting]
    label = f"{curve.arm}, {curve.waiting}"
    size = 3 + 1.5 * width
    axes.plot(
        x, rates, style, marker="o", markersize=size, linewidth=width, color=colour, label=label
    )
    axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
