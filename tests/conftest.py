"""Fixtures for tests that run the real simulator."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rsd.envs import rendering
from rsd.envs.assets import ResolvedAssets, resolve

FULL_ASSETS = "RSD_FULL_ASSETS"  # names LIBERO's tree of assets, or one with its physics


@pytest.fixture(scope="session")
def lite() -> ResolvedAssets:
    """The embedded asset pack."""
    return resolve("lite", ["libero_spatial"])


@pytest.fixture(scope="session")
def libero_assets(lite: ResolvedAssets) -> Path:
    """Folder of the embedded asset pack."""
    return lite.path


@pytest.fixture(scope="session")
def full_assets() -> ResolvedAssets:
    """A complete asset tree, for the suites that lite does not cover."""
    path = os.environ.get(FULL_ASSETS)
    if not path:
        pytest.skip(f"needs a full asset tree, named by the environment variable {FULL_ASSETS}")
    return resolve(path, ["libero_spatial"])


@pytest.fixture(scope="session")
def renderer() -> str:
    """A headless renderer that works here, fixed for this process."""
    name = rendering.resolve("auto")
    rendering.configure(name)
    return name
