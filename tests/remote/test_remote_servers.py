"""Dialects whose software is on no package index against servers in their manner, and what servers
do wrong."""

from __future__ import annotations

import base64
import http.server
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
from remote_servers import observations, requests, serving

from rsd.errors import PolicyAwayError, UserError
from rsd.models import inspect_policy, load_policy
from rsd.models.remote import wire
from rsd.models.remote.act import ActLine, fields_oft
from rsd.models.remote.address import Access, Endpoint
from rsd.models.remote.dialect import LostError, ServerError
from rsd.models.remote.looks import looks_like

msgpack = pytest.importorskip("msgpack", reason="pip install -r requirements-remote.txt")
zmq = pytest.importorskip("zmq", reason="pip install -r requirements-remote.txt")
pytest.importorskip("httpx", reason="pip install -r requirements-remote.txt")
websockets = pytest.importorskip("websockets", reason="pip install -r requirements-remote.txt")

SEEN = observations(5)


def ask(spec: str, count: int = 5) -> list[Any]:
    policy = load_policy(spec, deterministic=True, device="cpu")
    try:
        return policy.act(requests(SEEN[:count]))
    finally:
        policy.close()


# --- GR00T ---------------------------------------------------------------------------------------


def npy(value: np.ndarray) -> dict[str, Any]:
    """As Isaac-GR00T's MsgSerializer writes arrays."""
    stream = io.BytesIO()
    np.save(stream, value, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": stream.getvalue()}


def from_npy(value: dict[str, Any]) -> Any:
    if "__ndarray_class__" in value:
        return np.load(io.BytesIO(value["as_npy"]), allow_pickle=False)
    return value


@contextmanager
def groot(answer: Callable[[dict[str, Any]], Any], token: str = "") -> Iterator[int]:
    """A server in the manner of `PolicyServer.run`."""
    context = zmq.Context()
    reply = context.socket(zmq.REP)
    port = reply.bind_to_random_port("tcp://127.0.0.1")
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            if not reply.poll(20):
                continue
            asked = msgpack.unpackb(reply.recv(), object_hook=from_npy)
            endpoint = asked.get("endpoint")
            if token and asked.get("api_token") != token:
                told: Any = {"error": "Unauthorized: Invalid API token"}
            elif endpoint == "ping":
                told = {"status": "ok", "message": "Server is running"}
            elif endpoint == "get_modality_config":
                told = {"action": {"__ModalityConfig_class__": True, "as_json": {"delta": [0, 1]}}}
            else:
                told = answer(asked["data"])
            reply.send(
                msgpack.packb(told, default=lambda v: npy(v) if isinstance(v, np.ndarray) else v)
            )

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield port
    finally:
        over.set()
        thread.join()
        reply.close(0)
        context.term()


NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


def test_groot_n16_is_asked_in_a_batch_and_its_parts_become_actions() -> None:
    asked = []

    def answer(data: dict[str, Any]) -> Any:
        seen = data["observation"]
        asked.append(seen)
        count = len(seen["video"]["image"])
        parts = {name: np.full((count, 16, 1), place / 10) for place, name in enumerate(NAMES)}
        parts["x"] = np.repeat(seen["state"]["x"], 16, axis=1)
        return [parts, {}]

    with groot(answer) as port:
        chunks = ask(f"groot://127.0.0.1:{port}")
        assert '"delta": [0, 1]' in inspect_policy(f"groot://127.0.0.1:{port}").says
    (seen,) = asked
    assert seen["video"]["wrist_image"].shape == (5, 1, 256, 256, 3)
    assert seen["state"]["gripper"].shape == (5, 1, 2) and seen["state"]["yaw"].shape == (5, 1, 1)
    assert seen["language"]["annotation.human.action.task_description"][4] == ["pick up bowl 4"]
    for chunk, observation in zip(chunks, SEEN, strict=True):
        assert chunk.actions.shape == (16, 7)
        assert np.array_equal(chunk.actions[:, 0], np.full(16, observation.proprio[0]))
        assert chunk.actions[0, 6] == -1  # 0.6 opens


def test_groot_n15_is_asked_one_by_one_with_flat_names() -> None:
    asked = []

    def answer(data: dict[str, Any]) -> Any:
        asked.append(data)
        return {f"action.{name}": np.full(16, 0.25) for name in NAMES}

    with groot(answer) as port:
        chunks = ask(f"groot://127.0.0.1:{port}?dialect=n1.5", 2)
    assert len(asked) == 2 and asked[0]["video.image"].shape == (1, 256, 256, 3)
    assert asked[0]["state.gripper"].shape == (1, 2)
    assert chunks[0].actions[:, :6].tolist() == [[0.25] * 6] * 16


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"error": "CUDA out of memory"}, "it answers with an error: 'CUDA out of memory'"),
        ([{"action.left_arm": np.zeros((1, 16, 7))}, {}], "has no x, y.*another robot"),
        ([{name: np.zeros((1, 9 + len(name), 1)) for name in NAMES}, {}], "do not fit together"),
        ("hello", "its answer is a str, not a map"),
    ],
)
def test_what_groot_answers_wrongly_is_told(told: Any, message: str) -> None:
    with groot(lambda data: told) as port, pytest.raises(ServerError, match=message):
        ask(f"groot://127.0.0.1:{port}", 1)


def test_groots_token_is_checked_before_a_run(tmp_path) -> None:
    (tmp_path / "key").write_text("secret")
    with groot(lambda data: None, token="secret") as port:
        with pytest.raises(UserError, match="refuses the API token"):
            inspect_policy(f"groot://127.0.0.1:{port}")
        inspect_policy(f"groot://127.0.0.1:{port}?api_key_file={tmp_path}/key")


def test_a_server_of_groot_n1_that_wants_pickles_is_told_before_a_run() -> None:
    """It answers whatever it cannot unpickle with these five bytes."""
    with zmq.Context() as context, context.socket(zmq.REP) as reply:
        port = reply.bind_to_random_port("tcp://127.0.0.1")

        def run() -> None:
            reply.recv()
            reply.send(b"ERROR")

        thread = threading.Thread(target=run)
        thread.start()
        with pytest.raises(UserError, match=r"a server of GR00T N1 takes pickles, .* not sent;"):
            inspect_policy(f"groot://127.0.0.1:{port}")
        thread.join()


# --- /act ----------------------------------------------------------------------------------------


@contextmanager
def act(answer: Callable[[dict[str, Any]], Any], path: str = "/act") -> Iterator[int]:
    """A server in the manner of `deploy.py`, FastAPI's manners included."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/openapi.json":
                info = {"title": "OpenVLA", "version": "7b-oft"}
                self.tell(200, {"info": info, "paths": {path: {}}})
            else:
                self.tell(405 if self.path == path else 404, {"detail": "Method Not Allowed"})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.tell(200, answer(json.loads(body, object_hook=from_base64)))

        def tell(self, status: int, value: Any) -> None:
            body = json.dumps(value, default=to_base64).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def to_base64(value: Any) -> Any:
    """As json-numpy does."""
    encoded = base64.b64encode(value.tobytes()).decode()
    return {"__numpy__": encoded, "dtype": value.dtype.str, "shape": value.shape}


def from_base64(value: dict[str, Any]) -> Any:
    if "__numpy__" in value:
        data = np.frombuffer(base64.b64decode(value["__numpy__"]), np.dtype(value["dtype"]))
        return data.reshape(value["shape"])
    return value


@pytest.mark.parametrize("twice", [False, True])
def test_oft_is_asked_in_its_manner_and_its_gripper_is_turned(twice: bool) -> None:
    asked = []

    def answer(payload: dict[str, Any]) -> Any:
        asked.append(payload)
        rows = [np.append(payload["state"][:6], step % 2) for step in range(8)]
        return json.dumps(rows, default=to_base64) if twice else rows

    with act(answer) as port:
        spec = f"http://127.0.0.1:{port}/act"
        assert json.loads(inspect_policy(spec).says)["info"]["version"] == "7b-oft"
        (chunk,) = ask(spec, 1)
    assert set(asked[0]) == {"full_image", "wrist_image", "state", "instruction"}
    assert np.array_equal(asked[0]["full_image"], SEEN[0].agentview)
    assert chunk.actions[:, 6].tolist() == [1, -1] * 4
    assert np.array_equal(chunk.actions[3, :6], SEEN[0].proprio[:6])


def test_openvla_is_asked_for_every_step() -> None:
    asked = []

    def answer(payload: dict[str, Any]) -> Any:
        asked.append(payload)
        return np.full(7, 0.125)

    with act(answer) as port:
        spec = f"http://127.0.0.1:{port}/act?dialect=openvla&unnorm_key=libero_goal"
        assert inspect_policy(spec).chunk_steps == 1
        (chunk,) = ask(spec, 1)
    assert set(asked[0]) == {"image", "instruction", "unnorm_key"}
    assert asked[0]["image"].shape == (224, 224, 3)
    assert chunk.actions.tolist() == [[0.125] * 6 + [1.0]]


def test_an_error_of_act_comes_as_success_and_is_told() -> None:
    with act(lambda payload: "error") as port:
        with pytest.raises(ServerError, match="it answers 'error' instead of actions"):
            ask(f"http://127.0.0.1:{port}/act", 1)
        with pytest.raises(UserError, match="is no /act: a GET is answered with HTTP 404"):
            inspect_policy(f"http://127.0.0.1:{port}/predict")


# --- starVLA, and websockets that are not what they should be -------------------------------------


@contextmanager
def websocket(handle: Callable[[Any], None]) -> Iterator[int]:
    from websockets.sync.server import serve

    with serve(handle, "127.0.0.1", 0, compression=None, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            thread.join()


def starvla(answer: Callable[[dict[str, Any]], dict[str, Any]], **metadata: Any) -> Any:
    from rsd.models.remote.openpi import mark, unmark

    said = {"action_chunk_size": 8, "available_unnorm_keys": ["franka"], **metadata}

    def handle(connection: Any) -> None:
        connection.send(wire.pack(said, mark))
        for message in connection:
            connection.send(wire.pack(answer(wire.unpack(message, unmark)), mark))

    return websocket(handle)


def test_starvla_is_asked_in_batches() -> None:
    asked = []

    def answer(message: dict[str, Any]) -> dict[str, Any]:
        asked.append(message)
        examples = message["payload"]["examples"]
        actions = np.zeros((len(examples), 8, 7))
        actions[..., 6] = 1
        name = message["request_id"]
        return {"status": "ok", "ok": True, "request_id": name, "data": {"actions": actions}}

    with starvla(answer) as port:
        chunks = ask(f"ws://127.0.0.1:{port}?dialect=starvla")
        with pytest.raises(UserError, match=r"add [?]dialect=starvla"):
            inspect_policy(f"ws://127.0.0.1:{port}")
        with pytest.raises(UserError, match="its chunk is 8; chunk=9 contradicts"):
            inspect_policy(f"ws://127.0.0.1:{port}?dialect=starvla&chunk=9")
        with pytest.raises(UserError, match="has the statistics franka, not 'libero'"):
            inspect_policy(f"ws://127.0.0.1:{port}?dialect=starvla&unnorm_key=libero")
    (message,) = asked
    assert message["type"] == "infer" and len(message["payload"]["examples"]) == 5
    assert message["payload"]["examples"][2]["lang"] == "pick up bowl 2"
    assert len(message["payload"]["examples"][2]["image"]) == 2
    assert all(chunk.actions[0, 6] == -1 for chunk in chunks)


def test_starvlas_error_is_told() -> None:
    told = {"status": "error", "ok": False, "error": {"message": "no such key"}}
    with (
        starvla(lambda message: told) as port,
        pytest.raises(ServerError, match="it answers with an error: 'no such key'"),
    ):
        ask(f"ws://127.0.0.1:{port}?dialect=starvla", 1)


GREETING = msgpack.packb({"model": "x"})


def after_greeting(reply: Any) -> Callable[[Any], None]:
    def handle(connection: Any) -> None:
        connection.send(GREETING)
        for _ in connection:
            connection.send(reply)

    return handle


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("Traceback:\n  ...\nValueError: bad prompt\n", "an error: 'ValueError: bad prompt'"),
        (b"\xc1\xc1", "cannot be read: it is no msgpack"),
        (b"\x01", "its answer is a int, not a map"),
        (msgpack.packb({"action": 1}), "has no `actions`, but action"),
        (
            msgpack.packb(
                {"actions": {b"__ndarray__": True, b"data": b"\x80\x04", b"dtype": "|O"}}
            ),
            "cannot be read: an array",
        ),
    ],
)
def test_an_answer_that_makes_no_sense_is_told_in_a_sentence(reply: Any, message: str) -> None:
    with websocket(after_greeting(reply)) as port, pytest.raises(ServerError, match=message):
        ask(f"ws://127.0.0.1:{port}", 1)


@pytest.mark.parametrize(
    ("greeting", "message"),
    [
        ("Hello!", "does not greet as a server of openpi's protocol: it is text: 'Hello!'"),
        (b"\x05", "it is a int"),
        (b"\xc1", "it is no msgpack"),
    ],
)
def test_a_greeting_of_another_protocol_is_told(greeting: Any, message: str) -> None:
    with (
        websocket(lambda connection: connection.send(greeting)) as port,
        pytest.raises(UserError, match=message),
    ):
        inspect_policy(f"ws://127.0.0.1:{port}")


def test_a_message_beyond_the_limit_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from rsd.models.remote import client
    from rsd.models.remote import websocket as sockets

    monkeypatch.setattr(sockets, "MOST_BYTES", 10_000)
    monkeypatch.setattr(client, "PATIENCE_S", 0.0)
    monkeypatch.setattr(
        client.RemotePolicy.__init__, "__defaults__", (0.0, time.monotonic, time.sleep)
    )
    with (
        websocket(after_greeting(b"\x00" * 20_000)) as port,
        pytest.raises(PolicyAwayError, match="sent a message of more than"),
    ):
        ask(f"ws://127.0.0.1:{port}", 1)


def test_a_server_that_does_not_answer_is_given_up_in_time() -> None:
    def handle(connection: Any) -> None:
        connection.send(GREETING)
        for _ in connection:
            pass

    with websocket(handle) as port:
        policy = load_policy(f"ws://127.0.0.1:{port}?timeout=0.2", deterministic=True, device="cpu")
        policy._patience_s = 0.2
        started = time.monotonic()
        with pytest.raises(PolicyAwayError, match=r"has not answered for 0.2 s"):
            policy.act(requests(SEEN))
        assert time.monotonic() - started < 10


# --- another protocol than was asked -------------------------------------------------------------


def test_a_server_of_another_protocol_is_named() -> None:
    with groot(lambda data: None) as port, pytest.raises(UserError, match="looks like GR00T's"):
        inspect_policy(f"ws://127.0.0.1:{port}")
    with act(lambda payload: None) as port, pytest.raises(UserError, match="looks like OpenVLA's"):
        inspect_policy(f"vla-eval://127.0.0.1:{port}?chunk=8")
    with serving("toy", "openpi") as port:
        with pytest.raises(UserError, match=r"is no /act.*looks like openpi's"):
            inspect_policy(f"http://127.0.0.1:{port}/act")
        with pytest.raises(UserError, match="looks like openpi's"):
            inspect_policy(f"vla-eval://127.0.0.1:{port}?chunk=8")
        with pytest.raises(UserError, match="nothing of what starVLA's servers say"):
            inspect_policy(f"ws://127.0.0.1:{port}?dialect=starvla")


def test_nobody_there_is_told_at_once() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        for scheme in ("ws", "vla-eval", "groot", "http"):
            with pytest.raises(UserError, match=r"no server of the policy at .*refused; start it"):
                inspect_policy(f"{scheme}://127.0.0.1:{port}?chunk=8")


def test_a_server_that_takes_connections_and_says_nothing_is_not_waited_for_like_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long an answer may take: a page is there at once."""
    monkeypatch.setattr("rsd.models.remote.act.CONNECT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = Endpoint("http", "127.0.0.1", listener.getsockname()[1])
        started = time.monotonic()
        with pytest.raises(LostError, match="does not answer: ReadTimeout"):
            ActLine(place, Access(timeout=60), fields_oft)
    assert time.monotonic() - started < 10


def test_a_zeromq_that_answers_no_ping_is_not_said_to_look_like_what_it_was_asked_as(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rsd.models.remote.groot.CONNECT_S", 0.2)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as silent:
        place = f"127.0.0.1:{silent.bind_to_random_port('tcp://127.0.0.1')}"
        with pytest.raises(UserError, match=r"not busy with somebody else\?$"):
            inspect_policy(f"groot://{place}")
        with pytest.raises(UserError, match=r"it looks like GR00T's \(ZeroMQ\): groot://"):
            inspect_policy(f"ws://{place}")


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.6\r\n", b"\x00" * 100])
def test_a_server_that_speaks_first_is_told_to_be_no_websocket(
    said: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    def speak() -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=speak, daemon=True).start()
        with pytest.raises(UserError, match="ws://127"):
            inspect_policy(f"ws://127.0.0.1:{listener.getsockname()[1]}")
        listener.shutdown(socket.SHUT_RDWR)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("described", [b"[]", b"3", b'{"paths": null}', b"[" * 100_000])
def test_a_description_of_another_shape_says_nothing(described: bytes) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/openapi.json" else 405)
            self.end_headers()
            self.wfile.write(described)

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = Endpoint("ws", "127.0.0.1", server.server_port)
        assert looks_like(place) == ""
        assert ActLine(place, Access(), fields_oft).metadata == {}
        server.shutdown()
