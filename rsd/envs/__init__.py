"""Environments by suite. Importing this package imports no simulator; making one does.

A new simulator is one entry in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rsd import installation, suites
from rsd.envs import toy
from rsd.errors import UserError, unknown
from rsd.protocols import OFT, Protocol
from rsd.suites import Suite
from rsd.types import Environment, ImageSpec

if TYPE_CHECKING:
    from rsd.envs.assets import ResolvedAssets


@dataclass(frozen=True)
class Family:
    """One simulator: its suites, how to check the machine for it, and how to make it."""

    suites: dict[str, Suite]
    assets: Callable[[str, list[str]], ResolvedAssets]  # choice, suites of the run
    renderer: Callable[[str], str]  # choice -> osmesa | egl | none
    check_node: Callable[[ResolvedAssets, str], str]  # what the driver resolved, on this node
    make: Callable[[str, int, ResolvedAssets, str, ImageSpec, Protocol], Environment]
    content: Callable[[], dict[str, str]]  # sha256 of what simulates, by distribution


def _libero_assets(choice: str, names: list[str]) -> ResolvedAssets:
    from rsd.envs import assets

    return assets.resolve(choice, names)


def _libero_renderer(choice: str) -> str:
    from rsd.envs import rendering

    if choice == rendering.NO_RENDERER:
        raise UserError(
            f"--renderer {choice}: a policy needs frames; choose auto, "
            + ", ".join(rendering.BACKENDS)
        )
    return rendering.resolve(choice)


def _check_libero_node(assets: ResolvedAssets, renderer: str) -> str:
    from rsd.envs import assets as trees
    from rsd.envs import rendering

    trees.check_node(assets)
    return rendering.describe(renderer)


def _libero(
    suite: str,
    task_id: int,
    assets: ResolvedAssets,
    renderer: str,
    images: ImageSpec,
    protocol: Protocol,
) -> Environment:
    from rsd.envs.libero import LiberoEnvironment

    return LiberoEnvironment(suite, task_id, assets, renderer, images, protocol)


def _toy_assets(choice: str, names: list[str]) -> ResolvedAssets:
    from rsd.envs.assets import ResolvedAssets

    return ResolvedAssets("none", Path(), "", "the toy simulator has none")


FAMILIES: dict[str, Family] = {
    "libero": Family(
        suites.SUITES,
        _libero_assets,
        _libero_renderer,
        _check_libero_node,
        _libero,
        installation.check,
    ),
    "toy": Family(
        toy.SUITES,
        assets=_toy_assets,
        renderer=lambda choice: "none",
        check_node=lambda assets, renderer: renderer,
        make=toy.ToyEnvironment,
        content=dict,
    ),
}


def family_of(suite: str) -> str:
    """Name of the simulator that runs a suite; UserError with the nearest name if there is none."""
    for name, family in FAMILIES.items():
        if suite in family.suites:
            return name
    raise unknown("suite", suite, [s for family in FAMILIES.values() for s in family.suites])


def suite_of(name: str) -> Suite:
    """A suite of any simulator; UserError with the nearest name if there is none."""
    return FAMILIES[family_of(name)].suites[name]


def check_node(suite: str, assets: ResolvedAssets, renderer: str) -> str:
    """Check that this node has what a suite's simulators need; returns the renderer and what draws
    for it here. Raises UserError."""
    return FAMILIES[family_of(suite)].check_node(assets, renderer)


def make_environment(
    suite: str,
    task_id: int,
    assets: ResolvedAssets,
    renderer: str,
    images: ImageSpec,
    protocol: Protocol = OFT,
) -> Environment:
    """Construct the simulator of one task; for LIBERO this takes seconds and more than 1 GB."""
    return FAMILIES[family_of(suite)].make(suite, task_id, assets, renderer, images, protocol)
