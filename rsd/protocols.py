"""Protocols: what evaluation scripts of LIBERO do differently, each number with its source.

A protocol decides what an episode is, so results of two are never pooled (`rsd.conditions`). What
scripts do to frames and proprioception belongs to their policies (PolicyInfo, docs/remote.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rsd.errors import UserError, unknown
from rsd.suites import SUITES, WAIT_STEPS, Suite


@dataclass(frozen=True)
class Protocol:
    """One script's numbers."""

    name: str
    what: str  # where they stand, and what of the script is not done here
    env_seed: int  # of the draws that place fixtures (PROTOCOL 4)
    reseeds: bool = False  # trial k draws from env_seed + k, not from where trial k - 1 stopped
    wait_steps: int = WAIT_STEPS  # before the first policy step (PROTOCOL 2)
    replan_steps: int | None = None  # of a chunk, executed before the next; None: all of it
    max_steps: Mapping[str, int] = dataclasses.field(default_factory=dict)  # other than the suite's

    def most_steps(self, suite: Suite) -> int:
        """Policy steps of an episode at most, wait steps not counted."""
        return self.max_steps.get(suite.name, suite.max_steps)


OFT = Protocol(
    "oft",
    "OpenVLA-OFT's run_libero_eval.py and libero_utils.py, as docs/PROTOCOL.md has them",
    env_seed=0,
)

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        OFT,
        Protocol(
            "openpi",
            "openpi's examples/libero/main.py: env.seed(7), replan_steps 5; limits and wait steps "
            "are OFT's",
            env_seed=7,
            replan_steps=5,
        ),
        Protocol(
            "gr00t",
            "Isaac-GR00T N1.6 gr00t/eval/sim/LIBERO/libero_env.py: reset without wait steps; "
            "examples/LIBERO/README.md: --max_episode_steps=720 --n_action_steps 8. It "
            "seeds nothing and draws a new placement at every reset; here, so that worlds can be "
            "paired, the stored initial states and the draws of seed 0 stand for those",
            env_seed=0,
            wait_steps=0,
            replan_steps=8,
            max_steps=dict.fromkeys(SUITES, 720),
        ),
        Protocol(
            "lerobot",
            "lerobot 0.6.1 envs/libero.py: 280 steps on libero_spatial, the others are OFT's; "
            "scripts/lerobot_eval.py with its default seed 1000: trial k starts with its "
            "environment seeded with 1000 + k. How much of a chunk is executed is its policy's "
            "n_action_steps",
            env_seed=1000,
            reseeds=True,
            max_steps={"libero_spatial": 280},
        ),
    )
}


_REPLAN = "+replan="


def get_protocol(name: str) -> Protocol:
    """A protocol by its name, `oft+replan=4` with another open-loop horizon. Raises UserError with
    the nearest name for an unknown protocol, and for a horizon that is no number of steps."""
    preset, plus, steps = name.partition(_REPLAN)
    if preset not in PROTOCOLS:
        raise unknown("protocol", preset, {each: known.what for each, known in PROTOCOLS.items()})
    if not plus:
        return PROTOCOLS[preset]
    if not (steps.isascii() and steps.isdecimal() and int(steps[:9])):
        raise UserError(
            f"protocol {name!r}: behind {_REPLAN} comes a number of control steps from 1 on, as in "
            f"{preset}{_REPLAN}4"
        )
    return replanned(PROTOCOLS[preset], int(steps[:9]))


def replanned(protocol: Protocol, steps: int) -> Protocol:
    """The same with so many steps of a chunk executed before the next, and a name that says so."""
    name = f"{preset_of(protocol)}{_REPLAN}{steps}"
    return dataclasses.replace(protocol, name=name, replan_steps=steps)


def preset_of(protocol: Protocol) -> str:
    """Whose numbers it has, but for the open-loop horizon."""
    return protocol.name.partition(_REPLAN)[0]


def recorded(protocol: Protocol) -> dict[str, Any]:
    """As run.json has it: all that decides."""
    numbers = dataclasses.asdict(protocol)
    del numbers["what"]
    return numbers


def read_recorded(numbers: Mapping[str, Any] | None) -> Protocol:
    """The one that a run.json says, whatever its name stands for by now; `oft` of runs that had no
    other."""
    return OFT if numbers is None else Protocol(what="as recorded", **numbers)


PROTOCOL_HELP = (
    "What evaluation scripts do differently; recorded, and never pooled. NAME+replan=N executes N "
    f"steps of a chunk before the next (open-loop horizon). {OFT.name} (default): "
    f"{OFT.what}. "
    + ". ".join(f"{name}: {each.what}" for name, each in PROTOCOLS.items() if each != OFT)
)
