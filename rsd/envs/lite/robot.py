"""A Panda of 5,000 triangles in place of robosuite's 170,000, touching nothing but what is seen.

Most links are drawn with robosuite's own collision meshes, which the model needs anyway; what
those would hide or make too bulky is made here. Every visual geom keeps its name, body and group
(robosuite looks all of them up after a build); small trim is made invisible. MuJoCo takes masses
from group 0 only here and contacts from colliding geoms only, so the physics is the same bit for
bit.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from rsd.envs.lite.mesh import Mesh, Section, box, lathe, loft, merge
from rsd.envs.lite.mjcf import child

ROBOT_PARTS = ("robot0_", "gripper0_", "mount0_")  # robosuite's name prefixes
SHAPE = ("type", "mesh", "material", "rgba", "pos", "quat", "size")
MATERIAL = "lite_robot"
WHITE = "1 1 1 1"
LIGHT_GREY = "0.72 0.73 0.74 1"
GREY = "0.499 0.499 0.499 1"
DARK = "0.2 0.2 0.2 1"
DARKER = "0.15 0.15 0.15 1"


@dataclass(frozen=True)
class StandIn:
    """What a visual geom shows instead."""

    mesh: str  # one of robosuite's collision meshes, or a key of GENERATED
    rgba: str
    quat: str | None = None  # of the geom, where it differs from the original's


# Visual mesh -> stand-in; both names as in robosuite 1.4's Panda, PandaGripper, RethinkMount.
STAND_INS: dict[str, StandIn] = {
    "robot0_link0_vis_8": StandIn("robot0_link0", WHITE),
    # link1's collision mesh is its full visual one; link2 is the same part, turned by 90 degrees
    "robot0_link1_vis": StandIn("robot0_link2", WHITE, quat="0.7071068 0.7071068 0 0"),
    "robot0_link2_vis": StandIn("robot0_link2", WHITE),
    "robot0_link3_vis_0": StandIn("robot0_link3", WHITE),
    "robot0_link3_vis_3": StandIn("lite_upper_elbow", DARKER),
    "robot0_link4_vis_1": StandIn("robot0_link4", WHITE),
    "robot0_link4_vis_2": StandIn("lite_lower_elbow", DARKER),
    "robot0_link5_vis_2": StandIn("lite_forearm", WHITE),
    "robot0_link5_vis_0": StandIn("lite_forearm_cover", DARKER),
    "robot0_link6_vis_16": StandIn("robot0_link6", WHITE),
    "robot0_link6_vis_14": StandIn("lite_wrist_ring", DARKER),
    "robot0_link6_vis_15": StandIn("lite_wrist_buttons", DARKER),
    "robot0_link7_vis_7": StandIn("robot0_link7", LIGHT_GREY),
    "gripper0_hand_vis": StandIn("gripper0_hand", WHITE),
    # the fingers stay as they are (624 triangles each): the wrist camera sees them close up
    "gripper0_finger_vis": StandIn("gripper0_finger_vis", GREY),
    "mount0_pedestal": StandIn("lite_pedestal", DARK),
}


def pedestal() -> Mesh:
    """The mount: a round top plate on a column, a controller box behind, feet below (metres, from
    RethinkMount's collision geoms)."""
    column = lathe(
        [(0, -0.62), (0.18, -0.62), (0.18, -0.06), (0.185, -0.035), (0.165, -0.002), (0, -0.002)]
    )
    return merge(
        column.moved((-0.008, 0, 0)),
        box((-0.430, -0.174, -0.645), (-0.222, 0.176, -0.115)),
        box((-0.507, -0.342, -0.928), (0.260, 0.344, -0.610)),
    )


# axis and sections of lofts, fitted to robosuite's visual meshes (frame of the link; `mesh.loft`).
# The elbows' rings stand 2.5 mm out of the collision mesh that would hide them.
Y, Z = 1, 2
LOFTS: dict[str, tuple[int, tuple[Section, ...]]] = {
    "lite_forearm": (
        Z,
        (
            (-0.259, 0, 0.000, 0.055, 0.055),
            (-0.229, 0, 0.006, 0.054, 0.060),
            (-0.202, 0, 0.017, 0.051, 0.068),
            (-0.174, 0, 0.033, 0.044, 0.061),
            (-0.147, 0, 0.066, 0.035, 0.033),
            (-0.119, 0, 0.083, 0.031, 0.021),
            (-0.064, 0, 0.094, 0.031, 0.021),
            (-0.037, 0, 0.070, 0.042, 0.057),
            (-0.009, 0, 0.073, 0.048, 0.057),
            (0.018, 0, 0.073, 0.047, 0.057),
            (0.047, 0, 0.066, 0.030, 0.051),
        ),
    ),
    "lite_forearm_cover": (
        Z,
        (
            (-0.212, 0, 0.073, 0.020, 0.006),
            (-0.180, 0, 0.085, 0.031, 0.011),
            (-0.112, 0, 0.099, 0.033, 0.012),
            (-0.060, 0, 0.106, 0.035, 0.013),
            (-0.015, 0, 0.103, 0.0505, 0.022),
            (0.018, 0, 0.099, 0.0505, 0.027),
            (0.052, 0, 0.091, 0.030, 0.024),
        ),
    ),
    "lite_upper_elbow": (Y, tuple((y, 0, 0.0825, 0.0575, 0.0575) for y in (0.062, 0.098))),
    "lite_lower_elbow": (Z, tuple((z, 0, 0, 0.0575, 0.0575) for z in (0.062, 0.098))),
    "lite_wrist_ring": (
        Z,
        (
            (0.0285, -0.020, 0, 0.026, 0.043),
            (0.0420, 0.012, 0, 0.053, 0.0435),
            (0.0563, 0.015, 0, 0.039, 0.030),
        ),
    ),
    "lite_wrist_buttons": (
        Y,
        (
            (0.0630, 0, 0.1205, 0.017, 0.004),
            (0.0735, 0, 0.098, 0.034, 0.018),
            (0.0825, 0, 0.072, 0.028, 0.018),
        ),
    ),
}
GENERATED: dict[str, Callable[[], Mesh]] = {"lite_pedestal": pedestal} | {
    name: partial(loft, axis, sections) for name, (axis, sections) in LOFTS.items()
}


def simplify_robot(xml: str) -> str:
    """The model's XML with the robot's visual geoms simplified; idempotent.

    For robosuite's `set_xml_processor`. Raises ValueError where a robot body shows meshes
    and none of them has a stand-in: another robot would silently turn invisible.
    """
    root = ET.fromstring(xml)
    asset, world = root.find("asset"), root.find("worldbody")
    if asset is None or world is None or asset.find(f"./material[@name='{MATERIAL}']") is not None:
        return xml
    for body in world.iter("body"):
        _simplify(body)
    child(asset, "material", name=MATERIAL, specular="0.4", shininess="0.4", reflectance="0")
    for name, generate in GENERATED.items():
        asset.append(generate().element(name, cells=1))
    _drop_unused(asset, world)
    return ET.tostring(root, encoding="unicode")


def _simplify(body: ET.Element) -> None:
    """Give a robot body its stand-in and hide the rest of its visual meshes."""
    shown = [geom for geom in body.findall("./geom[@group='1']") if _is_robot_mesh(geom)]
    if shown and not any(geom.get("mesh") in STAND_INS for geom in shown):
        raise ValueError(
            f"no stand-in for any visual mesh of robot body {body.get('name')!r} "
            f"({', '.join(str(geom.get('mesh')) for geom in shown)}); "
            f"add one to STAND_INS (known: {', '.join(STAND_INS)})"
        )
    for geom in shown:
        stand_in = STAND_INS.get(geom.get("mesh", ""))
        if stand_in is None:
            _hide(geom)
        else:
            _replace(geom, stand_in)


def _is_robot_mesh(geom: ET.Element) -> bool:
    return geom.get("type") == "mesh" and geom.get("mesh", "").startswith(ROBOT_PARTS)


def _replace(geom: ET.Element, stand_in: StandIn) -> None:
    geom.attrib.update(mesh=stand_in.mesh, material=MATERIAL, rgba=stand_in.rgba)
    if stand_in.quat is not None:
        geom.set("quat", stand_in.quat)


def _hide(geom: ET.Element) -> None:
    """MuJoCo leaves a geom of alpha 0 out of the scene."""
    for attribute in SHAPE:
        geom.attrib.pop(attribute, None)
    geom.attrib.update(type="sphere", size="0.001", rgba="0 0 0 0")


def _drop_unused(asset: ET.Element, world: ET.Element) -> None:
    """Remove meshes, then materials, then textures that nothing refers to (the sky excepted):
    they would be read and compiled."""
    in_world = list(world.iter())
    _keep(asset, "mesh", _values(in_world, "mesh"))
    _keep(asset, "material", _values(in_world, "material"))
    _keep(asset, "texture", _values(asset.findall("material"), "texture"))


def _values(elements: Iterable[ET.Element], attribute: str) -> set[str]:
    return {value for element in elements if (value := element.get(attribute)) is not None}


def _keep(asset: ET.Element, tag: str, used: set[str]) -> None:
    for element in asset.findall(tag):
        if element.get("name") not in used and element.get("type") != "skybox":
            asset.remove(element)
