"""One control step of LIBERO's simulator: robosuite's loop without what it computes in vain.

Follows robosuite 1.4.0, call for call where a call leaves a trace in the result:
`environments/base.py` (MujocoEnv.step), `robots/single_arm.py` (control), `robots/manipulator.py`
(grip_action), `controllers/base_controller.py` (update) and `controllers/osc.py` (set_goal,
run_controller). States are bit-identical to it (tests/envs/test_protocol.py). What is left out:

- Positions and velocities of a substep are computed once, not three times. robosuite calls
  `mj_forward` twice before `mj_step`, all three on the same positions and velocities; only the
  contact solver, which starts from its own last answer, and what follows it differ between them.
- Jacobians are computed once, not twice; names and limits are looked up once a reset.
- Buffers of recent forces and accelerations, which nothing in LIBERO reads.
- The reward's check of the goal, which repeats the one that decides.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class ControlLoop:
    """Steps one robosuite environment from the reset that it was made after to the next one.

    Make it right after `env.reset()`, before a stored state is put in place: like robosuite's
    controller it takes the first substep's pose and Jacobians from the reset.
    """

    def __init__(self, env: Any) -> None:
        import mujoco
        from robosuite.utils import control_utils

        (robot,) = env.robots
        self._env = env
        self._controller = controller = robot.controller
        self._gripper = robot.gripper
        _check_supported(env, controller)
        self._mujoco = mujoco
        self._model, self._data = model, data = env.sim.model._model, env.sim.data._data
        self._substeps = int(env.control_timestep / env.model_timestep)

        self._site = env.sim.model.site_name2id(controller.eef_name)
        self._site_pos = data.site_xpos[self._site]
        self._site_mat = data.site_xmat[self._site].reshape(3, 3)
        self._qpos, self._qvel, self._ctrl = data.qpos, data.qvel, data.ctrl
        self._bias = data.qfrc_bias
        self._joint_qpos = np.array(controller.qpos_index)
        self._joint_qvel = np.array(controller.qvel_index)
        self._jacobians = np.empty((2, 3, model.nv))  # of the eef site: position, rotation
        self._full_mass = np.empty((model.nv, model.nv))

        self._arm = np.array(robot._ref_joint_actuator_indexes)
        self._torque_limits = robot.torque_limits
        self._fingers = np.array(robot._ref_joint_gripper_actuator_indexes)
        low, high = model.actuator_ctrlrange[self._fingers].T
        self._finger_middle, self._finger_half = 0.5 * (high + low), 0.5 * (high - low)

        self._orientation_error = control_utils.orientation_error
        self._opspace_matrices = control_utils.opspace_matrices
        self._nullspace_torques = control_utils.nullspace_torques
        self._velocity = np.concatenate([controller.ee_pos_vel, controller.ee_ori_vel])
        self._error, self._wrench = np.empty(6), np.empty(6)

    def step(self, action: np.ndarray) -> bool:
        """One control step (25 substeps) of a (7,) action; True where LIBERO's goal holds then."""
        mujoco, model, data = self._mujoco, self._model, self._data
        controller = self._controller
        arm_action, fingers = action[:-1], self._finger_targets(float(action[-1]))
        for substep in range(self._substeps):
            mujoco.mj_forward(model, data)
            if controller.new_update:  # not in the first substep: the reset has sensed
                mujoco.mj_forwardSkip(model, data, mujoco.mjtStage.mjSTAGE_VEL, 1)
                self._sense()
            if substep == 0:
                controller.set_goal(arm_action)
            self._ctrl[self._fingers] = fingers[substep]
            self._ctrl[self._arm] = self._torques()
            controller.new_update = True
            self._integrate()
            self._env._update_observables()
        self._env._post_process()
        return bool(self._env._check_success())

    def _integrate(self) -> None:
        """mj_step on positions and velocities that mj_forward has seen already.

        Where they are beyond all bounds mj_step resets the simulation, and so must this.
        """
        mujoco, model, data = self._mujoco, self._model, self._data
        before = data.time
        mujoco.mj_checkPos(model, data)
        mujoco.mj_checkVel(model, data)
        if data.time < before:
            mujoco.mj_step(model, data)
        else:
            mujoco.mj_step2(model, data)

    def _finger_targets(self, grip: float) -> np.ndarray:
        """float64 (substeps, 2): the gripper closes or opens by a fixed speed a substep
        (models/grippers/panda_gripper.py)."""
        gripper = self._gripper
        stride = np.array([-1.0, 1.0]) * gripper.speed * np.sign(grip)
        at, positions = gripper.current_action, []
        for _ in range(self._substeps):
            at = np.clip(at + stride, -1.0, 1.0)
            positions.append(at)
        gripper.current_action = at
        return self._finger_middle + self._finger_half * np.array(positions)

    def _sense(self) -> None:
        """Pose, velocities, Jacobians and mass matrix of the arm.

        Memory layouts are those that robosuite's indexing happens to give: the matrix products
        below round differently in another one.
        """
        controller, (jacp, jacr) = self._controller, self._jacobians
        self._mujoco.mj_jacSite(self._model, self._data, jacp, jacr, self._site)
        controller.ee_pos, controller.ee_ori_mat = self._site_pos, self._site_mat
        np.dot(jacp, self._qvel, out=self._velocity[:3])
        np.dot(jacr, self._qvel, out=self._velocity[3:])
        controller.joint_pos = self._qpos[self._joint_qpos]
        controller.joint_vel = self._qvel[self._joint_qvel]
        controller.J_pos = jacp[:, self._joint_qvel]
        controller.J_ori = jacr[:, self._joint_qvel]
        controller.J_full = self._jacobians.reshape(6, -1)[:, self._joint_qvel]
        self._mujoco.mj_fullM(self._model, self._full_mass, self._data.qM)
        controller.mass_matrix = self._full_mass[self._joint_qvel[:, None], self._joint_qvel].T
        controller.new_update = False

    def _torques(self) -> np.ndarray:
        """float64 (7,) Nm: operational space control towards the goal (controllers/osc.py)."""
        c, error, wrench = self._controller, self._error, self._wrench
        np.subtract(c.goal_pos, c.ee_pos, out=error[:3])
        error[3:] = self._orientation_error(c.goal_ori, c.ee_ori_mat)
        desired = error * c.kp + -self._velocity * c.kd
        _, lambda_pos, lambda_ori, nullspace = self._opspace_matrices(
            c.mass_matrix, c.J_full, c.J_pos, c.J_ori
        )
        np.dot(lambda_pos, desired[:3], out=wrench[:3])
        np.dot(lambda_ori, desired[3:], out=wrench[3:])
        torques = np.dot(c.J_full.T, wrench) + self._bias[self._joint_qvel]
        torques += self._nullspace_torques(
            c.mass_matrix, nullspace, c.initial_joint, c.joint_pos, c.joint_vel
        )
        return np.clip(torques, *self._torque_limits)


def _check_supported(env: Any, controller: Any) -> None:
    """Raises RuntimeError for settings that LIBERO's OSC_POSE does not have: the branches of
    robosuite that they choose are not written down here."""
    import mujoco

    expected = {
        "name": (controller.name, "OSC_POSE"),
        "impedance_mode": (controller.impedance_mode, "fixed"),
        "uncoupling": (controller.uncoupling, True),
        "interpolator_pos": (controller.interpolator_pos, None),
        "interpolator_ori": (controller.interpolator_ori, None),
        "viewer": (env.viewer, None),
        "integrator": (
            env.sim.model._model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4,
            False,
        ),
    }
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise RuntimeError(f"the control loop needs {name} = {wanted!r}, found {found!r}")
