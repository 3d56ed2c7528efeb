"""What the notebooks of analysis/ share: which runs they read, and how their figures look."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.figure import Figure

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe-Ito
STYLE = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=PALETTE),
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text
}


def runs(default: Sequence[str] = ()) -> list[str]:
    """The runs named by RSD_RUN, separated as a shell separates words; else `default`, else the
    newest below ../results."""
    named = shlex.split(os.environ.get("RSD_RUN", "")) or list(default)
    newest = sorted(Path("../results").glob("*/run.json"), key=os.path.getmtime)
    return named or [str(path.parent) for path in newest[-1:]] or ["../results/run"]


def colors(names: Sequence[str]) -> dict[str, str]:
    """One for each, the same wherever they are in this order."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def show(figure: Figure, name: str) -> None:
    """Show a figure; where RSD_FIGURES names a folder, also write it there as `name`.pdf."""
    if folder := os.environ.get("RSD_FIGURES"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        figure.savefig(Path(folder) / f"{name}.pdf")
    plt.show()
