"""A policy whose model is behind one or several servers, asked as any other policy.

Several servers share the questions: whoever is free is asked, and one that is gone is asked again
after a pause, by and by a longer one, while the others go on. A question is complete in itself, so
it may be asked twice. One that a server was lost over is asked again alone, and after
`DEATHS_PER_QUESTION` servers that died of that it is to blame.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rsd.errors import PolicyAwayError
from rsd.models.remote import conventions
from rsd.models.remote.address import Address, Endpoint, identity
from rsd.models.remote.conventions import Conventions, View
from rsd.models.remote.dialect import Dialect, Line, LostError, RefusedError, ServerError
from rsd.types import Chunk, ChunkRequest, DecodeTrace, Deliver

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
PATIENCE_S = 20.0  # without an answer of any server, after which questions are given back
DEATHS_PER_QUESTION = 3  # servers that may die over one, asked alone, before it is to blame


@dataclass(frozen=True)
class Server:
    """What servers say of themselves, and what is made of it."""

    metadata: dict[str, Any]
    settled: Conventions
    sha256: str


def meet(dialect: Dialect, address: Address, line: Line) -> Server:
    """Raises UserError for a server that cannot be asked as the spec says."""
    said = dialect.learn(line.metadata, address.given)
    settled = conventions.settle(dialect.usual, address.given, said)
    return Server(line.metadata, settled, identity(address, settled, line.metadata))


class _LostOverError(Exception):
    """A server was there, was asked, and then was not there any more."""


class _Answered(NamedTuple):
    """What a server said, a row a question."""

    endpoint: Endpoint
    answers: list[Any]
    seconds: float  # from the question that was answered to the answer


@dataclass(eq=False)
class _Seat:
    """A place for one connection to a server; held by one question at a time."""

    endpoint: Endpoint
    line: Line | None = None
    failures: int = 0  # in a row
    rests_until: float = 0.0  # on the clock

    def hang_up(self) -> None:
        line, self.line = self.line, None
        if line is not None:
            with contextlib.suppress(Exception):  # it is broken already
                line.close()


@dataclass(order=True)
class _Turn:
    """The order in which seats are taken: those that need no rest first, then round about."""

    rests_until: float
    number: int
    seat: _Seat = field(compare=False)


class RemotePolicy:
    """Implements `rsd.types.Policy`."""

    def __init__(
        self,
        dialect: Dialect,
        address: Address,
        server: Server,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """`server`: what every one of them has to be."""
        self.chunk_steps = server.settled.replan or server.settled.chunk
        self.images = server.settled.images
        self.checkpoint_sha256 = server.sha256
        self._dialect = dialect
        self._address = address
        self._server = server
        self._patience_s = patience_s
        self._clock = clock
        self._pause = pause
        self._lost: float | None = None  # on the clock: no answer since
        each = address.access.connections or dialect.connections
        seats = [_Seat(endpoint) for _ in range(each) for endpoint in address.endpoints]
        self._numbers = itertools.count()
        self._turns: queue.PriorityQueue[_Turn] = queue.PriorityQueue()
        for seat in seats:
            self._free(seat)
        self._threads = ThreadPoolExecutor(len(seats), "ask")
        self._seats = len(seats)
        self._taking_all = threading.Lock()
        self._losses: Counter[str] = Counter()  # of servers, by the question that they had

    def act(self, requests: list[ChunkRequest], deliver: Deliver | None = None) -> list[Chunk]:
        """Raises ServerError for answers that are no actions, and PolicyAwayError where no server
        answers; what was answered is delivered before."""
        chunks: dict[int, Chunk] = {}
        failure: BaseException | None = None
        given_up: list[str] = []
        groups = {
            self._threads.submit(self._answer, [requests[row] for row in rows], given_up): rows
            for rows in self._groups(len(requests))
        }
        for group in as_completed(groups):
            if (error := group.exception()) is not None:
                failure = failure or error
                continue
            for row, chunk in zip(groups[group], group.result(), strict=True):
                chunks[row] = chunk
                if deliver is not None:
                    deliver(row, chunk)
        if failure is not None:
            raise failure
        return [chunks[row] for row in range(len(requests))]

    def _groups(self, count: int) -> list[range]:
        """Requests that travel together: shared out evenly among the servers."""
        share = math.ceil(count / len(self._address.endpoints))
        size = max(1, min(self._dialect.batch, share))
        return [range(first, min(first + size, count)) for first in range(0, count, size)]

    def _answer(self, requests: Sequence[ChunkRequest], given_up: list[str]) -> list[Chunk]:
        settled = self._server.settled
        views = [conventions.view(settled, request.observation) for request in requests]
        names = [request.draws for request in requests]
        started = time.perf_counter()
        try:
            asked = self._ask(views, names, given_up)
        except _LostOverError:  # over whichever of them: the others get their answers
            return [self._answer([request], given_up)[0] for request in requests]
        waited_s = time.perf_counter() - started - asked.seconds
        try:
            read = [conventions.actions(settled, answer) for answer in asked.answers]
        except ValueError as error:
            raise ServerError(f"{asked.endpoint}: {error}") from error
        return [
            Chunk(
                each.values,
                None,
                DecodeTrace(
                    drafted=(),
                    accepted=(),
                    passes=1,
                    layers=0,
                    batch_size=len(read),
                    queue_s=waited_s,
                    target_s=asked.seconds,
                    clipped=each.clipped,
                ),
            )
            for each in read
        ]

    def _ask(self, views: Sequence[View], names: Sequence[str], given_up: list[str]) -> _Answered:
        """Whoever answers first of those that are asked one after the other. `given_up`: why
        another question of the batch was; those that have not been asked yet are, too. Raises
        _LostOverError for several questions that have to be asked one by one."""
        while True:
            alone = any(self._losses[name] for name in names)
            if alone and len(names) > 1:
                raise _LostOverError
            with self._seat(alone) as seat:
                started = self._clock()
                try:
                    if given_up:
                        raise PolicyAwayError(given_up[0])
                    self._pause(max(0.0, seat.rests_until - started))
                    return self._put(seat, views, names, alone)
                except ServerError as error:
                    self._lost = None
                    seat.hang_up()  # it may have hung up itself, as openpi's do
                    raise ServerError(f"{seat.endpoint}: {error}") from error
                except (LostError, RefusedError) as error:
                    if (silent_s := self._rest(seat, started)) >= self._patience_s:
                        given_up.append(
                            f"no server of the policy has answered for {silent_s:.0f} s: {error}"
                        )
                        raise PolicyAwayError(given_up[0]) from error
                except Exception:
                    seat.hang_up()  # who knows what is under way on it
                    raise

    @contextlib.contextmanager
    def _seat(self, alone: bool) -> Iterator[_Seat]:
        """The next free one; `alone`: while nobody holds another."""
        if alone:
            with self._taking_all:  # two who held a part each would wait for each other
                turns = [self._turns.get() for _ in range(self._seats)]
        else:
            turns = [self._turns.get()]
        try:
            yield min(turns).seat
        finally:
            for turn in turns:
                self._free(turn.seat)

    def _put(
        self, seat: _Seat, views: Sequence[View], names: Sequence[str], alone: bool
    ) -> _Answered:
        """Ask a server. Raises LostError where it is lost, RefusedError, and ServerError, also for
        a question that servers die of."""
        if alone:
            seat.hang_up()  # so that a server that was lost before is not lost over this
        line = self._line(seat)
        started = time.perf_counter()
        try:
            answers = line.ask(views, self._server.settled)
        except LostError as error:
            self._losses.update(names)
            if alone and self._losses[names[0]] > DEATHS_PER_QUESTION:
                raise ServerError(
                    f"{DEATHS_PER_QUESTION} times a server was lost when it was asked this alone, "
                    f"and once before: {error}"
                ) from error
            raise
        seconds = time.perf_counter() - started
        self._lost = None
        seat.failures, seat.rests_until = 0, 0.0
        for name in names:
            self._losses.pop(name, None)
        return _Answered(seat.endpoint, answers, seconds)

    def _rest(self, seat: _Seat, asked: float) -> float:
        """After a question in vain, asked at `asked`; returns how long none had an answer."""
        seat.hang_up()
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(seat.failures, 16))
        seat.failures += 1
        now = self._clock()
        seat.rests_until = now + pause_s
        if self._lost is None:
            self._lost = asked
        return now - self._lost

    def _line(self, seat: _Seat) -> Line:
        if seat.line is None:
            seat.line = line = self._dialect.connect(seat.endpoint, self._address.access)
            try:
                now = meet(self._dialect, self._address, line)
            except ValueError as error:
                raise RefusedError(f"{seat.endpoint}: {error}") from error
            if now.sha256 != self._server.sha256:
                raise RefusedError(
                    f"{seat.endpoint} is another policy than the run began with: it says "
                    f"{now.metadata}, the other said {self._server.metadata}"
                )
        return seat.line

    def _free(self, seat: _Seat) -> None:
        self._turns.put(_Turn(seat.rests_until, next(self._numbers), seat))

    def close(self) -> None:
        """Hang up; nothing is being asked."""
        self._threads.shutdown()
        while not self._turns.empty():
            self._turns.get().seat.hang_up()
