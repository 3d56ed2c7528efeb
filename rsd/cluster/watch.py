"""Signals and a cluster that dies, while Ray works.

Ray's calls wait up to a minute for a head that is dead; then Ray ends the process from C++, with a
stack in place of a sentence. So they are made in a thread of their own (`beside`), and the main
thread looks whether the head lives and leaves the other one behind where it must.
"""

from __future__ import annotations

import contextlib
import math
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from queue import SimpleQueue
from types import FrameType, MappingProxyType
from typing import Any, TypeVar

import psutil

from rsd.errors import RunStoppedError
from rsd.leaving import leave_behind

POLL_S = 0.1  # between two looks at signals
PROBE_S = 1.0  # between two questions to a head on another machine, and for its answer
LOST_S = 15.0  # without an answer
BIRTH_S = 120.0  # for a cluster of our own to come up; 10 is usual, 40 on a busy machine
BIRTH_GRACE_S = 5.0  # for Ray to notice itself that a process ended, and to try again
GRACE_S = 3.0  # for the work to come to an end by itself, after a signal
VITAL = ("gcs_server", "raylet")  # names of the processes without which nothing goes on
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # RFC 9113, 3.4

T = TypeVar("T")


class Interrupts:
    """Ctrl-C as a wish: once to finish what is running, twice to leave now. SIGTERM leaves now.

    A context, in which the signals do not raise. One that is ignored (`nohup`, a shell's
    background) stays so.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.count = 0
        self._say = say

    @property
    def finish(self) -> bool:
        """Start nothing more."""
        return self.count > 0

    @property
    def leave(self) -> bool:
        """Do not wait for what is running."""
        return self.count > 1

    def __enter__(self) -> Interrupts:
        self._before = {
            signum: signal.signal(signum, self._on_signal)
            for signum in (signal.SIGINT, signal.SIGTERM)
            if signal.getsignal(signum) is not signal.SIG_IGN
        }
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self.count += 1 if signum == signal.SIGINT else 2
        if not self.leave:
            self._say("finishing the episodes that are running; Ctrl-C again to leave now")


class Lifeline:
    """Whether the cluster's head is there: its processes where they are our own, and an answer."""

    def __init__(
        self,
        address: str,
        vital: Mapping[str, psutil.Process] = MappingProxyType({}),
        clock: Callable[[], float] = time.monotonic,
        what: str = "head",
    ) -> None:
        """`address` is the head's `host:port`, or that of another server, which `what` names."""
        self._address = address
        self._what = what
        self._vital = vital
        self._clock = clock
        self._answered = self._asked = clock()

    def lost(self) -> str:
        """Why the cluster cannot be reached; empty while it can, or nobody knows yet."""
        for name, process in self._vital.items():
            if not _runs(process):
                return f"its {name} on this machine has ended"
        now = self._clock()
        if now - self._asked >= PROBE_S:
            if answers(self._address, PROBE_S):
                self._answered = self._clock()
            self._asked = self._clock()
        silent_s = self._asked - self._answered
        if silent_s > LOST_S:
            return f"the {self._what} at {self._address} has not answered for {silent_s:.0f} s"
        return ""


class Birth:
    """The same for a cluster of our own that is being started, as long as Ray itself says nothing:
    a process of it that ends, or all of it that takes too long."""

    def __init__(
        self,
        vital: Callable[[], Mapping[str, psutil.Process]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`vital` finds those of its processes that there are so far."""
        self._vital = vital
        self._clock = clock
        self._seen: dict[str, psutil.Process] = {}
        self._ran: dict[str, float] = {}  # when each was last seen to run
        self._started = clock()
        self._looked = -math.inf

    def lost(self) -> str:
        """Why it will not come up; empty while it may."""
        now = self._clock()
        if now - self._looked < PROBE_S:
            return ""
        self._looked = now
        self._seen = {**self._vital(), **self._seen}
        self._ran |= {name: now for name, process in self._seen.items() if _runs(process)}
        for name in self._seen:
            if now - self._ran.get(name, self._started) > BIRTH_GRACE_S:
                return f"its {name} on this machine has ended"
        if now - self._started > BIRTH_S:
            return f"it has not come up within {BIRTH_S:g} s"
        return ""


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def answers(address: str, timeout_s: float) -> bool:
    """Whether a server at `host:port` takes a connection and says something (a stopped one takes
    connections, too). It need not speak our language: it may want TLS."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout_s) as connection:
            connection.settimeout(timeout_s)
            connection.sendall(HELLO)
            connection.recv(1)
    except ConnectionResetError:
        return True
    except OSError:
        return False
    return True


_lifelines: list[Lifeline | Birth] = []  # of Ray's connection


@contextlib.contextmanager
def lifeline(line: Lifeline | Birth) -> Iterator[None]:
    """While connected, or about to be: what `beside` looks at."""
    _lifelines.append(line)
    try:
        yield
    finally:
        _lifelines.remove(line)


def _lost() -> str:
    return next(filter(None, (line.lost() for line in _lifelines)), "")


def _told(lost: str) -> str:
    return f"the Ray cluster is lost: {lost}"


def check_cluster() -> None:
    """Raises RunStoppedError where it is lost: what fails then is nobody else's fault."""
    lost = _lost()
    if lost:
        raise RunStoppedError(_told(lost))


class _Hand:
    """One thread for all calls to Ray: its processes end with the *thread* that started them
    (PR_SET_PDEATHSIG), so that thread has to stay."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self.thread = threading.Thread(target=self._serve, name="ray", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            future, work = self._tasks.get()
            try:
                future.set_result(work())
            except BaseException as error:  # raised where the result is asked for
                future.set_exception(error)

    def give(self, work: Callable[[], T]) -> Future[T]:
        """Begin, after what it does now."""
        future: Future[T] = Future()
        self._tasks.put((future, work))
        return future


_hands: list[_Hand] = []


def beside(work: Callable[[], T], leave: Callable[[], bool] = lambda: False) -> T:
    """`work()` in the thread of Ray's calls: what it returns or raises. To be called from the main
    thread.

    Raises KeyboardInterrupt where `leave` says so and the work does not end within a moment, and
    RunStoppedError where the cluster is lost. The thread is then left behind in whatever call to
    Ray it hangs, and must not matter any more (rsd.leaving).
    """
    if not _hands:
        _hands.append(_Hand())
    hand = _hands[0]
    future = hand.give(work)
    try:
        _watch(future, leave)
    except BaseException:
        if not future.done():
            leave_behind(future)
            _hands.remove(hand)
        raise
    failure = future.exception()
    if failure is not None and leave():  # what ended Ray's processes ended the work, too
        raise KeyboardInterrupt from failure
    return future.result()


def _watch(future: Future[Any], leave: Callable[[], bool]) -> None:
    """Return when the work has ended."""
    deadline = math.inf
    while not _ended(future):
        lost = _lost()
        if lost and _ended(future):  # the signal that ended Ray's processes may come here, too
            return
        if leave():
            deadline = min(deadline, time.monotonic() + GRACE_S)
            if lost or time.monotonic() > deadline:
                raise KeyboardInterrupt
        elif lost:
            raise RunStoppedError(_told(lost))


def _ended(future: Future[Any]) -> bool:
    """After a moment."""
    wait([future], POLL_S)
    return future.done()
