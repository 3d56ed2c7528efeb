"""Fixtures with moving parts: cabinets, stove, microwave.

Bodies, joints, sites, geom order and collision boxes are those of LIBERO's files.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

from rsd.envs.lite import collision
from rsd.envs.lite.bodies import Extent, Files, Region, add_look, object_root
from rsd.envs.lite.furniture import (
    METAL,
    burner_look,
    cabinet_look,
    drawer_look,
    handle_look,
    knob_look,
    microwave_button_look,
    microwave_door_look,
    microwave_feet_look,
    microwave_look,
    microwave_window_look,
)
from rsd.envs.lite.image import Colour
from rsd.envs.lite.look import Look
from rsd.envs.lite.mjcf import add_boxes, add_visual, child, to_bytes

ARTICULATED = "articulated_objects"
FIXTURE_EXTENT = Extent(size=0.05, bottom=-0.045, top=0.045, side=0.045)
MOVING_INERTIA = {"pos": "0 0 0", "mass": "3", "diaginertia": "1 1 1"}
ON_SIDE = "0.70711 0 0.70711 0"


@dataclass(frozen=True)
class Wood:
    """Colours of a cabinet."""

    shell: Colour
    drawers: Colour


@dataclass(frozen=True)
class Drawer:
    """Where one drawer lies, in metres; all else is common to the three."""

    level: str  # top, middle or bottom
    region: float  # z, centre of the site that predicates ask about
    handle: float  # z of its middle
    low_z: float  # of what is seen
    left: float


DRAWERS = (
    Drawer("top", 0.18563, 0.18393, 0.1483, -0.1075),
    Drawer("middle", 0.11690, 0.11041, 0.0784, -0.1074),
    Drawer("bottom", 0.04701, 0.04114, 0.0088, -0.1072),
)


def cabinet(name: str, wood: Wood) -> Files:
    """A cabinet with three drawers; robosuite fixes it in the world. LIBERO's two have the same
    boxes."""
    root, asset, body = object_root(name)
    root.insert(0, ET.Element("compiler", angle="radian"))
    base = child(body, "body", name="base", pos="0 0 0")
    Region(
        "top_side", "0.00354 0.01567 0.22152", "0.12534 0.09438 0.00147", rgba="0.8 0.8 0 0"
    ).add_to(base)
    files = add_part(base, asset, f"{name}_base", cabinet_look(wood.shell), boxes="base")
    for drawer in DRAWERS:
        part = child(base, "body", name=f"cabinet_{drawer.level}", pos="0 0 0")
        child(part, "inertial", **MOVING_INERTIA)
        add_slide(part, f"{drawer.level}_level")
        Region(
            f"{drawer.level}_region",
            f"0.00328 0.01128 {drawer.region:.5f}",
            "0.02993 0.07561 0.10224",
            quat=ON_SIDE,
        ).add_to(part)
        level = drawer.level
        inside = drawer_look(drawer.low_z, drawer.left, wood.drawers)
        files |= add_part(part, asset, f"{name}_{level}", inside, boxes=level)
        handle = handle_look(drawer.handle)
        files |= add_part(part, asset, f"{name}_{level}_handle", handle, boxes=f"{level}_handle")
    FIXTURE_EXTENT.add_to(root)
    return files | {f"{ARTICULATED}/{name}.xml": to_bytes(root)}


def add_part(body: ET.Element, asset: ET.Element, name: str, look: Look, boxes: str) -> Files:
    """What is seen and what collides of one part of a cabinet; returns its texture."""
    files = add_look(asset, name, look, ARTICULATED)
    add_visual(body, f"{name}_vis", name)
    add_boxes(body, collision.boxes(f"wooden_cabinet/wooden_cabinet_{boxes}"))
    return files


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


def flat_stove() -> Files:
    """The stove: a metal block with a burner, and a knob that turns from 0 to 2.1 rad.

    The site `burner` is the red glow that LIBERO shows while the stove is on. The block's own
    visual geom collides, as it does in LIBERO.
    """
    root, asset, body = object_root("flat_stove")
    root.insert(0, ET.Element("compiler", angle="radian"))
    base = child(body, "body", name="base", pos="0 0 0")
    burner = child(base, "body", name="burner", pos="0.15 0 0")
    Region("cook_region", "0 0 0", "0.075 0.075 0.0025", rgba="0.8 0.8 0 0").add_to(burner)
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
    FIXTURE_EXTENT.add_to(root)
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
    add_boxes(body, collision.boxes("flat_stove/stove_knob_button"))


OVEN_CONTACT = {
    **{"contype": "0", "conaffinity": "1", "condim": "3", "group": "0"},
    **{"margin": "0.001", "solimp": ".8 .9 .01", "solref": ".02 1"},
}
OVEN_WALLS = (  # pos, half edges: both sides, back, top, bottom, front of the controls
    ("-0.158 0.0115 0.0935", "0.0145 0.09955 0.0935"),
    ("0.118 0.0115 0.0935", "0.0545 0.09955 0.0935"),
    ("-0.0405 0.0955 0.0935", "0.1035 0.015 0.0935"),
    ("-0.04 -0.0035 0.1775", "0.1035 0.0845 0.0095"),
    ("-0.04 -0.004 0.012", "0.1035 0.084 0.012"),
    ("0.13 -0.0985 0.0935", "0.0425 0.012 0.0935"),
)
DOOR_HANDLE = (  # a bar on two posts, in the frame of the hinge
    {"type": "capsule", "pos": "0.2375 -0.054 0", "size": "0.01 0.065"},
    {"type": "capsule", "pos": "0.2375 -0.0375 0.065", "size": "0.01 0.015", "euler": "1.57 0 0"},
    {"type": "capsule", "pos": "0.2375 -0.0375 -0.065", "size": "0.01 0.015", "euler": "1.57 0 0"},
)
SEEN_ONLY = {"conaffinity": "0", "contype": "0", "group": "1"}


def microwave() -> Files:
    """The microwave oven: a shell and a door that swings from 0 (closed) to -2.094 rad."""
    root, asset, body = object_root("microwave")
    root.insert(0, ET.Element("compiler", angle="radian"))
    grey = " ".join(f"{channel / 255:.3f}" for channel in METAL)
    child(asset, "material", name="micro_metal", rgba=f"{grey} 1", reflectance="0")
    files: Files = {}
    looks = (microwave_look, microwave_button_look, microwave_feet_look)
    for name, look in zip(("micro", "microbutton", "microfeet"), looks, strict=True):
        files |= add_look(asset, name, look(), ARTICULATED)
        add_visual(body, f"{name}_vis", name)
    unseen = "1 0 0 0"
    Region("top_side", "0 0.01 0.20", "0.12 0.0835 0.005", rgba=unseen).add_to(body)
    Region("heating_region", "0 0.01 0.096", "0.12 0.0835 0.08", rgba=unseen).add_to(body)
    for pos, size in OVEN_WALLS:
        child(body, "geom", type="box", pos=pos, size=size, mass=".5", **OVEN_CONTACT)
    files |= add_oven_door(body, asset)
    Extent(top=0.06, side=0.015).add_to(root)
    return files | {f"{ARTICULATED}/microwave.xml": to_bytes(root)}


def add_oven_door(body: ET.Element, asset: ET.Element) -> Files:
    """Hinge, door, window and handle; returns the textures."""
    door = child(body, "body", name="microdoorroot", pos="-0.1725 -0.088 0.096")
    swing = {"type": "hinge", "axis": "0 0 1", "limited": "true", "range": "-2.094 0"}
    child(door, "joint", name="microjoint", damping="0.5", **swing)
    files: Files = {}
    looks = {"microdoor": microwave_door_look, "microwindow": microwave_window_look}
    for name, look in looks.items():
        files |= add_look(asset, name, look(), ARTICULATED)
        add_visual(door, f"{name}_vis", name, pos="0.1725 0.088 -0.096")
    for part in DOOR_HANDLE:
        child(door, "geom", material="micro_metal", **part, **SEEN_ONLY)
    for part in DOOR_HANDLE:
        child(door, "geom", mass="0.020", **part, **OVEN_CONTACT)
    slab = {"type": "box", "pos": "0.1295 -0.013 0", "size": "0.1295 0.012 0.0925"}
    child(door, "geom", mass="0.20", **slab, **OVEN_CONTACT)
    return files
