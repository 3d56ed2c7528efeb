"""Arenas, and the floor and wall textures that LIBERO's styles name."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable

from rsd.envs.lite import image
from rsd.envs.lite.image import Colour, Image
from rsd.envs.lite.mjcf import add_material, child, to_bytes

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


def tabletop() -> bytes:
    """The table arena. LIBERO finds geoms, textures and the site by the names used here, and sets
    the table's size and the textures' files itself."""
    root, world = _arena("table_arena", "light-gray-floor-tile.png", "light-gray-plaster.png")
    child(world, "geom", **FLOOR)
    _add_walls(world, WALLS)
    _add_table(world)
    _add_lights_and_cameras(world)
    return to_bytes(root)


def floor() -> bytes:
    """The arena without a table."""
    tiles, walls = "tile_grigia_caldera_porcelain_floor.png", "light-gray-plaster.png"
    root, world = _arena("table_arena", tiles, walls)
    child(child(world, "body", name="floor", pos="0 0 0"), "geom", **FLOOR)
    _add_walls(world, WALLS)
    _add_lights_and_cameras(world)
    return to_bytes(root)


def _arena(name: str, floor: str, wall: str) -> tuple[ET.Element, ET.Element]:
    """(root, worldbody) of a scene file with the surfaces that all scenes share."""
    root = ET.Element("mujoco", model=name)
    _add_looks(child(root, "asset"), floor, wall)
    return root, child(root, "worldbody")


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


def _add_looks(asset: ET.Element, floor: str, wall: str) -> None:
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
    add_material(asset, "walls_mat", "tex-wall", specular="0.8", shininess="0.1", **tiled)


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


# path in the tree -> content. One entry a scene.
SCENES: dict[str, Callable[[], bytes]] = {
    "scenes/libero_tabletop_base_style.xml": tabletop,
    "scenes/libero_floor_base_style.xml": floor,
}
