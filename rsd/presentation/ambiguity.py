"""Chunks between two plans: as rows to be kept, and as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from rsd.ambiguity import MIXED, Answered
from rsd.presentation.figures import as_file

_SHOWN = (-0.5, 1.5)  # of the way from plan to plan; what lies beyond stands at the ends


def as_rows(answers: Sequence[Answered]) -> bytes:
    """A row a chunk, as Parquet."""
    table = pa.table(
        {
            "arm": [each.arm for each in answers],
            "task_id": pa.array([each.task for each in answers], pa.int32()),
            "trial": pa.array([each.trial for each in answers], pa.int32()),
            "apart_mm": pa.array([each.apart_mm for each in answers], pa.float32()),
            "side": pa.array([each.leaning.side for each in answers], pa.float32()),
            "nearest_mm": pa.array([each.leaning.nearest_mm for each in answers], pa.float32()),
        }
    )
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd")
    return content.getvalue()


def picture(
    answers: Sequence[Answered], format: str, plans: tuple[str, str] = ("own rim", "other rim")
) -> bytes:
    """How many chunks of every arm lie where between the two `plans`; shaded: mixed."""
    arms = list(dict.fromkeys(each.arm for each in answers))
    figure = Figure(figsize=(7.5, 0.6 + 0.7 * len(arms)), layout="constrained")
    edges = np.linspace(*_SHOWN, 41)
    for axes, arm in zip(np.atleast_1d(figure.subplots(len(arms), sharex=True)), arms, strict=True):
        found = [each.leaning for each in answers if each.arm == arm]
        sides = np.clip([each.side for each in found], *_SHOWN)
        axes.axvspan(*MIXED, color="0.88", linewidth=0)
        axes.stairs(np.histogram(sides, edges)[0], edges, fill=True, color="C0")
        for plan in (0, 1):
            axes.axvline(plan, color="C3", linewidth=1, linestyle=":")
        share = 100 * np.mean([each.mixed for each in found])
        axes.set_ylabel(arm, rotation=0, ha="right", va="center", fontsize=9)
        axes.set_title(f"{share:.0f} % mixed", loc="right", fontsize=8, pad=1)
        axes.set(xlim=_SHOWN, yticks=[])
        axes.spines[["left", "right", "top"]].set_visible(False)
    axes.set_xticks([0, 0.5, 1], [plans[0], "between", plans[1]])
    return as_file(figure, format)
