"""What is seen of one body."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rsd.envs.lite import image
from rsd.envs.lite.image import Colour, Image
from rsd.envs.lite.mesh import Mesh


@dataclass(frozen=True)
class Look:
    """A mesh whose palette cells are the colours, or pictures."""

    mesh: Mesh
    cells: Sequence[Image]
    alpha: float = 1.0  # opacity


def flat_look(mesh: Mesh, *colours: Colour) -> Look:
    """A look in flat colours, numbered by the mesh's palette cells."""
    return Look(mesh, [image.flat(colour) for colour in colours])
