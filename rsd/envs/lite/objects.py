"""Objects and fixtures, one entry each in `OBJECTS`.

Bodies, joints, sites, geom order and collision boxes are those of LIBERO's files
(`collision`); every visual is one mesh made here, so the geoms keep LIBERO's names and numbers too.
To add an object: its boxes in `collision`, a visual function, an entry in `OBJECTS`.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from rsd.envs.lite import collision, image
from rsd.envs.lite.image import Colour, Image
from rsd.envs.lite.mesh import Mesh, box, lathe, merge
from rsd.envs.lite.mjcf import (
    Boxes,
    Row,
    Vector,
    add_boxes,
    add_material,
    add_visual,
    child,
    numbers,
    to_bytes,
)

Files = dict[str, bytes]  # path in the tree -> content


@dataclass(frozen=True)
class Look:
    """What is seen of one body: a mesh whose palette cells are the colours."""

    mesh: Mesh
    cells: Sequence[Image]


def flat_look(mesh: Mesh, *colours: Colour) -> Look:
    """A look in flat colours, numbered by the mesh's palette cells."""
    return Look(mesh, [image.flat(colour) for colour in colours])


# --- looks -----------------------------------------------------------------------------------


def bowl_look() -> Look:
    """Akita bowl: black, a light ring below the rim inside."""
    outside = [(0, 0.0016), (0.027, 0.0016), (0.0305, 0.004), (0.0425, 0.0155), (0.0539, 0.0521)]
    inside = [(0.0512, 0.0521), (0.0498, 0.0470), (0.0487, 0.0430), (0.0400, 0.0170)]
    floor = [(0.0270, 0.0072), (0, 0.0068)]
    black, ring = 0, 1
    cells = [black] * 5 + [ring] + [black] * 4
    return flat_look(lathe([*outside, *inside, *floor], cells), (38, 35, 34), (108, 100, 92))


def plate_look() -> Look:
    """Plate: off-white with a coloured band on the rim."""
    below = [(0, 0.0018), (0.040, 0.0008), (0.0488, 0.0005), (0.0596, 0.0055), (0.0686, 0.0125)]
    rim = [(0.0687, 0.0160), (0.0660, 0.0166), (0.0615, 0.0140)]
    above = [(0.0540, 0.0105), (0.0450, 0.0075), (0.0340, 0.0052), (0, 0.0045)]
    white, band = 0, 1
    cells = [white] * 6 + [band] + [white] * 4
    return flat_look(lathe([*below, *rim, *above], cells), (226, 226, 221), (158, 92, 78))


def ramekin_look() -> Look:
    """Ramekin: light porcelain, darker glaze on the inner wall."""
    outside = [(0, 0.0012), (0.020, 0.001), (0.0385, 0.0), (0.0418, 0.0260), (0.0445, 0.0300)]
    rim = [(0.0447, 0.0420), (0.0435, 0.0433), (0.0400, 0.0425)]
    inside = [(0.0362, 0.0340), (0.0350, 0.0100), (0.0320, 0.0082), (0, 0.0082)]
    body, light, glaze = 0, 1, 2
    cells = [body] * 4 + [light] * 3 + [glaze] * 2 + [light] * 2
    return flat_look(
        lathe([*outside, *rim, *inside], cells), (188, 186, 183), (232, 231, 228), (96, 94, 92)
    )


def cookies_look() -> Look:
    """Box of cookies: red, a label above and below."""
    low, high = (-0.0307, -0.0418, -0.0100), (0.0307, 0.0418, 0.0100)
    red, label = 0, 1
    mesh = box(low, high, red, pictured=[(2, 1, label), (2, -1, label)])
    picture = cookies_label()
    return Look(mesh, [image.flat((178, 44, 28), picture.shape[:2]), picture])


def cookies_label() -> Image:
    """Red bands at both ends, a white field, four cookies on a red and white chequer."""
    height, width = 56, 40
    rows, columns = np.mgrid[0:height, 0:width]
    red, white, brown, dough, raisin = (
        (178, 44, 28),
        (150, 138, 132),
        (116, 62, 30),
        (146, 116, 62),
        (84, 50, 52),
    )
    label = image.flat(white, (height, width))
    label[(rows >= 24) & ((rows // 5 + columns // 5) % 2 == 0)] = red
    label[rows < 9] = red
    label[(rows >= 14) & (rows < 20) & (columns > 4) & (columns < 35)] = brown
    for row, column in ((27, 20), (38, 8), (38, 32), (48, 20)):
        distance = (rows - row) ** 2 + (columns - column) ** 2
        label[distance < 100] = dough
        label[distance < 6] = raisin
    return label


CABINET_WOOD: Colour = (52, 45, 39)
METAL: Colour = (108, 108, 108)


def cabinet_look() -> Look:
    """The cabinet's shell: open in front (-y), with two shelves."""
    left, right, front, back, top = -0.1247, 0.1318, -0.0790, 0.1117, 0.2216
    panels = [
        box((left, front, 0.0046), (-0.1095, back, top)),
        box((0.1165, front, 0.0046), (right, back, top)),
        box((left, 0.1080, 0.0046), (right, back, top)),
        box((left, front, 0.2190), (right, back, top)),
        *(box((left, front, z), (right, back, z + 0.002)) for z in (0.0050, 0.0775, 0.1475)),
    ]
    return flat_look(merge(*panels), CABINET_WOOD)


def drawer_look(low_z: float, left: float) -> Look:
    """An open box, 70 mm high from low_z; left: its smallest x."""
    high_z, right, front, back, wall = low_z + 0.0702, left + 0.2221, -0.0780, 0.0951, 0.005
    panels = [
        box((left, front, low_z), (right, front + 0.008, high_z)),
        box((left, back - wall, low_z), (right, back, high_z)),
        box((left, front, low_z), (left + wall, back, high_z)),
        box((right - wall, front, low_z), (right, back, high_z)),
        box((left, front, low_z), (right, back, low_z + 0.008)),
    ]
    return flat_look(merge(*panels), (58, 50, 43))


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


# --- bodies ----------------------------------------------------------------------------------


def object_root(name: str) -> tuple[ET.Element, ET.Element, ET.Element]:
    """(root, asset, body named object) of an object file. robosuite reads the outer body's sites
    and renames the inner body."""
    root = ET.Element("mujoco", model=name)
    asset = child(root, "asset")
    outer = child(child(root, "worldbody"), "body")
    return root, asset, child(outer, "body", name="object")


def add_extent_sites(root: ET.Element, size: float, bottom: float, top: float, side: float) -> None:
    """The three sites from which robosuite's samplers read an object's extent (metres)."""
    outer = root.find("./worldbody/body")
    assert outer is not None
    places = {
        "bottom_site": (0, 0, bottom),
        "top_site": (0, 0, top),
        "horizontal_radius_site": (side, side, 0),
    }
    for name, pos in places.items():
        child(
            outer, "site", name=name, rgba="0 0 0 0", size=f"{size:g}", pos=numbers(pos, digits=5)
        )


def add_look(asset: ET.Element, name: str, look: Look, folder: str, **material: str) -> Files:
    """Mesh, palette texture and material called `name`; returns the texture's file. folder: of
    the object's XML file."""
    picture = f"{name}.png"
    child(asset, "texture", name=f"tex-{name}", type="2d", file=picture)
    add_material(asset, name, f"tex-{name}", **material)
    asset.append(look.mesh.element(f"{name}_vis", len(look.cells)))
    return {f"{folder}/{picture}": image.png(image.palette(look.cells))}


def free_object(
    name: str,
    folder: str,
    look: Callable[[], Look],
    boxes: tuple[Boxes, ...],
    pos: Vector = (0.0, 0.0, 0.0),
) -> Files:
    """Files of an object of one body that lies about freely (robosuite adds the joint).

    pos: metres, where the file puts the body; it is the joint's zero.
    """
    home = f"{folder}/{name}"
    root, asset, body = object_root(name)
    body.set("pos", numbers(pos, digits=5))
    files = add_look(asset, name, look(), home)
    add_visual(body, f"{name}_vis", name)
    add_boxes(body, boxes)
    add_extent_sites(root, size=0.005, bottom=-0.06, top=0.04, side=0.025)
    return files | {f"{home}/{name}.xml": to_bytes(root)}


ARTICULATED = "articulated_objects"
FIXTURE_EXTENT = {"size": 0.05, "bottom": -0.045, "top": 0.045, "side": 0.045}
MOVING_INERTIA = {"pos": "0 0 0", "mass": "3", "diaginertia": "1 1 1"}
ON_SIDE = "0.70711 0 0.70711 0"


@dataclass(frozen=True)
class Drawer:
    """One drawer. Heights in 1e-5 m, as in `Boxes`; all else is common to the three."""

    level: str  # top, middle or bottom
    region: int  # centre of the site that predicates ask about
    front: int  # centres of the boxes
    walls: int
    floor: int
    handle: int
    walls_order: tuple[str, ...]  # LIBERO's order of the wall boxes
    low_z: float  # of the visual, metres
    left: float


OTHER_ORDER = ("back", "front", "right", "left")
DRAWERS = (
    Drawer(
        "top",
        18563,
        18309,
        18358,
        15514,
        18393,
        ("front", "back", "left", "right"),
        0.1483,
        -0.1075,
    ),
    Drawer("middle", 11690, 11338, 11387, 8543, 11041, OTHER_ORDER, 0.0784, -0.1074),
    Drawer("bottom", 4701, 4476, 4525, 1682, 4114, OTHER_ORDER, 0.0088, -0.1072),
)
# half edges, then x, y and quat of a wall box
Placed = tuple[tuple[int, int, int], tuple[int, int], tuple[int, int, int, int]]
FLAT_FRONT = (50000, 50000, -50000, -50000)
UPRIGHT = (70711, 70711, 0, 0)
DRAWER_WALLS: dict[str, Placed] = {
    "front": ((356, 3214, 10679), (334, -6839), (50000, 50000, 50000, 50000)),
    "back": ((356, 3214, 10679), (334, 9077), (50000, 50000, 50000, 50000)),
    "left": ((241, 3165, 8148), (-10191, 1105), (70711, 70711, -115, -115)),
    "right": ((241, 3133, 8148), (10894, 1105), (70711, 70711, -115, -115)),
}
DRAWER_FRONT: Placed = ((271, 3427, 10934), (334, -7524), FLAT_FRONT)
DRAWER_FLOOR: Placed = ((401, 8095, 10696), (348, 1048), (70711, 0, 70711, 0))
DRAWER_HANDLE: tuple[Placed, ...] = (
    ((770, 817, 4445), (-278, -10161), FLAT_FRONT),
    ((507, 552, 1057), (2916, -8348), UPRIGHT),
    ((507, 560, 1057), (-3560, -8348), UPRIGHT),
)


def at_height(placed: Placed, z: int) -> Boxes:
    """A drawer's box at a height (1e-5 m)."""
    half, (x, y), (qw, qx, qy, qz) = placed
    row: Row = (x, y, z, qw, qx, qy, qz)
    return Boxes(half, (row,))


def add_slide(body: ET.Element, name: str) -> None:
    """A drawer's slide along y; negative is open (metres)."""
    child(
        body,
        "joint",
        name=name,
        type="slide",
        pos="0 0 0",
        axis="0 1 0",
        limited="true",
        range="-0.16 0.01",
        damping="50",
    )


def add_region(
    body: ET.Element, name: str, pos: str, size: str, quat: str, rgba: str = "0.8 0.8 0.8 0"
) -> None:
    """A box site that BDDL goals and placements name; invisible."""
    child(body, "site", name=name, type="box", pos=pos, quat=quat, size=size, group="0", rgba=rgba)


def add_drawer(base: ET.Element, asset: ET.Element, drawer: Drawer) -> Files:
    """Body, slide, region, looks and boxes of one drawer; returns its textures."""
    name = f"wooden_cabinet_{drawer.level}"
    files = add_look(asset, name, drawer_look(drawer.low_z, drawer.left), ARTICULATED)
    handle = f"{name}_handle"
    middle_z = drawer.handle * 1e-5
    files |= add_look(asset, handle, handle_look(middle_z), ARTICULATED)
    body = child(base, "body", name=f"cabinet_{drawer.level}", pos="0 0 0")
    child(body, "inertial", **MOVING_INERTIA)
    add_slide(body, f"{drawer.level}_level")
    add_region(
        body,
        f"{drawer.level}_region",
        pos=f"0.00328 0.01128 {drawer.region * 1e-5:.5f}",
        size="0.02993 0.07561 0.10224",
        quat=ON_SIDE,
    )
    add_visual(body, f"{name}_vis", name)
    walls = [at_height(DRAWER_WALLS[side], drawer.walls) for side in drawer.walls_order]
    front, floor = at_height(DRAWER_FRONT, drawer.front), at_height(DRAWER_FLOOR, drawer.floor)
    add_boxes(body, [front, *walls, floor])
    add_visual(body, f"{handle}_vis", handle)
    add_boxes(body, [at_height(part, drawer.handle) for part in DRAWER_HANDLE])
    return files


def wooden_cabinet() -> Files:
    """The cabinet with three drawers; robosuite fixes it in the world."""
    root, asset, body = object_root("wooden_cabinet")
    root.insert(0, ET.Element("compiler", angle="radian"))
    base = child(body, "body", name="base", pos="0 0 0")
    add_region(
        base,
        "top_side",
        pos="0.00354 0.01567 0.22152",
        size="0.12534 0.09438 0.00147",
        quat="1 0 0 0",
        rgba="0.8 0.8 0 0",
    )
    files = add_look(asset, "wooden_cabinet_base", cabinet_look(), ARTICULATED)
    add_visual(base, "wooden_cabinet_base_vis", "wooden_cabinet_base")
    add_boxes(base, collision.WOODEN_CABINET_BASE)
    for drawer in DRAWERS:
        files |= add_drawer(base, asset, drawer)
    add_extent_sites(root, **FIXTURE_EXTENT)
    return files | {f"{ARTICULATED}/wooden_cabinet.xml": to_bytes(root)}


def flat_stove() -> Files:
    """The stove: a metal block with a burner, and a knob that turns from 0 to 2.1 rad.

    The site `burner` is the red glow that LIBERO shows while the stove is on. The block's own
    visual geom collides, as it does in LIBERO.
    """
    root, asset, body = object_root("flat_stove")
    root.insert(0, ET.Element("compiler", angle="radian"))
    base = child(body, "body", name="base", pos="0 0 0")
    burner = child(base, "body", name="burner", pos="0.15 0 0")
    add_region(
        burner,
        "cook_region",
        pos="0 0 0",
        size="0.075 0.075 0.0025",
        quat="1 0 0 0",
        rgba="0.8 0.8 0 0",
    )
    shine = {"reflectance": "0", "specular": "0.5", "shininess": "1"}
    child(asset, "material", name="stove_metal", rgba="0.5 0.5 0.5 1", **shine)
    block = {"type": "box", "size": "0.095 0.095 0.02", "pos": "0 0 0", "material": "stove_metal"}
    child(burner, "geom", name="base_vis", group="1", **block)
    child(burner, "geom", name="base", group="0", **block)
    child(
        burner,
        "geom",
        name="collision_burner",
        type="box",
        size="0.095 0.095 0.0005",
        pos="0 0 0.025",
        rgba="0 0 0 0",
        group="0",
    )
    files = add_look(asset, "stove_burner", burner_look(), ARTICULATED)
    plate = child(burner, "body", name="burner_plate")
    add_visual(plate, "stove_burner_vis", "stove_burner")
    plate[-1].set("name", "burner")
    child(
        burner,
        "site",
        name="burner",
        type="cylinder",
        pos="0 0 0.022",
        size="0.0625 0.0005",
        rgba="0.9 0.05 0.05 1",
    )
    files |= add_look(asset, "stove_knob", knob_look(), ARTICULATED)
    add_knob(base)
    add_extent_sites(root, **FIXTURE_EXTENT)
    return files | {f"{ARTICULATED}/flat_stove.xml": to_bytes(root)}


def add_knob(base: ET.Element) -> None:
    """The stove's turning knob."""
    body = child(base, "body", name="button", pos="0 0 0", quat="0.7071068 0 0 0.7071068")
    child(body, "inertial", **MOVING_INERTIA)
    child(
        body,
        "joint",
        name="button",
        type="hinge",
        pos="0 0 0",
        axis="0 0 1",
        limited="true",
        range="-0.005 2.1",
        damping="1",
    )
    add_visual(body, "stove_knob_vis", "stove_knob")
    add_boxes(body, collision.STOVE_KNOB)


SCANNED = "stable_scanned_objects"
HOPE = "stable_hope_objects"

# BDDL category -> files. One entry an object.
OBJECTS: dict[str, Callable[[], Files]] = {
    "akita_black_bowl": partial(
        free_object,
        "akita_black_bowl",
        SCANNED,
        bowl_look,
        collision.AKITA_BLACK_BOWL,
        pos=(0.0, -0.1, 0.0),
    ),
    "plate": partial(free_object, "plate", SCANNED, plate_look, collision.PLATE),
    "glazed_rim_porcelain_ramekin": partial(
        free_object,
        "glazed_rim_porcelain_ramekin",
        SCANNED,
        ramekin_look,
        collision.GLAZED_RIM_PORCELAIN_RAMEKIN,
    ),
    "cookies": partial(free_object, "cookies", HOPE, cookies_look, collision.COOKIES),
    "wooden_cabinet": wooden_cabinet,
    "flat_stove": flat_stove,
}
