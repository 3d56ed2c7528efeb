"""One recorded episode, simulated again from its actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rsd.episode import sha256_of
from rsd.errors import UserError
from rsd.types import ACTION_DIM, Environment, EpisodeResult, Outcome

Watch = Callable[[int], None]  # called before the first step and after every one, with their number


@dataclass(frozen=True)
class Ending:
    """How the second time ended."""

    outcome: Outcome
    steps: int
    final_state_sha256: str

    def differs(self, recorded: EpisodeResult) -> str:
        """What is otherwise than recorded, in words; empty where nothing is."""
        told = [
            f"{name.removesuffix('_sha256').replace('_', ' ')} {now} here, {then} recorded"
            for name in ("outcome", "steps", "final_state_sha256")
            for now, then in [(str(getattr(self, name))[:12], str(getattr(recorded, name))[:12])]
            if getattr(self, name) != getattr(recorded, name)
        ]
        return "; ".join(told)


def actions_of(recorded: EpisodeResult) -> np.ndarray:
    """float32 (steps, 7): all that the simulator got after the wait steps. Raises UserError where
    they were not recorded."""
    if any(chunk.actions is None for chunk in recorded.chunks) or not recorded.chunks:
        raise UserError(WITHOUT_ACTIONS)
    actions = np.concatenate([chunk.actions for chunk in recorded.chunks])
    if actions.shape != (recorded.steps, ACTION_DIM):
        raise UserError(f"{len(actions)} actions are recorded of {recorded.steps} steps")
    return actions


WITHOUT_ACTIONS = (
    "its actions were not recorded: the code that made the run did not keep them yet, so that "
    "nothing can be simulated from the books; `rsd repeat` runs the policy again and compares, "
    "`rsd evaluate` with the same settings and another --output records them"
)


def replay(env: Environment, recorded: EpisodeResult, watch: Watch = lambda step: None) -> Ending:
    """Simulate an episode from its actions, on a simulator of its task."""
    env.reset(recorded.key.trial)
    watch(0)
    reached = []
    for step, action in enumerate(actions_of(recorded), start=1):
        if env.step(action):
            reached.append(step)
        watch(step)
    outcome: Outcome = "success" if reached else "timeout"
    return Ending(outcome, min([*reached, recorded.steps]), sha256_of(env.state()))


def parting(first: EpisodeResult, second: EpisodeResult) -> int | None:
    """The first step whose actions differ, from 0; None where one's are the beginning of the
    other's: from there on two arms of a world are in different states."""
    one, other = actions_of(first), actions_of(second)
    shared = min(len(one), len(other))
    same_bits = one[:shared].view(np.uint32) == other[:shared].view(np.uint32)
    differ = np.flatnonzero(~same_bits.all(axis=1))
    return int(differ[0]) if len(differ) else None
