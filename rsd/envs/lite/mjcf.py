"""MJCF building blocks shared by the generators."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass

Vector = tuple[float, float, float]
Row = tuple[int, int, int, int, int, int, int]

UNIT = 1e-6  # of the integers in Boxes: LIBERO's files carry up to six decimals

# Contact settings of every collision box, as in LIBERO's object files.
SURFACE = {
    "solimp": "0.998 0.998 0.001",
    "solref": "0.001 1",
    "density": "100",
    "friction": "0.95 0.3 0.1",
}


@dataclass(frozen=True)
class Boxes:
    """Collision boxes of one size. Integers in units of 1e-6: micrometres, and quaternions
    (w, x, y, z) that MuJoCo normalises; so the numbers that MuJoCo reads are exactly LIBERO's."""

    half: tuple[int, int, int]  # half edges
    rows: tuple[Row, ...]  # pos (3), quat (4), in the frame of the body


def numbers(values: Iterable[float], digits: int) -> str:
    """Decimals without trailing zeros (and without -0), for attributes."""
    texts = (f"{value:.{digits}f}".rstrip("0").rstrip(".") for value in values)
    return " ".join("0" if text == "-0" else text for text in texts)


def decimals(integers: Iterable[int]) -> str:
    """Integers in units of 1e-6 as decimals."""
    return " ".join(f"{integer * UNIT:.6f}" for integer in integers)


def child(parent: ET.Element, tag: str, **attributes: str) -> ET.Element:
    """Append an element and return it."""
    return ET.SubElement(parent, tag, attributes)


def add_boxes(body: ET.Element, groups: Iterable[Boxes]) -> None:
    """Collision geoms (group 0) in the order given; order is part of MuJoCo's result."""
    for group in groups:
        for row in group.rows:
            child(
                body,
                "geom",
                type="box",
                pos=decimals(row[:3]),
                quat=decimals(row[3:]),
                size=decimals(group.half),
                group="0",
                rgba="0.8 0.8 0.8 0.3",
                **SURFACE,
            )


def add_visual(body: ET.Element, mesh: str, material: str, **place: str) -> None:
    """A mesh geom that is seen and never touched (group 1); place: name, pos, quat where it has
    them."""
    child(
        body,
        "geom",
        type="mesh",
        mesh=mesh,
        material=material,
        conaffinity="0",
        contype="0",
        group="1",
        **place,
    )


def add_material(asset: ET.Element, name: str, texture: str, **attributes: str) -> None:
    """A material without reflectance: one reflecting box or plane in view makes MuJoCo draw the
    whole scene once more."""
    settings = {"specular": "0.3", "shininess": "0.3"} | attributes
    child(asset, "material", name=name, texture=texture, reflectance="0", **settings)


def to_bytes(root: ET.Element) -> bytes:
    """The file's bytes, indented, the same every time."""
    ET.indent(root)
    return ET.tostring(root, encoding="utf-8") + b"\n"
