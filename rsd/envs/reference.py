"""The plain reference loop (PROTOCOL 4 to 6), as other harnesses run it: for tests and benchmarks.

Everything that `rsd.envs.libero` does differently is done the slow way here: hard resets in order,
both cameras drawn at every step by robosuite itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from rsd.envs import rendering
from rsd.envs.assets import ResolvedAssets, activate
from rsd.suites import WAIT_ACTION, WAIT_STEPS, Task, load_initial_states
from rsd.types import Observation

SIZE = 256  # pixels, PROTOCOL 5


class ReferenceLoop:
    """`OffScreenRenderEnv` seeded once; each trial is one reset, in order from trial 0."""

    def __init__(self, task: Task, assets: ResolvedAssets, renderer: str) -> None:
        rendering.configure(renderer)
        assets = activate(assets)
        logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
        from libero.libero.envs.env_wrapper import OffScreenRenderEnv

        self._task = task
        self._states = load_initial_states(task)
        self.env: Any = OffScreenRenderEnv(
            bddl_file_name=str(task.bddl_path), camera_heights=SIZE, camera_widths=SIZE
        )
        if assets.simplify_robot:
            from rsd.envs.lite import simplify_robot

            self.env.env.set_xml_processor(simplify_robot)
        self.env.seed(0)

    def trials(self) -> Iterator[Observation]:
        """Reset to trial 0, 1, ...: yields the observation after the wait steps of each."""
        for state in self._states:
            self.env.reset()
            raw = self.env.set_init_state(state)
            for _ in range(WAIT_STEPS):
                raw, *_ = self.env.step(list(WAIT_ACTION))
            yield self._observation(raw)

    def step(self, action: np.ndarray) -> tuple[Observation, bool]:
        """One control step, both frames drawn; True where the goal holds."""
        raw, _, done, _ = self.env.step(action)
        return self._observation(raw), bool(done)

    def state(self) -> np.ndarray:
        """float64: [time, qpos, qvel]."""
        return self.env.get_sim_state()

    def close(self) -> None:
        self.env.close()

    def _observation(self, raw: dict[str, np.ndarray]) -> Observation:
        """PROTOCOL 6 and 8 from robosuite's dictionary."""
        from robosuite.utils.transform_utils import quat2axisangle

        proprio = np.concatenate(
            [
                raw["robot0_eef_pos"],
                quat2axisangle(raw["robot0_eef_quat"].copy()),
                raw["robot0_gripper_qpos"],
            ]
        )
        return Observation(
            raw["agentview_image"][::-1, ::-1],
            raw["robot0_eye_in_hand_image"][::-1, ::-1],
            proprio.astype(np.float32),
            self._task.instruction,
        )
