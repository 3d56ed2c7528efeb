"""Which episode goes to whom, and how often: values only, no ray."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass

from rsd.types import EpisodeKey

TaskId = tuple[str, int]  # suite, task_id


@dataclass(frozen=True)
class Lease:
    """An episode in a worker's hands."""

    key: EpisodeKey
    attempt: int  # from 1


def task_of(key: EpisodeKey) -> TaskId:
    """The simulator that an episode needs."""
    return key.suite, key.task_id


class Leases:
    """The episodes that are still to be run.

    A worker stays with its task as long as there is something left of it, for making a simulator
    takes seconds. A free worker takes the task with the most work left per worker on it, measured
    in control steps: so long suites go first and the run does not end with one long task. Within
    a task the planned order holds, which keeps the arms of one world close together in time.
    """

    def __init__(
        self, keys: Iterable[EpisodeKey], retries: int, max_steps: Callable[[str], int]
    ) -> None:
        self._queues: dict[TaskId, deque[EpisodeKey]] = defaultdict(deque)
        for key in keys:
            self._queues[task_of(key)].append(key)
        self._retries = retries
        self._max_steps = max_steps
        self._attempts: Counter[EpisodeKey] = Counter()
        self._failed_on: dict[EpisodeKey, set[str]] = defaultdict(set)
        self._held_tasks: Counter[TaskId] = Counter()
        self._held: dict[EpisodeKey, str] = {}

    @property
    def waiting(self) -> int:
        """Episodes that nobody holds."""
        return sum(map(len, self._queues.values()))

    @property
    def held(self) -> int:
        """Episodes in workers' hands."""
        return len(self._held)

    def take(self, worker: str, task: TaskId | None, up: Set[str]) -> Lease | None:
        """The next episode for a worker whose simulator is `task`'s; None if there is none for it.

        An episode is not given back to a worker that it failed on while `up`, the workers that have
        started, has one that it has not failed on.
        """
        tasks = sorted((t for t, queue in self._queues.items() if queue), key=self._urgency)
        if task in tasks:
            tasks.remove(task)
            tasks.insert(0, task)
        for candidate in tasks:
            for key in self._queues[candidate]:
                failed_on = self._failed_on.get(key, set())
                if worker not in failed_on or up <= failed_on:
                    return self._give(key, worker)
        return None

    def _urgency(self, task: TaskId) -> tuple[float, TaskId]:
        steps = len(self._queues[task]) * self._max_steps(task[0])
        return -steps / (1 + self._held_tasks[task]), task

    def _give(self, key: EpisodeKey, worker: str) -> Lease:
        task = task_of(key)
        self._queues[task].remove(key)
        if not self._queues[task]:
            del self._queues[task]
        self._held[key] = worker
        self._held_tasks[task] += 1
        self._attempts[key] += 1
        return Lease(key, self._attempts[key])

    def _release(self, key: EpisodeKey) -> str:
        self._held_tasks[task_of(key)] -= 1
        return self._held.pop(key)

    def done(self, key: EpisodeKey) -> int:
        """The episode is recorded; returns the attempts it took."""
        self._release(key)
        self._failed_on.pop(key, None)
        return self._attempts.pop(key)

    def failed(self, key: EpisodeKey) -> bool:
        """The attempt came to nothing. True: it is waiting again, first of its task; False: its
        retries are used up, and it remains held until `done`."""
        if self._attempts[key] > self._retries:
            return False
        self._failed_on[key].add(self._release(key))
        self._queues[task_of(key)].appendleft(key)
        return True

    def returned(self, key: EpisodeKey) -> None:
        """The attempt does not count: nothing was wrong with the episode or its worker."""
        self._attempts[key] -= 1
        self._release(key)
        self._queues[task_of(key)].appendleft(key)
