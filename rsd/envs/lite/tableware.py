"""Looks of crockery, pots and bottles. Sizes (metres) are those of LIBERO's meshes."""

from __future__ import annotations

from collections.abc import Sequence

from rsd.envs.lite import image
from rsd.envs.lite.image import Colour
from rsd.envs.lite.look import Look, flat_look
from rsd.envs.lite.mesh import Mesh, box, hexahedron, lathe, loft, merge, tube
from rsd.envs.lite.mjcf import Vector


def bowl_look() -> Look:
    """Akita bowl: black, a light ring below the rim inside."""
    outside = [(0, 0.0016), (0.027, 0.0016), (0.0305, 0.004), (0.0425, 0.0155), (0.0539, 0.0521)]
    inside = [(0.0512, 0.0521), (0.0498, 0.0470), (0.0487, 0.0430), (0.0400, 0.0170)]
    floor = [(0.0270, 0.0072), (0, 0.0068)]
    black, ring = 0, 1
    cells = [black] * 5 + [ring] + [black] * 4
    return flat_look(lathe([*outside, *inside, *floor], cells), (38, 35, 34), (108, 100, 92))


def plate_look() -> Look:
    """Plate: off-white with a coloured band on the rim."""
    below = [(0, 0.0018), (0.040, 0.0008), (0.0488, 0.0005), (0.0596, 0.0055), (0.0686, 0.0125)]
    rim = [(0.0687, 0.0160), (0.0660, 0.0166), (0.0615, 0.0140)]
    above = [(0.0540, 0.0105), (0.0450, 0.0075), (0.0340, 0.0052), (0, 0.0045)]
    white, band = 0, 1
    cells = [white] * 6 + [band] + [white] * 4
    return flat_look(lathe([*below, *rim, *above], cells), (226, 226, 221), (158, 92, 78))


def ramekin_look() -> Look:
    """Ramekin: light porcelain, darker glaze on the inner wall."""
    outside = [(0, 0.0012), (0.020, 0.001), (0.0385, 0.0), (0.0418, 0.0260), (0.0445, 0.0300)]
    rim = [(0.0447, 0.0420), (0.0435, 0.0433), (0.0400, 0.0425)]
    inside = [(0.0362, 0.0340), (0.0350, 0.0100), (0.0320, 0.0082), (0, 0.0082)]
    body, light, glaze = 0, 1, 2
    cells = [body] * 4 + [light] * 3 + [glaze] * 2 + [light] * 2
    return flat_look(
        lathe([*outside, *rim, *inside], cells), (188, 186, 183), (232, 231, 228), (96, 94, 92)
    )


BOTTLE_GLASS: Colour = (5, 13, 5)
WINE_LABEL = """
    gggggggggggggggg
    ggwwwwwwwwwwwwgg
    ggwwwwwwwwwwwwgg
    ggwwwwwwwwwwwwgg
    ggwwwwkkkkwwwwgg
    ggwwwwwwwwwwwwgg
    ggwwkkwkkwkkwwgg
    ggwwwwwwwwwwwwgg
    ggwwwwkwkkwwwwgg
    ggwwwwwwwwwwwwgg
    gggggggggggggggg
"""


def wine_bottle_look() -> Look:
    """Nearly black green glass."""
    body = [(0, 0.0), (0.0216, 0.0), (0.0216, 0.0570), (0.0213, 0.0640), (0.0182, 0.0791)]
    neck = [(0.0143, 0.0885), (0.0100, 0.1000), (0.0081, 0.1124), (0.0075, 0.1208)]
    mouth = [(0.0079, 0.1400), (0.0079, 0.1495), (0, 0.1499)]
    return flat_look(lathe([*body, *neck, *mouth], segments=20), BOTTLE_GLASS)


def wine_cork_look() -> Look:
    """The cork, most of it above the neck."""
    profile = [(0, 0.1387), (0.0074, 0.1387), (0.0076, 0.1588), (0, 0.1588)]
    return flat_look(lathe(profile, segments=12), (206, 146, 84))


def wine_label_look() -> Look:
    """A sleeve of glass around the bottle with the label on its front (-y)."""
    sleeve = lathe([(0, 0.0071), (0.0218, 0.0071), (0.0218, 0.0610), (0, 0.0610)], segments=24)
    label = image.drawn(WINE_LABEL, g=BOTTLE_GLASS, w=(196, 186, 164), k=(70, 64, 60))
    return Look(sleeve.pictured(1, -1, cell=1), [image.flat(BOTTLE_GLASS), label])


def mug(
    centre: tuple[float, float],
    outside: Sequence[tuple[float, float]],
    wall: float,
    handle: Sequence[tuple[float, float]],
) -> Mesh:
    """A mug with a handle in the plane through its axis.

    centre: x, y of the axis; outside: (radius, z) from foot to rim; handle: (x, z) of its middle.
    """
    (foot, _), (rim, top) = outside[0], outside[-1]
    inside = [(radius - wall, z) for radius, z in outside[:0:-1]]
    inside += [(foot - wall, outside[0][1] + 2 * wall), (0, outside[0][1] + 2 * wall)]
    body = lathe([(0, 0.0), (foot, 0.0), *outside, (rim - wall / 2, top + 0.0005), *inside])
    x, y = centre
    path: list[Vector] = [(along, y, z) for along, z in handle]
    return merge(body.moved((x, y, 0)), tube(path, 0.0065))


def porcelain_mug_look() -> Look:
    """A white, round mug."""
    outside = [(0.032, 0.003), (0.0386, 0.0159), (0.0424, 0.0287), (0.0459, 0.0478)]
    outside += [(0.048, 0.0669), (0.0483, 0.086), (0.0477, 0.114)]
    handle = [(-0.024, 0.086), (-0.042, 0.086), (-0.054, 0.076), (-0.059, 0.058)]
    handle += [(-0.055, 0.040), (-0.043, 0.027), (-0.022, 0.025)]
    return flat_look(mug((0.0165, -0.0018), outside, 0.004, handle), (222, 222, 222))


def red_coffee_mug_look() -> Look:
    """A tall red mug."""
    outside = [(0.0363, 0.003), (0.0383, 0.0412), (0.0405, 0.0800), (0.0425, 0.1160)]
    outside += [(0.0448, 0.1345)]
    handle = [(0.024, 0.112), (0.040, 0.1125), (0.053, 0.104), (0.0568, 0.090)]
    handle += [(0.0535, 0.070), (0.042, 0.048), (0.018, 0.024)]
    return flat_look(mug((-0.0183, -0.001), outside, 0.004, handle), (168, 30, 34))


def white_yellow_mug_look() -> Look:
    """A pale yellow, conical mug with an angular handle."""
    outside = [(0.0297, 0.002), (0.0354, 0.0087), (0.0393, 0.0145), (0.0405, 0.0262)]
    outside += [(0.0442, 0.0553), (0.0483, 0.0786), (0.0513, 0.1043)]
    handle = [(0.026, 0.0815), (0.054, 0.0812), (0.0615, 0.076), (0.0626, 0.060)]
    handle += [(0.0615, 0.042), (0.054, 0.0305), (0.022, 0.0275)]
    return flat_look(mug((-0.0175, -0.001), outside, 0.004, handle), (214, 202, 134))


def moka_pot_look() -> Look:
    """An eight-sided jug of bright metal with a spout (-y); the handle is a mesh of its own."""
    base = [(0, -0.0671), (0.0396, -0.0671), (0.0375, -0.0450), (0.0345, -0.0248)]
    waist = [(0.0330, -0.0240), (0.0330, -0.0095), (0.0300, -0.0020)]
    jug = [(0.0340, 0.0090), (0.0380, 0.0400), (0.0396, 0.0570), (0.0396, 0.0600)]
    lid = [(0.0290, 0.0640), (0.0060, 0.0713), (0, 0.0713)]
    bright, dull = 0, 1
    cells = [bright] * 3 + [dull] * 3 + [bright] * 7
    body = lathe([*base, *waist, *jug, *lid], cells, segments=8)
    tip, root = -0.0607, -0.0330
    spout = hexahedron(
        [
            (x, y, 0.025)
            for x, y in ((-0.003, -0.035), (0.003, -0.035), (0.003, root), (-0.003, root))
        ],
        [(-0.004, tip, 0.056), (0.004, tip, 0.056), (0.016, root, 0.059), (-0.016, root, 0.059)],
    )
    hinge = box((-0.0050, 0.0330, 0.0420), (0.0050, 0.0522, 0.0640))
    return flat_look(merge(body, spout, hinge), (214, 214, 214), (150, 150, 152))


def moka_handle_look() -> Look:
    """Black handle (+y) and knob of the moka pot."""
    path: list[Vector] = [(0, 0.042, 0.0470), (0, 0.056, 0.0600), (0, 0.070, 0.0620)]
    path += [(0, 0.0785, 0.0520), (0, 0.0750, 0.0360), (0, 0.0690, 0.0200)]
    path += [(0, 0.0630, 0.0060), (0, 0.0565, -0.0050), (0, 0.0565, -0.0100)]
    knob = lathe([(0, 0.0700), (0.0045, 0.0700), (0.0078, 0.0860), (0, 0.0871)], segments=12)
    return flat_look(merge(tube(path, 0.0062), knob), (26, 26, 26))


def frypan_look() -> Look:
    """A black pan with a handle (+x)."""
    outside = [(0, 0.0), (0.073, 0.0), (0.092, 0.0097), (0.1018, 0.0385), (0.0995, 0.0400)]
    inside = [(0.0880, 0.0140), (0.0700, 0.0050), (0.0450, 0.0050), (0, 0.0050)]
    black, grey, floor = 0, 1, 2
    cells = [black] * 3 + [grey, black, grey, floor, black]
    bowl = lathe([*outside, *inside], cells, segments=32).moved((0.008, 0, 0))
    handle = loft(
        0,
        (
            *((0.102, 0, 0.026, 0.010, 0.008), (0.150, 0, 0.039, 0.014, 0.009)),
            *((0.190, 0, 0.0465, 0.0157, 0.0088), (0.232, 0, 0.047, 0.0147, 0.0075)),
            (0.261, 0, 0.0485, 0.0090, 0.0050),
        ),
        segments=12,
    )
    return flat_look(merge(bowl, handle), (34, 34, 33), (78, 78, 75), (52, 52, 50))
