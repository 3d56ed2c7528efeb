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


def align(quat_xyzw: np.ndarray, yaw: float, gain: float, deadband: float) -> np.ndarray:
    """Rotation action (3,) that turns the hand to point straight down with heading `yaw`.

    Zero while the error is within `deadband` radians (the controller then holds its last
    orientation by itself); beyond, proportional to the excess, saturating at norm 1.
    """
    current = rotation_of(np.roll(quat_xyzw, 1))
    cos, sin = np.cos(yaw), np.sin(yaw)
    # x' = (cos, sin, 0), y' = (sin, -cos, 0), z' down: the Panda's hand with fingers along y'
    wanted = np.array([[cos, sin, 0.0], [sin, -cos, 0.0], [0.0, 0.0, -1.0]])
    # sum of axis cross products: sin-like error vector that vanishes only at 0 and pi
    error = 0.5 * np.cross(current.T, wanted.T).sum(axis=0)
    angle = float(np.arccos(np.clip((np.trace(wanted @ current.T) - 1) / 2, -1.0, 1.0)))
    norm = float(np.linalg.norm(error))
    if angle <= deadband or norm < 1e-6:
        return np.zeros(3)
    return error / norm * min(1.0, gain * (angle - deadband) / ROTATION_SCALE_RAD)
