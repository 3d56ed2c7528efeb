"""Fixtures for tests that run the real simulator, and who runs what under `pytest -n 2`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from rsd.envs import rendering
from rsd.envs.assets import ResolvedAssets, resolve

FULL_ASSETS = "RSD_FULL_ASSETS"  # names LIBERO's tree of assets, or one with its physics
ON_RAY = ("tests/cluster/", "tests/jobs/")  # where tests start a Ray

for variable in ("COLUMNS", "LINES"):  # readline sets them for all that pytest starts, `-n` too
    os.environ.pop(variable, None)
    os.unsetenv(variable)  # os.environ may not know


class RayInOneProcess(LoadScopeScheduling):
    """Tests that start a Ray run in one process, one after the other, as they share a machine's
    memory and Ray's folder. Others go to whoever is free, a file at a time."""

    def _split_scope(self, nodeid: str) -> str:
        return "ray" if nodeid.startswith(ON_RAY) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> RayInOneProcess:
    """For any `-n`. Files keep their order, so that Ray's, the longest, come first."""
    config.option.loadscopereorder = False
    return RayInOneProcess(config, log)


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
