"""The plans of LIBERO's tasks: what to take or push, where, in which order. Lengths in m."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rsd.experts.engine import Apart, Box, Goal, Joint, Move, Push, Rim

Plan = tuple[Move | Push, ...]

EAST, NORTH, WEST, SOUTH = 0.0, np.pi / 2, np.pi, -np.pi / 2  # north: +y, west: to the robot
NORTH_WEST, SOUTH_WEST = 3 * np.pi / 4, -3 * np.pi / 4

BOWL, PLATE, CABINET = "akita_black_bowl_1", "plate_1", "wooden_cabinet_1"

# -- libero_spatial: the bowl, from ten places to the plate --------------------------------------

_ON_PLATE = Move(
    BOWL,
    Rim(SOUTH, other=NORTH),
    to=PLATE,
    done=Goal(("on", BOWL, PLATE)),
    offset=(0.0, 0.0, 0.010),
    release_height=0.012,
)


def _bowl_to_plate(rim: Rim | None = None, **changes: Any) -> Plan:
    return (replace(_ON_PLATE, grasp=rim or _ON_PLATE.grasp, **changes),)


_SPATIAL = {
    "between_the_plate_and_the_ramekin": _bowl_to_plate(),
    "next_to_the_ramekin": _bowl_to_plate(Rim(NORTH, other=WEST)),  # south of it: the ramekin
    "from_table_center": _bowl_to_plate(),
    "on_the_cookie_box": _bowl_to_plate(),
    # The open drawer is 0.15 x 0.21 m: the fingers fit beside the bowl only roughly across its
    # width (the cabinet's x). The bowl's back rim is just under the edge of the cabinet's top, so
    # it rises at a slant, out of the drawer's front. Turned less, a finger comes down on the
    # drawer's side where the bowl stands near it; turned more, on the drawer's front.
    "in_the_top_drawer_of_the_wooden_cabinet": _bowl_to_plate(
        Rim(EAST - np.radians(28), frame=CABINET, radius=0.040),
        grasp_tolerance=0.008,
        carry_clearance=0.26,
        carry_lean=0.2,
    ),
    "on_the_ramekin": _bowl_to_plate(),
    "next_to_the_cookie_box": _bowl_to_plate(Rim(NORTH, other=WEST)),  # south of it: the cabinet
    "on_the_stove": _bowl_to_plate(),
    "next_to_the_plate": _bowl_to_plate(),
    # The far corner of the workspace: the rim nearest to the robot and a low crossing keep the
    # elbow bent; with the arm stretched, the controller stops about 1 cm short of the rim.
    "on_the_wooden_cabinet": _bowl_to_plate(
        Rim(NORTH_WEST, other=SOUTH_WEST), approach_clearance=0.06, carry_clearance=0.245
    ),
}

# -- things that are gripped as boxes ------------------------------------------------------------

_CAN = Box((0.029, 0.038, 0.029))
_CARTON = Box((0.026, 0.066, 0.026))
BOXES = {  # category -> grasp
    "alphabet_soup": _CAN,
    "tomato_sauce": _CAN,
    "cream_cheese": Box(
        (0.041, 0.021, 0.009), center=(0.015, 0.0, 0.0)
    ),  # clear of a can beside it
    "butter": Box((0.038, 0.020, 0.009)),
    "chocolate_pudding": Box((0.040, 0.023, 0.013)),
    "milk": _CARTON,
    "orange_juice": _CARTON,
    "salad_dressing": Box((0.026, 0.073, 0.018)),
    "ketchup": Box((0.028, 0.072, 0.018)),
    "bbq_sauce": Box((0.023, 0.014, 0.055)),
}


def _into_basket(category: str, aside: float = 0.0, shift: float = 0.0) -> Move:
    """A thing into the basket, let go inside of it, `aside` of its centre in x.

    `shift` moves the grasp in x, where a taller neighbour leaves no room for the hand.
    """
    region, thing = "basket_1_contain_region", f"{category}_1"
    return Move(
        thing,
        replace(BOXES[category], center=(-shift, 0.0, 0.0)),  # these boxes look back to the robot
        to=region,
        done=Goal(("in", thing, region)),
        offset=(aside, 0.0, 0.05),
        approach_slope=6.0,
        carry_clearance=0.12,
        carry_slope=4.0,
        release_height=0.015,
        release_distance=0.02,
    )


_OBJECT: dict[str, Plan] = {
    f"pick up the {category.replace('_', ' ')} and place it in the basket": (
        _into_basket(category, shift=-0.015 if category == "cream_cheese" else 0.0),
    )
    for category in (
        "alphabet_soup",
        "cream_cheese",
        "salad_dressing",
        "bbq_sauce",
        "ketchup",
        "tomato_sauce",
        "butter",
        "milk",
        "chocolate_pudding",
        "orange_juice",
    )
}

# -- libero_goal: one scene, ten goals -----------------------------------------------------------

_TOP_SIDE, _BURNER = f"{CABINET}_top_side", "flat_stove_1_cook_region"
_RACK = "wine_rack_1_top_region"
_BOTTLE = Box((0.019, 0.019, 0.079), center=(0.0, 0.0, 0.079))
# Pushing the ridge turns the knob, too, but it is heavy and so near to the robot that the arm is
# folded to its limit; a hand that points back to the robot unfolds it.
_TURN_ON = Move(
    "flat_stove_1_button",
    Box((0.012, 0.020, 0.015), center=(0.0, -0.015, 0.038), pitch=-np.radians(35), held_gap=0.036),
    to="flat_stove_1",
    done=Goal(("turnon", "flat_stove_1")),
    spin=0.8,
)


def _open_drawer(level: str, handle_height: float) -> Move:
    """Pull a drawer of the cabinet of libero_goal open by its handle, which faces north."""
    part = f"{CABINET}_cabinet_{level}"
    return Move(
        part,
        Box(
            (0.044, 0.008, 0.008),
            center=(-0.003, -0.102, handle_height),
            tilt=-np.radians(80),
            held_gap=0.036,
        ),
        to=CABINET,
        done=Joint(f"{CABINET}_{level}_level", high=-0.12),
        offset=(0.0, 0.168, 0.0),
        press=0.0,
        approach_clearance=0.03,
        carry_limit=1.0,
        carry_clearance=0.0,
        release_height=0.1,
        release_distance=0.014,
    )


_GOAL: dict[str, Plan] = {
    "open the middle drawer of the cabinet": (
        replace(
            _open_drawer("middle", 0.110),
            done=Goal(("open", f"{CABINET}_middle_region")),
        ),
    ),
    "put the bowl on the stove": (
        Move(
            BOWL,
            Rim(SOUTH),
            to=_BURNER,
            done=Goal(("on", BOWL, _BURNER)),
            offset=(0.0, 0.0, 0.024),
        ),
    ),
    "put the wine bottle on top of the cabinet": (
        Move(
            "wine_bottle_1",
            _BOTTLE,
            to=_TOP_SIDE,
            done=Goal(("on", "wine_bottle_1", _TOP_SIDE)),
            offset=(-0.04, 0.03, 0.0),
            approach_slope=6.0,
            carry_clearance=0.05,
            carry_slope=4.0,
        ),
    ),
    "open the top drawer and put the bowl inside": (
        # The bowl stands where it would be below the open drawer. Two thirds of the steps that
        # LIBERO grants are needed, so nothing is done slowly.
        Push(
            BOWL,
            contact=(0.0, 0.028, 0.030),  # at its wall from inside
            direction=(0.0, 1.0, 0.0),
            done=Apart(BOWL, north=0.055, above=0.93),
            standoff=0.028,
            round=True,
            limit=1.0,
            reach_limit=1.0,
        ),
        replace(_open_drawer("top", 0.184), reach_limit=1.0),
        Move(
            BOWL,
            Rim(WEST),
            to=f"{CABINET}_top_region",
            done=Goal(("in", BOWL, f"{CABINET}_top_region")),
            offset=(0.02, 0.0, -0.025),
            carry_clearance=0.10,
            carry_lean=0.1,
            carry_limit=1.0,
            reach_limit=1.0,
            carry_slope=4.0,
        ),
    ),
    "put the bowl on top of the cabinet": (
        Move(
            BOWL,
            Rim(NORTH),
            to=_TOP_SIDE,
            done=Goal(("on", BOWL, _TOP_SIDE)),
            offset=(-0.03, 0.02, 0.0),
            carry_clearance=0.05,
        ),
    ),
    "push the plate to the front of the stove": (
        Move(
            PLATE,
            Rim(NORTH, radius=0.062, height=0.010),
            to="main_table_stove_front_region",
            done=Goal(("on", PLATE, "main_table_stove_front_region")),
            carry_clearance=0.05,
            release_height=0.03,
        ),
    ),
    "put the cream cheese in the bowl": (
        Move(
            "cream_cheese_1",
            BOXES["cream_cheese"],
            to=BOWL,
            done=Goal(("on", "cream_cheese_1", BOWL)),
            offset=(0.0, 0.0, 0.04),
            approach_slope=6.0,
            carry_clearance=0.08,
        ),
    ),
    "turn on the stove": (_TURN_ON,),
    "put the bowl on the plate": _bowl_to_plate(Rim(NORTH)),  # the cabinet is on the south side
    "put the wine bottle on the rack": (
        Move(
            "wine_bottle_1",
            _BOTTLE,
            to=_RACK,
            done=Goal(("on", "wine_bottle_1", _RACK)),
            offset=(0.0, -0.03, 0.023),
            approach_slope=6.0,
            carry_clearance=0.05,
            carry_slope=4.0,
        ),
    ),
}

# -- libero_10: plans of several goals -----------------------------------------------------------

_MUG, _YELLOW_MUG = "porcelain_mug_1", "white_yellow_mug_1"
_MUG_RIM = Rim(SOUTH, radius=0.041, height=0.088, center=(0.016, 0.0, 0.0))  # handle: north
_YELLOW_RIM = Rim(NORTH, radius=0.043, height=0.082, center=(-0.018, 0.0, 0.0))  # handle: south
_POT_KNOB = Box((0.006, 0.006, 0.011), center=(0.0, -0.001, 0.075), depth=0.008, held_gap=0.03)
_DRAWER, _DOOR = "white_cabinet_1_cabinet_bottom", "microwave_1_microdoorroot"
_BACK, _RIGHT = "desk_caddy_1_back_contain_region", "living_room_table_plate_right_region"


def _both_in_basket(first: str, second: str, shift: float = 0.0) -> Plan:
    """Two things side by side; the ways to them lead over cartons and out of the basket."""
    plan = (_into_basket(first, aside=-0.03, shift=shift), _into_basket(second, aside=0.03))
    return tuple(replace(move, approach_clearance=0.16) for move in plan)


def _mug_to_plate(mug: str, rim: Rim, plate: str, north: float) -> Move:
    return Move(
        mug,
        rim,
        to=plate,
        done=Goal(("on", mug, plate)),
        offset=(0.0, north, 0.008),
        approach_slope=4.0,
        carry_clearance=0.08,
    )


def _pot_to_stove(pot: str, east: float) -> Move:
    return Move(
        pot,
        _POT_KNOB,
        to=_BURNER,
        done=Goal(("on", pot, _BURNER)),
        offset=(east, 0.0, 0.093),
        approach_slope=4.0,
        carry_clearance=0.12,
        carry_slope=4.0,
    )


_TEN: dict[str, Plan] = {
    "put both the alphabet soup and the tomato sauce in the basket": _both_in_basket(
        "alphabet_soup", "tomato_sauce"
    ),
    "put both the cream cheese box and the butter in the basket": _both_in_basket(
        "cream_cheese", "butter", shift=0.012
    ),
    "turn on the stove and put the moka pot on it": (_TURN_ON, _pot_to_stove("moka_pot_1", 0.0)),
    "put the black bowl in the bottom drawer of the cabinet and close it": (
        Move(
            BOWL,
            Rim(WEST),
            to="white_cabinet_1_bottom_region",
            done=Goal(("in", BOWL, "white_cabinet_1_bottom_region")),
            offset=(0.02, -0.024, -0.027),
            approach_clearance=0.15,  # over the bottle
            carry_clearance=0.10,
            carry_slope=6.0,
        ),
        Push(
            _DRAWER,
            contact=(-0.003, -0.122, 0.045),  # its handle
            direction=(0.0, 1.0, 0.0),
            done=Goal(("close", "white_cabinet_1_bottom_region")),
            yaw=np.pi / 2,
            pitch=np.radians(35),  # clear of the handles above, and the wrist of the wine rack
            standoff=0.025,
            limit=1.0,
        ),
    ),
    "put the white mug on the left plate and put the yellow and white mug on the right plate": (
        _mug_to_plate(_MUG, _MUG_RIM, "plate_1", 0.010),
        _mug_to_plate(_YELLOW_MUG, _YELLOW_RIM, "plate_2", -0.010),
    ),
    "pick up the book and place it in the back compartment of the caddy": (
        Move(
            "black_book_1",
            Box((0.014, 0.055, 0.067), center=(0.0, -0.012, 0.069)),
            to=_BACK,
            done=Goal(("in", "black_book_1", _BACK)),
            offset=(0.0, 0.010, -0.066),
            approach_slope=6.0,
            carry_clearance=0.20,
            carry_slope=20.0,  # 1 cm of play on each side
            carry_yaw=np.pi / 2,
        ),
    ),
    "put the white mug on the plate and put the chocolate pudding to the right of the plate": (
        Move(  # first: beside the mug there would be no room for the hand
            "chocolate_pudding_1",
            BOXES["chocolate_pudding"],
            to=_RIGHT,
            done=Goal(("on", "chocolate_pudding_1", _RIGHT)),
            offset=(0.0, 0.010, 0.040),
            approach_slope=6.0,
        ),
        _mug_to_plate(_MUG, _MUG_RIM, "plate_1", 0.010),
    ),
    "put both the alphabet soup and the cream cheese box in the basket": _both_in_basket(
        "alphabet_soup", "cream_cheese"
    ),
    "put both moka pots on the stove": (
        _pot_to_stove("moka_pot_1", -0.037),
        _pot_to_stove("moka_pot_2", 0.037),
    ),
    "put the yellow and white mug in the microwave and close it": (
        Move(
            _YELLOW_MUG,
            Box((0.040, 0.009, 0.029), center=(0.064, 0.0, 0.056), depth=0.020),  # its handle
            to="microwave_1_heating_region",
            done=Goal(("in", _YELLOW_MUG, "microwave_1_heating_region")),
            offset=(-0.025, -0.070, -0.060),  # just inside: the door pushes it in
            press=0.0,
            approach_clearance=0.18,  # over the door
            approach_slope=4.0,
            carry_clearance=0.08,
            entry=(0.0, 1.0, 0.0),
            carry_yaw=np.pi / 2,
            release_height=0.03,
            release_distance=0.015,
        ),
        Push(
            _DOOR,
            contact=(0.170, -0.026, 0.065),  # its upper edge
            direction=(0.0, 1.0, 0.0),
            done=Goal(("close", "microwave_1")),
            width=0.03,
            limit=1.0,
        ),
    ),
}

PLANS: dict[str, dict[str, Plan]] = {  # suite -> instruction -> plan, in the official order
    "libero_spatial": {
        f"pick up the black bowl {where.replace('_', ' ')} and place it on the plate": plan
        for where, plan in _SPATIAL.items()
    },
    "libero_object": _OBJECT,
    "libero_goal": _GOAL,
    "libero_10": _TEN,
}


def find_plan(suite: str, task: int | str) -> Plan:
    """The plan of a task by its index in the official order, its name or its instruction.

    Raises ValueError where there is none.
    """
    if suite not in PLANS:
        raise ValueError(f"no expert for suite {suite!r}; there are: {', '.join(PLANS)}")
    plans = PLANS[suite]
    names = list(plans)
    if isinstance(task, int):
        matches = names[task : task + 1] if task >= 0 else []
    else:  # names of LIBERO-100 tasks begin with their scene
        matches = [name for name in names if task.lower().replace("_", " ").endswith(name)]
    if len(matches) != 1:
        raise ValueError(
            f"unknown {suite} task {task!r}; give 0..{len(names) - 1}, its name or one of: "
            + "; ".join(names)
        )
    return plans[matches[0]]
