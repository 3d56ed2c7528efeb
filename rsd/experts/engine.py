"""The engine of the scripted experts: a task is a plan, a tuple of things to be moved or pushed.

The phase is inferred from each state anew, so any state that a learner or noise leads to gets a
sensible action. The only memory is the phase before, for hysteresis: whether the gripper is meant
closed, whether the fingers have once settled, and what is being let go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from rsd.experts import skills
from rsd.experts.skills import CLOSE, OPEN, UP
from rsd.experts.state import PrivilegedState

Condition = Callable[[PrivilegedState], bool]
Vector = tuple[float, float, float]


class Phase(StrEnum):
    """What the expert is doing; a function of the state and of the phase before."""

    REACH = "reach"  # gripper open, on its way to the grasp
    CLOSE = "close"  # at the grasp, fingers closing
    CARRY = "carry"  # thing held: lift, carry and lower are one motion along a funnel
    RELEASE = "release"  # thing where it belongs, fingers opening
    PUSH = "push"  # gripper closed, on its way to a push or pushing
    LEAVE = "leave"  # gripper open, backing out of a grasp from aside or up from a push
    RETREAT = "retreat"  # all done, gripper rising


GRIPPING = (Phase.CLOSE, Phase.CARRY)


@dataclass(frozen=True)
class Goal:
    """Condition: a conjunct of the task's BDDL goal holds, as LIBERO itself judges it."""

    atom: tuple[str, ...]

    def __call__(self, state: PrivilegedState) -> bool:
        return self.atom in state.satisfied


@dataclass(frozen=True)
class Joint:
    """Condition: a fixture's joint (m or rad) is between two values."""

    name: str
    low: float = -np.inf
    high: float = np.inf

    def __call__(self, state: PrivilegedState) -> bool:
        return self.low < state.joints[self.name] < self.high


@dataclass(frozen=True)
class Apart:
    """Condition: a thing is beyond a line across the table, or above a height (world, m)."""

    thing: str
    north: float
    above: float

    def __call__(self, state: PrivilegedState) -> bool:
        _, y, z = state.object_pos[self.thing]
        return bool(y > self.north or z > self.above)


@dataclass(frozen=True)
class Hand:
    """A pose of the gripper."""

    point: np.ndarray  # float64 (3,): of the grip site, world, m
    rotation: np.ndarray  # float64 (3, 3), see `skills.pointing_down`


@dataclass(frozen=True)
class Rim:
    """Grasp of a round vessel's wall. Lengths in m, angles in rad."""

    azimuth: float  # direction of the gripped rim from the vessel's axis
    other: float | None = None  # that of a second rim, which will do as well
    frame: str | None = None  # fixture whose heading `azimuth` counts from; None: world
    radius: float = 0.045  # from the vessel's axis to the grip site
    height: float = 0.030  # of the grip site above the vessel's origin, along its axis
    center: Vector = (0.0, 0.0, 0.0)  # of the vessel in its own frame
    held_gap: float = 0.030  # both fingers on the vessel with a wider gap is no rim grasp
    aside: bool = False  # always from above

    def hand(self, state: PrivilegedState, thing: str) -> Hand:
        """Where the hand grips."""
        azimuth = self.azimuth
        if self.frame is not None:
            azimuth += skills.yaw_of(state.object_quat[self.frame])
        quat = state.object_quat[thing]
        center = state.object_pos[thing] + skills.rotation_of(quat) @ np.array(self.center)
        point = skills.rim_point(center, quat, azimuth, self.radius, self.height)
        return Hand(point, skills.pointing_down(skills.gripper_yaw(azimuth)))

    def carrying(self, state: PrivilegedState, thing: str, spin: float) -> np.ndarray:
        """Rotation (3, 3) of the hand that carries; a vessel's spin does not matter."""
        return self.hand(state, thing).rotation


@dataclass(frozen=True)
class Box:
    """Grasp of a box from above, or of a part that a box describes, such as a handle."""

    half: Vector  # extents, m
    center: Vector = (0.0, 0.0, 0.0)  # in the thing's frame
    depth: float = 0.035  # of the grip site below the box's top; the hand is 0.04 above the site
    tilt: float = 0.0  # of the hand about its x axis, rad: grips from aside
    pitch: float = 0.0  # of the hand about its y axis, rad: likewise
    held_gap: float = 0.075

    def hand(self, state: PrivilegedState, thing: str) -> Hand:
        """Where the hand grips."""
        rotation = skills.rotation_of(state.object_quat[thing])
        center = state.object_pos[thing] + rotation @ np.array(self.center)
        height, yaw = skills.box_grasp(
            rotation, np.array(self.half), self.depth, TIP_CLEARANCE_M, WIDEST_GRIP_M
        )
        if self.aside:  # straight at the box
            height = 0.0
        return Hand(center + height * UP, skills.pointing_down(yaw, self.tilt, self.pitch))

    def carrying(self, state: PrivilegedState, thing: str, spin: float) -> np.ndarray:
        """Rotation (3, 3) of the hand that carries: as it gripped, `spin` ahead of where it is. A
        yaw that followed the thing in the hand would turn for ever."""
        return skills.pointing_down(skills.down_yaw(state.eef_quat) + spin, self.tilt, self.pitch)

    @property
    def aside(self) -> bool:
        """Whether the hand comes in along its own axis instead of from above."""
        return bool(self.tilt or self.pitch)


TIP_CLEARANCE_M = 0.012  # finger tips reach this far below the grip site
WIDEST_GRIP_M = 0.034  # half width that fits between the open fingers


@dataclass(frozen=True)
class Move:
    """Take a thing, bring it somewhere, let it go. Lengths in m."""

    thing: str  # object, or moving part of a fixture
    grasp: Rim | Box
    to: str  # object, fixture or region
    done: Condition
    offset: Vector = (0.0, 0.0, 0.0)  # thing's origin from that of `to` when let go, world
    press: float = 0.020  # aim this far below, so that a tilted thing touches down
    reach_limit: float = 0.8  # norm of the position action without the thing
    grasp_tolerance: float = 0.012  # start to close within this distance of the grasp
    approach_clearance: float = 0.09  # grip site above the grasp while crossing
    approach_slope: float = 1.5  # of the descent to the grasp
    carry_clearance: float = 0.12  # thing above its (pressed) goal while crossing
    carry_lean: float = 0.0  # share of the way across that a rising thing moves along at once
    carry_slope: float = 1.5  # of the descent to the goal
    carry_limit: float = 0.7  # norm of the position action with the thing
    entry: Vector | None = None  # unit vector; go in to the goal along it, not from above
    entry_length: float = 0.14
    carry_yaw: float | None = None  # rad; turn the hand to this heading while carrying
    spin: float = 0.0  # rad; not 0: turn the thing in place instead, this far ahead of the hand
    release_height: float = 0.012  # let go when the thing is this close above the goal
    release_distance: float = 0.012  # let go when it is this close to the goal horizontally

    def goal(self, state: PrivilegedState) -> np.ndarray:
        """Where the thing's origin belongs, world (3,)."""
        return state.object_pos[self.to] + np.array(self.offset)

    def arrived(self, state: PrivilegedState) -> bool:
        """Whether the thing can be let go where it is."""
        offset = state.object_pos[self.thing] - self.goal(state)
        low = offset[2] < self.release_height
        return bool(low and np.linalg.norm(offset[:2]) < self.release_distance)

    def held(self, state: PrivilegedState) -> bool:
        """Whether the thing is between the fingers."""
        return self.thing in state.grasped and state.finger_gap < self.grasp.held_gap


@dataclass(frozen=True)
class Push:
    """Push a part or an object with closed fingers. Lengths in m, angles in rad."""

    part: str  # moving part of a fixture, or an object
    contact: Vector  # of the finger tips at the part, in its frame
    direction: Vector  # unit vector of the push, in its frame
    done: Condition
    yaw: float = 0.0  # of the hand
    pitch: float = 0.0  # of the hand about its y axis
    standoff: float = 0.06  # the push starts this far before the contact
    lead: float = 0.05  # aim this far past the contact
    clearance: float = 0.12  # of the way there
    width: float = 0.02  # beside the line of the push, before it starts anew
    limit: float = 0.7  # norm of the position action while pushing
    reach_limit: float = 0.8  # norm of it on the way there
    round: bool = False  # the part is round: `contact` and `direction` are in the world's axes


@dataclass(frozen=True)
class Tuning:
    """Gains, limits and tolerances shared by all tasks. Lengths in m."""

    gain: float = 1.3  # position error to setpoint delta
    turn_gain: float = 1.0
    turn_deadband: float = 0.1  # rad; the arm starts 0.057 rad off vertical and may stay there
    funnel_radius: float = 0.008  # straight descent within this horizontal distance
    grasp_slack: float = 0.030  # a started closing goes on within this distance
    full_gap: float = 0.070  # finger gap above which the gripper counts as open
    shut_gap: float = 0.010  # finger gap below which the gripper counts as closed
    stalled_speed: float = 0.003  # m/s; slower fingers are blocked or fully closed
    settled_speed: float = 0.005  # m/s; slower fingers on the thing press with their full force
    retreat_height: float = 0.15  # grip site above the thing at the end
    lane_length: float = 0.07  # of the way in to a grasp from aside
    lane_radius: float = 0.012
    lane_turn: float = 0.25  # rad; enter it with no larger error of the hand's rotation


@dataclass(frozen=True)
class Decision:
    """What to do in a state."""

    at: int  # index of the goal in the plan
    phase: Phase


class PlanExpert:
    """Expert of one episode (see `rsd.experts.Expert`); make one per episode."""

    def __init__(self, plan: tuple[Move | Push, ...], tuning: Tuning | None = None) -> None:
        self.plan = plan
        self.tuning = tuning or Tuning()
        self.last = Decision(0, Phase.REACH)

    def act(self, state: PrivilegedState) -> np.ndarray:
        """Action float32 (7,) for this state; call once per control step, in order."""
        self.last = self.decide(state)
        goal, phase = self.plan[self.last.at], self.last.phase
        action = np.zeros(7)
        if phase is Phase.RETREAT:
            action[:3] = self._rise(goal, state)
        elif isinstance(goal, Push) and phase is Phase.LEAVE:
            action[:3] = goal.reach_limit * UP
        elif isinstance(goal, Push):
            action[:3], rotation = self._push(goal, state)
            action[3:6] = self._turn(state, rotation)
        elif phase is Phase.LEAVE:
            rotation = goal.grasp.hand(state, goal.thing).rotation
            action[:3] = -goal.reach_limit * rotation[:, 2]
            action[3:6] = self._turn(state, rotation)
        elif phase is not Phase.RELEASE:
            action[:3] = (
                self._carry(goal, state)
                if phase is Phase.CARRY
                else self._reach(goal, phase, state)
            )
            action[3:6] = self._turn(state, self._rotation(goal, phase, state))
        action[6] = CLOSE if phase in (*GRIPPING, Phase.PUSH) else OPEN
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def decide(self, state: PrivilegedState) -> Decision:
        """What `act` would do in this state; changes nothing."""
        for at, goal in enumerate(self.plan):
            last = self.last.phase if at == self.last.at else Phase.REACH
            phase = self._phase(goal, state, last)
            if phase is not None:
                return Decision(at, phase)
        return Decision(len(self.plan) - 1, Phase.RETREAT)

    def _phase(self, goal: Move | Push, state: PrivilegedState, last: Phase) -> Phase | None:
        """The phase of one goal; None where it is reached and nothing of it is left to do."""
        tuning = self.tuning
        done = goal.done(state)
        if isinstance(goal, Push):
            if not done:
                return Phase.PUSH
            leaving = last in (Phase.PUSH, Phase.LEAVE) and self._upon(goal, state)
            return Phase.LEAVE if leaving else None
        if last is Phase.RELEASE and state.finger_gap < tuning.full_gap:
            return Phase.RELEASE
        distance = float(np.linalg.norm(state.eef_pos - goal.grasp.hand(state, goal.thing).point))
        near = distance < tuning.grasp_slack
        held = goal.held(state)
        if goal.grasp.aside and last in GRIPPING and near:  # a finger loses touch for moments
            held = tuning.shut_gap < state.finger_gap < goal.grasp.held_gap
        if held and (last in GRIPPING or not done):
            if done if goal.spin else goal.arrived(state):
                return Phase.RELEASE
            # lifting before the fingers press firmly lets the thing slip through
            if last is Phase.CARRY or state.finger_speed < tuning.settled_speed:
                return Phase.CARRY
            return Phase.CLOSE if near else Phase.REACH
        if done and last in GRIPPING:
            return Phase.RELEASE
        if done:
            return Phase.LEAVE if self._beside(goal, state) else None
        if last in GRIPPING:
            return Phase.CLOSE if near and not self._failed_to_close(state) else Phase.REACH
        ready = distance < goal.grasp_tolerance and state.finger_gap > tuning.full_gap
        return Phase.CLOSE if ready else Phase.REACH

    def _failed_to_close(self, state: PrivilegedState) -> bool:
        """Whether the fingers stopped without the thing: closed on nothing, or blocked."""
        tuning = self.tuning
        return state.finger_gap < tuning.full_gap and state.finger_speed < tuning.stalled_speed

    def _upon(self, goal: Push, state: PrivilegedState) -> bool:
        """Whether the fingers are still at a part that they pushed."""
        offset = state.eef_pos - self._contact(goal, state)[0]
        return bool(np.linalg.norm(offset[:2]) < 0.06 and offset[2] < goal.clearance / 2)

    def _beside(self, goal: Move, state: PrivilegedState) -> bool:
        """Whether the hand is still about a part that it gripped from aside."""
        if not goal.grasp.aside or state.grasped:
            return False
        hand = goal.grasp.hand(state, goal.thing)
        offset = state.eef_pos - hand.point
        along = float(offset @ hand.rotation[:, 2])
        beside = float(np.linalg.norm(offset - along * hand.rotation[:, 2]))
        turned = skills.turn_between(state.eef_quat, hand.rotation) < 2 * self.tuning.lane_turn
        return turned and beside < 0.03 and -self.tuning.lane_length < along < 0.03

    def _turn(self, state: PrivilegedState, rotation: np.ndarray) -> np.ndarray:
        tuning = self.tuning
        return skills.align(state.eef_quat, rotation, tuning.turn_gain, tuning.turn_deadband)

    def _rotation(self, goal: Move, phase: Phase, state: PrivilegedState) -> np.ndarray:
        if phase is not Phase.CARRY:
            return goal.grasp.hand(state, goal.thing).rotation
        if goal.carry_yaw is not None:
            return skills.pointing_down(goal.carry_yaw)
        return goal.grasp.carrying(state, goal.thing, goal.spin)

    def _rise(self, goal: Move | Push, state: PrivilegedState) -> np.ndarray:
        place = goal.thing if isinstance(goal, Move) else goal.part
        rise = state.object_pos[place][2] + self.tuning.retreat_height - state.eef_pos[2]
        return skills.servo(max(rise, 0.0) * UP, self.tuning.gain, goal.reach_limit)

    def _carry(self, goal: Move, state: PrivilegedState) -> np.ndarray:
        tuning = self.tuning
        if goal.spin:
            point = goal.grasp.hand(state, goal.thing).point
            return skills.servo(point - state.eef_pos, tuning.gain, goal.carry_limit)
        thing = state.object_pos[goal.thing]
        end = goal.goal(state) - goal.press * UP
        if goal.entry is not None:
            direction, radius = np.array(goal.entry), 2 * tuning.lane_radius
            waypoint, _ = skills.lane(
                thing, end, direction, goal.entry_length, radius, goal.carry_clearance
            )
            return skills.servo(waypoint - thing, tuning.gain, goal.carry_limit)
        waypoint = skills.funnel(
            thing,
            end,
            goal.carry_clearance,
            goal.carry_slope,
            tuning.funnel_radius,
            goal.carry_lean,
        )
        return skills.servo(waypoint - thing, tuning.gain, goal.carry_limit)

    def _reach(self, goal: Move, phase: Phase, state: PrivilegedState) -> np.ndarray:
        tuning = self.tuning
        hand = goal.grasp.hand(state, goal.thing)
        if phase is Phase.CLOSE:
            return skills.servo(hand.point - state.eef_pos, tuning.gain, goal.reach_limit)
        if goal.grasp.aside:
            waypoint = self._from_aside(goal, hand, state)
        else:
            waypoint = skills.funnel(
                state.eef_pos,
                hand.point,
                goal.approach_clearance,
                goal.approach_slope,
                tuning.funnel_radius,
            )
            if state.finger_gap < tuning.full_gap:  # do not come down with closed fingers
                waypoint[2] = max(waypoint[2], hand.point[2] + goal.approach_clearance)
        return skills.servo(waypoint - state.eef_pos, tuning.gain, goal.reach_limit)

    def _from_aside(self, goal: Move, hand: Hand, state: PrivilegedState) -> np.ndarray:
        tuning = self.tuning
        direction = hand.rotation[:, 2]
        waypoint, entered = skills.lane(
            state.eef_pos,
            hand.point,
            direction,
            tuning.lane_length,
            tuning.lane_radius,
            goal.approach_clearance,
        )
        turned = skills.turn_between(state.eef_quat, hand.rotation) < tuning.lane_turn
        opened = state.finger_gap > tuning.full_gap
        if entered and not (turned and opened):
            return hand.point - tuning.lane_length * direction
        return waypoint

    def _contact(self, goal: Push, state: PrivilegedState) -> tuple[np.ndarray, np.ndarray]:
        """Contact point and unit vector of a push, world (3,)."""
        quat = state.object_quat[goal.part]
        rotation = np.eye(3) if goal.round else skills.rotation_of(quat)
        contact = state.object_pos[goal.part] + rotation @ np.array(goal.contact)
        return contact, rotation @ np.array(goal.direction)

    def _push(self, goal: Push, state: PrivilegedState) -> tuple[np.ndarray, np.ndarray]:
        tuning = self.tuning
        contact, direction = self._contact(goal, state)
        waypoint, pushing = skills.lane(
            state.eef_pos, contact, direction, goal.standoff, goal.width, goal.clearance
        )
        if pushing and state.finger_gap < tuning.shut_gap:
            waypoint = contact + goal.lead * direction
        elif pushing:
            waypoint = contact - goal.standoff * direction
        limit = goal.limit if pushing else goal.reach_limit
        action = skills.servo(waypoint - state.eef_pos, tuning.gain, limit)
        return action, skills.pointing_down(goal.yaw, pitch=goal.pitch)
