"""Arenas, and the floor and wall textures that LIBERO's styles name."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from rsd.envs.lite import collision, image
from rsd.envs.lite.backgrounds import (
    desk_look,
    floor_lamp_look,
    fridge_look,
    hot_pot_look,
    kitchen_pots_look,
    kitchen_stove_look,
    kitchen_wall_look,
    living_room_table_look,
    painting_look,
    plant_look,
    shelf_look,
    wall_decoration_look,
    wall_unit_look,
)
from rsd.envs.lite.bodies import Files, add_look
from rsd.envs.lite.furniture import book_look
from rsd.envs.lite.image import Colour, Image
from rsd.envs.lite.look import Look
from rsd.envs.lite.mjcf import add_boxes, add_material, add_visual, child, to_bytes

FOLDER = "scenes"
Paint = Callable[[Colour], Image]

# File names that LIBERO's styles put in place of a scene's own (libero/libero/envs/arenas/style.py)
# and what the scenes name themselves; colours near the originals' mean.
TEXTURES: dict[str, tuple[Paint, Colour]] = {
    "dark_floor_texture.png": (image.tile, (57, 53, 47)),
    "rustic_floor.png": (image.tile, (162, 162, 157)),
    "light-gray-floor-tile.png": (image.tile, (195, 186, 177)),
    "white_marble_floor.png": (image.tile, (233, 233, 233)),
    "seamless_wood_planks_floor.png": (image.wood, (233, 200, 137)),
    "brown_ceramic_tile.png": (image.tile, (177, 152, 131)),
    "gray_ceramic_tile.png": (image.tile, (186, 171, 155)),
    "tile_grigia_caldera_porcelain_floor.png": (image.tile, (195, 186, 177)),
    "light_blue_wall.png": (image.plaster, (186, 225, 244)),
    "dark_blue_wall.png": (image.plaster, (102, 145, 171)),
    "dark_gray_plaster.png": (image.plaster, (97, 106, 113)),
    "gray_plaster.png": (image.plaster, (236, 238, 235)),
    "dark_green_plaster_wall.png": (image.plaster, (60, 90, 70)),
    "light-gray-plaster.png": (image.plaster, (223, 219, 212)),
    "ceramic.png": (image.plaster, (249, 248, 243)),
    "white_wall.png": (image.plaster, (234, 236, 233)),
    "yellow_linen_wall_texture.png": (image.plaster, (220, 213, 180)),
    "martin_novak_wood_table.png": (image.wood, (198, 180, 162)),
}

# name -> pos, quat, size: what LIBERO's tabletop scene shows around the table (metres)
WALLS: dict[str, tuple[str, str, str]] = {
    "leftcorner": ("-1.25 2.25 1.5", "0.6532815 0.6532815 0.2705981 0.2705981", "1.06 1.5 0.01"),
    "rightcorner": (
        "-1.25 -2.25 1.5",
        "0.6532815 0.6532815 -0.2705981 -0.2705981",
        "1.06 1.5 0.01",
    ),
    "left": ("1.25 3 1.5", "0.7071 0.7071 0 0", "1.75 1.5 0.01"),
    "right": ("1.25 -3 1.5", "0.7071 -0.7071 0 0", "1.75 1.5 0.01"),
    "rear": ("-2 0 1.5", "0.5 0.5 0.5 0.5", "1.5 1.5 0.01"),
    "front": ("3 0 1.5", "0.5 0.5 -0.5 -0.5", "3 1.5 0.01"),
}
LIGHTS: dict[str, str] = {"light1": "1 1 4", "light2": "-3 -3 4"}
# name -> pos, quat; LIBERO's problem classes move some of them
CAMERAS: dict[str, tuple[str, str]] = {
    "frontview": ("1 0 1.45", "0.56 0.43 0.43 0.56"),
    "birdview": ("-0.2 0 3", "0.7071 0 0 0.7071"),
    "agentview": ("0.5 0 1.35", "0.653 0.271 0.271 0.653"),
    "sideview": (
        "-0.05651774593317116 1.2761224129427358 1.4879572214102434",
        "0.009905065491771751 0.006877963156909582 0.5912228352893879 0.806418094001364",
    ),
}
SEEN_ONLY = {"conaffinity": "0", "contype": "0", "group": "1"}


FLOOR = {
    **{"name": "floor", "type": "plane", "size": "3 3 .125", "pos": "0 0 0"},
    **{"condim": "3", "group": "1", "material": "floorplane"},
}
KITCHEN_WALLS = {
    "left": ("0.5 3 1.5", "0.7071 0.7071 0 0", "2.5 1.5 0.01"),
    "right": ("0.5 -3 1.5", "0.7071 -0.7071 0 0", "2.5 1.5 0.01"),
    "rear": ("-2 0 1.5", "0.5 0.5 0.5 0.5", "3 1.5 0.01"),
    "front": WALLS["front"],
}


@dataclass(frozen=True)
class Prop:
    """Something that is seen in a scene and never touched."""

    mesh: str
    look: Callable[[], Look]
    pos: str = "0 0 0"
    quat: str = "1 0 0 0"
    name: str = ""  # of the geom; LIBERO leaves most of them without


HALF_TURN, RIGHT, LEFT = "0 0 0 1", "0.7071068 0 0 -0.7071068", "0.7071068 0 0 0.7071068"
BOOK_SCALE = 1.75  # of the books on the shelf against the one on the desk
KITCHEN_PROPS = (
    Prop("kitchen_background_stove", kitchen_stove_look, "-1.65 0 0.90", HALF_TURN),
    Prop("kitchen_background_hot_pot", hot_pot_look, "-1.50 0.23 0.93", "0.30 0 0 0.90"),
    Prop("kitchen_background_pot", kitchen_pots_look, "-1.85 -0.85 0.90", HALF_TURN),
    Prop("kitchen_background_fridge", fridge_look, "-1.75 -2.4 0", HALF_TURN),
    Prop("kitchen_background", kitchen_wall_look, "-1.65 0 0", HALF_TURN),
)
LIVING_ROOM_PROPS = (
    Prop("wall_decoration", wall_decoration_look, "-1.95 0.60 1.5", RIGHT, "wall_decoration"),
    Prop("living_room", wall_unit_look, "-1.7 0 0", HALF_TURN, "living_room"),
)
PAINTING = Prop(
    "study_wall_painting", painting_look, "-1.9 0.5 1", RIGHT, "study_wall_painging"
)  # the name is LIBERO's
STUDY_PROPS = (
    Prop("floor_lamp", floor_lamp_look, "0.3 -0.6 0.9", RIGHT),
    Prop("plant", plant_look, "-1.85 0.5 0", LEFT, "plant"),
    Prop("office_book_shelf", shelf_look, "-1.7 -1 0", RIGHT, "office_book_shelf"),
    *(
        Prop("black_book", partial(book_look, BOOK_SCALE), f"-1.7 {y} 0.9", RIGHT, name)
        for name, y in (("black_book_1", "-0.50"), ("black_book_2", "-0.45"))
    ),
)


def tabletop() -> Files:
    """The table arena. LIBERO finds geoms, textures and the site by the names used here, and sets
    the table's size and the textures' files itself."""
    root, _, world = _arena("table_arena", "light-gray-floor-tile.png", "light-gray-plaster.png")
    child(world, "geom", **FLOOR)
    _add_walls(world, WALLS)
    _add_table(world)
    _add_lights_and_cameras(world)
    return _scene("tabletop", root)


def floor() -> Files:
    """The arena without a table."""
    root, _, world = _arena("table_arena")
    child(child(world, "body", name="floor", pos="0 0 0"), "geom", **FLOOR)
    _add_walls(world, WALLS)
    _add_lights_and_cameras(world)
    return _scene("floor", root)


def kitchen() -> Files:
    """The table arena in front of a wall of cupboards."""
    root, asset, world = _arena("table_arena", wall_shininess="0.3")
    child(world, "geom", **FLOOR)
    files = _add_props(world, asset, KITCHEN_PROPS)
    child(
        world,
        "light",
        name="light_kitchen",
        diffuse=".8 .8 .8",
        dir="0 0 -1",
        directional="true",
        pos="-1.75 0 1.6",
        specular="0.8 0.8 0.8",
        castshadow="false",
    )
    _add_walls(world, KITCHEN_WALLS)
    _add_table(world)
    _add_lights_and_cameras(world)
    return files | _scene("kitchen_tabletop", root)


def living_room() -> Files:
    """The arena with a low, round-ended table."""
    root, asset, world = _arena("living_room_arena", wall_shininess="0.2")
    child(child(world, "body", name="floor", pos="0 0 0"), "geom", **FLOOR)
    table = child(world, "body", name="living_room_table", pos="0 0 0")
    place = {"pos": "-0.25 0.25 0", "quat": "0.707 0.0 0.0 0.707"}
    boxes = child(table, "body", name="living_room_table_col", **place)
    files = _add_props(boxes, asset, [Prop("living_room_table", living_room_table_look)])
    stem = "libero_living_room_tabletop_base_style"
    add_boxes(boxes, collision.boxes(f"{stem}/living_room_table"))
    files |= _add_props(world, asset, LIVING_ROOM_PROPS)
    _add_walls(world, WALLS)
    _add_lights_and_cameras(world)
    return files | _scene("living_room_tabletop", root)


def study() -> Files:
    """The arena with a wide desk."""
    root, asset, world = _arena("table_arena")
    child(world, "geom", **FLOOR)
    files = _add_props(world, asset, [PAINTING])
    table = child(world, "body", name="study_table", pos="0 0 0")
    files |= _add_props(table, asset, [Prop("desk", desk_look)])
    add_boxes(table, collision.boxes("libero_study_base_style/desk"))
    files |= _add_props(world, asset, STUDY_PROPS)
    _add_walls(world, WALLS)
    _add_lights_and_cameras(world)
    return files | _scene("study", root)


def _scene(name: str, root: ET.Element) -> Files:
    return {f"{FOLDER}/libero_{name}_base_style.xml": to_bytes(root)}


def _add_props(body: ET.Element, asset: ET.Element, props: Iterable[Prop]) -> Files:
    """Looks and geoms in the order given; returns the textures."""
    files: Files = {}
    for prop in props:
        if asset.find(f"./mesh[@name='{prop.mesh}_vis']") is None:
            files |= add_look(asset, prop.mesh, prop.look(), FOLDER)
        named = {"name": prop.name} if prop.name else {}
        place = {"pos": prop.pos, "quat": prop.quat, **named}
        add_visual(body, f"{prop.mesh}_vis", prop.mesh, **place)
    return files


def _arena(
    name: str,
    floor: str = "tile_grigia_caldera_porcelain_floor.png",
    wall: str = "light-gray-plaster.png",
    wall_shininess: str = "0.1",
) -> tuple[ET.Element, ET.Element, ET.Element]:
    """(root, asset, worldbody) of a scene file with the surfaces that all scenes share."""
    root = ET.Element("mujoco", model=name)
    asset = child(root, "asset")
    _add_looks(asset, floor, wall, wall_shininess)
    return root, asset, child(root, "worldbody")


def _add_walls(world: ET.Element, walls: dict[str, tuple[str, str, str]]) -> None:
    for name, (pos, quat, size) in walls.items():
        place = {"pos": pos, "quat": quat, "size": size, "type": "box"}
        child(world, "geom", name=f"wall_{name}_visual", material="walls_mat", **place, **SEEN_ONLY)


def _add_lights_and_cameras(world: ET.Element) -> None:
    for name, pos in LIGHTS.items():
        child(
            world,
            "light",
            name=name,
            pos=pos,
            dir="0 -.15 -1",
            directional="false",
            diffuse=".8 .8 .8",
            specular="0.3 0.3 0.3",
            castshadow="false",
        )
    for name, (pos, quat) in CAMERAS.items():
        child(world, "camera", name=name, mode="fixed", pos=pos, quat=quat)


def _add_looks(asset: ET.Element, floor: str, wall: str, wall_shininess: str) -> None:
    sky = {"rgb1": ".9 .9 1.", "rgb2": ".2 .3 .4", "width": "16", "height": "16"}
    child(asset, "texture", type="skybox", builtin="gradient", **sky)
    tables = "martin_novak_wood_table.png"
    files = {
        "texplane": ("2d", floor),
        "tex-table": ("cube", tables),
        "tex-table-legs": ("cube", tables),
        "tex-wall": ("2d", wall),
    }
    for name, (kind, file) in files.items():
        child(asset, "texture", name=name, type=kind, file=f"../textures/{file}")
    tiled = {"texrepeat": "3 3", "texuniform": "true"}
    add_material(asset, "floorplane", "texplane", specular="0", shininess="0", **tiled)
    add_material(asset, "table_texture", "tex-table", specular="0.2", shininess="0")
    add_material(asset, "table_legs", "tex-table-legs")
    shine = {"specular": "0.8", "shininess": wall_shininess}
    add_material(asset, "walls_mat", "tex-wall", **shine, **tiled)


def _add_table(world: ET.Element) -> None:
    table = child(world, "body", name="table", pos="0 0 0.4")
    top = {"type": "box", "pos": "0 0 0", "size": "0.4 0.4 0.4"}
    child(table, "geom", name="table_collision", group="0", friction="1 0.005 0.0001", **top)
    child(table, "geom", name="table_visual", material="table_texture", **top, **SEEN_ONLY)
    child(table, "site", name="table_top", pos="0 0 0.4", size="0.001 0.001 0.001", rgba="0 0 0 0")
    for leg in range(1, 5):
        child(
            table,
            "geom",
            name=f"table_leg{leg}_visual",
            type="cylinder",
            pos="0 0 0",
            size="0.05 0.1",
            material="table_legs",
            **SEEN_ONLY,
        )


# One entry a scene.
SCENES: tuple[Callable[[], Files], ...] = (tabletop, floor, kitchen, living_room, study)
