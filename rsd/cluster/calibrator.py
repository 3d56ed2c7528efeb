"""A worker that watches draft and target along rollouts. No ray."""

from __future__ import annotations

from rsd.calibration import Observed
from rsd.cluster.worker import Worker, WorkerSettings, own_policy, time_limit
from rsd.envs.libero import LiberoEnvironment
from rsd.episode import run_episode
from rsd.errors import UserError
from rsd.suites import get_suite
from rsd.types import Arm, EpisodeKey


class Fresh(LiberoEnvironment):
    """Its trials are seeds of fresh placements, none of them a stored state."""

    def reset(self, trial: int) -> None:
        self.reset_fresh(trial)


class Calibrator(Worker[LiberoEnvironment]):
    """Rolls out, with a policy of its own."""

    def __init__(self, settings: WorkerSettings, policy: str, sha256: str, stored: bool) -> None:
        """On `stored` trials, or else on fresh placements. Raises as `own_policy`."""
        super().__init__(settings, LiberoEnvironment if stored else Fresh)
        from rsd.models.code_policy import CodePolicy

        loaded = own_policy(policy, sha256)
        if not isinstance(loaded, CodePolicy):
            raise UserError(f"policy {policy!r} decodes no codes, so that it has no draft")
        self._policy = loaded

    def roll_out(self, key: EpisodeKey, arm: Arm) -> Observed:
        """Exceptions propagate and leave no simulator behind."""
        from rsd.models.witness import Witness

        witness = Witness(self._policy)
        try:
            with time_limit(self._settings.time_limit_s):
                env = self._simulator((key.suite, key.task_id))
                run_episode(env, key, arm, witness.decide, get_suite(key.suite).max_steps)
        except BaseException:
            self._close()
            raise
        return witness.observed()
