"""Tiny pictures made by code and their PNG bytes.

The PNG writer stores pixels uncompressed, so that the bytes depend on no library's version.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # uint8 (H, W, 3): RGB, row 0 on top
Colour = tuple[int, int, int]  # RGB, 0 to 255

CELL_PX = 8  # edge of a flat palette cell
TILE_PX = 32


def flat(colour: Colour, size: tuple[int, int] = (CELL_PX, CELL_PX)) -> Image:
    """One colour; size is (height, width) in pixels."""
    return np.full((*size, 3), colour, dtype=np.uint8)


def palette(cells: Sequence[Image]) -> Image:
    """Cells side by side, small ones stretched to the largest height and width."""
    height, width = np.max([cell.shape[:2] for cell in cells], axis=0)
    return np.concatenate([_stretched(cell, height, width) for cell in cells], axis=1)


def _stretched(image: Image, height: int, width: int) -> Image:
    rows = np.arange(height) * image.shape[0] // height
    columns = np.arange(width) * image.shape[1] // width
    return image[rows][:, columns]


def drawn(picture: str, **colours: Colour) -> Image:
    """A picture of one letter a dot; colours: letter -> colour. A dot is 4 by 4 pixels, so that
    the palette's neighbouring cells do not blend in at once when it is seen small."""
    dots = np.array([[colours[letter] for letter in line] for line in picture.split()])
    return dots.astype(np.uint8).repeat(4, axis=0).repeat(4, axis=1)


def tile(colour: Colour) -> Image:
    """A floor tile: slight mottling, a darker joint on two edges."""
    image = _mottled(colour, 4, streak=1)
    for edge in (image[0], image[:, 0]):
        edge[:] = (0.88 * np.asarray(colour)).astype(np.uint8)
    return image


def plaster(colour: Colour) -> Image:
    """A wall: hardly any structure."""
    return _mottled(colour, 2, streak=1)


def wood(colour: Colour) -> Image:
    """A plank surface: faint streaks along the width."""
    return _mottled(colour, 5, streak=8)


def _mottled(colour: Colour, depth: int, streak: int) -> Image:
    """Integer noise of +-depth around a colour, the same on every machine; streak: pixels that
    share a value along the width."""
    rows, columns = np.mgrid[0:TILE_PX, 0:TILE_PX].astype(np.uint32)
    mixed = (rows * 73 + columns // streak * 151 + rows * (columns // streak) * 37) % 251
    noise = (mixed % (2 * depth + 1)).astype(int) - depth
    return np.clip(np.asarray(colour) + noise[..., None], 0, 255).astype(np.uint8)


def png(image: Image) -> bytes:
    """The PNG file of an RGB image, uncompressed."""
    height, width, _ = image.shape
    lines = b"".join(b"\0" + row.tobytes() for row in image)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", _stored(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(tag, body) for tag, body in chunks)


def _chunk(tag: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))


def _stored(payload: bytes) -> bytes:
    """A zlib stream of stored blocks (RFC 1951, 3.2.4)."""
    limit = 0xFFFF
    starts = range(0, len(payload), limit)
    blocks = [
        struct.pack("<BHH", start == starts[-1], len(block), len(block) ^ 0xFFFF) + block
        for start in starts
        for block in [payload[start : start + limit]]
    ]
    return b"\x78\x01" + b"".join(blocks) + struct.pack(">I", zlib.adler32(payload))
