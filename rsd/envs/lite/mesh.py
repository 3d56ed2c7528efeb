"""Small visual meshes made by code: boxes and surfaces of revolution, coloured by palette cell.

A mesh's texture coordinate is (cell + s, t), s and t in [0, 1]: `cell` picks a column of the
object's palette image (`image.palette`), (s, t) a point in it. So an object of several colours
stays one mesh and one geom, as it is in LIBERO's own files.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rsd.envs.lite.mjcf import UNIT, Boxes, Row, Vector, numbers

Array = NDArray[np.float64]
Section = tuple[float, float, float, float, float]

FACING_COS = 0.35  # from there on a triangle belongs to the side that a picture covers
SMOOTH_BELOW_COS = math.cos(math.radians(40.0))  # flatter joints of a profile are shaded smoothly
WHOLE_CELL = np.array([[0.02, 0.98], [0.98, 0.98], [0.98, 0.02], [0.02, 0.02]])  # corners (s, t)


@dataclass(frozen=True)
class Mesh:
    """Triangles with explicit normals; counter-clockwise from outside, as MuJoCo wants them."""

    vertices: Array  # float64 (N, 3): metres, frame of the body
    normals: Array  # float64 (N, 3): unit length
    uv: Array  # float64 (N, 2): (palette cell + s, t)
    faces: NDArray[np.int64]  # int64 (M, 3): indices of vertices

    def moved(self, offset: Vector) -> Mesh:
        """The same mesh elsewhere; offset in metres."""
        return replace(self, vertices=self.vertices + np.asarray(offset))

    def scaled(self, factor: float) -> Mesh:
        """The same mesh in another size."""
        return replace(self, vertices=self.vertices * factor)

    def turned(self, axis: int) -> Mesh:
        """The same mesh with its z axis along another one, the three axes permuted cyclically."""
        order = [(k - axis - 1) % 3 for k in range(3)]
        return replace(self, vertices=self.vertices[:, order], normals=self.normals[:, order])

    def pictured(self, axis: int, sign: int, cell: int) -> Mesh:
        """The same mesh with a whole cell seen on it from one side.

        The triangles that face `sign` of `axis` show the cell, projected along the axis and
        stretched over their extent; up in the picture is the axis that comes first of z and y.
        """
        shaded = self.normals[self.faces].mean(axis=1)[:, axis] * sign
        front = shaded > FACING_COS
        corners = self.faces[front].ravel()
        up = 1 if axis == 2 else 2
        right = 3 - axis - up
        flip = sign if (axis + 1) % 3 == right else -sign
        places = self.vertices[corners][:, [right, up]] * np.array([flip, -1.0])
        places = (places - places.min(axis=0)) / np.ptp(places, axis=0)
        label = Mesh(
            self.vertices[corners],
            self.normals[corners],
            np.array([cell, 0.0]) + 0.02 + 0.96 * places,
            np.arange(len(corners)).reshape(-1, 3),
        )
        return merge(replace(self, faces=self.faces[~front]), label)

    def element(self, name: str, cells: int) -> ET.Element:
        """The MJCF `<mesh>`, its data inline; cells: columns of the palette that uv refers to."""
        uv = self.uv / np.array([cells, 1.0])
        return ET.Element(
            "mesh",
            name=name,
            vertex=numbers(self.vertices.ravel(), digits=5),
            normal=numbers(self.normals.ravel(), digits=3),
            texcoord=numbers(uv.ravel(), digits=4),
            face=" ".join(str(index) for index in self.faces.ravel()),
        )


def merge(*meshes: Mesh) -> Mesh:
    """One mesh of several."""
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.normals for mesh in meshes]),
        np.concatenate([mesh.uv for mesh in meshes]),
        np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts, strict=True)]),
    )


def box(
    low: Vector, high: Vector, cell: int = 0, pictured: Sequence[tuple[int, int, int]] = ()
) -> Mesh:
    """A box of 12 triangles between two corners (metres), all faces in the flat colour `cell`.

    pictured: (axis, sign, cell) for every face that shows a whole cell as a picture instead.
    """
    shows = {(axis, sign): picture for axis, sign, picture in pictured}
    sides = [
        _side(low, high, axis, sign, cell, shows.get((axis, sign)))
        for axis in range(3)
        for sign in (-1, 1)
    ]
    return merge(*sides)


def _side(low: Vector, high: Vector, axis: int, sign: int, cell: int, picture: int | None) -> Mesh:
    """One side of a box: the corners run counter-clockwise seen from outside."""
    right, up = ((axis + 1) % 3, (axis + 2) % 3) if sign > 0 else ((axis + 2) % 3, (axis + 1) % 3)
    ends = np.array([low, high], dtype=float)
    corners = np.zeros((4, 3))
    corners[:, axis] = ends[(sign + 1) // 2, axis]
    corners[:, right] = ends[[0, 1, 1, 0], right]
    corners[:, up] = ends[[0, 0, 1, 1], up]
    normals = np.zeros((4, 3))
    normals[:, axis] = sign
    uv = _flat_uv(4, cell) if picture is None else WHOLE_CELL + np.array([picture, 0.0])
    return Mesh(corners, normals, uv, np.array([[0, 1, 2], [0, 2, 3]]))


def hexahedron(low: Sequence[Vector], high: Sequence[Vector], cell: int = 0) -> Mesh:
    """Flat sides around two quadrilaterals (metres), both counter-clockwise seen from above."""
    corners = np.array([*low, *high], dtype=float)
    around = [(k, (k + 1) % 4, (k + 1) % 4 + 4, k + 4) for k in range(4)]
    return merge(
        *(_flat_quad(corners[list(q)], cell) for q in ((3, 2, 1, 0), (4, 5, 6, 7), *around))
    )


def _flat_quad(corners: Array, cell: int) -> Mesh:
    normal = np.cross(corners[2] - corners[0], corners[3] - corners[1])
    normals = np.tile(normal / np.linalg.norm(normal), (4, 1))
    return Mesh(corners, normals, _flat_uv(4, cell), np.array([[0, 1, 2], [0, 2, 3]]))


def cuboids(groups: Iterable[Boxes], cell: int = 0) -> Mesh:
    """Collision boxes as something to see."""
    return merge(*(_placed_box(group.half, row, cell) for group in groups for row in group.rows))


def _placed_box(half: tuple[int, int, int], row: Row, cell: int) -> Mesh:
    """One collision box (units of `Boxes`)."""
    x, y, z = (edge * UNIT for edge in half)
    shape = box((-x, -y, -z), (x, y, z), cell)
    rotation = _rotation(np.array(row[3:], dtype=float))
    vertices = shape.vertices @ rotation.T + UNIT * np.array(row[:3])
    return replace(shape, vertices=vertices, normals=shape.normals @ rotation.T)


def _rotation(quat: Array) -> Array:
    """float64 (3, 3) of a quaternion (w, x, y, z) of any length."""
    w, x, y, z = quat / np.linalg.norm(quat)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def lathe(
    profile: Sequence[tuple[float, float]], cells: Sequence[int] | int = 0, segments: int = 24
) -> Mesh:
    """A surface of revolution about z.

    profile: (radius, z) points in metres, walked so that the outside lies on the right hand
    (for a solid: from the bottom centre outwards, up and back to the axis).
    cells: the palette cell of each stretch between two points, or one for all.
    """
    points = np.asarray(profile, dtype=float)
    steps = np.diff(points, axis=0)
    outward = np.stack([steps[:, 1], -steps[:, 0]], axis=1)
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    count = len(steps)
    columns = [cells] * count if isinstance(cells, int) else list(cells)
    assert len(columns) == count, f"{len(columns)} cells for {count} stretches"
    bands = [
        _band(
            points[k : k + 2],
            np.stack([_shade(outward, k, k - 1), _shade(outward, k, k + 1)]),
            columns[k],
            segments,
        )
        for k in range(count)
    ]
    return merge(*bands)


def _shade(outward: Array, stretch: int, neighbour: int) -> Array:
    """Normal (radial, z) at an end of a stretch: the mean with a nearly flat neighbour's."""
    own = outward[stretch]
    if not 0 <= neighbour < len(outward) or own @ outward[neighbour] < SMOOTH_BELOW_COS:
        return own
    mean = own + outward[neighbour]
    return mean / np.linalg.norm(mean)


def _band(ends: Array, shades: Array, cell: int, segments: int) -> Mesh:
    """The ring between two (radius, z) points; an end on the axis makes it a fan."""
    angles = np.arange(segments) * (2 * math.pi / segments)
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rings, normals = [], []
    for (radius, z), (radial, axial) in zip(ends, shades, strict=True):
        rings.append(np.column_stack([around * radius, np.full(segments, z)]))
        normals.append(np.column_stack([around * radial, np.full(segments, axial)]))
    here = np.arange(segments)
    there = (here + 1) % segments
    first = np.stack([here, there, there + segments], axis=1)
    second = np.stack([here, there + segments, here + segments], axis=1)
    faces = [triangles for triangles, end in ((first, 0), (second, 1)) if ends[end, 0] > 0]
    uv = _flat_uv(2 * segments, cell)
    return Mesh(np.concatenate(rings), np.concatenate(normals), uv, np.concatenate(faces))


def loft(axis: int, sections: Sequence[Section], segments: int = 16, cell: int = 0) -> Mesh:
    """A smooth skin over elliptic cross-sections along an axis, closed by flat ends.

    sections: (along, centre u, centre v, radius u, radius v) in metres, `along` increasing; u and v
    are the two axes that follow `axis` cyclically (for z: x and y).
    """
    angles = np.arange(segments) * (2 * math.pi / segments)
    rings = np.zeros((len(sections), segments, 3))
    for ring, (along, centre_u, centre_v, radius_u, radius_v) in zip(rings, sections, strict=True):
        ring[:, axis] = along
        ring[:, (axis + 1) % 3] = centre_u + radius_u * np.cos(angles)
        ring[:, (axis + 2) % 3] = centre_v + radius_v * np.sin(angles)
    return _skin(rings, cell)


def tube(points: Sequence[Vector], radius: float, cell: int = 0, segments: int = 8) -> Mesh:
    """A round rod along a path of points in a plane x = constant or y = constant (metres), closed
    by flat ends: handles."""
    path = np.asarray(points, dtype=float)
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    flat = int(np.argmin(np.ptp(path, axis=0)))
    side = np.eye(3)[flat]
    angles = np.arange(segments) * (2 * math.pi / segments)
    rings = [
        centre + radius * (np.outer(np.cos(angles), side) + np.outer(np.sin(angles), up))
        for centre, up in zip(path, np.cross(along, side), strict=True)
    ]
    return _skin(np.stack(rings), cell)


def _skin(rings: Array, cell: int) -> Mesh:
    """Closed smooth surface over rings of points, float64 (rings, segments, 3)."""
    count, segments, _ = rings.shape
    here = np.arange(segments)
    there = (here + 1) % segments
    strip = np.concatenate(
        [
            np.stack([here, there, there + segments], axis=1),
            np.stack([here, there + segments, here + segments], axis=1),
        ]
    )
    skin = np.concatenate([strip + segments * k for k in range(count - 1)])
    fan = np.stack([np.zeros(segments - 2, dtype=int), here[1:-1], here[2:]], axis=1)
    parts = [(rings.reshape(-1, 3), skin), (rings[0], fan[:, ::-1]), (rings[-1], fan)]
    return merge(*(_smooth(vertices, faces, cell) for vertices, faces in parts))


def _smooth(vertices: Array, faces: NDArray[np.int64], cell: int = 0) -> Mesh:
    """Every vertex normal the area-weighted mean of its triangles'."""
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], np.cross(b - a, c - a))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return Mesh(vertices, normals, _flat_uv(len(vertices), cell), faces)


def _flat_uv(count: int, cell: int) -> Array:
    """The middle of a cell for every vertex: its one colour."""
    return np.tile([cell + 0.5, 0.5], (count, 1))
