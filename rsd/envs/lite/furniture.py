"""Looks of fixtures, containers and other wooden or metal things. Sizes (metres) are those of
LIBERO's meshes; boards are drawn where LIBERO's collision boxes lie."""

from __future__ import annotations

from rsd.envs.lite import collision, image
from rsd.envs.lite.image import Colour
from rsd.envs.lite.look import Look, flat_look
from rsd.envs.lite.mesh import Mesh, box, cuboids, lathe, merge

METAL: Colour = (108, 108, 108)


def cabinet_look(colour: Colour) -> Look:
    """The cabinet's shell: open in front (-y), with two shelves."""
    left, right, front, back, top = -0.1247, 0.1318, -0.0790, 0.1117, 0.2216
    panels = [
        box((left, front, 0.0046), (-0.1095, back, top)),
        box((0.1165, front, 0.0046), (right, back, top)),
        box((left, 0.1080, 0.0046), (right, back, top)),
        box((left, front, 0.2190), (right, back, top)),
        *(box((left, front, z), (right, back, z + 0.002)) for z in (0.0050, 0.0775, 0.1475)),
    ]
    return flat_look(merge(*panels), colour)


def drawer_look(low_z: float, left: float, colour: Colour) -> Look:
    """An open box, 70 mm high from low_z; left: its smallest x."""
    high_z, right, front, back, wall = low_z + 0.0702, left + 0.2221, -0.0780, 0.0951, 0.005
    panels = [
        box((left, front, low_z), (right, front + 0.008, high_z)),
        box((left, back - wall, low_z), (right, back, high_z)),
        box((left, front, low_z), (left + wall, back, high_z)),
        box((right - wall, front, low_z), (right, back, high_z)),
        box((left, front, low_z), (right, back, low_z + 0.008)),
    ]
    return flat_look(merge(*panels), colour)


def handle_look(middle_z: float) -> Look:
    """A bar along x on two posts."""
    bar = lathe([(0, -0.0444), (0.0082, -0.0444), (0.0082, 0.0444), (0, 0.0444)], 0, 10)
    along_x = Mesh(  # z -> x, y -> -z: a rotation about y
        bar.vertices[:, [2, 1, 0]] * [1, 1, -1],
        bar.normals[:, [2, 1, 0]] * [1, 1, -1],
        bar.uv,
        bar.faces,
    )
    posts = [
        box((x - 0.005, -0.100, middle_z - 0.005), (x + 0.005, -0.0728, middle_z + 0.005))
        for x in (0.0292, -0.0356)
    ]
    return flat_look(merge(along_x.moved((-0.0026, -0.1018, middle_z)), *posts), METAL)


def burner_look() -> Look:
    """The burner plate: three ridges around a hub."""
    base, top = 0.0205, 0.0254
    profile = [(0.0, 0.0193), (0.065, 0.0193), (0.065, base)]
    for outer, inner in ((0.063, 0.055), (0.051, 0.043), (0.039, 0.031)):
        profile += [(outer, base), (outer, top), (inner, top), (inner, base)]
    profile += [(0.018, base), (0.018, top), (0, top)]
    plate, ridge = 0, 1
    cells = [plate] * 3 + [plate, ridge, plate, plate] * 3 + [plate, ridge]
    return flat_look(lathe(profile, cells), (72, 71, 70), (104, 102, 100))


def knob_look() -> Look:
    """The stove's knob: a disc with a ridge across."""
    disc = lathe([(0, 0), (0.0463, 0), (0.0463, 0.0125), (0.0400, 0.0175), (0, 0.0175)])
    ridge = box((-0.0120, -0.0410, 0.0160), (0.0125, 0.0480, 0.0300))
    grip = box((-0.0110, -0.0200, 0.0280), (0.0115, 0.0480, 0.0539))
    return flat_look(merge(disc.moved((-0.0008, 0.0032, 0)), ridge, grip), (26, 26, 26))


def basket_look() -> Look:
    """An open box of light wood, its walls leaning outwards."""
    return flat_look(cuboids(collision.boxes("basket/basket")), (170, 120, 68))


PLANKS = {"a": (232, 196, 152), "b": (224, 186, 140), "c": (212, 172, 126), "d": (186, 146, 104)}


def rack_boards_look() -> Look:
    """Two sloping boards of light planks."""
    boards = cuboids(collision.boxes("wine_rack/wine_rack_planes")).pictured(2, 1, cell=1)
    return Look(boards, [image.flat(PLANKS["b"]), image.drawn("abcdabdcabdabcdabc", **PLANKS)])


def rack_stoppers_look() -> Look:
    """Strips of clear plastic along the boards' lower edges."""
    strips = cuboids(collision.boxes("wine_rack/wine_rack_stoppers"))
    return Look(strips, [image.flat((0, 88, 139))], alpha=0.1)


def rack_stand_look() -> Look:
    """Foot and post of red-brown wood."""
    return flat_look(cuboids(collision.boxes("wine_rack/wine_rack_stand")), (92, 30, 16))


def caddy_look() -> Look:
    """A desk tidy of brown board with four compartments."""
    return flat_look(cuboids(collision.boxes("desk_caddy/desk_caddy")), (130, 96, 62))


def book_look(scale: float = 1.0) -> Look:
    """A black book, its spine on +y; scale: against the object's size."""
    parts = [
        box((-0.0155, -0.0687, 0.0), (-0.0125, 0.0446, 0.1382)),
        box((0.0116, -0.0687, 0.0), (0.0146, 0.0446, 0.1382)),
        box((-0.0155, 0.0416, 0.0), (0.0146, 0.0446, 0.1382)),
        box((-0.0125, -0.0660, 0.0025), (0.0116, 0.0416, 0.1355), cell=1),
    ]
    return flat_look(merge(*parts).scaled(scale), (16, 15, 14), (96, 96, 98))


BLACK_METAL: Colour = (52, 52, 52)


def microwave_look() -> Look:
    """The oven's shell: open in front (-y), where the door is; controls at the right."""
    low, high, front, back = 0.0047, 0.1869, -0.0880, 0.1104
    panels = [
        box((-0.1723, front, low), (-0.1435, back, high)),
        box((0.0635, front, low), (0.1723, back, high)),
        box((0.0880, -0.1104, low), (0.1723, front, high)),
        box((-0.1723, 0.0805, low), (0.1723, back, high)),
        box((-0.1723, front, 0.1680), (0.1723, back, high)),
        box((-0.1723, front, low), (0.1723, back, 0.0240)),
    ]
    return flat_look(merge(*panels), BLACK_METAL)


def microwave_door_look() -> Look:
    """The door: a frame around the window."""
    low, high = (-0.1723, -0.1104, 0.0047), (0.0861, -0.0904, 0.1869)
    (_, front, bottom), (_, back, top) = low, high
    panels = [
        box(low, (-0.1300, back, top)),
        box((0.0438, front, bottom), high),
        box((-0.1300, front, bottom), (0.0438, back, 0.0346)),
        box((-0.1300, front, 0.1571), (0.0438, back, top)),
    ]
    return flat_look(merge(*panels), BLACK_METAL)


def microwave_window_look() -> Look:
    """Dark glass."""
    return Look(
        box((-0.1300, -0.1069, 0.0346), (0.0438, -0.0942, 0.1571)),
        [image.flat((102, 102, 102))],
        alpha=0.25,
    )


def microwave_button_look() -> Look:
    """The bar that opens the door."""
    return flat_look(box((0.0938, -0.1124, 0.0117), (0.1581, -0.1081, 0.0303)), METAL)


def microwave_feet_look() -> Look:
    """Four feet."""
    foot = lathe([(0, 0), (0.0085, 0), (0.0085, 0.0065), (0, 0.0065)], segments=10)
    places = [(x, y, 0.0) for x in (-0.1488, 0.1503) for y in (-0.0575, 0.0777)]
    return flat_look(merge(*(foot.moved(place) for place in places)), METAL)
