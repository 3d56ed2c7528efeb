"""What the notebooks of analysis/ share: which runs they read, and how their figures look."""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.figure import Figure

from rsd.books import read_run
from rsd.errors import UserError
from rsd.models import inspect_policy
from rsd.presentation import paper
from rsd.presentation.charts import PALETTE
from rsd.summary.within import Decode

STYLE = paper.STYLE | {
    "font.size": 9,
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 10,
    "axes.prop_cycle": cycler(color=PALETTE),
}


def runs(default: Sequence[str] = ()) -> list[str]:
    """The runs named by RSD_RUN, separated as a shell separates words; else `default`, else the
    newest below ../results."""
    named = shlex.split(os.environ.get("RSD_RUN", "")) or list(default)
    newest = sorted(Path("../results").glob("*/run.json"), key=os.path.getmtime)
    return named or [str(path.parent) for path in newest[-1:]] or ["../results/run"]


def decode_of(run: str) -> Decode | None:
    """What a run's codes mean, by its own policy, or the one that RSD_POLICY names; torch is loaded
    when that is first asked, for runs without actions. None, with a word why, where it is not
    here, or has no codes."""
    policy = os.environ.get("RSD_POLICY") or read_run(run)["config"].get("policy")
    if policy is None:
        return None
    try:
        layers = inspect_policy(policy).layers
    except UserError as error:
        print(f"codes of {run} cannot be decoded: {error}")
        return None

    @functools.cache
    def decoder() -> Decode:
        from rsd.models import recorded

        print(f"{run} has no actions: its codes are decoded by {policy}")
        return recorded.decoder(policy)

    return (lambda codes: decoder()(codes)) if layers else None


def colors(names: Sequence[str]) -> dict[str, str]:
    """One for each, the same wherever they are in this order."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def show(figure: Figure, name: str) -> None:
    """Show a figure; where RSD_FIGURES names a folder, also write it there as `name`.pdf."""
    if folder := os.environ.get("RSD_FIGURES"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        figure.savefig(Path(folder) / f"{name}.pdf")
    plt.show()
