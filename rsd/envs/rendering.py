"""Headless rendering of LIBERO's two policy cameras: backend choice and frames on demand.

MuJoCo picks its OpenGL backend from MUJOCO_GL when it is imported, so `configure` comes first in
every process that builds a simulator. Importing this module imports no simulator.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rsd.errors import UserError, unknown
from rsd.types import ImageSpec

if TYPE_CHECKING:
    import mujoco

BACKENDS = ("osmesa", "egl")  # in the order that `auto` tries them; both draw on a CPU
NO_RENDERER = "none"
CAMERAS = ("agentview", "robot0_eye_in_hand")  # PROTOCOL 6
MAX_GEOMS = 1000  # robosuite's scene size (utils/binding_utils.py)
PROBE_S = 60.0  # for a backend to draw something; one that works takes 1
EGL_DEVICE = "MUJOCO_EGL_DEVICE_ID"  # mujoco's and robosuite's
INSTALL_COMMAND = "apt-get install -y libosmesa6"

# robosuite turns every other name, `disable` too, into `egl` (utils/binding_utils.py), which needs
# a library to be imported; this one needs none until a context is made.
_NO_CONTEXT = "glx"

_PROBE = """
import os, sys
try:
    import mujoco
    context = mujoco.GLContext(64, 64)
    context.make_current()
    from OpenGL import GL
    print(GL.glGetString(GL.GL_RENDERER).decode())
    context.free()
except Exception as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(1)  # half a context complains when it is deleted
"""


def resolve(choice: str) -> str:
    """The backend to use: `osmesa`, `egl` or `none` as asked, or for `auto` the first that works.

    Each candidate draws in a process of its own. Raises UserError with the install command where
    the asked one, or any one for `auto`, does not work.
    """
    if choice == NO_RENDERER:
        return choice
    if choice not in ("auto", *BACKENDS):
        raise unknown("renderer", choice, ("auto", *BACKENDS))
    return _first_working(BACKENDS if choice == "auto" else (choice,))[0]


def describe(backend: str) -> str:
    """A backend and what draws for it here, as in `osmesa (llvmpipe (LLVM 15.0.6, 256 bits))`.

    Raises UserError as `resolve` does.
    """
    if backend == NO_RENDERER:
        return backend
    name, draws = _first_working((backend,))
    return f"{name} ({draws})"


def _first_working(candidates: Sequence[str]) -> tuple[str, str]:
    """(backend, what draws for it); raises UserError where none of them works."""
    _check_devices()
    failures = []
    for backend in candidates:
        works, told = _probe(backend)
        if works:
            return backend, told
        failures.append(f"  {backend}: {told}")
    ways_out = []
    if "egl" in candidates and EGL_DEVICE in os.environ:
        ways_out.append(
            f"{EGL_DEVICE} is {os.environ[EGL_DEVICE]!r}: unset it, or give the number of one of "
            "EGL's devices, from 0"
        )
    if not ways_out or len(candidates) > 1:
        ways_out.append(f"install one with `{INSTALL_COMMAND}` (as root), or run `make setup`")
    raise UserError(
        "no headless renderer works on this machine:\n" + "\n".join([*failures, *ways_out])
    )


def _check_devices() -> None:
    """Raises UserError for variables with which robosuite refuses to be imported, whatever draws
    (utils/binding_utils.py): every episode would be an error."""
    device, visible = os.environ.get(EGL_DEVICE), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if visible and device is not None and not (device.isdigit() and device in visible):
        raise UserError(
            f"{EGL_DEVICE} is {device!r} and CUDA_VISIBLE_DEVICES {visible!r}: robosuite wants the "
            f"one to be among the other; unset {EGL_DEVICE}, or give one of {visible}"
        )


def _probe(backend: str) -> tuple[bool, str]:
    """Whether a backend works here, and what draws for it or else why not."""
    if backend == "egl" and not os.environ.get(EGL_DEVICE, "0").isdecimal():
        return False, f"{EGL_DEVICE}={os.environ[EGL_DEVICE]!r} is not the number of a device"
    env = {**os.environ, **_choice(backend)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=env,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_S,
        )
    except subprocess.TimeoutExpired:
        return False, f"it hangs: nothing was drawn in {PROBE_S:g} s"
    works = done.returncode == 0
    lines = (done.stdout if works else done.stderr).strip().splitlines()
    return works, lines[-1] if lines else f"exit status {done.returncode}"


def process_variables(backend: str) -> dict[str, str]:
    """Environment of a process that is to run one simulator beside others.

    Software rasterisers start a thread per CPU in every process; LP_NUM_THREADS=0 draws in the
    calling thread (Mesa's llvmpipe; without effect on a GPU).
    """
    variables = {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "0"}
    return variables if backend == NO_RENDERER else {**variables, **_choice(backend)}


def _choice(backend: str) -> dict[str, str]:
    """MuJoCo's variable, and PyOpenGL's, which MuJoCo sets too and refuses to find otherwise."""
    return {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}


def configure(backend: str) -> None:
    """Fix this process's backend; must come before mujoco is imported.

    Raises RuntimeError where mujoco is already loaded with another one.
    """
    present = os.environ.get("MUJOCO_GL")
    if "mujoco" not in sys.modules:
        os.environ.update(
            {"MUJOCO_GL": _NO_CONTEXT} if backend == NO_RENDERER else _choice(backend)
        )
    elif backend not in (NO_RENDERER, present):
        raise RuntimeError(f"mujoco was imported with MUJOCO_GL={present}; {backend} was asked for")


class FrameRenderer:
    """Draws CAMERAS of one compiled model.

    `capture` notes what is to be seen (microseconds), `read` draws it (milliseconds): so that the
    state of any substep can be drawn later, and only if somebody looks. Pixels equal robosuite's
    own offscreen renderer for the default ImageSpec (tests/envs/test_protocol.py).
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, spec: ImageSpec) -> None:
        import mujoco

        self._mujoco = mujoco
        self._model, self._data, self._spec = model, data, spec
        self._gl = mujoco.GLContext(spec.width, spec.height)
        self._gl.make_current()
        _close_at_exit(self)
        model.vis.global_.offwidth, model.vis.global_.offheight = spec.width, spec.height
        model.vis.quality.offsamples = spec.samples
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._option = mujoco.MjvOption()
        self._option.geomgroup[0] = 0  # collision shapes
        self._perturbation = mujoco.MjvPerturb()
        self._views = [self._view(name) for name in CAMERAS]

    def _view(self, name: str) -> tuple[mujoco.MjvCamera, mujoco.MjvScene]:
        camera = self._mujoco.MjvCamera()
        camera.type = self._mujoco.mjtCamera.mjCAMERA_FIXED
        camera.fixedcamid = self._model.camera(name).id
        scene = self._mujoco.MjvScene(self._model, maxgeom=MAX_GEOMS)
        scene.flags[self._mujoco.mjtRndFlag.mjRND_REFLECTION] = int(self._spec.reflection)
        return camera, scene

    def capture(self) -> None:
        """Note poses, lights and cameras of the present simulator state."""
        for camera, scene in self._views:
            self._mujoco.mjv_updateScene(
                self._model,
                self._data,
                self._option,
                self._perturbation,
                camera,
                self._mujoco.mjtCatBit.mjCAT_ALL,
                scene,
            )

    def read(self) -> list[np.ndarray]:
        """uint8 (H, W, 3) per camera of the captured state, rotated by 180 degrees (PROTOCOL 6)."""
        self._gl.make_current()
        return [self._draw(scene) for _, scene in self._views]

    def _draw(self, scene: mujoco.MjvScene) -> np.ndarray:
        viewport = self._mujoco.MjrRect(0, 0, self._spec.width, self._spec.height)
        pixels = np.empty((self._spec.height, self._spec.width, 3), dtype=np.uint8)
        self._mujoco.mjr_render(viewport, scene, self._context)
        self._mujoco.mjr_readPixels(pixels, None, viewport, self._context)
        # OpenGL's rows run upwards, as in robosuite's images; the protocol turns those around
        return np.ascontiguousarray(pixels[::-1, ::-1])

    def close(self) -> None:
        """Free the buffers; the object cannot be used afterwards."""
        _open.discard(self)
        self._gl.make_current()
        self._context.free()
        self._gl.free()


_open: weakref.WeakSet[FrameRenderer] = weakref.WeakSet()


def _close_at_exit(renderer: FrameRenderer) -> None:
    """MuJoCo ends EGL when the process ends, and prints a traceback for each context that is freed
    later: those that nobody has closed are closed before. Called after a context was made, when
    MuJoCo has registered its end: what is registered later runs earlier."""
    if not _open:
        atexit.unregister(_close_all)
        atexit.register(_close_all)
    _open.add(renderer)


def _close_all() -> None:
    for renderer in list(_open):
        renderer.close()


if __name__ == "__main__":
    try:
        print(f"renderer: {resolve('auto')}")
    except UserError as error:
        sys.exit(f"error: {error}")
