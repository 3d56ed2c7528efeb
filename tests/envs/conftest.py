"""Fixes the renderer before any test of this folder imports the simulator."""

from __future__ import annotations

import importlib

import pytest


@pytest.fixture(scope="session", autouse=True)
def renderer_fixed(renderer: str) -> str:
    """mujoco picks its OpenGL when it is imported: here, before a test without renderer does."""
    importlib.import_module("mujoco")
    return renderer
