"""Looks of crockery, pots and bottles. Sizes (metres) are those of LIBERO's meshes."""

from __future__ import annotations

from rsd.envs.lite import image
from rsd.envs.lite.image import Colour
from rsd.envs.lite.look import Look, flat_look
from rsd.envs.lite.mesh import lathe


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
