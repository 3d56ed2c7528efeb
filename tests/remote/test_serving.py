"""`rsd serve`: what a connection is answered with, and how the server ends."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from remote_servers import observations, requests, rsd_serve, serving

from rsd.batching import BatchLimits, MicroBatcher
from rsd.commands import BAD_REQUEST, call
from rsd.errors import PolicyAwayError, UserError
from rsd.models import PolicyInfo, inspect_policy, load_policy
from rsd.models.remote import vla_eval, wire
from rsd.models.remote.dialect import ServerError
from rsd.types import Chunk, ChunkRequest, Deliver

pytest.importorskip("websockets", reason="pip install -r requirements-remote.txt")

from websockets.sync.client import connect

TOY = inspect_policy("toy")
SEEN = observations(4, TOY.images)


@pytest.mark.parametrize("scheme", ["ws", "vla-eval"])
def test_a_policy_behind_our_own_server_answers_as_without(scheme: str) -> None:
    protocol = {"ws": "openpi"}.get(scheme, scheme)
    with serving("toy", protocol) as port:
        spec = f"{scheme}://127.0.0.1:{port}"
        info = inspect_policy(spec)
        assert (info.images, info.chunk_steps, info.elsewhere) == (TOY.images, 8, True)
        assert TOY.sha256 in info.says
        policy = load_policy(spec, deterministic=True, device="cpu")
        chunks = policy.act(requests(SEEN))
    local = load_policy("toy", deterministic=True, device="cpu")
    for chunk, own in zip(chunks, local.act(requests(SEEN, "parallel")), strict=True):
        assert np.array_equal(chunk.actions, own.actions)


def test_many_connections_are_answered_each_with_its_own() -> None:
    with serving("toy", "openpi") as port:
        spec = f"ws://127.0.0.1:{port}"
        policies = [load_policy(spec, deterministic=True, device="cpu") for _ in range(6)]
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda p: p.act(requests(SEEN)), policies))
    for chunks in answers[1:]:
        for chunk, first in zip(chunks, answers[0], strict=True):
            assert np.array_equal(chunk.actions, first.actions)


def openpi_message(**changed: object) -> bytes:
    from rsd.models.remote.openpi import mark

    (seen, *_) = SEEN
    message = {
        "observation/image": seen.agentview,
        "observation/wrist_image": seen.wrist,
        "observation/state": seen.proprio,
        "prompt": "reach",
        **changed,
    }
    return wire.pack({name: value for name, value in message.items() if value is not None}, mark)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (openpi_message(prompt=None), "an observation without prompt"),
        (openpi_message(prompt=3), "the instruction is a int, not text"),
        (openpi_message(**{"observation/state": np.zeros(7)}), r"state has shape \(7,\); 8 finite"),
        (openpi_message(**{"observation/state": np.full(8, np.nan)}), "8 finite numbers"),
        (openpi_message(**{"observation/image": np.zeros((4, 4))}), r"frame is \(4, 4\); uint8"),
        (openpi_message(**{"observation/image": "x"}), "frame is str; uint8"),
        (b"\xc1", "it is no msgpack"),
        ("hello", "a text message; observations are binary"),
        (wire.pack([1], lambda v: v), "a list; observations are maps"),
    ],
)
def test_a_message_that_is_no_observation_is_answered_as_openpi_answers_errors(
    message: bytes | str, told: str
) -> None:
    """A text, then the end of the connection with code 1011; the server goes on."""
    with serving("toy", "openpi") as port:
        with connect(f"ws://127.0.0.1:{port}", proxy=None) as connection:
            connection.recv()
            connection.send(message)
            answer = connection.recv()
            assert isinstance(answer, str)
            assert re.search(told, answer), answer
            with pytest.raises(Exception, match="1011"):
                connection.recv()
        load_policy(f"ws://127.0.0.1:{port}", deterministic=True, device="cpu").act(requests(SEEN))


def test_an_error_of_the_policy_reaches_who_asked_and_no_other() -> None:
    odd = replace(SEEN[0], proprio=np.array([0, 0, 0, 0, 0, 1, 0, 0], np.float32))
    even = replace(odd, proprio=np.zeros(8, np.float32))
    with serving("toy-crash", "openpi") as port:
        policy = load_policy(f"ws://127.0.0.1:{port}", deterministic=True, device="cpu")
        with pytest.raises(ServerError, match="RuntimeError: the toy policy has crashed"):
            policy.act(requests([odd]))
        assert len(policy.act(requests([even]))) == 1


def test_vla_evals_errors_carry_the_number_of_the_message_and_the_connection_goes_on() -> None:
    with (
        serving("toy", "vla-eval") as port,
        connect(f"ws://127.0.0.1:{port}", proxy=None) as connection,
    ):

        def say(kind: str, payload: dict, seq: int):
            connection.send(vla_eval.message(kind, payload, seq))
            return vla_eval.opened(connection.recv())

        assert say("hello", {"protocol_version": 2}, 1)[::2] == ("error", 1)
        assert say("hello", {"protocol_version": 1}, 2)[0] == "hello"
        kind, payload, seq = say("observation", {"images": {}}, 3)
        assert (kind, seq) == ("error", 3) and "agentview and wrist" in payload["error"]
        bomb = {"__image__": True, "format": "png", "data": b"no png", "shape": [1, 1, 3]}
        kind, payload, _ = say("observation", {"images": {"agentview": bomb, "wrist": bomb}}, 4)
        assert kind == "error" and "cannot be read" in payload["error"]
        assert say("dance", {}, 5)[0] == "error"


def test_frames_are_not_looked_at_while_a_chunk_lasts_and_a_new_episode_begins_anew() -> None:
    (seen, *_) = SEEN
    real = {
        "images": {"agentview": seen.agentview, "wrist": seen.wrist},
        "states": seen.proprio,
        "task_description": "reach",
    }
    with (
        serving("toy", "vla-eval") as port,
        connect(f"ws://127.0.0.1:{port}", proxy=None) as connection,
    ):

        def act(payload: dict) -> str:
            connection.send(vla_eval.message("observation", payload, 1))
            return vla_eval.opened(connection.recv())[0]

        assert [act(real), *(act({}) for _ in range(7))] == ["action"] * 8
        assert act({}) == "error"
        assert act(real) == "action"
        connection.send(vla_eval.message("episode_start", {}, 2))
        assert act({}) == "error"


@pytest.mark.parametrize("protocol", ["openpi", "vla-eval"])
def test_health_is_answered_where_the_protocol_has_it(protocol: str) -> None:
    path = {"openpi": "healthz", "vla-eval": "health"}[protocol]
    with (
        serving("toy", protocol, api_key="secret") as port,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}") as answer,
    ):
        assert answer.status == 200 and b"ok" in answer.read().lower()


def test_a_key_is_needed_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    (tmp_path / "guess").write_text("guess\n")
    with serving("toy", "openpi", api_key="secret") as port:
        spec = f"ws://127.0.0.1:{port}"
        for words in ("", f"?api_key_file={tmp_path}/guess"):
            with pytest.raises(UserError, match=r"refuses the API key .HTTP 401.; give the right"):
                inspect_policy(spec + words)
        inspect_policy(f"{spec}?api_key_file={tmp_path}/key")


def test_the_command_answers_what_was_asked_before_it_ends() -> None:
    """SIGTERM while a chunk is under way: it arrives, then the connection is closed with 1001."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    with rsd_serve("toy", port) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("serving  toy (speculative, sha256 ")
        with connect(f"ws://127.0.0.1:{port}", proxy=None) as connection:
            connection.recv()
            connection.send(openpi_message())
            assert b"actions" in connection.recv()
            process.send_signal(signal.SIGTERM)
            with pytest.raises(Exception, match="1001"):
                connection.recv(timeout=20)
        assert process.wait(20) == 0
        assert process.stdout.read() == "served   1 messages\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policy", "toy", "--protocol", "openpie"], "unknown protocol 'openpie'; did you mean"),
        (["--policy", "toy", "--device", "gpu"], "unknown device 'gpu'"),
        (["--policy", "toy", "--port", "70000"], "ports go up to 65535"),
        (["--policy", "toy", "--arm", "native"], "decodes speculative, autoregressive, parallel"),
        (["--policy", "toy", "--arm", "parallel@9"], "asks for 9 layers; policy 'toy' has 1 to 3"),
        (["--policy", "toy", "--api-key-file", "/nowhere"], "cannot read /nowhere"),
        (["--policy", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_served_is_told(words: list[str], message: str, capfd) -> None:
    assert call("serve", words) == BAD_REQUEST
    assert message in " ".join(capfd.readouterr().err.split())


def test_a_lossy_rule_that_could_turn_the_gripper_is_not_served(
    monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    encoded = PolicyInfo(modes=("speculative",), layers=3)
    monkeypatch.setattr("rsd.commands.serve.inspect_policy", lambda spec: encoded)
    words = ["--policy", "encoded", "--arm", "speculative-relaxed=1"]
    assert call("serve", words) == BAD_REQUEST
    assert "no tokens that are the gripper's alone" in " ".join(capfd.readouterr().err.split())


def test_a_port_that_is_taken_is_told(capfd) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        assert call("serve", ["--policy", "toy", "--port", str(port)]) == BAD_REQUEST
    assert f"cannot listen on 127.0.0.1:{port}" in capfd.readouterr().err


def test_a_missing_package_is_asked_for_by_name() -> None:
    """The base install has no websockets; it imports all the same."""
    program = (
        "import sys; sys.modules['websockets'] = None; sys.modules['zmq'] = None\n"
        "from rsd.commands import call\n"
        "from rsd.models import inspect_policy\n"
        "assert call('serve', ['--policy', 'toy']) == 2\n"
        "for spec in ('ws://localhost:1', 'groot://localhost:1'):\n"
        "    try: inspect_policy(spec)\n"
        "    except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "needs the package 'websockets'" in done.stderr, done.stderr
    assert "needs the package 'websockets'" in done.stdout
    assert "needs the package 'pyzmq'" in done.stdout


def test_a_policy_that_is_away_gives_back_the_whole_batch_at_once() -> None:
    calls = []

    def away(asked: list[ChunkRequest], deliver: Deliver) -> list[Chunk]:
        calls.append(len(asked))
        raise PolicyAwayError("no server")

    async def work() -> list[object]:
        batcher = MicroBatcher(away, BatchLimits(4, 0.0))
        return await asyncio.gather(
            *(batcher.submit(each) for each in requests(SEEN)), return_exceptions=True
        )

    answers = asyncio.run(work())
    assert calls == [4] and all(isinstance(each, PolicyAwayError) for each in answers)
