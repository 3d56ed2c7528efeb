from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rsd.envs import rendering
from rsd.errors import UserError

DRAW = """
from rsd.envs import rendering
rendering.configure("egl")
import mujoco
from rsd.types import ImageSpec
camera = '<camera name="{}" pos="0 0 3"/>'
cameras = "".join(map(camera.format, rendering.CAMERAS))
xml = f"<mujoco><worldbody>{cameras}</worldbody></mujoco>"
model = mujoco.MjModel.from_xml_string(xml)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
left = [rendering.FrameRenderer(model, data, ImageSpec(16, 16)) for _ in range(3)]
left.pop().close()
rendering.FrameRenderer(model, data, ImageSpec(16, 16)).close()
left[0].capture()
print(left[0].read()[0].shape)
"""


def test_a_process_that_leaves_renderers_open_ends_without_a_traceback() -> None:
    try:
        rendering.resolve("egl")
    except UserError:
        pytest.skip("no EGL here")
    done = subprocess.run(
        [sys.executable, "-c", DRAW],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "(16, 16, 3)\n", "")
