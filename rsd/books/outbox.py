"""Files on their way into a folder, which may be away for a while. No torch, no ray.

A disk that cannot be written is full or forbidden: that does not mend itself, so it is told at
once. An object store is away for minutes now and then: it is tried again, in a thread of its own,
while the run that fills it goes on.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rsd.errors import CannotWriteError
from rsd.types import EpisodeKey


@dataclass(frozen=True)
class Patience:
    """With a store that cannot be written."""

    give_up_s: float = 300.0  # after the first failure in a row
    first_pause_s: float = 1.0  # between two tries; doubled after every one
    longest_pause_s: float = 30.0
    leave_s: float = 5.0  # for a last try where nobody wants to wait any more
    backlog_bytes: int = 64 * 1024**2  # waiting to be written, beyond which nothing more is begun

    def pause_s(self, failures: int, dice: float) -> float:
        """Seconds until the next try after so many failures in a row: between half and all of the
        doubled pause (`dice` in [0, 1)), so that many runs on one store do not come back at once.
        """
        doubled: float = self.first_pause_s * 2.0 ** min(failures - 1, 30)
        return min(self.longest_pause_s, doubled) * (0.5 + dice / 2)


@dataclass(frozen=True)
class Parcel:
    """Files that belong together, in memory as they will be stored."""

    write: Callable[[], None]  # again and again to the same effect; raises OSError
    size: int  # bytes
    keys: frozenset[EpisodeKey] = frozenset()  # episodes that are stored with it


class Outbox:
    """Writes parcels in the order in which they were put, each until it is stored.

    Without patience in `flush`, in the caller's thread, where an OSError is raised and the parcel
    stays. With patience in a thread of its own; what that thread gives up for is raised by whoever
    calls next. One caller.
    """

    def __init__(
        self,
        shown: str,
        patience: Patience | None,
        clock: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._shown = shown
        self._patience = patience
        self._clock = clock
        self._dice = dice
        self._parcels: deque[Parcel] = deque()
        self._done: list[Parcel] = []
        self._news: list[str] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._hurried = False

    @property
    def waiting(self) -> int:
        """Parcels that are not stored yet."""
        return len(self._parcels)

    @property
    def full(self) -> bool:
        """Whether so much waits that nothing more should be begun."""
        if self._patience is None:
            return False
        with self._changed:
            return sum(parcel.size for parcel in self._parcels) > self._patience.backlog_bytes

    def put(self, parcel: Parcel) -> None:
        """Take a parcel; it is written by the next `flush`, or soon."""
        with self._changed:
            self._parcels.append(parcel)
            self._changed.notify_all()
        if self._patience is not None and self._thread is None:
            self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
            self._thread.start()

    def flush(self) -> None:
        """Write what waits, where that is nobody else's work. Raises OSError."""
        while self._patience is None and self._parcels:
            self._parcels[0].write()
            self._done.append(self._parcels.popleft())

    def take_stored(self) -> list[Parcel]:
        """Parcels that were stored since the last call. Raises what was given up for."""
        with self._changed:
            stored, self._done = self._done, []
            if self._failure is not None and not stored:
                raise self._failure
        return stored

    def take_news(self) -> list[str]:
        """What happened since the last call, a sentence an event."""
        with self._changed:
            news, self._news = self._news, []
        return news

    def hurry(self) -> None:
        """From now on nothing is tried again but once."""
        with self._changed:
            self._hurried = True
            self._changed.notify_all()

    def wait(self) -> None:
        """Return when everything is stored or given up (`take_stored` tells), which takes no longer
        than patience lasts."""
        if self._patience is None:
            return
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._hurried)
            if self._changed.wait_for(lambda: self._over, self._patience.leave_s):
                return
            self._failure = CannotWriteError(f"{self._shown} does not answer")

    @property
    def _over(self) -> bool:
        return not self._parcels or self._failure is not None

    # -- the thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        since, failures = 0.0, 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._parcels)
                parcel = self._parcels[0]
            try:
                parcel.write()
            except OSError as error:
                since = since if failures else self._clock()
                failures += 1
                if not self._again(error, since, failures):
                    return
            except Exception as error:  # no matter of patience; raised where it is read
                self._give_up(error)
                return
            else:
                self._stored(self._clock() - since if failures else None)
                failures = 0

    def _again(self, error: OSError, since: float, failures: int) -> bool:
        """Pause; False where it is no use any more."""
        patience = self._patience
        assert patience is not None
        away_s = self._clock() - since
        if self._hurried or away_s >= patience.give_up_s:
            tried = f"{failures} tries in {away_s:.0f} s"
            reason = f"cannot write {self._shown} ({tried}): {_first_line(error)}"
            self._give_up(CannotWriteError(reason))
            return False
        with self._changed:
            if failures == 1:
                self._news.append(
                    f"cannot write {self._shown} ({_first_line(error)}): episodes go on and wait "
                    f"in memory, it is tried again for {patience.give_up_s / 60:.0f} minutes"
                )
            pause_s = patience.pause_s(failures, self._dice())
            self._changed.wait_for(lambda: self._hurried, pause_s)
        return True

    def _stored(self, away_s: float | None) -> None:
        with self._changed:
            self._done.append(self._parcels.popleft())
            if away_s is not None:
                self._news.append(f"{self._shown} is written again, after {away_s:.0f} s")
            self._changed.notify_all()

    def _give_up(self, error: Exception) -> None:
        with self._changed:
            self._failure = error
            self._changed.notify_all()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
