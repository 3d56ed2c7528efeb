"""Recorded episodes simulated again on Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ray.actor import ActorHandle

from rsd.cluster.actors import start_worker
from rsd.cluster.errands import Errand, run_errand
from rsd.cluster.replayer import Replayed, Replayer
from rsd.cluster.scaling import Footprint
from rsd.cluster.worker import WorkerSettings
from rsd.envs import suite_of
from rsd.replay.choice import Take
from rsd.types import EpisodeKey, EpisodeResult


def replay_on_ray(
    takes: Sequence[Take],
    read: Callable[[Take], list[EpisodeResult]],
    settings: WorkerSettings,
    draws: bool,
    workers: int,
    came: Callable[[Take, Replayed | None, str], None],
    say: Callable[[str], None],
) -> None:
    """Simulate all takes. `came` is told of each, with what came of it or why nothing did.

    `read` may raise UserError for an episode that cannot be simulated. Raises as `run_errand`, and
    what else `read` raises.
    """
    named = {take.key: take for take in takes}

    def make(footprint: Footprint) -> ActorHandle:
        return start_worker(Replayer, footprint, settings, draws)

    def ask(worker: ActorHandle, key: EpisodeKey) -> Any:
        return worker.replay.remote(read(named[key]))

    errand = Errand[Replayed](
        list(named),
        lambda suite: settings.protocol.most_steps(suite_of(suite)),
        make,
        ask,
        lambda key, replayed, why: came(named[key], replayed, why),
        lambda key: str(named[key]),
        2 * settings.time_limit_s,  # of a pair
        workers,
    )
    run_errand(errand, say)
