"""Small pure skills that scripted experts are made of: geometry in, motion or angle out.

World frame, metres and radians. Nothing here knows a task, a simulator or the past.
"""

from __future__ import annotations

import numpy as np

POSITION_SCALE_M = 0.05  # one unit of an OSC_POSE action: position setpoint delta
ROTATION_SCALE_RAD = 0.5  # one unit of an OSC_POSE action: axis-angle setpoint delta
OPEN, CLOSE = -1.0, 1.0  # gripper commands

UP = np.array([0.0, 0.0, 1.0])


def rotation_of(quat_wxyz: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) of a unit quaternion (w, x, y, z)."""
    w, x, y, z = quat_wxyz
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def yaw_of(quat_wxyz: np.ndarray) -> float:
    """Heading of a body's x axis in the world's horizontal plane, radians in (-pi, pi]."""
    x_axis = rotation_of(quat_wxyz)[:, 0]
    return float(np.arctan2(x_axis[1], x_axis[0]))


def rim_point(
    position: np.ndarray, quat_wxyz: np.ndarray, azimuth: float, radius: float, height: float
) -> np.ndarray:
    """Point (3,) on a round vessel's wall: `height` along its own axis, `radius` towards `azimuth`.

    `azimuth` is a world heading, so an upright vessel's spin does not matter; a tilted vessel's
    point follows the tilt. A vessel that lies on its side towards `azimuth` keeps its centre line.
    """
    axis = rotation_of(quat_wxyz)[:, 2]
    outward = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
    along_wall = outward - (outward @ axis) * axis
    length = np.linalg.norm(along_wall)
    direction = along_wall / length if length > 1e-3 else np.zeros(3)
    return position + height * axis + radius * direction


def servo(error_m: np.ndarray, gain: float, limit: float) -> np.ndarray:
    """Proportional position action (3,) that saturates at norm `limit`, direction kept."""
    action = gain * error_m / POSITION_SCALE_M
    norm = float(np.linalg.norm(action))
    return action * (limit / norm) if norm > limit else action


def funnel(
    position: np.ndarray,
    goal: np.ndarray,
    clearance: float,
    slope: float,
    radius: float,
    lean: float = 0.0,
) -> np.ndarray:
    """Next waypoint (3,) of a descent into `goal` along a cone: up first, then across, then down.

    The cone's surface is at the goal within `radius`, rises with `slope`, and is flat `clearance`
    above the goal farther out. A position below the surface rises before it moves sideways (from 1
    to 4 cm below, the sideways part fades out to the share `lean`); one above it moves straight at
    the surface. So the waypoint depends on the position alone and any position leads to the goal.
    """
    offset = goal[:2] - position[:2]
    distance = float(np.linalg.norm(offset))
    surface = goal[2] + float(np.clip((distance - radius) * slope, 0.0, clearance))
    depth = surface - position[2]
    sideways = float(np.clip((0.04 - depth) / 0.03, lean, 1.0))
    return np.array([*(position[:2] + sideways * offset), surface])


def gripper_yaw(azimuth: float) -> float:
    """Turn of the gripper about z (from fingers opening along y) that straddles a rim at `azimuth`.

    The two fingers are alike, so the result is the smaller of the two turns, in (-pi/2, pi/2].
    """
    turn = (azimuth - np.pi / 2) % np.pi
    return float(turn - np.pi if turn > np.pi / 2 else turn)


def pointing_down(yaw: float, tilt: float = 0.0, pitch: float = 0.0) -> np.ndarray:
    """Rotation (3, 3) of the hand pointing straight down with heading `yaw`, fingers along its y.

    Then it is turned about its own x axis by `tilt` (at yaw 0, a negative one points it to -y),
    then about its own y axis by `pitch` (at yaw 0, a negative one points it to -x). Radians.
    """
    cos, sin = np.cos(yaw), np.sin(yaw)
    down = np.array([[cos, sin, 0.0], [sin, -cos, 0.0], [0.0, 0.0, -1.0]])
    cos, sin = np.cos(tilt), np.sin(tilt)
    tilted = np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
    cos, sin = np.cos(pitch), np.sin(pitch)
    pitched = np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])
    return down @ tilted @ pitched


def down_yaw(quat_xyzw: np.ndarray) -> float:
    """Heading of the hand as `pointing_down` counts it, from the axis along which it closes."""
    y_axis = rotation_of(np.roll(quat_xyzw, 1))[:, 1]
    return float(np.arctan2(y_axis[0], -y_axis[1]))


def turn_between(quat_xyzw: np.ndarray, wanted: np.ndarray) -> float:
    """Angle in radians between the hand and a wanted rotation (3, 3)."""
    current = rotation_of(np.roll(quat_xyzw, 1))
    return float(np.arccos(np.clip((np.trace(wanted @ current.T) - 1) / 2, -1.0, 1.0)))


def align(quat_xyzw: np.ndarray, wanted: np.ndarray, gain: float, deadband: float) -> np.ndarray:
    """Rotation action (3,) that turns the hand to the rotation `wanted` (3, 3).

    Zero while the error is within `deadband` radians (the controller then holds its last
    orientation by itself); beyond, proportional to the excess, saturating at norm 1.
    """
    current = rotation_of(np.roll(quat_xyzw, 1))
    # sum of axis cross products: sin-like error vector that vanishes only at 0 and pi
    error = 0.5 * np.cross(current.T, wanted.T).sum(axis=0)
    angle = turn_between(quat_xyzw, wanted)
    norm = float(np.linalg.norm(error))
    if angle <= deadband or norm < 1e-6:
        return np.zeros(3)
    return error / norm * min(1.0, gain * (angle - deadband) / ROTATION_SCALE_RAD)


def box_grasp(
    rotation: np.ndarray, half: np.ndarray, depth: float, clearance: float, widest: float
) -> tuple[float, float]:
    """Grasp of a box from above: height of the grip site over the box's centre, gripper's yaw.

    `rotation` (3, 3) and `half` (3,) extents of the box. The fingers reach `depth` below its top,
    but not closer than `clearance` to its bottom; they close along the box's own horizontal axis
    that is at most `widest` (half) wide and needs the smaller turn.
    """
    reach = float(np.abs(rotation[2]) @ half)
    height = max(reach - depth, clearance - reach)
    level = [axis for axis in range(3) if abs(rotation[2, axis]) < 0.7]
    narrow = [axis for axis in level if half[axis] <= widest] or level
    yaws = [gripper_yaw(float(np.arctan2(rotation[1, a], rotation[0, a]))) for a in narrow]
    return height, min(yaws, key=abs)


def lane(
    position: np.ndarray,
    end: np.ndarray,
    direction: np.ndarray,
    length: float,
    radius: float,
    clearance: float,
) -> tuple[np.ndarray, bool]:
    """Next waypoint (3,) on the way to `end` along a straight lane, and whether it is in the lane.

    The lane is `length` long, comes in along the unit vector `direction` and is entered at its
    start, through a funnel. A position beside it or past its end goes back to the start.
    """
    offset = position - end
    along = float(offset @ direction)
    beside = float(np.linalg.norm(offset - along * direction))
    if beside < radius and -length - radius < along < radius:
        return end, True
    start = end - length * direction
    return funnel(position, start, clearance, slope=1.5, radius=radius / 2), False
