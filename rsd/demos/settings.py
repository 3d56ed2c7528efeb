"""How demonstrations are collected: what all of a folder have in common."""

from __future__ import annotations

from dataclasses import dataclass, field

from rsd.envs.looks import Looks
from rsd.types import Decoding


@dataclass(frozen=True)
class NoiseSettings:
    """Disturbances that lead the robot off the expert's path, so that the labels show how to come
    back (DART, arXiv:1703.09327, but in bursts: single steps of noise average out at 20 Hz)."""

    sigma: float = 0.2  # of the xyz offset that a burst adds to every action, in action units
    burst_probability: float = 0.05  # that a burst starts at a step outside of one
    burst_steps: tuple[int, int] = (4, 10)  # length of a burst, both ends included
    slip_probability: float = 0.002  # that the gripper starts to do the opposite
    slip_steps: int = 4


DRIVERS_DECODING = Decoding("autoregressive")  # where nobody says another


@dataclass(frozen=True)
class NoviceSettings:
    """A policy that drives part of the way while the expert labels, so that the demonstrations
    hold the states that it leads to (DAgger, arXiv:1011.0686). The expert ends the episode."""

    checkpoint_sha256: str
    chunk_steps: int  # T
    share: float  # probability that the policy drives the next chunk
    steps: int  # of an episode, from which on the expert drives alone
    expert_chunks: int = 2  # that the expert drives in a row where the policy does not
    decoding: Decoding | None = None  # of the policy; None: DRIVERS_DECODING


@dataclass(frozen=True)
class CollectionSettings:
    """How a demonstration is recorded."""

    max_steps: int  # an expert that needs more has failed
    frame_every: int = 2  # steps from frame to frame; step 0 always has one
    hold_steps: int = 8  # steps recorded after the goal was reached: they fill the last chunk
    noise: NoiseSettings | None = field(default_factory=NoiseSettings)
    looks: Looks | None = None  # how much cameras, lamps and colours vary
    driver: NoviceSettings | None = None  # None: the expert drives; named as in files, --driver
    misses: float | None = None  # probability that a grasp is missed on purpose (steering.Misses)
    either_rim: bool | None = None  # True: vessels by one of two rims (steering.takes_other_rim)
