"""vla-eval's protocol: msgpack over a websocket, one action a message.

Source: `vla-eval` 0.8.0 `protocol/`, `connection.py`, `model_servers/{serve,predict}.py`. The
server keeps a chunk and hands it out step by step, and while it holds one it does not read what it
is sent. So a chunk is asked for whole: a new episode, the observation, then as many messages as
actions are missing, without frames. A server that reads one of those has a shorter chunk than was
said: they are made so that it fails aloud.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from rsd.errors import UserError
from rsd.models.remote import wire
from rsd.models.remote.address import Access, Endpoint
from rsd.models.remote.conventions import Conventions, View
from rsd.models.remote.dialect import (
    CONNECT_S,
    Dialect,
    LostError,
    RefusedError,
    ServerError,
    last_line,
    plain,
    said_by_ours,
)
from rsd.models.remote.websocket import Socket

PROTOCOL_VERSION = 1
_MOST_PIXELS = 4096 * 4096
UNDRAWN = "not drawn: this step belongs to a chunk that the server has"


def mark(value: Any) -> Any:
    """Arrays as maps with keys of text; frames as they are, which costs no time."""
    if isinstance(value, np.ndarray):
        frame = value.ndim == 3 and value.dtype == np.uint8
        kind = {"__image__": True, "format": "raw"} if frame else {"__ndarray__": True}
        shape = list(value.shape)
        return {**kind, "data": value.tobytes(), "dtype": value.dtype.str, "shape": shape}
    return value.item() if isinstance(value, np.generic) else value


def unmark(value: dict[Any, Any]) -> Any:
    """Frames stay as they came: whether they are looked at is another matter (`pixels`)."""
    if "__ndarray__" in value:
        return wire.array(value.get("data"), value.get("dtype"), value.get("shape"))
    return value


def pixels(frame: Any) -> np.ndarray:
    """A frame uint8 (H, W, 3), raw or compressed. Raises WireError."""
    if isinstance(frame, np.ndarray):
        made = frame
    elif not isinstance(frame, dict) or "__image__" not in frame:
        raise wire.WireError(f"a frame that is a {type(frame).__name__}")
    elif frame.get("format") == "raw":
        made = wire.array(frame.get("data"), frame.get("dtype"), frame.get("shape"))
    else:
        made = _decompressed(frame)
    if made.dtype != np.uint8 or made.ndim != 3 or made.shape[2] != 3:
        raise wire.WireError(f"a frame of {made.dtype} {made.shape}; uint8 (H, W, 3) is needed")
    return made


def _decompressed(frame: dict[str, Any]) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(frame["data"]), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise wire.WireError(f"a frame of {image.width} x {image.height} pixels")
            return np.asarray(image)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise wire.WireError(f"a frame that cannot be read: {error}") from error


def message(kind: str, payload: dict[str, Any], seq: int) -> bytes:
    whole = {"type": kind, "payload": payload, "seq": seq, "timestamp": time.time()}
    return wire.pack(whole, mark)


def opened(received: bytes | str) -> tuple[str, dict[str, Any], int]:
    """Type, payload and number of a message. Raises WireError."""
    if isinstance(received, str):
        raise wire.WireError(f"it is text: {last_line(received)}")
    whole = wire.unpack(received, unmark)
    if not isinstance(whole, dict) or not {"type", "payload", "seq"} <= set(whole):
        raise wire.WireError("it has no `type`, `payload` and `seq`")
    if not isinstance(whole["payload"], dict) or not isinstance(whole["seq"], int):
        raise wire.WireError("its `payload` is no map, or its `seq` no number")
    return str(whole["type"]), whole["payload"], whole["seq"]


class VlaEvalLine:
    def __init__(self, endpoint: Endpoint, access: Access) -> None:
        self._where = str(endpoint)
        self._socket = Socket(endpoint, access)
        self._seq = 0
        try:
            self.metadata = plain(self._hello())
        except BaseException:
            self._socket.close()
            raise

    def _hello(self) -> dict[str, Any]:
        hello = {"harness_version": "rsd", "protocol_version": PROTOCOL_VERSION}
        self._send("hello", {**hello, "benchmark": "libero"})
        try:
            kind, payload, _ = opened(self._socket.receive(CONNECT_S))
        except (LostError, wire.WireError) as error:
            raise RefusedError(
                f"{self._where} does not answer a hello as a server of vla-eval's does: {error}"
            ) from error
        version = payload.get("protocol_version")
        if kind != "hello" or version != PROTOCOL_VERSION:
            raise RefusedError(
                f"{self._where} answers a hello with {kind!r}, protocol version {version!r}; "
                f"version {PROTOCOL_VERSION} of vla-eval's protocol is spoken here"
            )
        return payload

    def ask(self, views: Sequence[View], settled: Conventions) -> list[Any]:
        (view,) = views
        steps = settled.replan or settled.chunk
        assert steps is not None  # `learn` sees to it
        self._send("episode_start", {"task": {"name": view.instruction}})
        asked = [self._send("observation", _payload(view))]
        asked += [self._send("observation", _payload(view, UNDRAWN)) for _ in range(steps - 1)]
        return [np.stack([self._action(seq, step) for step, seq in enumerate(asked)])]

    def _send(self, kind: str, payload: dict[str, Any]) -> int:
        self._seq += 1
        self._socket.send(message(kind, payload, self._seq))
        return self._seq

    def _action(self, asked: int, step: int) -> np.ndarray:
        """Closes the connection before it raises: answers may be under way on it."""
        try:
            kind, payload, seq = opened(self._socket.receive())
            if kind != "action" or seq != asked:
                told = payload.get("error", f"{kind} {seq} where action {asked} was due")
                shorter = "; its chunk may be shorter than `chunk` says" if step else ""
                raise ServerError(f"it answers with an error: {last_line(told)}{shorter}")
            action = np.asarray(payload.get("actions", payload.get("action")), np.float64)
            if action.ndim != 1:
                raise ServerError(f"its answer has shape {action.shape}; one action is due")
            return action
        except (wire.WireError, TypeError, ValueError) as error:
            self.close()
            raise ServerError(f"its answer cannot be read: {error}") from error
        except ServerError:
            self.close()
            raise

    def close(self) -> None:
        self._socket.close()


def _payload(view: View, instead: Any = None) -> dict[str, Any]:
    """What LIBERO's benchmark sends there; `instead` of what it would have to draw."""
    images = {"agentview": view.agentview if instead is None else instead}
    if view.wrist is not None:
        images["wrist"] = view.wrist if instead is None else instead
    payload: dict[str, Any] = {"images": images, "task_description": view.instruction}
    if view.state is not None:
        payload["states"] = view.state if instead is None else instead
    return payload


_GRIPPER_SPECS = {"binary_close_positive": "minus-opens", "binary_close_negative": "plus-opens"}


def learn(metadata: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Raises UserError for a server whose chunk nobody knows, or that moves absolutely."""
    ours = said_by_ours(metadata.get("capabilities"), given)
    if "chunk" not in {**given, **ours}:
        raise UserError(
            "a server of vla-eval's keeps its chunk to itself and does not say how long it is: "
            "give it as chunk=N, the chunk_size that the server was started with (1: it decides "
            "every step)"
        )
    if ours:
        return ours
    wishes = metadata.get("observation_params") or {}
    if wishes.get("absolute_action"):
        raise UserError("the server gives absolute poses; relative ones are executed here")
    told: dict[str, Any] = {"wrist": bool(wishes.get("send_wrist_image", False))}
    whole_turn = wishes.get("quat_no_antipodal", False)
    turned = "axis-angle" if whole_turn else "axis-angle-antipodal"
    told["state"] = turned if wishes.get("send_state") else "none"
    if not wishes:
        told = {}
    gripper = (metadata.get("action_spec") or {}).get("gripper") or {}
    if gripper.get("format") in _GRIPPER_SPECS:
        told["gripper"] = _GRIPPER_SPECS[gripper["format"]]
    return told


VLA_EVAL = Dialect(
    VlaEvalLine,
    Conventions(image=256, state="axis-angle-antipodal"),
    "vla-eval (its 15 model servers); chunk=N has to be said",
    connections=8,
    learn=learn,
)
