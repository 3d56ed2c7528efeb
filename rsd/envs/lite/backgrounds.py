"""Looks of what stands around in the kitchen, living room and study scenes.

Sizes (metres) are those of LIBERO's meshes, each in the frame of its own mesh; shapes are rough,
since all but the two tables stand far behind the workspace.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rsd.envs.lite import image
from rsd.envs.lite.look import Look, flat_look
from rsd.envs.lite.mesh import Mesh, box, hexahedron, lathe, merge, tube
from rsd.envs.lite.mjcf import Vector

# --- kitchen ----------------------------------------------------------------------------------


def kitchen_wall_look() -> Look:
    """The wall of cupboards, nearly black in LIBERO's light."""
    return flat_look(box((-0.305, -1.800, 0.0), (0.304, 1.800, 2.500)), (66, 66, 48))


def kitchen_stove_look() -> Look:
    """A hob."""
    return flat_look(box((-0.286, -0.402, 0.0), (0.285, 0.400, 0.034)), (40, 40, 42))


def hot_pot_look() -> Look:
    """A round pot."""
    profile = [(0, 0), (0.105, 0), (0.120, 0.100), (0.020, 0.140), (0, 0.140)]
    return flat_look(lathe(profile, segments=12), (102, 102, 102))


def kitchen_pots_look() -> Look:
    """Pots side by side."""
    return flat_look(box((-0.090, -0.297, 0.0), (0.090, 0.322, 0.271)), (90, 84, 78))


def fridge_look() -> Look:
    """A metal fridge."""
    return flat_look(box((-0.221, -0.433, 0.0), (0.221, 0.436, 1.774)), (70, 70, 72))


# --- living room ------------------------------------------------------------------------------


def living_room_table_look() -> Look:
    """An oblong table with round ends, of dark wood; long along x."""
    top, foot = 0, 1
    profile = [(0, 0.0), (0.350, 0.0), (0.350, 0.413), (0.560, 0.413), (0.598, 0.432)]
    profile += [(0.590, 0.450), (0.572, 0.4375), (0, 0.4375)]
    round_table = lathe(profile, [foot] * 3 + [top] * 4, segments=40)
    ends = np.sign(np.round(round_table.vertices[:, :1], 6)) * np.array([0.3015, 0, 0])
    oblong = replace(round_table, vertices=round_table.vertices + ends)
    wood = image.wood((84, 57, 45))
    look = oblong.pictured(2, 1, cell=2).moved((-0.2085, -0.011, 0))
    return Look(look, [image.flat((72, 48, 38)), image.flat((44, 30, 24)), wood])


def wall_decoration_look() -> Look:
    """A slate blue panel."""
    return flat_look(box((-0.412, 0.0, -0.543), (0.451, 0.004, 0.466)), (84, 104, 126))


def wall_unit_look() -> Look:
    """A folded screen, black below and grey above with red-brown stripes; its front is -x."""
    parts = [
        prism(0, ((-1.155, 0.0), (1.177, 0.0), (1.177, 0.62), (-1.155, 0.20))),
        prism(1, ((-1.155, 0.20), (1.177, 0.62), (1.177, 1.25), (-1.155, 0.50))),
        prism(1, ((-1.155, 0.50), (1.177, 1.25), (0.350, 1.596), (-0.200, 1.30))),
        prism(0, ((-0.900, 0.62), (0.900, 1.22), (0.900, 1.32), (-0.900, 0.72)), front=-0.178),
        prism(2, ((-1.100, 0.50), (-1.000, 0.42), (-0.250, 1.12), (-0.350, 1.22)), front=-0.183),
    ]
    return flat_look(merge(*parts), (14, 14, 14), (190, 188, 184), (150, 68, 44))


def prism(cell: int, outline: tuple[tuple[float, float], ...], front: float = -0.173) -> Mesh:
    """A slab between x = 0.21 and `front`; outline: four (y, z), counter-clockwise
    seen from +x."""
    back = [(0.210, y, z) for y, z in reversed(outline)]
    return hexahedron(back, [(front, y, z) for _, y, z in back], cell)


# --- study ------------------------------------------------------------------------------------


def desk_look() -> Look:
    """A wide desk of orange-brown wood on two black frames."""
    wood, black = 1, 0
    plate = box((-0.699, -1.400, 0.813), (0.707, 1.403, 0.885), cell=2, pictured=[(2, 1, wood)])
    frames = [
        box((x, y - 0.05, 0.006), (x + 0.04, y + 0.05, 0.813), black)
        for x in (-0.520, 0.476)
        for y in (-0.691, 0.712)
    ]
    feet = [box((-0.520, y - 0.05, 0.006), (0.516, y + 0.05, 0.045)) for y in (-0.691, 0.712)]
    cells = [image.flat((20, 20, 20)), image.wood((166, 120, 66)), image.flat((116, 78, 42))]
    return Look(merge(plate, *frames, *feet), cells)


def floor_lamp_look() -> Look:
    """A black lamp: foot, post, arm and a conical shade."""
    post: list[Vector] = [(0.240, 0, 0.0), (0.240, 0, 0.350), (0.240, 0, 0.700)]
    arm: list[Vector] = [(0.240, 0, 0.690), (-0.020, 0, 0.740), (-0.280, 0, 0.740)]
    shade = lathe([(0, 0.400), (0.126, 0.400), (0.030, 0.761), (0, 0.761)], segments=16)
    foot = lathe([(0, 0), (0.017, 0), (0.017, 0.010), (0, 0.010)], segments=8)
    parts = [shade.moved((-0.306, 0, 0)), tube(post, 0.010), tube(arm, 0.010)]
    return flat_look(merge(*parts, foot.moved((0.240, 0, 0))), (16, 16, 16))


def plant_look() -> Look:
    """A pot, two trunks and drooping leaves."""
    pot, trunk, leaf = range(3)
    profile = [(0, 0), (0.090, 0), (0.115, 0.260), (0.100, 0.265), (0, 0.250)]
    trunks: tuple[list[Vector], ...] = (
        [(0.010, -0.020, 0.2), (0.020, -0.020, 0.5), (0.030, -0.020, 0.78)],
        [(0.080, 0.030, 0.2), (0.095, 0.030, 0.35), (0.110, 0.030, 0.52)],
    )
    parts = [lathe(profile, pot, segments=12)]
    for number, path in enumerate(trunks):
        parts.append(tube(path, 0.030, trunk))
        parts += [leaf_blade(path[-1], k + 0.5 * number, leaf) for k in range(9)]
    return flat_look(merge(*parts), (104, 108, 110), (92, 78, 58), (62, 92, 34))


def leaf_blade(root: Vector, turn: float, cell: int) -> Mesh:
    """A leaf that rises and droops; turn: ninths of a circle about the trunk."""
    angle = turn * 2 * np.pi / 9
    along = np.array([np.cos(angle), np.sin(angle), 0.0])
    side = 0.016 * np.array([-np.sin(angle), np.cos(angle), 0.0])
    rise = 0.22 + 0.26 * (0.5 + 0.5 * np.cos(3.7 * turn))
    reach = 0.34 - 0.5 * (rise - 0.22)
    at = np.array(root)
    middle, tip = at + 0.6 * reach * along + [0, 0, rise], at + reach * along + [0, 0, 0.8 * rise]
    down = np.array([0, 0, -0.004])
    low = [at - side + down, at + side + down, at + side, at - side]
    bend = [middle - side + down, middle + side + down, middle + side, middle - side]
    end = [tip - side / 4 + down, tip + side / 4 + down, tip + side / 4, tip - side / 4]
    return merge(*(hexahedron(a, b, cell) for a, b in ((low, bend), (bend, end))))


def shelf_look() -> Look:
    """An open, pale bookshelf; its front is +y."""
    left, right, back, front, top = -0.617, 0.606, -0.170, 0.145, 1.793
    boards = [
        box((left, back, z - 0.012), (right, front, z + 0.012))
        for z in np.linspace(0.012, top - 0.012, 6)
    ]
    sides = [
        box((x - 0.012, back, 0.0), (x + 0.012, front, top))
        for x in np.linspace(left + 0.012, right - 0.012, 3)
    ]
    rear = box((left, back, 0.0), (right, back + 0.01, top))
    return flat_look(merge(*boards, *sides, rear), (206, 206, 202))


PAINTING = """
    pppddyyyyy
    pppddyyyyy
    pppddyyyyy
    pppdddyyyy
    pppdddyyyy
    pppdddyyyy
    rrrddddddd
    rrrddddddd
    rrrddddddd
    rrrddddddd
"""


def painting_look() -> Look:
    """A painting of four fields of colour; it faces +y."""
    low, high = (-0.484, -0.048, 0.0), (0.495, -0.006, 0.979)
    colours = {"p": (60, 24, 40), "d": (84, 104, 126), "y": (184, 146, 30), "r": (186, 46, 14)}
    canvas = box(low, high).pictured(1, 1, cell=1)
    return Look(canvas, [image.flat((30, 30, 30)), image.drawn(PAINTING, **colours)])
