"""The values that pass between simulator, policy, driver and books. Numpy only.

Axis letters: B batch, T step of a chunk, L layer, D latent dim, V level.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

Outcome = Literal["success", "timeout", "error"]
Mode = Literal[
    "parallel",
    "autoregressive",
    "speculative",
    "draft",  # codes of the model that guesses, without the one that judges
    "temporal",  # those where they may be trusted, else of the one that judges
    "regression",  # actions as numbers, by a head beside those of the codes
    "bins",  # actions as 256 levels of each number, by the language model's own head
    "native",  # whatever a policy without codes does
    "expert",  # no policy
]

Waiting = Literal["continue", "hold"]  # the rest of the chunk before; standing still

ACTION_DIM = 7
METRES_PER_UNIT = 0.05  # what an action of 1 means: OSC_POSE's output ranges
RADIANS_PER_UNIT = 0.5  # (robosuite/controllers/config/osc_pose.json)
PROPRIO_DIM = 8


@dataclass(frozen=True, order=True)
class EpisodeKey:
    """Names one planned episode of a run; with run_id the key of every stored row.

    The simulated world depends on (suite, task_id, trial) alone; `seed` feeds the policy's
    sampling only.
    """

    arm: str
    suite: str
    task_id: int  # 0-based, LIBERO's task order 0
    trial: int  # row of LIBERO's stored initial states, 0..49
    seed: int | None = 0  # None: of an imported episode, whose software does not say


@dataclass(frozen=True)
class ImageSpec:
    """How a policy wants its frames rendered; part of a checkpoint's description."""

    height: int = 256
    width: int = 256
    samples: int = 4  # multisampling; LIBERO's models ask for 4
    reflection: bool = True  # draw reflections of reflective materials


@dataclass(frozen=True)
class Observation:
    """What a policy may see before it decides on a chunk (PROTOCOL 6 and 8)."""

    agentview: np.ndarray  # uint8 (H, W, 3), rotated by 180 degrees as the protocol asks
    wrist: np.ndarray  # uint8 (H, W, 3), robot0_eye_in_hand, likewise rotated
    proprio: np.ndarray  # float32 (8,): eef position (m), axis-angle (rad), gripper qpos (m)
    instruction: str


@dataclass(frozen=True)
class Confidence:
    """How probable it is that the target would say nearly what the draft says: a logistic function
    of what is seen of the guess. Calibrated, and bound to its checkpoint (rsd/calibration.py)."""

    features: tuple[str, ...]  # of rsd/decoding/confidence.py
    weights: tuple[float, ...]
    bias: float


@dataclass(frozen=True)
class Trust:
    """When a drafted chunk is executed and the target not asked (rsd/decoding/trust.py)."""

    by: str  # confident=0.9, random=0.5
    refresh: int = 8  # drafted chunks in a row, after which the target decodes; 0: never
    gripper: int = 1  # the target decodes where the gripper would switch; 0: not therefore
    stall: float = 2.0  # mm that the hand moved since the chunk before, below which it decodes
    confidence: Confidence | None = None  # of the policy, which the plan puts here; not by lot


@dataclass(frozen=True)
class Decoding:
    """How codes are decoded: the part of an arm that a replica needs to know."""

    mode: Mode
    rule: str = "exact"  # acceptance rule, as in relaxed=2; autoregressive: whether it samples
    layers: int | None = None  # decode the first `layers` layers; None: all that the policy has
    draft_layers: int | None = None  # layers drafted before the first pass; None: all but the last
    trust: Trust | None = None  # of the mode temporal


@dataclass(frozen=True)
class Delay:
    """How long the world goes on before a chunk that was asked for arrives (rsd/delay.py)."""

    steps: int | None  # control steps (20 Hz); None: what decoding it takes, chunk by chunk
    waiting: Waiting = "continue"  # what the robot does meanwhile
    recorded: tuple[int, ...] = ()  # of an episode that is repeated: what each chunk took then


@dataclass(frozen=True)
class Arm:
    """One (policy, decoding, delay) setting of a run; arms of a run share every (suite, task,
    trial)."""

    name: str
    decoding: Decoding
    delay: Delay | None = None  # None: the world stands still while the policy thinks


@dataclass(frozen=True)
class Past:
    """What a chunk may know of those before it in its episode."""

    codes: np.ndarray | None = None  # int64 (T, D, L) of the chunk before, None at first
    actions: np.ndarray | None = None  # float32 (T, 7) of it, None at first
    proprio: np.ndarray | None = None  # float32 (8,) that it was decided on, None at first
    fast_rounds: int = 0  # chunks right before in a row that were drafted and not judged


@dataclass(frozen=True)
class ChunkRequest:
    """One question to a replica. Complete in itself, so that any replica can answer it."""

    observation: Observation
    decoding: Decoding
    draws: str  # names the random draws (`draws_of`); which trial it is, no policy may know
    chunk_index: int
    past: Past = Past()
    alone: bool = False  # in a batch of its own: its time counts


def draws_of(key: EpisodeKey, chunk_index: int) -> str:
    """What names a chunk's random draws: a digest, from which no policy reads the trial. Arms of
    one world share it."""
    named = (key.seed, key.suite, key.task_id, key.trial, chunk_index)
    return hashlib.sha256(repr(named).encode()).hexdigest()


@dataclass(frozen=True)
class DecodeTrace:
    """What one decode did and what it cost. Times in seconds of this request's batch until the
    request's own answer was final, canonical recomputes included."""

    drafted: tuple[int, ...]  # tokens judged against the draft's guess (first pass), per layer
    accepted: tuple[int, ...]  # of those, tokens kept
    passes: int  # forwards of the target's backbone, without those of a canonical recompute
    layers: int  # layers decoded
    redrafted: tuple[int, ...] = ()  # tokens judged against a later guess, per layer
    reaccepted: tuple[int, ...] = ()  # of those, tokens kept
    batch_size: int = 1
    canonical: bool = False  # near ties were settled by one canonical recompute (docs/decisions.md)
    queue_s: float = 0.0  # before it began: in the replica, and until a remote server took it
    vision_s: float = 0.0
    draft_s: float = 0.0
    target_s: float = 0.0
    detokenise_s: float = 0.0
    moved_mm: float | None = None  # at most, by what a lossy rule kept; None: nothing is lost
    moved_degrees: float | None = None  # likewise
    clipped: int | None = None  # values of the actions that left [-1, 1]; None: none can
    fast: bool | None = None  # drafted and executed, the target not asked; None: no arm temporal
    confidence: float | None = None  # in the draft; by lot: what was drawn
    reason: str | None = None  # for the kind of round: a key of rsd.decoding.trust.REASONS

    @property
    def is_decode(self) -> bool:
        """Whether a policy was asked: an expert's chunk has neither passes nor layers."""
        return bool(self.passes or self.layers)

    @property
    def decode_s(self) -> float:
        """All of it but the queue: what a robot with a device of its own waits for."""
        return self.vision_s + self.draft_s + self.target_s + self.detokenise_s


@dataclass(frozen=True)
class Chunk:
    """A replica's answer."""

    actions: np.ndarray  # float32 (T, 7): dxyz, daxis-angle, gripper (-1 open, +1 close)
    codes: np.ndarray | None  # int64 (T, D, L); None: the policy has none
    trace: DecodeTrace


def past_after(request: ChunkRequest, chunk: Chunk) -> Past:
    """What the next chunk of the episode may know."""
    fast_rounds = request.past.fast_rounds + 1 if chunk.trace.fast else 0
    return Past(chunk.codes, chunk.actions, request.observation.proprio, fast_rounds)


@dataclass
class SimTimings:
    """Wall seconds an environment has spent since its last reset began."""

    physics_s: float = 0.0
    render_s: float = 0.0
    reset_s: float = 0.0


class Environment(Protocol):
    """One simulated task; `reset` picks the trial. Nothing here knows about policies or Ray."""

    instruction: str
    assets: str  # which assets are loaded: official | lite | sha256 of a local tree
    renderer: str  # osmesa | egl | none
    timings: SimTimings

    def reset(self, trial: int) -> None:
        """Put the world of `trial` in place, wait steps included; clears `timings`."""

    def step(self, action: np.ndarray) -> bool:
        """One control step (20 Hz) of a float32 (7,) action; True where the goal holds after it."""

    def observe(self) -> Observation:
        """Render the present frame."""

    def state(self) -> np.ndarray:
        """float64: the flattened simulator state [time, qpos, qvel]."""

    def close(self) -> None: ...


Deliver = Callable[[int, Chunk], None]  # takes the answer to request i of a batch


class Policy(Protocol):
    """A loaded model. Answers a batch of requests that share one decoding."""

    images: ImageSpec
    checkpoint_sha256: str

    @property
    def chunk_steps(self) -> int | None:
        """T; None: it decides chunk by chunk."""

    def act(self, requests: list[ChunkRequest], deliver: Deliver | None = None) -> list[Chunk]:
        """Decode one chunk per request; raises on NaN or out-of-range output.

        `deliver` gets each chunk as soon as it is final, which may be long before the slowest one
        of the batch.
        """


@dataclass(frozen=True)
class ChunkRecord:
    """One decode as it goes into the books; or an expert's whole episode, which has none."""

    chunk_index: int
    trace: DecodeTrace
    action_sha256: str
    codes: np.ndarray | None = None  # uint8 (T, D, layers decoded); None: the policy has none
    # float32 (n, 7): of the chunk, as the environment got them, after those of standing still until
    # it came; all chunks' in their order are the episode
    actions: np.ndarray | None = None
    delay_steps: int | None = None  # from question to answer; None: its arm has no delay


@dataclass(frozen=True)
class EpisodeResult:
    """One finished episode as the worker reports it to the driver."""

    key: EpisodeKey
    instruction: str
    outcome: Outcome
    steps: int  # policy steps executed, wait steps not counted
    error: str  # traceback; empty unless outcome is `error`
    physics_s: float
    render_s: float
    reset_s: float
    wait_s: float  # time waiting for the policy
    wall_s: float
    assets: str
    renderer: str
    final_state_sha256: str
    chunks: list[ChunkRecord] = field(default_factory=list)
    protocol: str | None = None  # its name
    delay: str | None = None  # control steps, or `measured`; None: the world waits for the policy
    while_waiting: Waiting | None = None
    still_steps: int | None = None  # of `steps`, those that the robot stood still; None: no delay
