"""A policy that many connections ask, each for itself, batched among them."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np

from rsd import __version__
from rsd.batching import MicroBatcher
from rsd.models.remote.conventions import resized
from rsd.models.remote.wire import WireError
from rsd.models.seam import PolicyInfo
from rsd.types import PROPRIO_DIM, Arm, Chunk, ChunkRequest, Observation, Past, past_after


class Served:
    """Takes frames of any size; the policy gets them in its own."""

    def __init__(self, name: str, info: PolicyInfo, arm: Arm, batcher: MicroBatcher) -> None:
        self.arm = arm
        self.batcher = batcher
        self._images = info.images
        self.description: dict[str, Any] = {
            "server": "rsd",
            "version": __version__,
            "policy": name,
            "checkpoint_sha256": info.sha256,
            "arm": arm.name,
            "chunk": info.chunk_steps,
            "images": dataclasses.asdict(info.images),
        }

    def observation(self, agentview: Any, wrist: Any, state: Any, instruction: Any) -> Observation:
        """Raises WireError for parts that are missing or have another form."""
        if not isinstance(instruction, str):
            raise WireError(f"the instruction is a {type(instruction).__name__}, not text")
        try:
            proprio = np.asarray(state, np.float32)
        except (TypeError, ValueError) as error:
            raise WireError(f"the state holds no numbers: {error}") from error
        if proprio.shape != (PROPRIO_DIM,) or not np.isfinite(proprio).all():
            raise WireError(
                f"the state has shape {proprio.shape}; {PROPRIO_DIM} finite numbers are needed: "
                "eef position, axis-angle, gripper qpos"
            )
        frames = (self._frame("agentview", agentview), self._frame("wrist", wrist))
        return Observation(*frames, proprio, instruction)

    def _frame(self, name: str, frame: Any) -> np.ndarray:
        good = isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3
        if not good or frame.shape[2] != 3 or frame.size == 0:
            form = getattr(frame, "shape", "missing" if frame is None else type(frame).__name__)
            raise WireError(f"the {name} frame is {form}; uint8 (H, W, 3) is needed")
        return resized(frame, self._images.height, self._images.width)


class Episode:
    """What a chunk has to know of those before it. `name` names its random draws, for arms that
    draw any."""

    def __init__(self, served: Served, name: str) -> None:
        self._served = served
        self._name = name
        self._chunks = 0
        self._past = Past()

    async def decide(self, observation: Observation) -> Chunk:
        draws = hashlib.sha256(f"{self._name} {self._chunks}".encode()).hexdigest()
        decoding = self._served.arm.decoding
        request = ChunkRequest(observation, decoding, draws, self._chunks, self._past)
        chunk = await self._served.batcher.submit(request)
        self._chunks, self._past = self._chunks + 1, past_after(request, chunk)
        return chunk
