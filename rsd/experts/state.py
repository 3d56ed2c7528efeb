"""What a scripted expert may look at: one frozen snapshot of the simulator's privileged state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PrivilegedState:
    """One control step's privileged state; world frame (x away from the robot, z up), metres.

    Quaternions keep the order of their source: `eef_quat` is (x, y, z, w) as in robosuite's
    observation, object quaternions are (w, x, y, z) as in MuJoCo.
    """

    eef_pos: np.ndarray  # float64 (3,): grip site, m
    eef_quat: np.ndarray  # float64 (4,): hand body, xyzw
    finger_qpos: np.ndarray  # float64 (2,): m, (0.04, -0.04) open, (0, 0) closed
    finger_qvel: np.ndarray  # float64 (2,): m/s
    object_pos: Mapping[str, np.ndarray]  # name -> float64 (3,): origin of object or fixture
    object_quat: Mapping[str, np.ndarray]  # name -> float64 (4,), wxyz
    grasped: frozenset[str]  # objects that both fingers touch

    @property
    def finger_gap(self) -> float:
        """Distance between the finger pads in metres: about 0.08 open, 0 closed on nothing."""
        return float(self.finger_qpos[0] - self.finger_qpos[1])

    @property
    def finger_speed(self) -> float:
        """The faster finger's speed, m/s: about 0.1 while closing freely, 0 when blocked."""
        return float(np.abs(self.finger_qvel).max())


def read_state(env: Any) -> PrivilegedState:
    """Read the state of a LIBERO environment (its `ControlEnv` wrapper or the domain inside it).

    Reads `sim.data` as it stands and steps nothing, so that reading never changes a world.
    """
    domain = getattr(env, "env", env)
    data = domain.sim.data
    robot = domain.robots[0]
    # Whole fingers, not only their pads: a rim often rests on the finger beside the small pad.
    fingers = [robot.gripper.important_geoms[side] for side in ("left_finger", "right_finger")]
    hand_wxyz = data.get_body_xquat(robot.robot_model.eef_name)
    bodies = domain.obj_body_id
    return PrivilegedState(
        eef_pos=data.site_xpos[robot.eef_site_id].copy(),
        eef_quat=np.roll(hand_wxyz, -1),
        finger_qpos=data.qpos[robot._ref_gripper_joint_pos_indexes].copy(),
        finger_qvel=data.qvel[robot._ref_gripper_joint_vel_indexes].copy(),
        object_pos={name: data.body_xpos[body].copy() for name, body in bodies.items()},
        object_quat={name: data.body_xquat[body].copy() for name, body in bodies.items()},
        grasped=frozenset(
            name
            for name, model in domain.objects_dict.items()
            if domain._check_grasp(gripper=fingers, object_geoms=model)
        ),
    )
