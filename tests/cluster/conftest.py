"""A small Ray of our own, and toy runs on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import ray
from rich.console import Console

from rsd import books
from rsd.cluster.display import Standing
from rsd.cluster.evaluate import evaluate
from rsd.cluster.session import connected
from rsd.config import parse
from rsd.preflight import open_books, prepare

TOY = ["--policy", "toy", "--worker-memory-gb", "0.2", "--workers", "2"]


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[ExitStack]:
    """Holds the connection of all tests that are content with any Ray."""
    with ExitStack() as held:
        yield held


@pytest.fixture()
def ray_here(shared_ray: ExitStack) -> None:
    if not ray.is_initialized():
        shared_ray.enter_context(connected(cpus=2))


@pytest.fixture()
def no_ray(shared_ray: ExitStack) -> None:
    """For tests that start one themselves."""
    shared_ray.close()


def run_toy(output: Path, *flags: str) -> tuple[Standing, str]:
    """Run toy episodes on the connected Ray; returns the standing and what was printed."""
    run = prepare(parse([*TOY, "--output", str(output), *flags]))
    text = StringIO()
    with open_books(run, print) as books:
        standing = evaluate(run, books, Console(file=text, width=200))
    return standing, text.getvalue()


def rows(output: Path) -> pd.DataFrame:
    return books.read_episodes(str(output)).to_pandas()


def assert_exactly_once(output: Path, arms: int, episodes_per_arm: int) -> None:
    """All planned rows, each once, none an error."""
    table = rows(output)
    keys = list(zip(table["arm"], table["suite"], table["task_id"], table["trial"], strict=True))
    assert max(Counter(keys).values()) == 1
    assert Counter(table["arm"]) == dict.fromkeys(set(table["arm"]), episodes_per_arm)
    assert table["arm"].nunique() == arms
    assert set(table["outcome"]) <= {"success", "timeout"}


def processes(kind: str, of: int | None = None) -> list[psutil.Process]:
    """Our own Ray's processes of an actor class; those of other Rays on the machine stay alone."""
    found = []
    for process in psutil.Process(of).children(recursive=True):
        try:
            if any(word.startswith(f"ray::{kind}") for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def same_worlds(output: Path) -> dict[Any, set[str]]:
    """Final states by world: arms with one policy must agree."""
    table = rows(output)
    by_world = table.groupby(["suite", "task_id", "trial"])["final_state_sha256"]
    return {world: set(states) for world, states in by_world}
