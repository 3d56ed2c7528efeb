"""A worker that simulates recorded episodes again. No ray, no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rsd.cluster.worker import Worker, WorkerSettings, time_limit
from rsd.envs import make_environment
from rsd.replay import film, video
from rsd.replay.again import replay
from rsd.types import Environment, EpisodeResult


@dataclass(frozen=True)
class Replayed:
    """What came of a take."""

    differs: tuple[str, ...]  # of each of its episodes, in words; empty where it ends as recorded
    video: bytes = b""  # mp4; empty where none was asked for


class Replayer(Worker[Environment]):
    """Simulates, and draws where that is asked for."""

    def __init__(
        self,
        settings: WorkerSettings,
        draws: bool,
        make: Callable[..., Environment] = make_environment,
    ) -> None:
        super().__init__(settings, make)
        self._draws = draws

    def replay(self, recorded: Sequence[EpisodeResult]) -> Replayed:
        """One episode, or two of one world for one video. Exceptions propagate and leave no
        simulator behind."""
        key = recorded[0].key
        try:
            with time_limit(self._settings.time_limit_s * len(recorded)):
                env = self._simulator((key.suite, key.task_id))
                if not self._draws:
                    return Replayed(tuple(replay(env, each).differs(each) for each in recorded))
                shots = [film.shoot(env, each) for each in recorded]
                differs = tuple(shot.ending.differs(shot.recorded) for shot in shots)
                return Replayed(differs, video.encode(film.pictures(shots), film.HZ))
        except BaseException:
            self._close()
            raise
