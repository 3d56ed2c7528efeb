"""How `collision.txt` was made: `python -m rsd.envs.lite.derive TREE`, LIBERO's assets."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

from rsd.envs.lite import collision
from rsd.envs.lite.mjcf import SURFACE

FILES = (  # LIBERO's files that are read
    *("akita_black_bowl", "plate", "glazed_rim_porcelain_ramekin", "cookies"),
    *("wooden_cabinet", "flat_stove"),
    *("alphabet_soup", "basket", "bbq_sauce", "butter", "chocolate_pudding", "cream_cheese"),
    *("ketchup", "milk", "orange_juice", "salad_dressing", "tomato_sauce"),
    *("wine_bottle", "wine_rack"),
    *("black_book", "chefmate_8_frypan", "desk_caddy", "moka_pot", "porcelain_mug"),
    *("red_coffee_mug", "white_yellow_mug"),
    *("libero_living_room_tabletop_base_style", "libero_study_base_style"),
)


def derive(tree: Path) -> str:
    """The text for LIBERO's own asset tree. Raises ValueError for a decimal finer than 1e-6."""
    lines: list[str] = []
    for stem in FILES:
        path = min(tree.rglob(f"{stem}.xml"), key=lambda path: len(path.parts))
        for body in ET.parse(path).getroot().iter("body"):
            lines += _lines(stem, body)
    return "\n".join(lines) + "\n"


def _lines(stem: str, body: ET.Element) -> Iterator[str]:
    half = ""
    for geom in body.findall("geom"):
        if geom.get("type") == "mesh":
            yield f"{stem}/{geom.get('mesh', '').removesuffix('_vis')}"
            half = ""
        elif geom.get("type") == "box" and SURFACE.items() <= geom.attrib.items():
            size = _integers(geom.get("size", ""))
            if size != half:
                yield f"  {size}"
            half = size
            yield f"    {_integers(geom.get('pos', ''))} {_integers(geom.get('quat', ''))}"


def _integers(decimals: str) -> str:
    scaled = [Decimal(word) * 1_000_000 for word in decimals.split()]
    if any(number % 1 for number in scaled):
        raise ValueError(f"finer than 1e-6: {decimals}")
    return " ".join(str(int(number)) for number in scaled)


if __name__ == "__main__":
    collision.FILE.write_text(derive(Path(sys.argv[1])))
