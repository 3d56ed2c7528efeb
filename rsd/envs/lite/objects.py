"""Objects and fixtures, one entry each in `OBJECTS`.

Bodies, joints, sites, geom order and collision boxes are those of LIBERO's files
(`collision`); every visual is one mesh made here, so the geoms keep LIBERO's names and numbers too.
To add an object: its name in `derive.FILES`, a look, an entry in `OBJECTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rsd.envs.lite import collision
from rsd.envs.lite.bodies import Extent, Files, Region, add_look, object_root
from rsd.envs.lite.fixtures import Wood, cabinet, flat_stove, microwave
from rsd.envs.lite.furniture import (
    basket_look,
    book_look,
    caddy_look,
    rack_boards_look,
    rack_stand_look,
    rack_stoppers_look,
)
from rsd.envs.lite.groceries import (
    alphabet_soup_look,
    bbq_sauce_look,
    butter_look,
    chocolate_pudding_look,
    cookies_look,
    cream_cheese_look,
    ketchup_look,
    milk_look,
    orange_juice_look,
    salad_dressing_look,
    tomato_sauce_look,
)
from rsd.envs.lite.look import Look
from rsd.envs.lite.mjcf import Vector, add_boxes, add_visual, numbers, to_bytes
from rsd.envs.lite.tableware import (
    bowl_look,
    frypan_look,
    moka_handle_look,
    moka_pot_look,
    plate_look,
    porcelain_mug_look,
    ramekin_look,
    red_coffee_mug_look,
    white_yellow_mug_look,
    wine_bottle_look,
    wine_cork_look,
    wine_label_look,
)

SCANNED = "stable_scanned_objects"
HOPE = "stable_hope_objects"
TURBOSQUID = "turbosquid_objects"

USUAL_EXTENT = Extent()

Looks = dict[str, Callable[[], Look]]  # mesh, as in LIBERO's file and `collision` -> what is seen


def free_object(
    name: str,
    folder: str,
    looks: Looks,
    extent: Extent = USUAL_EXTENT,
    regions: tuple[Region, ...] = (),
    pos: Vector = (0.0, 0.0, 0.0),
) -> Files:
    """Files of an object of one body that lies about freely (robosuite adds the joint).

    pos: metres, where the file puts the body; it is the joint's zero.
    """
    home = f"{folder}/{name}"
    root, asset, body = object_root(name)
    body.set("pos", numbers(pos, digits=5))
    for region in regions:
        region.add_to(body)
    files: Files = {}
    for mesh, look in looks.items():
        files |= add_look(asset, mesh, look(), home)
        add_visual(body, f"{mesh}_vis", mesh)
        add_boxes(body, collision.boxes(f"{name}/{mesh}"))
    extent.add_to(root)
    return files | {f"{home}/{name}.xml": to_bytes(root)}


CONTAIN_REGION = Region(
    "contain_region",
    "0 0 0.07185",
    "0.06108 0.06108 0.06949",
    quat="0 0 0 1",
    rgba="0.8 0 0 0",
)
RACK_REGION = Region(
    "top_region",
    "0 -0.08003 0.21745",
    "0.10087 0.02200 0.00251",
    quat="0.8549119 -0.5187733 0 0",
)
CADDY_REGIONS = (
    Region(
        "right_contain_region", "0.00631 -0.14339 0.06558", "0.06196 0.06216 0.06046", "0 0 1 0"
    ),
    Region("left_contain_region", "0.00631 0.14551 0.06558", "0.06196 0.06216 0.06046", "0 0 1 0"),
    Region("back_contain_region", "0.03364 -0.00064 0.08558", "0.02775 0.06216 0.06046", "0 0 1 0"),
    Region(
        "front_contain_region",
        "-0.03102 -0.00064 0.04054",
        "0.02775 0.03595 0.06216",
        "0 0 0.70711 -0.70711",
    ),
)
FREE_OBJECTS: dict[str, Callable[[str], Files]] = {
    "akita_black_bowl": partial(
        free_object,
        folder=SCANNED,
        looks={"akita_black_bowl": bowl_look},
        pos=(0.0, -0.1, 0.0),
    ),
    "plate": partial(free_object, folder=SCANNED, looks={"model": plate_look}),
    "glazed_rim_porcelain_ramekin": partial(
        free_object, folder=SCANNED, looks={"glazed_rim_porcelain_ramekin": ramekin_look}
    ),
    "basket": partial(
        free_object, folder=SCANNED, looks={"basket": basket_look}, regions=(CONTAIN_REGION,)
    ),
    "cookies": partial(free_object, folder=HOPE, looks={"cookies": cookies_look}),
    "alphabet_soup": partial(
        free_object, folder=HOPE, looks={"textured": alphabet_soup_look}, extent=Extent(-0.04)
    ),
    "bbq_sauce": partial(
        free_object,
        folder=HOPE,
        looks={"bbq_sauce": bbq_sauce_look},
        extent=Extent(top=0.06, side=0.015),
    ),
    "butter": partial(
        free_object,
        folder=HOPE,
        looks={"butter": butter_look},
        extent=Extent(-0.02, 0.02, 0.02),
    ),
    "chocolate_pudding": partial(
        free_object, folder=HOPE, looks={"textured": chocolate_pudding_look}
    ),
    "cream_cheese": partial(
        free_object,
        folder=HOPE,
        looks={"cream_cheese": cream_cheese_look},
        extent=Extent(-0.025, 0.025, 0.03),
    ),
    "ketchup": partial(free_object, folder=HOPE, looks={"textured": ketchup_look}),
    "milk": partial(
        free_object, folder=HOPE, looks={"textured": milk_look}, extent=Extent(side=0.03)
    ),
    "orange_juice": partial(free_object, folder=HOPE, looks={"textured": orange_juice_look}),
    "salad_dressing": partial(free_object, folder=HOPE, looks={"textured": salad_dressing_look}),
    "tomato_sauce": partial(free_object, folder=HOPE, looks={"textured": tomato_sauce_look}),
    "black_book": partial(free_object, folder=TURBOSQUID, looks={"black_book": book_look}),
    "chefmate_8_frypan": partial(
        free_object, folder=SCANNED, looks={"chefmate_8_frypan": frypan_look}
    ),
    "desk_caddy": partial(
        free_object, folder=TURBOSQUID, looks={"desk_caddy": caddy_look}, regions=CADDY_REGIONS
    ),
    "moka_pot": partial(
        free_object,
        folder=TURBOSQUID,
        looks={"moka_pot_body": moka_pot_look, "moka_pot_handle": moka_handle_look},
    ),
    "porcelain_mug": partial(
        free_object, folder=TURBOSQUID, looks={"porcelain_mug": porcelain_mug_look}
    ),
    "red_coffee_mug": partial(
        free_object, folder=TURBOSQUID, looks={"red_coffee_mug": red_coffee_mug_look}
    ),
    "white_yellow_mug": partial(
        free_object, folder=TURBOSQUID, looks={"white_yellow_mug": white_yellow_mug_look}
    ),
    "wine_bottle": partial(
        free_object,
        folder=TURBOSQUID,
        looks={
            "wine_bottle_red_main": wine_bottle_look,
            "wine_bottle_red_cork": wine_cork_look,
            "wine_bottle_red_logo": wine_label_look,
        },
    ),
    "wine_rack": partial(
        free_object,
        folder=TURBOSQUID,
        looks={
            "wine_rack_planes": rack_boards_look,
            "wine_rack_stoppers": rack_stoppers_look,
            "wine_rack_stand": rack_stand_look,
        },
        regions=(RACK_REGION,),
    ),
}
DARK_WOOD = Wood(shell=(52, 45, 39), drawers=(58, 50, 43))
WHITE_WOOD = Wood(shell=(216, 214, 214), drawers=(208, 206, 206))

# BDDL category -> files. One entry an object.
OBJECTS: dict[str, Callable[[], Files]] = {
    **{name: partial(build, name) for name, build in FREE_OBJECTS.items()},
    "wooden_cabinet": partial(cabinet, "wooden_cabinet", DARK_WOOD),
    "white_cabinet": partial(cabinet, "white_cabinet", WHITE_WOOD),
    "flat_stove": flat_stove,
    "microwave": microwave,
}
