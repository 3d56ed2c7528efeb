"""vla-eval's protocol, as `vla-eval run` speaks it: a server hands out its chunks step by step."""

from __future__ import annotations

import itertools
import uuid
from collections import deque
from typing import Any

import numpy as np

from rsd.models.remote import wire
from rsd.models.remote.vla_eval import PROTOCOL_VERSION, message, opened, pixels
from rsd.serving.served import Episode, Served
from rsd.serving.server import Answer, Protocol

# What LIBERO's benchmark there has to send, by the names of its parameters.
OBSERVATION_PARAMS = {
    "send_wrist_image": True,
    "send_state": True,
    "quat_no_antipodal": True,  # PROTOCOL 8
    "env_seed": 0,
}
_ACTION_SPEC = {
    "position": {"name": "position", "dims": 3, "format": "delta_xyz", "range": [-1, 1]},
    "rotation": {"name": "rotation", "dims": 3, "format": "axis_angle", "range": [-3.15, 3.15]},
    "gripper": {"name": "gripper", "dims": 1, "format": "binary_close_positive", "range": [-1, 1]},
}
_OBSERVATION_SPEC = {
    "agentview": {"name": "image", "dims": 0, "format": "rgb_hwc_uint8"},
    "wrist": {"name": "image", "dims": 0, "format": "rgb_hwc_uint8"},
    "state": {"name": "state", "dims": 8, "format": "eef_pos3_axisangle3_gripper2"},
    "language": {"name": "language", "dims": 0, "format": "language"},
}


class _Session:
    """One connection: its present episode, and what is left of its chunk."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._name = uuid.uuid4().hex
        self._numbers = itertools.count()
        self._begin()

    def _begin(self) -> None:
        self._episode = Episode(self._served, f"{self._name} {next(self._numbers)}")
        self._left: deque[np.ndarray] = deque()

    async def answer(self, received: bytes | str) -> list[bytes]:
        kind, payload, seq = opened(received)
        if kind == "hello":
            return [message("hello", self._hello(payload), seq)]
        if kind == "observation":
            return [message("action", {"actions": await self._action(payload)}, seq)]
        if kind == "episode_start":
            self._begin()
        elif kind not in ("episode_end", "error"):
            raise wire.WireError(f"a message of type {kind!r}")
        return []

    def _hello(self, payload: dict[str, Any]) -> dict[str, Any]:
        version = payload.get("protocol_version")
        if version != PROTOCOL_VERSION:
            raise wire.WireError(
                f"protocol version {version!r}; this server speaks {PROTOCOL_VERSION}"
            )
        described = self._served.description
        return {
            "harness_version": f"rsd {described['version']}",
            "protocol_version": PROTOCOL_VERSION,
            "model_server": f"rsd {described['policy']} {described['arm']}",
            "capabilities": described,
            "observation_params": OBSERVATION_PARAMS,
            "action_spec": _ACTION_SPEC,
            "observation_spec": _OBSERVATION_SPEC,
        }

    async def _action(self, payload: dict[str, Any]) -> np.ndarray:
        """The next of the chunk; frames are looked at only where there is none left."""
        if not self._left:
            images = payload.get("images")
            if not isinstance(images, dict) or not {"agentview", "wrist"} <= set(images):
                raise wire.WireError("an observation without images of agentview and wrist")
            observation = self._served.observation(
                pixels(images["agentview"]),
                pixels(images["wrist"]),
                payload.get("states"),
                payload.get("task_description"),
            )
            self._left.extend((await self._episode.decide(observation)).actions)
        return self._left.popleft()


def _greeting(served: Served) -> None:
    return None


def _open(served: Served) -> Answer:
    return _Session(served).answer


def _error(received: bytes | str, told: str) -> bytes:
    """With the number of the message that went wrong, where it has one."""
    try:
        seq = opened(received)[2]
    except wire.WireError:
        seq = 0
    return message("error", {"error": told}, seq)


PROTOCOL = Protocol(("/health", '{"status": "ok"}\n'), _greeting, _open, _error, hangs_up=False)
