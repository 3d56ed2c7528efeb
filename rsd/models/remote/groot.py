"""GR00T's protocol: msgpack over ZeroMQ, request and reply (port 5555).

Sources: NVIDIA/Isaac-GR00T `gr00t/eval/service.py` (N1.5), `gr00t/policy/server_client.py` (N1.6),
`examples/Libero/eval/run_libero_eval.py` for LIBERO's fields; "roll, pitch, yaw" hold an axis-angle
there. ZeroMQ hides whether anybody is at the other end, so that is looked up beside it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

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
)

_LOOK_S = 1.0  # after which it is looked whether the server still listens
_LANGUAGE = "annotation.human.action.task_description"
_STATE = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")  # the last one has two values
_ACTION = _STATE  # the last one has one


def mark(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"__ndarray_class__": True, "as_npy": wire.to_npy(value)}
    return value


def unmark(value: dict[Any, Any]) -> Any:
    if "__ndarray_class__" in value:
        return wire.from_npy(value.get("as_npy"))
    return value.get("as_json") if "__ModalityConfig_class__" in value else value


class GrootLine:
    def __init__(
        self,
        endpoint: Endpoint,
        access: Access,
        data: Callable[[Sequence[View]], dict[str, Any]],
    ) -> None:
        self._zmq = wire.library("zmq")
        self._endpoint = endpoint
        self._access = access
        self._data = data
        self._look()
        self._socket = self._zmq.Context.instance().socket(self._zmq.REQ)
        self._socket.setsockopt(self._zmq.LINGER, 0)
        self._socket.setsockopt(self._zmq.MAXMSGSIZE, wire.MOST_BYTES)
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        self._socket.setsockopt(self._zmq.IPV6, ":" in endpoint.host)
        self._socket.connect(f"tcp://{host}:{endpoint.port}")
        try:
            self._greet()
        except BaseException:
            self.close()
            raise

    def _greet(self) -> None:
        try:
            self._ping()
            described = self._call("get_modality_config", timeout=CONNECT_S)
        except LostError as error:
            raise RefusedError(
                f"{self._endpoint} takes connections and answers no ping: {error}; is it a GR00T "
                "server, and not busy with somebody else?"
            ) from error
        except ServerError as error:
            if "nauthorized" in str(error):
                raise RefusedError(
                    f"{self._endpoint} refuses the API token; give the right one by "
                    "api_key_file=PATH"
                ) from error
            described = {"says": str(error)}  # not every server describes itself
        self.metadata = {"modalities": plain(described)}

    def _ping(self) -> None:
        try:
            self._call("ping", timeout=CONNECT_S)
        except ServerError as error:
            if not isinstance(error.__cause__, wire.WireError):
                raise
            raise RefusedError(
                f"{self._endpoint} answers a ping with what is no msgpack: a server of GR00T N1 "
                "takes pickles, which run whatever code their sender likes and are not sent; those "
                "of N1.5 and N1.6 are asked"
            ) from error

    def _look(self) -> None:
        """Raises LostError where nobody listens."""
        place = (self._endpoint.host, self._endpoint.port)
        try:
            socket.create_connection(place, CONNECT_S).close()
        except OSError as error:
            raise LostError(f"{self._endpoint}: {error.strerror or error}") from error

    def _call(self, name: str, data: Any = None, timeout: float | None = None) -> Any:
        request: dict[str, Any] = {"endpoint": name}
        if data is not None:
            request["data"] = data
        if self._access.api_key:
            request["api_token"] = self._access.api_key
        self._socket.send(wire.pack(request, mark))
        self._wait(self._access.timeout if timeout is None else timeout)
        try:
            answer = wire.unpack(self._socket.recv(), unmark)
        except wire.WireError as error:
            raise ServerError(f"its answer cannot be read: {error}") from error
        if isinstance(answer, dict) and "error" in answer:
            raise ServerError(f"it answers with an error: {last_line(answer['error'])}")
        return answer

    def _wait(self, timeout: float) -> None:
        """For an answer."""
        deadline = time.monotonic() + timeout
        while not self._socket.poll(1000 * min(_LOOK_S, timeout)):
            self._look()
            if time.monotonic() > deadline:
                raise LostError(f"{self._endpoint} has not answered for {timeout:g} s")

    def ask(self, views: Sequence[View], settled: Conventions) -> list[Any]:
        answer = self._call("get_action", self._data(views))
        if isinstance(answer, list | tuple) and answer:
            answer = answer[0]  # N1.6: actions, and what else it has to say
        if not isinstance(answer, dict):
            raise ServerError(f"its answer is a {type(answer).__name__}, not a map of actions")
        columns = {str(name).removeprefix("action."): value for name, value in answer.items()}
        missing = [name for name in _ACTION if name not in columns]
        if missing:
            raise ServerError(
                f"its answer has no {', '.join(missing)}, but {', '.join(map(str, answer))}: "
                "a model for another robot?"
            )
        try:
            stacked = [_batched(columns[name], len(views)) for name in _ACTION]
            return list(np.concatenate(stacked, axis=-1))
        except ValueError as error:
            raise ServerError(f"the parts of its actions do not fit together: {error}") from error

    def close(self) -> None:
        self._socket.close()


def _batched(column: Any, count: int) -> np.ndarray:
    """(B, T, D) of what may lack its first or its last axis."""
    values = np.asarray(column, np.float64)
    if values.ndim == 1 or (values.ndim == 2 and count > 1):
        values = values[..., None]  # T, or B and T
    if values.ndim == 2:
        values = values[None] if count == 1 else values
    if values.ndim != 3 or len(values) != count:
        raise ValueError(f"shape {np.shape(column)} for {count} observations")
    return values


def _states(views: Sequence[View]) -> dict[str, np.ndarray]:
    """float32 (B, D) by name; empty where the server gets none."""
    if views[0].state is None:
        return {}
    states = np.stack([view.state for view in views if view.state is not None])
    parts = (*np.split(states[:, :6], 6, axis=1), states[:, 6:])
    return dict(zip(_STATE, parts, strict=True))


def _frames(views: Sequence[View]) -> dict[str, np.ndarray]:
    """uint8 (B, H, W, 3) by name."""
    frames = {"image": np.stack([view.agentview for view in views])}
    if views[0].wrist is not None:
        frames["wrist_image"] = np.stack([view.wrist for view in views if view.wrist is not None])
    return frames


def data_n15(views: Sequence[View]) -> dict[str, Any]:
    """One observation; its first axis is time."""
    return {
        **{f"video.{name}": value for name, value in _frames(views).items()},
        **{f"state.{name}": value for name, value in _states(views).items()},
        _LANGUAGE: [view.instruction for view in views],
    }


def data_n16(views: Sequence[View]) -> dict[str, Any]:
    """A batch; the second axis is time."""
    observation = {
        "video": {name: value[:, None] for name, value in _frames(views).items()},
        "state": {name: value[:, None] for name, value in _states(views).items()},
        "language": {_LANGUAGE: [[view.instruction] for view in views]},
    }
    return {"observation": observation, "options": None}


_USUAL = Conventions(image=256, gripper="one-opens")

GROOT_N15 = Dialect(
    lambda endpoint, access: GrootLine(endpoint, access, data_n15), _USUAL, "GR00T N1.5"
)
GROOT_N16 = Dialect(
    lambda endpoint, access: GrootLine(endpoint, access, data_n16),
    _USUAL,
    "GR00T N1.6, asked in batches",
    batch=16,
    protocol="gr00t",
)
