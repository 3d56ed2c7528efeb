"""How late arms with a measured delay are, where that is known before they run."""

from __future__ import annotations

import dataclasses
import math

import pandas as pd

from rsd import conditions
from rsd.arms import arm_of, name_of
from rsd.books import holds_a_run, read_chunks, read_run
from rsd.delay import MOST_STEPS, STAGES, steps_of
from rsd.errors import UserError
from rsd.suites import CONTROL_HZ
from rsd.types import Arm


def settled(arm: Arm, source: str) -> Arm:
    """With the delay that `source` says, where the arm's is measured: milliseconds a chunk, or a
    run that decoded it. Raises UserError for what says none."""
    delay = arm.delay
    if delay is None or delay.steps is not None:
        return arm
    seconds = _milliseconds(source)
    seconds = decode_s(arm, source) if seconds is None else seconds / 1000
    steps = steps_of(seconds)
    if steps > MOST_STEPS:
        raise UserError(
            f"--latency {source}: {1000 * seconds:g} ms are {steps} control steps; a chunk may be "
            f"{MOST_STEPS} late at most ({MOST_STEPS * 1000 // CONTROL_HZ} ms)"
        )
    return arm_of(arm.decoding, dataclasses.replace(delay, steps=steps) if steps else None)


def _milliseconds(source: str) -> float | None:
    """None of what is no number."""
    try:
        value = float(source)
    except ValueError:
        return None
    if not 0 <= value < math.inf:
        raise UserError(f"--latency {source}: milliseconds are a finite number from 0 on")
    return value


def decode_s(arm: Arm, run: str) -> float:
    """The median of decoding one chunk alone in the run in a folder, whatever the delay there.

    Raises UserError for a run that has none: what a batch takes is no chunk's latency.
    """
    if not holds_a_run(run):
        raise UserError(
            f"--latency {run}: neither milliseconds a chunk, as in --latency 120, nor the folder "
            "of a run"
        )
    shown = f"--latency {run}"
    conditions.require_own(read_run(run), shown, "how long its chunks took, nobody knows")
    chunks = read_chunks(run, CHUNK_COLUMNS).to_pandas()
    alone, name = decoded_alone_s(chunks), name_of(arm.decoding)
    if name in alone:
        return alone[name]
    held = sorted(set(_undelayed(chunks)))
    if name in held:
        raise UserError(
            f"{shown}: all chunks of {name} were decoded in batches; measure them with "
            "--max-batch-size 1"
        )
    raise UserError(f"{shown}: it holds no chunk of {name} (but of {', '.join(held) or 'none'})")


CHUNK_COLUMNS = ("arm", "batch_size", *STAGES)


def decoded_alone_s(chunks: pd.DataFrame) -> dict[str, float]:
    """The median of decoding one chunk that shared its batch with no other, by arm without its
    delay; of chunks with CHUNK_COLUMNS."""
    alone = chunks[chunks["batch_size"] == 1]
    medians = alone[list(STAGES)].sum(axis=1).groupby(_undelayed(alone)).median()
    return {str(arm): float(seconds) for arm, seconds in medians.items()}


def _undelayed(chunks: pd.DataFrame) -> pd.Series:
    return chunks["arm"].astype("str").str.split("+").str[0]
