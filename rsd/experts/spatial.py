"""Scripted expert for libero_spatial: pick the black bowl up by its rim and set it on the plate.

The phase is inferred from each state anew, so any state that a learner or noise leads to gets a
sensible action. The only memory is the phase before, for hysteresis: whether the gripper is meant
closed, and whether the fingers have once settled on the rim.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from rsd.experts import skills
from rsd.experts.skills import CLOSE, OPEN, UP
from rsd.experts.state import PrivilegedState

EAST, NORTH, NORTH_WEST, SOUTH = 0.0, np.pi / 2, 3 * np.pi / 4, -np.pi / 2  # north: +y
BOWL, PLATE, CABINET = "akita_black_bowl_1", "plate_1", "wooden_cabinet_1"


class Phase(StrEnum):
    """What the expert is doing; a function of the state and of the phase before."""

    REACH = "reach"  # gripper open, on its way to the rim
    CLOSE = "close"  # at the rim, fingers closing
    CARRY = "carry"  # bowl held: lift, carry and lower are one motion along a funnel
    RELEASE = "release"  # bowl stands on the plate, fingers opening
    RETREAT = "retreat"  # bowl stands on the plate, gripper rising


GRIPPING = (Phase.CLOSE, Phase.CARRY)


@dataclass(frozen=True)
class RimSettings:
    """Where a task's bowl is gripped and how high the arm travels. Lengths in m, angles in rad."""

    azimuth: float = SOUTH  # direction of the gripped rim from the bowl's centre
    azimuth_frame: str | None = None  # fixture whose heading `azimuth` counts from; None: world
    grip_radius: float = 0.045  # from the bowl's axis to the grip site
    grip_height: float = 0.030  # of the grip site above the bowl's origin, along its axis
    grasp_tolerance: float = 0.012  # start to close within this distance of the grasp
    approach_clearance: float = 0.09  # grip site above the grasp while crossing
    carry_clearance: float = 0.12  # bowl above its (pressed) goal on the plate while crossing
    carry_lean: float = 0.0  # share of the way across that a rising bowl moves along at once


@dataclass(frozen=True)
class SpatialTuning:
    """Gains, limits and tolerances shared by all tasks. Lengths in m."""

    gain: float = 1.3  # position error to setpoint delta
    reach_limit: float = 0.8  # norm of the position action without the bowl
    carry_limit: float = 0.7  # norm of the position action with the bowl
    turn_gain: float = 1.0
    turn_deadband: float = 0.1  # rad; the arm starts 0.057 rad off vertical and may stay there
    funnel_slope: float = 1.5
    funnel_radius: float = 0.008  # straight descent within this horizontal distance
    grasp_slack: float = 0.030  # a started closing goes on within this distance
    full_gap: float = 0.070  # finger gap above which the gripper counts as open
    stalled_speed: float = 0.003  # m/s; slower fingers are blocked or fully closed
    settled_speed: float = 0.005  # m/s; slower fingers on the rim press with their full force
    held_gap: float = 0.030  # both pads on the bowl with a wider gap is no rim grasp
    rest_height: float = 0.010  # bowl's origin above the plate's when it stands there
    press_depth: float = 0.020  # aim this far below rest, so that a tilted bowl touches down
    release_height: float = 0.012  # let go when the bowl is this close to rest
    release_distance: float = 0.012  # let go when this close to the plate's centre
    placed_distance: float = 0.025  # LIBERO's own limit is 0.03
    retreat_height: float = 0.15  # grip site above the bowl at the end


SPATIAL_TASKS: dict[str, RimSettings] = {
    "between_the_plate_and_the_ramekin": RimSettings(),
    "next_to_the_ramekin": RimSettings(azimuth=NORTH),  # the ramekin is on the south side
    "from_table_center": RimSettings(),
    "on_the_cookie_box": RimSettings(),
    # The open drawer is 0.15 x 0.21 m: the fingers fit beside the bowl only roughly across its
    # width (the cabinet's x). The bowl's back rim is just under the edge of the cabinet's top, so
    # it rises at a slant, out of the drawer's front.
    "in_the_top_drawer_of_the_wooden_cabinet": RimSettings(
        azimuth=EAST - np.radians(20),
        azimuth_frame=CABINET,
        grip_radius=0.043,
        grasp_tolerance=0.008,
        carry_clearance=0.26,
        carry_lean=0.08,
    ),
    "on_the_ramekin": RimSettings(),
    "next_to_the_cookie_box": RimSettings(azimuth=NORTH),  # the cabinet is on the south side
    "on_the_stove": RimSettings(),
    "next_to_the_plate": RimSettings(),
    # The far corner of the workspace: the rim nearest to the robot and a low crossing keep the
    # elbow bent; with the arm stretched, the controller stops about 1 cm short of the rim.
    "on_the_wooden_cabinet": RimSettings(
        azimuth=NORTH_WEST,
        approach_clearance=0.06,
        carry_clearance=0.245,
    ),
}
"""In the suite's official order; the key is the part of the task's name after the bowl."""


class SpatialExpert:
    """Expert of one libero_spatial episode (see `rsd.experts.Expert`); make one per episode."""

    def __init__(self, settings: RimSettings, tuning: SpatialTuning | None = None) -> None:
        self.settings = settings
        self.tuning = tuning or SpatialTuning()
        self.last = Phase.REACH

    def act(self, state: PrivilegedState) -> np.ndarray:
        """Action float32 (7,) for this state; call once per control step, in order."""
        phase = self.phase(state)
        self.last = phase
        action = np.zeros(7)
        action[:3] = self._translation(phase, state)
        if phase in (Phase.REACH, Phase.CLOSE, Phase.CARRY):
            yaw = skills.gripper_yaw(self._azimuth(state))
            tuning = self.tuning
            action[3:6] = skills.align(state.eef_quat, yaw, tuning.turn_gain, tuning.turn_deadband)
        action[6] = CLOSE if phase in GRIPPING else OPEN
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def phase(self, state: PrivilegedState) -> Phase:
        """The phase that `act` would choose for this state; changes nothing."""
        tuning = self.tuning
        held = BOWL in state.grasped and state.finger_gap < tuning.held_gap
        if self._placed(state):
            opened = state.finger_gap > tuning.full_gap
            return Phase.RETREAT if opened else Phase.RELEASE
        settled = self.last is Phase.CARRY or state.finger_speed < tuning.settled_speed
        if held:  # lifting before the fingers press firmly lets the rim slip through
            return Phase.CARRY if settled else Phase.CLOSE
        distance = float(np.linalg.norm(state.eef_pos - self._grasp(state)))
        if self.last in GRIPPING:
            near = distance < tuning.grasp_slack
            return Phase.CLOSE if near and not self._failed_to_close(state) else Phase.REACH
        ready = distance < self.settings.grasp_tolerance and state.finger_gap > tuning.full_gap
        return Phase.CLOSE if ready else Phase.REACH

    def _failed_to_close(self, state: PrivilegedState) -> bool:
        """Whether the fingers stopped without the bowl: closed on nothing, or blocked."""
        tuning = self.tuning
        return state.finger_gap < tuning.full_gap and state.finger_speed < tuning.stalled_speed

    def _placed(self, state: PrivilegedState) -> bool:
        """Whether the bowl is where it can be let go (closing) or left alone (open)."""
        tuning = self.tuning
        offset = state.object_pos[BOWL] - state.object_pos[PLATE]
        near = tuning.release_distance if self.last in GRIPPING else tuning.placed_distance
        low = offset[2] < tuning.rest_height + tuning.release_height
        return bool(low and np.linalg.norm(offset[:2]) < near)

    def _azimuth(self, state: PrivilegedState) -> float:
        frame = self.settings.azimuth_frame
        heading = skills.yaw_of(state.object_quat[frame]) if frame else 0.0
        return self.settings.azimuth + heading

    def _grasp(self, state: PrivilegedState) -> np.ndarray:
        """Where the grip site belongs on the rim, world (3,)."""
        return skills.rim_point(
            state.object_pos[BOWL],
            state.object_quat[BOWL],
            self._azimuth(state),
            self.settings.grip_radius,
            self.settings.grip_height,
        )

    def _translation(self, phase: Phase, state: PrivilegedState) -> np.ndarray:
        """Position part (3,) of the action."""
        settings, tuning = self.settings, self.tuning
        if phase is Phase.RELEASE:
            return np.zeros(3)
        if phase is Phase.RETREAT:
            rise = state.object_pos[BOWL][2] + tuning.retreat_height - state.eef_pos[2]
            return skills.servo(max(rise, 0.0) * UP, tuning.gain, tuning.reach_limit)
        if phase is Phase.CARRY:
            bowl, plate = state.object_pos[BOWL], state.object_pos[PLATE]
            goal = plate + (tuning.rest_height - tuning.press_depth) * UP
            waypoint = skills.funnel(
                bowl,
                goal,
                settings.carry_clearance,
                tuning.funnel_slope,
                tuning.funnel_radius,
                settings.carry_lean,
            )
            return skills.servo(waypoint - bowl, tuning.gain, tuning.carry_limit)
        grasp = self._grasp(state)
        if phase is Phase.CLOSE:
            return skills.servo(grasp - state.eef_pos, tuning.gain, tuning.reach_limit)
        waypoint = skills.funnel(
            state.eef_pos,
            grasp,
            settings.approach_clearance,
            tuning.funnel_slope,
            tuning.funnel_radius,
        )
        if state.finger_gap < tuning.full_gap:  # do not come down on the rim with closed fingers
            waypoint[2] = max(waypoint[2], grasp[2] + settings.approach_clearance)
        return skills.servo(waypoint - state.eef_pos, tuning.gain, tuning.reach_limit)


def spatial_settings(task: int | str, azimuth: float | None = None) -> RimSettings:
    """Settings of a task by its index in the official order, its name or its instruction.

    `azimuth` exposes another rim (radians, in the task's own frame). Raises ValueError otherwise.
    """
    keys = list(SPATIAL_TASKS)
    if isinstance(task, int):
        matches = keys[task : task + 1] if task >= 0 else []
    else:
        name = task.lower().replace(" ", "_")
        matches = [key for key in keys if f"bowl_{key}_and" in name]
    if len(matches) != 1:
        raise ValueError(
            f"unknown libero_spatial task {task!r}; give 0..{len(keys) - 1} or a name"
            f" that contains one of: {', '.join(keys)}"
        )
    settings = SPATIAL_TASKS[matches[0]]
    return settings if azimuth is None else replace(settings, azimuth=azimuth)
