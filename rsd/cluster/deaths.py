"""When so many workers have died that it is no use to start another."""

from __future__ import annotations

import math
from collections.abc import Callable

from rsd.cluster.reasons import killed_for_memory, reason_of
from rsd.errors import RunStoppedError

DEATHS_IN_A_ROW = 5  # after which the run stops
MOMENT_S = 2.0  # deaths within it have one cause


class Deaths:
    """Of workers, without a success between them. Those of one moment count once: with a node that
    is lost go all its workers."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._count, self._last = 0, -math.inf

    def add(self, error: Exception) -> None:
        """Raises RunStoppedError where there are too many to try again."""
        if self._clock() - self._last < MOMENT_S:
            return
        self._last = self._clock()
        self._count += 1
        if self._count >= DEATHS_IN_A_ROW:
            why = reason_of(error)
            if killed_for_memory(error):
                raise RunStoppedError(
                    f"workers were {why} {self._count} times in a row; give fewer --workers, or "
                    "nodes with more memory"
                ) from None
            raise RunStoppedError(f"workers died {self._count} times in a row: {why}") from None

    def end_row(self) -> None:
        """Somebody did what he was asked."""
        self._count = 0

    @property
    def are_many(self) -> bool:
        """Whether one has followed another, so that what died may not be what is to blame."""
        return self._count > 1
