"""Servers that are lost and found again, without any: a dialect of the test's own."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from remote_servers import observations, requests

from rsd.errors import PolicyAwayError, UserError
from rsd.models.remote import address as addresses
from rsd.models.remote.address import Access, Endpoint
from rsd.models.remote.client import DEATHS_PER_QUESTION, RemotePolicy, meet
from rsd.models.remote.conventions import Conventions, View
from rsd.models.remote.dialect import Dialect, LostError, RefusedError, ServerError

ACTIONS = np.full((4, 7), 0.5)


class Servers:
    """By port; the clock goes on while somebody rests."""

    def __init__(self) -> None:
        self.down: set[int] = set()
        self.answer: Callable[[int, View], Any] = lambda port, view: ACTIONS
        self.asked: Counter[int] = Counter()
        self.batches: list[int] = []
        self.connects: Counter[int] = Counter()
        self.model = "a"
        self.now = 0.0
        self.lock = threading.Lock()

    def pause(self, seconds: float) -> None:
        with self.lock:
            self.now += seconds

    def connect(self, endpoint: Endpoint, access: Access) -> Connection:
        self.connects[endpoint.port] += 1
        if endpoint.port in self.down:
            raise LostError(f"{endpoint}: refused")
        return Connection(self, endpoint)

    def policy(self, spec: str, **dialect: Any) -> RemotePolicy:
        made = Dialect(self.connect, Conventions(image=None), "a test's", **dialect)
        address = addresses.read(spec, ["test"], 1)
        server = meet(made, address, Connection(self, address.endpoints[0]))
        return RemotePolicy(made, address, server, 20.0, lambda: self.now, self.pause)


class Connection:
    def __init__(self, servers: Servers, endpoint: Endpoint) -> None:
        self.metadata = {"model": servers.model}
        self._servers = servers
        self._endpoint = endpoint

    def ask(self, views: Sequence[View], settled: Conventions) -> list[Any]:
        port = self._endpoint.port
        if port in self._servers.down:
            raise LostError(f"{self._endpoint} hung up")
        with self._servers.lock:
            self._servers.asked[port] += len(views)
            self._servers.batches.append(len(views))
        return [self._servers.answer(port, view) for view in views]

    def close(self) -> None:
        pass


@pytest.fixture
def servers() -> Servers:
    return Servers()


SEEN = observations(12)


def test_several_servers_share_the_questions(servers: Servers) -> None:
    policy = servers.policy("test://a:1,b:2,c:3")
    assert len(policy.act(requests(SEEN))) == 12
    assert set(servers.asked) == {1, 2, 3} and sum(servers.asked.values()) == 12


def test_each_answer_belongs_to_its_question_and_is_delivered_once(servers: Servers) -> None:
    servers.answer = lambda port, view: np.full((2, 7), int(view.instruction.split()[-1]) / 100)
    delivered: dict[int, Any] = {}
    chunks = servers.policy("test://a:1,b:2?connections=3").act(
        requests(SEEN), delivered.__setitem__
    )
    assert [round(100 * float(chunk.actions[0, 0])) for chunk in chunks] == list(range(12))
    assert all(delivered[row] is chunk for row, chunk in enumerate(chunks))


def test_batches_are_shared_out_evenly(servers: Servers) -> None:
    servers.policy("test://a:1,b:2", batch=16).act(requests(SEEN))
    assert servers.batches == [6, 6]
    servers.batches.clear()
    servers.policy("test://a:1", batch=5).act(requests(SEEN))
    assert sorted(servers.batches) == [2, 5, 5]


def test_where_one_server_is_gone_the_others_answer(servers: Servers) -> None:
    policy = servers.policy("test://a:1,b:2")
    servers.down = {1}
    assert len(policy.act(requests(SEEN))) == 12
    assert set(servers.asked) == {2}


def test_a_server_that_comes_back_is_asked_again_after_pauses_that_grow(servers: Servers) -> None:
    policy = servers.policy("test://a:1")
    policy.act(requests(SEEN[:1]))
    servers.down = {1}
    pauses: list[float] = []
    come_back = servers.pause

    def pause(seconds: float) -> None:
        come_back(seconds)
        pauses.append(seconds)
        if servers.now > 5:
            servers.down = set()

    policy._pause = pause
    assert len(policy.act(requests(SEEN[:1]))) == 1
    grown = [seconds for seconds in pauses if seconds]
    assert grown == sorted(grown) and grown[0] == 0.1 and len(grown) < 10


def test_what_a_lost_server_costs_is_waiting_and_not_decoding(servers: Servers) -> None:
    """Or robots of `+delay=measured` would stand still for as long as a server is away."""
    policy = servers.policy("test://a:1")
    servers.down = {1}
    policy._pause = lambda seconds: time.sleep(min(seconds, 0.02))
    came_back = threading.Timer(0.2, servers.down.clear)
    came_back.start()
    (chunk,) = policy.act(requests(SEEN[:1]))
    came_back.join()
    assert chunk.trace.queue_s > 0.15 and chunk.trace.decode_s < 0.1


def test_without_a_server_questions_are_given_back_and_the_next_ones_at_once(
    servers: Servers,
) -> None:
    policy = servers.policy("test://a:1,b:2")
    servers.down = {1, 2}
    with pytest.raises(PolicyAwayError, match=r"answered for [23]\d s: test://[ab]:[12]: refused"):
        policy.act(requests(SEEN))
    before = sum(servers.connects.values())
    with pytest.raises(PolicyAwayError):
        policy.act(requests(SEEN))
    assert sum(servers.connects.values()) - before <= 2  # one try a thread that had begun
    servers.down = set()
    assert len(policy.act(requests(SEEN))) == 12


def killer(died: list[str]) -> Callable[[int, View], Any]:
    """A server that dies whenever it is asked for bowl 3, and of nothing else."""

    def answer(port: int, view: View) -> Any:
        if view.instruction == "pick up bowl 3":
            died.append(view.instruction)
            raise LostError(f"test://{port} hung up")
        return ACTIONS

    return answer


@pytest.mark.parametrize("dialect", [{}, {"batch": 16}, {"connections": 4}])
def test_a_question_that_kills_its_server_every_time_is_an_error_and_the_others_are_answered(
    servers: Servers, dialect: dict[str, int]
) -> None:
    policy = servers.policy("test://a:1,b:2", **dialect)
    died: list[str] = []
    servers.answer = killer(died)
    delivered: dict[int, Any] = {}
    with pytest.raises(ServerError, match=r"3 times a server was lost when it was asked this al"):
        policy.act(requests(SEEN), delivered.__setitem__)
    assert len(died) == DEATHS_PER_QUESTION + 1
    assert set(range(12)) - set(delivered) <= {3} | set(range(6) if "batch" in dialect else ())
    with pytest.raises(ServerError, match="3 times a server was lost"):
        policy.act([requests(SEEN)[3]])  # the episode, tried again
    assert len(died) == DEATHS_PER_QUESTION + 2
    servers.answer = lambda port, view: ACTIONS
    assert len(policy.act(requests(SEEN))) == 12


def test_what_kills_is_counted_although_its_episode_is_given_back_in_between(
    servers: Servers,
) -> None:
    """A server that takes longer to start than questions wait."""
    policy = servers.policy("test://a:1")
    died: list[str] = []
    servers.answer = killer(died)
    question = requests(SEEN)[3]
    ask = servers.answer

    def ask_and_stay_away(port: int, view: View) -> Any:
        servers.down = {1}
        return ask(port, view)

    servers.answer = ask_and_stay_away
    for _ in range(DEATHS_PER_QUESTION):
        with pytest.raises(PolicyAwayError):
            policy.act([question])
        servers.down = set()
    with pytest.raises(ServerError, match="asked this alone"):
        policy.act([question])
    assert len(died) == DEATHS_PER_QUESTION + 1


def test_servers_that_are_down_are_not_held_against_a_question(servers: Servers) -> None:
    policy = servers.policy("test://a:1")
    servers.down = {1}
    for _ in range(3 * DEATHS_PER_QUESTION):
        with pytest.raises(PolicyAwayError):
            policy.act(requests(SEEN[:1]))
    servers.down = set()
    assert len(policy.act(requests(SEEN[:1]))) == 1


def test_what_was_lost_in_company_is_asked_while_nobody_else_is(servers: Servers) -> None:
    policy = servers.policy("test://a:1?connections=6")
    lock, under_way, most = threading.Lock(), Counter[str](), Counter[str]()
    lost: set[str] = set()

    def answer(port: int, view: View) -> Any:
        with lock:
            under_way.update([view.instruction])
            most[view.instruction] = max(most[view.instruction], under_way.total())
        try:
            if view.instruction not in lost:
                lost.add(view.instruction)
                raise LostError("hung up")
            time.sleep(0.01)  # for others to come, if they may
            return ACTIONS
        finally:
            with lock:
                under_way.subtract([view.instruction])
                most[f"{view.instruction} at last"] = under_way.total() + 1

    servers.answer = answer
    assert len(policy.act(requests(SEEN))) == 12
    assert [most[f"pick up bowl {index} at last"] for index in range(12)] == [1] * 12


def test_another_model_behind_the_address_is_not_asked(servers: Servers) -> None:
    policy = servers.policy("test://a:1")
    servers.model = "b"
    with pytest.raises(PolicyAwayError, match=r"is another policy than the run began with"):
        policy.act(requests(SEEN[:1]))
    assert not servers.asked


def test_a_refused_key_is_given_back_with_its_reason(servers: Servers) -> None:
    policy = servers.policy("test://a:1")

    def refuse(port: int, view: View) -> Any:
        raise RefusedError("refuses the API key")

    servers.answer = refuse
    with pytest.raises(PolicyAwayError, match="refuses the API key"):
        policy.act(requests(SEEN[:1]))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.zeros((3, 6)), r"test://a:1: its answer has shape \(3, 6\)"),
        (np.zeros((0, 7)), r"shape \(0, 7\)"),
        (np.full((2, 7), np.nan), "holds 14 NaN or infinity"),
        ("up", "holds no numbers"),
        (None, r"has shape \(\)"),
    ],
)
def test_answers_that_are_no_actions_are_errors_of_the_server(
    servers: Servers, answer: Any, message: str
) -> None:
    servers.answer = lambda port, view: answer
    with pytest.raises(ServerError, match=message):
        servers.policy("test://a:1").act(requests(SEEN[:1]))


def test_chunks_of_varying_length_are_taken_unless_a_length_was_said(servers: Servers) -> None:
    servers.answer = lambda port, view: np.zeros((1 + int(view.instruction.split()[-1]), 7))
    chunks = servers.policy("test://a:1").act(requests(SEEN))
    assert [len(chunk.actions) for chunk in chunks] == list(range(1, 13))
    with pytest.raises(ServerError, match="its answer has 1 actions where 4 were said"):
        servers.policy("test://a:1?chunk=4").act(requests(SEEN[:1]))


def test_actions_beyond_the_range_are_clipped_and_counted_or_refused(servers: Servers) -> None:
    servers.answer = lambda port, view: np.full((2, 7), [0.5, 1.5, -2, 0, 0, 0, 1.01])
    (chunk,) = servers.policy("test://a:1").act(requests(SEEN[:1]))
    assert chunk.trace.clipped == 6
    assert chunk.actions[0].tolist() == [0.5, 1, -1, 0, 0, 0, 1]
    with pytest.raises(ServerError, match=r"an action of 2.0000, outside \[-1, 1\]"):
        servers.policy("test://a:1?range=refuse").act(requests(SEEN[:1]))


@pytest.mark.parametrize(
    ("gripper", "opens", "closes"),
    [("minus-opens", -1, 1), ("plus-opens", 1, -1), ("one-opens", 1, 0), ("one-closes", 0, 1)],
)
def test_every_gripper_convention_becomes_minus_one_for_open(
    servers: Servers, gripper: str, opens: float, closes: float
) -> None:
    servers.answer = lambda port, view: [[0, 0, 0, 0, 0, 0, opens], [0, 0, 0, 0, 0, 0, closes]]
    (chunk,) = servers.policy(f"test://a:1?gripper={gripper}").act(requests(SEEN[:1]))
    assert chunk.actions[:, 6].tolist() == [-1, 1]


def test_a_replan_horizon_cuts_the_chunk(servers: Servers) -> None:
    policy = servers.policy("test://a:1?replan=3")
    assert policy.chunk_steps == 3
    assert policy.act(requests(SEEN[:1]))[0].actions.shape == (3, 7)
    with pytest.raises(UserError, match="replan=9, but its chunks have 4 actions"):
        servers.policy("test://a:1?replan=9&chunk=4")


def test_the_identity_is_what_the_server_says_and_how_it_is_meant_not_where_it_is(
    servers: Servers,
) -> None:
    here = servers.policy("test://a:1").checkpoint_sha256
    assert servers.policy("test://b:2,c:3?timeout=5").checkpoint_sha256 == here
    others = {
        servers.policy(f"test://a:1?{words}").checkpoint_sha256
        for words in ("replan=2", "gripper=one-opens", "name=pi05")
    }
    servers.model = "b"
    others.add(servers.policy("test://a:1").checkpoint_sha256)
    assert len(others) == 4 and here not in others
