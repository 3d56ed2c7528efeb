"""Looks of the groceries: boxes, cans, bottles and cartons with labels drawn in a few dots.

Sizes (metres) are those of LIBERO's meshes. Shapes that lie along y in their file stand in LIBERO's
scenes, which turn them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsd.envs.lite import image
from rsd.envs.lite.image import Colour, Image
from rsd.envs.lite.look import Look
from rsd.envs.lite.mesh import Mesh, Section, box, hexahedron, lathe, loft, merge

X, Y, Z = range(3)
INK: dict[str, Colour] = {  # letters of the pictures
    "w": (208, 206, 202),
    "k": (28, 26, 26),
    "r": (190, 42, 24),
    "o": (208, 98, 24),
    "y": (206, 176, 44),
    "g": (30, 112, 44),
    "b": (70, 118, 190),
    "s": (150, 186, 226),
    "n": (84, 40, 24),
    "i": (78, 82, 156),
    "m": (150, 162, 190),
    "l": (172, 176, 204),
}
TIN: Colour = (96, 96, 98)


def cookies_look() -> Look:
    """Box of cookies: red, a label above and below."""
    low, high = (-0.0307, -0.0418, -0.0100), (0.0307, 0.0418, 0.0100)
    red, label = 0, 1
    mesh = box(low, high, red, pictured=[(2, 1, label), (2, -1, label)])
    picture = cookies_label()
    return Look(mesh, [image.flat((178, 44, 28), picture.shape[:2]), picture])


def cookies_label() -> Image:
    """Red bands at both ends, a white field, four cookies on a red and white chequer."""
    height, width = 56, 40
    rows, columns = np.mgrid[0:height, 0:width]
    red, white, brown, dough, raisin = (
        (178, 44, 28),
        (150, 138, 132),
        (116, 62, 30),
        (146, 116, 62),
        (84, 50, 52),
    )
    label = image.flat(white, (height, width))
    label[(rows >= 24) & ((rows // 5 + columns // 5) % 2 == 0)] = red
    label[rows < 9] = red
    label[(rows >= 14) & (rows < 20) & (columns > 4) & (columns < 35)] = brown
    for row, column in ((27, 20), (38, 8), (38, 32), (48, 20)):
        distance = (rows - row) ** 2 + (columns - column) ** 2
        label[distance < 100] = dough
        label[distance < 6] = raisin
    return label


# --- cans -------------------------------------------------------------------------------------

SOUP_LABEL = """
    bbbbbbbbbbbb
    bwwbwbwwbwwb
    bbbbbbbbbbbb
    byyybyyybyyb
    byybbybybyyb
    bbyybyyybybb
    byyybyyybybb
    bbbbbbbbbbbb
    wwwwwwwwwwww
    bwwwwwwwwwwb
    oowwwwwwwwoo
    ooyowwwwoooo
    oyogoyooyogo
    oooyooogooyo
    oyooygooyooo
    ogoooooyoogo
"""
TOMATO_LABEL = """
    rrrrrrrrrrrr
    rrrryyyyrrrr
    rryyggggyyrr
    rygggggggyrr
    yggwgwwgwggy
    gggggggggggg
    gwwgwwgwgwwg
    gwwgwwgwgwgg
    ggwgwgwgwgwg
    gwwgwgwwgwwg
    gggggggggggg
    wwwwgggwwwww
    rrrwwgwwwrrr
    rrrrrrrrrrrr
    rrrrrrrrrrrr
    wrrrwrrwrrrw
"""


def can(z: float, radius: float, half: float, label: str, upper: str, lower: str) -> Look:
    """A can along y, its label towards z. z: of the axis; half: of the length."""
    tin, top, bottom, front = range(4)
    rim = half - 0.002
    profile = [(0, -rim), (radius - 0.003, -rim), (radius, -half), (radius, -0.1 * half)]
    profile += [(radius, half - 0.004), (radius - 0.001, half), (radius - 0.004, rim), (0, rim)]
    body = lathe(profile, [tin, tin, bottom, top, tin, tin, tin], segments=20)
    body = body.turned(Y).pictured(Z, 1, front).moved((0, 0, z))
    colours = (TIN, INK[upper], INK[lower])
    return Look(body, [*map(image.flat, colours), image.drawn(label, **INK)])


def alphabet_soup_look() -> Look:
    """Blue above, orange below, a white bowl between."""
    return can(-0.0030, 0.0326, 0.0417, SOUP_LABEL, upper="b", lower="o")


def tomato_sauce_look() -> Look:
    """Green lettering on red, tomatoes below."""
    return can(-0.0020, 0.0328, 0.0414, TOMATO_LABEL, upper="r", lower="r")


# --- bottles ----------------------------------------------------------------------------------

KETCHUP_LABEL = """
    oooooooooooo
    ooooowwooooo
    ooowwwwwwooo
    oowyywwwwwoo
    oowwyyyyywoo
    oowwwwyywwoo
    owkkwkkwkwwo
    owwwwwwwwwwo
    owkwkwkkwkwo
    owkkwwkwwkwo
    owkwkwkkwkwo
    owwwwwwwwwwo
    owrrrwwrrrwo
    owrrrrrrrrwo
    owwwwwwwwwwo
    oooooooooooo
"""
DRESSING_LABEL = """
    wwwwwwwwwwww
    wwwwwwwwwwww
    wwwwwggwwwww
    wwwwgyygwwww
    wwwgwwwwgwww
    wwgwggggwgww
    wwgwwwwwwgww
    wgwkkwkkkwgw
    wgwwwwwwwwgw
    wgkkwkkwkkgw
    wgwwwwwwwwgw
    wgroowwgowgw
    wwgrrrgggwgw
    wwwgorggogww
    wwwwggggwwww
    wwwwwwwwwwww
"""
BBQ_LABEL = """
    nnnnnnnnnnnn
    nnnnnyynnnnn
    nnnnyryynnnn
    nnnyryryrnnn
    nnyryryryrnn
    nnyryryryrnn
    nnwwwwwwwwnn
    nryyryyryyrn
    nryyryyryyrn
    nryyryyrrryn
    nrrrrrrrrrrn
    nnyyyyyyyynn
    nnrrrwwrrrnn
    nnnrwbbwrnnn
    nnnnrwwrnnnn
    nnnnnnnnnnnn
"""
# along, radius u, radius v: u, v as in `mesh.loft`
FLAT_BOTTLE = (
    *((-0.0742, 0.0190, 0.0290), (-0.0700, 0.0217, 0.0315), (-0.0450, 0.0214, 0.0324)),
    *((-0.0120, 0.0212, 0.0311), (0.0124, 0.0212, 0.0268), (0.0289, 0.0208, 0.0223)),
    *((0.0372, 0.0188, 0.0192), (0.0420, 0.0175, 0.0181)),
)
WAISTED_BOTTLE = (
    *((-0.0736, 0.0190, 0.0215), (-0.0680, 0.0218, 0.0260), (-0.0532, 0.0218, 0.0305)),
    *((-0.0370, 0.0216, 0.0321), (-0.0205, 0.0214, 0.0312), (-0.0040, 0.0212, 0.0265)),
    *((0.0123, 0.0200, 0.0205), (0.0287, 0.0180, 0.0183), (0.0380, 0.0180, 0.0181)),
)
SMALL_BOTTLE = (
    *((-0.0570, 0.0225, 0.0150), (-0.0530, 0.0243, 0.0167), (-0.0350, 0.0249, 0.0164)),
    *((-0.0160, 0.0245, 0.0162), (0.0030, 0.0221, 0.0162), (0.0190, 0.0182, 0.0162)),
    *((0.0260, 0.0152, 0.0150), (0.0280, 0.0139, 0.0140)),
)


def bottle(
    axis: int,
    sections: Sequence[tuple[float, float, float]],
    cap: tuple[float, float, float],
    colours: tuple[Colour, Colour],
    label: str,
) -> Look:
    """A bottle along an axis, its label towards z where it lies and towards -y where it stands.

    cap: start, end (along the axis) and radius; colours: of body and cap.
    """
    body_cell, cap_cell, front = range(3)
    skin: list[Section] = [(along, 0, 0, u, v) for along, u, v in sections]
    start, end, radius = cap
    lid: list[Section] = [(along, 0, 0, radius, radius) for along in (start, end)]
    body = loft(axis, skin, cell=body_cell)
    body = body.pictured(Z, 1, front) if axis == Y else body.pictured(Y, -1, front)
    cells = [*map(image.flat, colours), image.drawn(label, **INK)]
    return Look(merge(body, loft(axis, lid, cell=cap_cell)), cells)


def ketchup_look() -> Look:
    """Orange-red with a white cap."""
    colours = (INK["o"], INK["w"])
    return bottle(Y, FLAT_BOTTLE, (0.0420, 0.0742, 0.0184), colours, KETCHUP_LABEL)


def salad_dressing_look() -> Look:
    """White with a green cap."""
    colours = (INK["w"], (16, 108, 66))
    return bottle(Y, WAISTED_BOTTLE, (0.0380, 0.0736, 0.0184), colours, DRESSING_LABEL)


def bbq_sauce_look() -> Look:
    """Dark brown-red with a darker orange cap, upright."""
    colours = ((112, 36, 14), (168, 62, 14))
    return bottle(Z, SMALL_BOTTLE, (0.0280, 0.0570, 0.0143), colours, BBQ_LABEL)


# --- boxes and cartons ------------------------------------------------------------------------

BUTTER_LABEL = """
    rrrrrrrrrrrrrrrr
    rryyyyyyrrsswkss
    rryryyryrrswwkks
    rrrrrrrrrrswkwws
    ryyyyyyyrrwwwwss
    ryryyryyrwwkwwws
    rrrrrrrrrkwwwkks
    wwwwwwwwwswwwkks
    wrwwrwrwwsssswww
"""
PUDDING_LABEL = """
    rrrrnnnnnnnnnnnn
    rrrrnnnnnnwwnwwn
    nnwwnwnwwnwwnwnn
    nwnnnwwwnnnnnnnn
    nnnnnnnnnoonooon
    noonoonoonoonoon
    noonoonoonnnnnnn
    nnnnnnnnnwnwwnwn
    nnnnnnnnnnnnnnnn
"""
CHEESE_LABEL = """
    mmmmmmmmmmmmmmmm
    mmmmmiiiiiimmmmm
    mmmiiiiiiiiiimmm
    mmiilliiliiliimm
    mmiliilillillimm
    mmiillilililiimm
    mmmiiiilliiiimmm
    mmmmmiiiiiimmmmm
    mmmmmmmmmmmmmmmm
"""
MILK_LABEL = """
    rrrrrrrrrr
    rwwrwrwwrr
    rwwwwrwrwr
    rwrrwrwwrr
    wwwrrrrrrr
    wrrrrwrwww
    rrrwrwrwrr
    rwwwrwrwrs
    rwrwrrrrss
    rrrrrrssss
    rrrssswwss
    sssssrwrss
    sskkkkwsss
    sskwkkkkss
    ssskskskgs
    gggggggggg
    gggggggggg
"""
JUICE_LABEL = """
    yyoooooooy
    yoooooooow
    woooooooow
    wooowwooow
    wwooooooww
    wwwwwwwwww
    wggwgwggww
    wgwggwgwgw
    wwwwwwwwww
    wggwgwggww
    wgwggwggww
    wwwoooowww
    wwoowoooow
    wooooowoow
    woowwwooow
    wwooowooww
    yyyoooooyy
"""


def packet(
    half: tuple[float, float, float], label: str, sides: Colour, ends: Colour | None = None
) -> Look:
    """A flat box; its label above and below, on plain sides. half: edges; ends: colour of the
    sides across the long (x) axis."""
    side, end, picture = range(3)
    x, y, z = half
    tips = [(X, 1, end), (X, -1, end)]
    mesh = box((-x, -y, -z), half, side, pictured=[(Z, 1, picture), (Z, -1, picture), *tips])
    cells = [image.flat(sides), image.flat(ends or sides), image.drawn(label, **INK)]
    return Look(mesh, cells)


def butter_look() -> Look:
    """Red, a cow on sky blue at one end."""
    return packet((0.0387, 0.0198, 0.0090), BUTTER_LABEL, sides=INK["r"])


def chocolate_pudding_look() -> Look:
    """Brown, light blue on the long sides."""
    return packet((0.0417, 0.0247, 0.0149), PUDDING_LABEL, sides=INK["s"], ends=INK["n"])


def cream_cheese_look() -> Look:
    """Pale grey-blue with a dark blue oval."""
    return packet((0.0415, 0.0213, 0.0097), CHEESE_LABEL, sides=INK["m"])


def carton(half: float, label: str, foot: Colour, gable: Colour) -> Look:
    """A gable-top carton along y: square body, roof, fin. half: of the length."""
    foot_cell, gable_cell, front, right, left = range(5)
    wide, shoulder, ridge = 0.0266, half - 0.0290, half - 0.0110
    faces = [(Z, 1, front), (X, 1, right), (X, -1, left)]
    body = box((-wide, -half, -wide), (wide, shoulder, wide), foot_cell, pictured=faces)
    body = body.pictured(Z, -1, front)
    roof = gable_roof(wide, shoulder, ridge, gable_cell)
    fin = box((-wide, ridge, -0.001), (wide, half, 0.001), gable_cell)
    picture = image.drawn(label, **INK)
    cells = [image.flat(foot), image.flat(gable), *turned_pictures(picture)]
    return Look(merge(body, roof, fin), cells)


def turned_pictures(picture: Image) -> list[Image]:
    """A picture upright along y as it is to be put on sides +z, +x and -x."""
    return [picture, np.rot90(picture, -1), np.rot90(picture)]


def gable_roof(wide: float, low: float, high: float, cell: int) -> Mesh:
    """The sloping top of a carton along y, from a square to an edge along x."""
    square = [(-wide, low, wide), (wide, low, wide), (wide, low, -wide), (-wide, low, -wide)]
    edge = [(-wide, high, 0.001), (wide, high, 0.001), (wide, high, -0.001), (-wide, high, -0.001)]
    return hexahedron(square, edge, cell)


def milk_look() -> Look:
    """Red and white above, sky, cow and meadow below."""
    return carton(0.0714, MILK_LABEL, foot=INK["g"], gable=INK["r"])


def orange_juice_look() -> Look:
    """Oranges and green letters on white, yellow foot."""
    return carton(0.0722, JUICE_LABEL, foot=INK["y"], gable=INK["o"])
