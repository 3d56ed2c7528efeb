"""LIBERO as an rsd Environment: the protocol to the letter, rendering only what is looked at.

Source names as in PROTOCOL.md. Three departures, all without effect on states or pixels
(tests/envs/test_protocol.py): frames are drawn when `observe` asks for them, the compiled model of
a task is reused over trials, and control steps are our own (rsd/envs/control.py).
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from rsd.envs import rendering
from rsd.envs.assets import ResolvedAssets, activate
from rsd.envs.control import ControlLoop
from rsd.envs.looks import Looks, vary
from rsd.envs.worlds import World, WorldStream
from rsd.protocols import OFT, Protocol
from rsd.suites import CONTROL_HZ, TRIALS_PER_TASK, WAIT_ACTION, get_task, load_initial_states
from rsd.types import ImageSpec, Observation, SimTimings

_SNAPSHOT = "rsd_snapshot"


class LiberoEnvironment:
    """One task of a LIBERO suite. Builds the simulator on first use (seconds, over 1 GB).

    `reset(trial)` gives the reference loop's world of that trial in any order; `reset_fresh(seed)`
    a placement that no stored initial state holds, for demonstrations.
    """

    def __init__(
        self,
        suite: str,
        task_id: int,
        assets: ResolvedAssets,
        renderer: str,
        images: ImageSpec | None = None,
        protocol: Protocol = OFT,
    ) -> None:
        rendering.configure(renderer)
        self._task = get_task(suite, task_id)
        self._assets = activate(assets)
        self._images = images or ImageSpec()
        self._states = load_initial_states(self._task)
        self._protocol = protocol
        self._worlds = WorldStream(self._task, self._assets, protocol=protocol)
        self._frames: rendering.FrameRenderer | None = None
        self._proprio = np.zeros(8, dtype=np.float32)
        self._control: Any = None  # libero's ControlEnv
        self._loop: ControlLoop  # of the last reset
        self._observables: dict[str, Any] = {}
        self._samplers: list[Any] = []
        self.instruction = self._task.instruction
        self.assets = assets.name
        self.renderer = renderer
        self._own_looks: Callable[[], None] = _nothing  # undoes what `reset_fresh` varied
        self.timings = SimTimings()

    # -- rsd.types.Environment ---------------------------------------------------------------

    def reset(self, trial: int) -> None:
        """The world of `trial` (0..49), wait steps included (PROTOCOL 2 to 4)."""
        if not 0 <= trial < TRIALS_PER_TASK:
            raise ValueError(f"trial {trial} does not exist; stored states are 0..49")
        self.timings = SimTimings()
        started = time.perf_counter()
        self._build()
        if trial not in self._worlds:
            self._worlds.extend(trial, self._hard_reset)
        self._own_looks()
        self._env.hard_reset = False
        self._reset_simulator()
        self._restore(self._worlds[trial])
        self._build_renderer()
        self._control.set_init_state(self._states[trial])
        self.timings.reset_s += time.perf_counter() - started
        self._wait()

    def step(self, action: np.ndarray) -> bool:
        """One control step; True where LIBERO's goal predicate holds (PROTOCOL 5)."""
        started = time.perf_counter()
        success = self._loop.step(action)
        self.timings.physics_s += time.perf_counter() - started
        return success

    def observe(self) -> Observation:
        """Draw the frame of LIBERO's own sampling instant of the last step."""
        if self._frames is None:
            raise RuntimeError(f"nothing to draw: renderer {self.renderer!r}, or no reset yet")
        started = time.perf_counter()
        agentview, wrist = self._frames.read()
        self.timings.render_s += time.perf_counter() - started
        return Observation(agentview, wrist, self._proprio.copy(), self.instruction)

    def state(self) -> np.ndarray:
        """float64 (1 + nq + nv,): [time, qpos, qvel]."""
        return self._env.sim.get_state().flatten()

    def set_state(self, state: np.ndarray) -> None:
        """Show a recorded `state()` (for videos); the solver's history is not restored."""
        self._control.set_init_state(state)

    def close(self) -> None:
        """Free simulator and renderer."""
        self._drop_renderer()
        if self._control is not None:
            self._control.close()
            self._control = None

    # -- for demonstrations ------------------------------------------------------------------

    @property
    def simulator(self) -> Any:
        """The robosuite environment, for experts that read privileged state; built if need be."""
        self._build()
        return self._env

    @property
    def proprio(self) -> np.ndarray:
        """float32 (8,): what `observe` would report, without drawing."""
        return self._proprio.copy()

    def model_xml(self) -> str:
        """The model as MJCF, with the poses and looks that the last reset gave it. mujoco keeps the
        XML of the model that a process loaded last: ask before another simulator is made."""
        return str(self._env.sim.model.get_xml())

    def reset_fresh(self, seed: int, looks: Looks | None = None) -> None:
        """A placement drawn by LIBERO's samplers from `seed`, wait steps included; with `looks`,
        what is drawn varies with the seed, too.

        A hard reset: after a soft one, objects that start on a fixture are put in the wrong place
        (PROTOCOL, last paragraphs).
        """
        self.timings = SimTimings()
        started = time.perf_counter()
        self._build()
        with _numpy_stream_kept():
            np.random.seed(seed)
            self._hard_reset(loads_before=0)
        if looks is not None:
            self._own_looks = vary(self._env.sim.model._model, looks, seed)
        self._build_renderer()
        self._env._update_observables(force=True)
        self.timings.reset_s += time.perf_counter() - started
        self._wait()

    # -- inside ------------------------------------------------------------------------------

    @property
    def _env(self) -> Any:
        return self._control.env

    def _build(self) -> None:
        if self._control is not None:
            return
        logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
        from libero.libero.envs.env_wrapper import ControlEnv

        with _numpy_stream_kept():
            self._control = ControlEnv(
                bddl_file_name=str(self._task.bddl_path),
                has_offscreen_renderer=False,
                use_camera_obs=False,
                control_freq=CONTROL_HZ,
            )
            _solve_as_if_rendering(self._env)
            self._observables = self._env._observables
            self._samplers = self._env.object_property_initializers
            if self._assets.simplify_robot:
                from rsd.envs.lite import simplify_robot

                self._env.set_xml_processor(simplify_robot)
                self._hard_reset(loads_before=0)
        self._install_snapshot()

    def _hard_reset(self, loads_before: int) -> World:
        """Rebuild the model and draw a placement, as every reset of the reference loop does.

        LIBERO appends the samplers of open drawers and the like to one list at every load of the
        model and draws from all of them (bddl_base_domain.py), so a placement also depends on how
        often the reference loop has loaded before: once when it was made, once a reset.
        """
        self._drop_renderer()
        self._own_looks = _nothing
        self._env.object_property_initializers = self._samplers * loads_before
        self._env._observables = self._observables
        self._env.hard_reset = True
        loads = self._reset_simulator()
        model, data = self._env.sim.model._model, self._env.sim.data._data
        world = World(
            model.body_pos.copy(), model.body_quat.copy(), data.qacc_warmstart.copy(), loads
        )
        self._install_snapshot()
        return world

    def _reset_simulator(self) -> int:
        """robosuite's reset, again where the samplers found no room; returns how often it took.
        LIBERO's own wrapper swallows every exception and can loop for ever (PROTOCOL 12)."""
        from robosuite.utils.errors import RandomizationError

        for attempt in itertools.count(1):
            try:
                self._env.reset()
            except RandomizationError:
                continue
            self._loop = ControlLoop(self._env)
            return attempt
        raise AssertionError

    def _restore(self, world: World) -> None:
        sim = self._env.sim
        for robot in self._env.robots:
            robot.gripper.current_action = np.zeros_like(robot.gripper.current_action)
        sim.model._model.body_pos[:] = world.body_pos
        sim.model._model.body_quat[:] = world.body_quat
        sim.data._data.qacc_warmstart[:] = world.qacc_warmstart

    def _wait(self) -> None:
        for _ in range(self._protocol.wait_steps):
            self.step(np.array(WAIT_ACTION))

    def _install_snapshot(self) -> None:
        """Replace robosuite's sensors by one that notes the scene and proprioception.

        robosuite samples its sensors once a control step, at a substep that its own clock decides;
        a sensor of ours shares that clock, so frames are those that the reference loop sees.
        """
        from robosuite.utils.observables import Observable, sensor

        @sensor(modality="rsd")
        def snapshot(_: dict[str, Any]) -> float:
            self._proprio = self._read_proprio()
            if self._frames is not None:
                self._frames.capture()
            return 0.0

        observable = Observable(name=_SNAPSHOT, sensor=snapshot, sampling_rate=CONTROL_HZ)
        self._env._observables = {_SNAPSHOT: observable}

    def _read_proprio(self) -> np.ndarray:
        """float32 (8,): eef position (m), axis-angle without antipodal flip (rad), gripper (m);
        PROTOCOL 8."""
        from robosuite.utils.transform_utils import convert_quat, quat2axisangle

        robot, data = self._env.robots[0], self._env.sim.data
        quat = convert_quat(data.get_body_xquat(robot.robot_model.eef_name), to="xyzw")
        gripper = data.qpos[robot._ref_gripper_joint_pos_indexes]
        position = data.site_xpos[robot.eef_site_id]
        return np.concatenate([position, quat2axisangle(quat.copy()), gripper]).astype(np.float32)

    def _build_renderer(self) -> None:
        if self._frames is None and self.renderer != rendering.NO_RENDERER:
            sim = self._env.sim
            self._frames = rendering.FrameRenderer(sim.model._model, sim.data._data, self._images)

    def _drop_renderer(self) -> None:
        if self._frames is not None:
            self._frames.close()
            self._frames = None


def _nothing() -> None:
    pass


def _solve_as_if_rendering(env: Any) -> None:
    """Have every load of the model followed by one more `mj_forward`.

    robosuite's offscreen renderer, which the reference loop has and we do without, calls it when it
    is made (utils/binding_utils.py, MjRenderContext), and where objects are loaded into each other,
    as in libero_object, the solver's warm start keeps a trace of it for the whole episode.
    """
    load = env._initialize_sim

    def load_and_solve(xml_string: str | None = None) -> None:
        load(xml_string)
        env.sim.forward()

    env._initialize_sim = load_and_solve


@contextmanager
def _numpy_stream_kept() -> Iterator[None]:
    """Leave numpy's global stream as it was: nothing outside may feel that an environment was
    built."""
    before = np.random.get_state(legacy=False)
    try:
        yield
    finally:
        np.random.set_state(before)
