"""What a scripted expert may look at: one frozen snapshot of the simulator's privileged state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Atom = tuple[str, ...]  # a conjunct of a BDDL goal: ("on", "plate_1", "main_table_region")


@dataclass(frozen=True)
class PrivilegedState:
    """One control step's privileged state; world frame (x away from the robot, z up), metres.

    Quaternions keep the order of their source: `eef_quat` is (x, y, z, w) as in robosuite's
    observation, object quaternions are (w, x, y, z) as in MuJoCo. Places are named as in BDDL
    files: objects, fixtures and regions; a fixture's moving part has its body's name.
    """

    eef_pos: np.ndarray  # float64 (3,): grip site, m
    eef_quat: np.ndarray  # float64 (4,): hand body, xyzw
    finger_qpos: np.ndarray  # float64 (2,): m, (0.04, -0.04) open, (0, 0) closed
    finger_qvel: np.ndarray  # float64 (2,): m/s
    object_pos: Mapping[str, np.ndarray]  # place -> float64 (3,): origin
    object_quat: Mapping[str, np.ndarray]  # object, fixture or part -> float64 (4,), wxyz
    grasped: frozenset[str]  # objects and parts that both fingers touch
    joints: Mapping[str, float] = field(default_factory=dict)  # of fixtures: m or rad
    satisfied: frozenset[Atom] = frozenset()  # conjuncts of the task's goal that hold, by LIBERO

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
    model, data = domain.sim.model, domain.sim.data
    robot = domain.robots[0]
    hand_wxyz = data.get_body_xquat(robot.robot_model.eef_name)
    bodies = {**domain.obj_body_id, **dict(_moving_parts(domain))}
    positions = {name: data.body_xpos[body].copy() for name, body in bodies.items()}
    for region in domain.object_sites_dict:
        positions[region] = data.get_site_xpos(region).copy()
    atoms = [tuple(atom) for atom in domain.parsed_problem["goal_state"]]
    return PrivilegedState(
        eef_pos=data.site_xpos[robot.eef_site_id].copy(),
        eef_quat=np.roll(hand_wxyz, -1),
        finger_qpos=data.qpos[robot._ref_gripper_joint_pos_indexes].copy(),
        finger_qvel=data.qvel[robot._ref_gripper_joint_vel_indexes].copy(),
        object_pos=positions,
        object_quat={name: data.body_xquat[body].copy() for name, body in bodies.items()},
        grasped=_grasped(domain, bodies),
        joints={
            joint: float(data.qpos[model.get_joint_qpos_addr(joint)])
            for fixture in domain.fixtures_dict.values()
            for joint in fixture.joints
        },
        satisfied=frozenset(atom for atom in atoms if domain._eval_predicate(atom)),
    )


def _moving_parts(domain: Any) -> Iterator[tuple[str, int]]:
    """Name and id of the bodies that fixtures' joints move: drawers, doors, knobs."""
    model = domain.sim.model
    for fixture in domain.fixtures_dict.values():
        for joint in fixture.joints:
            body = int(model.jnt_bodyid[model.joint_name2id(joint)])
            yield model.body_id2name(body), body


def _grasped(domain: Any, bodies: Mapping[str, int]) -> frozenset[str]:
    """Names of the bodies that both fingers touch."""
    model, data = domain.sim.model, domain.sim.data
    parts = {body: name for name, body in bodies.items()}
    names = [parts.get(body) for body in range(model.nbody)]
    for body in range(1, model.nbody):  # a body without a name of its own is its parent's
        names[body] = names[body] or names[model.body_parentid[body]]
    # Whole fingers, not only their pads: a rim often rests on the finger beside the small pad.
    gripper = domain.robots[0].gripper.important_geoms
    touched = []
    for side in ("left_finger", "right_finger"):
        finger = {model.geom_name2id(geom) for geom in gripper[side]}
        geoms = (
            (contact.geom1, contact.geom2)
            for contact in data.contact[: data.ncon]
            if (contact.geom1 in finger) != (contact.geom2 in finger)
        )
        others = (second if first in finger else first for first, second in geoms)
        touched.append({names[model.geom_bodyid[geom]] for geom in others})
    return frozenset(name for name in touched[0] & touched[1] if name is not None)
