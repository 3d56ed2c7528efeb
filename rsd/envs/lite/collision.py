"""Collision boxes of LIBERO's objects and scenes: dimensions taken over from its MJCF files.

`collision.txt` holds facts from Lifelong Robot Learning's LIBERO (MIT License, Copyright (c) 2023
Lifelong Robot Learning), kept to the last decimal, in the same order and with its doublets,
because contacts, masses and inertias all come from them: so physics on this pack is LIBERO's own,
bit for bit. `rsd.envs.lite.derive` wrote it.

A line of the text is a name (`file/mesh`: the boxes that follow that mesh in that file), three
integers (half edges of the boxes below) or seven (pos, quat of one box). Units: `mjcf.Boxes`.
"""

from __future__ import annotations

import functools
from pathlib import Path

from rsd.envs.lite.mjcf import Boxes

FILE = Path(__file__).with_name("collision.txt")


def boxes(name: str) -> tuple[Boxes, ...]:
    """The boxes of one visual mesh, `file/mesh`; none for a mesh that others' boxes cover."""
    return _all()[name]


@functools.cache
def _all() -> dict[str, tuple[Boxes, ...]]:
    found: dict[str, tuple[Boxes, ...]] = {}
    name = ""
    for line in FILE.read_text().splitlines():
        match line.split():
            case [name]:
                found[name] = ()
            case [x, y, z]:
                found[name] += (Boxes((int(x), int(y), int(z)), ()),)
            case words:
                x, y, z, qw, qx, qy, qz = words
                row = (int(x), int(y), int(z), int(qw), int(qx), int(qy), int(qz))
                *others, last = found[name]
                found[name] = (*others, Boxes(last.half, (*last.rows, row)))
    return found
