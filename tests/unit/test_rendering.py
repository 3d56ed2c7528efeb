"""Which renderer is taken, and what is said where none works. No simulator."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from rsd.envs import rendering
from rsd.errors import UserError

DRAWS = "print('llvmpipe')"
HANGS = "import time; time.sleep(60)"
FAILS = "import sys; sys.exit('ImportError: no library')"


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What a probe of each backend runs; PROBE_S is short."""
    scripts: dict[str, str] = {}
    run = subprocess.run

    def probe(_: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        script = scripts[options["env"]["MUJOCO_GL"]]
        return run([sys.executable, "-S", "-c", script], **options)

    monkeypatch.setattr(subprocess, "run", probe)
    monkeypatch.setattr(rendering, "PROBE_S", 1.0)
    monkeypatch.delenv(rendering.EGL_DEVICE, raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return scripts


def test_where_osmesa_hangs_egl_is_taken(backends: dict[str, str]) -> None:
    backends.update(osmesa=HANGS, egl=DRAWS)
    assert rendering.resolve("auto") == "egl"
    with pytest.raises(UserError, match="osmesa: it hangs: nothing was drawn in 1 s"):
        rendering.resolve("osmesa")


def test_where_nothing_draws_a_library_is_named(backends: dict[str, str]) -> None:
    backends.update(osmesa=FAILS, egl=FAILS)
    with pytest.raises(UserError, match="apt-get install") as told:
        rendering.resolve("auto")
    assert str(told.value).count("ImportError: no library") == 2
    assert rendering.EGL_DEVICE not in str(told.value)


@pytest.mark.parametrize("device", ["cuda:0", "-1", "", "7"])
def test_a_wrong_egl_device_is_told_by_the_variables_name(
    backends: dict[str, str], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends.update(osmesa=DRAWS, egl=FAILS)
    monkeypatch.setenv(rendering.EGL_DEVICE, device)
    assert rendering.resolve("auto") == "osmesa"
    with pytest.raises(UserError, match=f"MUJOCO_EGL_DEVICE_ID is '{device}': unset it") as told:
        rendering.resolve("egl")
    assert "install" not in str(told.value)


def test_devices_that_robosuite_refuses_are_told(
    backends: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backends.update(osmesa=DRAWS, egl=DRAWS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    assert rendering.resolve("egl") == "egl"
    monkeypatch.setenv(rendering.EGL_DEVICE, "2")
    assert rendering.resolve("egl") == "egl"
    monkeypatch.setenv(rendering.EGL_DEVICE, "0")
    for choice in ("osmesa", "egl", "auto"):
        with pytest.raises(UserError, match="MUJOCO_EGL_DEVICE_ID is '0' and CUDA_VISIBLE"):
            rendering.resolve(choice)
