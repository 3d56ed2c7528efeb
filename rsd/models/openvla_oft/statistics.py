"""`dataset_statistics.json`: the units that a checkpoint was trained in. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rsd.errors import UserError, brief
from rsd.types import ACTION_DIM, PROPRIO_DIM

FILE = "dataset_statistics.json"
_CLEANED = "_no_noops"  # a data set of LIBERO's without the steps in which nothing happens


@dataclass(frozen=True)
class Bounds:
    """Quantiles that were mapped to -1 and 1, one an entry of the vector."""

    low: tuple[float, ...]  # the first percentile (q01)
    high: tuple[float, ...]  # the last (q99)
    mask: tuple[bool, ...]  # False: the entry was left as it is


@dataclass(frozen=True)
class Statistics:
    """Of one data set."""

    action: Bounds  # dxyz, daxis-angle, gripper (0 closed, 1 open, not mapped)
    proprio: Bounds


def statistics(content: Any) -> dict[str, Statistics]:
    """By suite, from the file's content. Raises ValueError that says which entry is no statistics
    of LIBERO's."""
    if not isinstance(content, dict) or not content:
        raise ValueError(f"it holds {brief(content)}, expected statistics by data set")
    by_suite: dict[str, Statistics] = {}
    for key, entry in content.items():
        if not isinstance(entry, dict):
            raise ValueError(f"{brief(key)} is {brief(entry)}, expected statistics")
        by_suite[key.removesuffix(_CLEANED)] = Statistics(
            _bounds(entry, key, "action", ACTION_DIM), _bounds(entry, key, "proprio", PROPRIO_DIM)
        )
    return by_suite


def _bounds(entry: dict[str, Any], key: str, name: str, length: int) -> Bounds:
    found = entry.get(name)
    if not isinstance(found, dict):
        raise ValueError(f"{brief(key)} has no {name} statistics, but {brief(sorted(entry))}")
    low, high = (_numbers(found.get(q), f"{brief(key)}.{name}.{q}", length) for q in ("q01", "q99"))
    if any(a > b for a, b in zip(low, high, strict=True)):
        raise ValueError(f"{brief(key)}.{name}: q01 {low} is above q99 {high}")
    mask = found.get("mask", [True] * length)
    if not (isinstance(mask, list) and len(mask) == length and {*map(type, mask)} == {bool}):
        raise ValueError(f"{brief(key)}.{name}.mask is {brief(mask)}, expected {length} booleans")
    return Bounds(low, high, tuple(mask))


def _numbers(found: Any, name: str, length: int) -> tuple[float, ...]:
    fits = isinstance(found, list) and len(found) == length
    if not fits or not all(type(x) in (int, float) and math.isfinite(x) for x in found):
        raise ValueError(f"{name} is {brief(found)}, expected {length} numbers")
    return tuple(float(x) for x in found)


def suite_of(instruction: str, by_suite: Mapping[str, Statistics]) -> str:
    """Whose statistics an instruction goes by: the only ones, or those of the suite that has a task
    of these words. Raises UserError where none has, or several with different ones."""
    if len(by_suite) == 1:
        return next(iter(by_suite))
    from rsd.suites import SUITES, get_task

    known = [suite for suite in by_suite if suite in SUITES]
    fitting = [
        suite
        for suite in known
        if any(
            get_task(suite, task).instruction.lower() == instruction.lower()
            for task in range(SUITES[suite].num_tasks)
        )
    ]
    if len({by_suite[suite] for suite in fitting}) != 1:
        found = f"tasks of {' and of '.join(fitting)}" if fitting else "no task of theirs"
        raise UserError(
            f"instruction {brief(instruction)}: this checkpoint has statistics of "
            f"{', '.join(by_suite)}, and these are the words of {found}; evaluate its own suites, "
            "or a checkpoint with one set of statistics"
        )
    return fitting[0]
