"""What the files of objects and fixtures have in common: root, sites, looks."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET
from dataclasses import dataclass

from rsd.envs.lite import image
from rsd.envs.lite.look import Look
from rsd.envs.lite.mjcf import add_material, child, numbers

Files = dict[str, bytes]  # path in the tree -> content


def object_root(name: str) -> tuple[ET.Element, ET.Element, ET.Element]:
    """(root, asset, body named object) of an object file. robosuite reads the outer body's sites
    and renames the inner body."""
    root = ET.Element("mujoco", model=name)
    asset = child(root, "asset")
    outer = child(child(root, "worldbody"), "body")
    return root, asset, child(outer, "body", name="object")


@dataclass(frozen=True)
class Extent:
    """What robosuite's samplers take for an object's size: places of three sites, metres."""

    bottom: float = -0.06
    top: float = 0.04
    side: float = 0.025
    size: float = 0.005  # of the sites

    def add_to(self, root: ET.Element) -> None:
        """Add the three sites to an object file."""
        outer = root.find("./worldbody/body")
        assert outer is not None
        places = {
            "bottom_site": (0, 0, self.bottom),
            "top_site": (0, 0, self.top),
            "horizontal_radius_site": (self.side, self.side, 0),
        }
        look = {"rgba": "0 0 0 0", "size": f"{self.size:g}"}
        for name, pos in places.items():
            child(outer, "site", name=name, pos=numbers(pos, digits=5), **look)


@dataclass(frozen=True)
class Region:
    """A box site that BDDL goals and placements name; invisible. Attributes as MJCF has them."""

    name: str
    pos: str
    size: str
    quat: str = "1 0 0 0"
    rgba: str = "0.8 0.8 0.8 0"

    def add_to(self, body: ET.Element) -> None:
        """Add the site to a body."""
        child(body, "site", type="box", group="0", **dataclasses.asdict(self))


def add_look(asset: ET.Element, name: str, look: Look, folder: str) -> Files:
    """Mesh, palette texture and material called `name`; returns the texture's file. folder: of
    the object's XML file."""
    picture = f"{name}.png"
    child(asset, "texture", name=f"tex-{name}", type="2d", file=picture)
    opacity = {} if look.alpha == 1 else {"rgba": f"1 1 1 {look.alpha:g}"}
    add_material(asset, name, f"tex-{name}", **opacity)
    asset.append(look.mesh.element(f"{name}_vis", len(look.cells)))
    return {f"{folder}/{picture}": image.png(image.palette(look.cells))}
