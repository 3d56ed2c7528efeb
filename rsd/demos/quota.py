"""Which seeds of a task are still to be tried."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class Quota:
    """Which seeds of one task to try until it has `wanted` demonstrations.

    Seeds are given out in order, never more than could still be needed: whatever the number of
    workers and the order in which they finish, the kept seeds are the lowest that succeed. For the
    same reason a skipped seed keeps its place, until a later session tries it again.
    """

    def __init__(self, wanted: int, first_seed: int, done: Iterable[int], failed: Iterable[int]):
        self.wanted = wanted
        self.done = set(done)
        self.failed = set(failed)
        self.skipped: set[int] = set()  # that ended in errors too often
        self._held: set[int] = set()
        self._again: deque[int] = deque()
        self._next = first_seed

    @property
    def open(self) -> int:
        """Seeds that could be given out now."""
        return max(0, self.wanted - len(self.done) - len(self._held) - len(self.skipped))

    @property
    def held(self) -> int:
        """Seeds that are being tried."""
        return len(self._held)

    def take(self) -> int | None:
        """The next seed to try; None where enough are done or being tried."""
        if not self.open:
            return None
        seed = self._again.popleft() if self._again else self._unused()
        self._held.add(seed)
        return seed

    def _unused(self) -> int:
        while self._next in self.done or self._next in self.failed:
            self._next += 1
        self._next += 1
        return self._next - 1

    def succeeded(self, seed: int) -> None:
        self._held.remove(seed)
        self.done.add(seed)

    def gave_nothing(self, seed: int) -> None:
        self._held.remove(seed)
        self.failed.add(seed)

    def returned(self, seed: int) -> None:
        """The attempt was cut short by something else than the expert: try the seed again."""
        self._held.remove(seed)
        self._again.append(seed)

    def skip(self, seed: int) -> None:
        """The same, and often enough for this session."""
        self._held.remove(seed)
        self.skipped.add(seed)
