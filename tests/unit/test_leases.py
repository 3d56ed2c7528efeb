from __future__ import annotations

import random

from rsd.cluster.leases import Lease, Leases, TaskId, task_of
from rsd.types import EpisodeKey


def keys(suite: str = "short", tasks: int = 3, trials: int = 2) -> list[EpisodeKey]:
    return [
        EpisodeKey(arm, suite, task, trial)
        for task in range(tasks)
        for trial in range(trials)
        for arm in ("a", "b")
    ]


def leases(planned: list[EpisodeKey], retries: int = 2) -> Leases:
    return Leases(planned, retries, {"short": 10, "long": 100}.__getitem__)


CREW = {"w0", "w1", "w2", "w3"}


def take(
    book: Leases, worker: str, task: TaskId | None = None, crew: set[str] = CREW
) -> EpisodeKey:
    lease = book.take(worker, task, crew)
    assert isinstance(lease, Lease)
    return lease.key


def test_a_worker_stays_with_its_task_and_the_arms_of_a_world_follow_each_other() -> None:
    book = leases(keys())
    task: TaskId | None = None
    order = []
    while (lease := book.take("w1", task, CREW)) is not None:
        order.append(lease.key)
        task = task_of(lease.key)
        book.done(lease.key)
    assert order == keys()


def test_workers_spread_over_tasks_and_long_suites_go_first() -> None:
    book = leases([*keys("short"), *keys("long", tasks=2)])
    first = [task_of(take(book, f"w{worker}")) for worker in range(3)]
    assert first[:2] == [("long", 0), ("long", 1)]
    assert (
        first[2][0] == "long"
    )  # two workers on a long task still have more to do than a short one


def test_a_failed_episode_goes_to_another_worker_first() -> None:
    book = leases(keys(tasks=1))
    failed = take(book, "w1")
    assert book.failed(failed)
    assert take(book, "w1") != failed
    assert take(book, "w2") == failed


def test_a_worker_that_is_alone_gets_it_back() -> None:
    book = leases(keys(tasks=1, trials=1)[:1])
    failed = take(book, "w1")
    book.failed(failed)
    assert book.take("w1", None, {"w1", "w2"}) is None
    assert take(book, "w1", crew={"w1"}) == failed


def test_an_episode_goes_round_the_crew_before_it_comes_back_to_anybody() -> None:
    book = leases(keys(tasks=1, trials=1)[:1], retries=3)
    crew = {"w1", "w2", "w3"}
    for worker in sorted(crew):
        refused = [other for other in crew if other < worker]
        assert all(book.take(other, None, crew) is None for other in refused)
        assert book.failed(take(book, worker, crew=crew))
    assert take(book, "w1", crew=crew) == keys()[0]


def test_a_worker_that_is_gone_is_not_waited_for() -> None:
    book = leases(keys(tasks=1, trials=1)[:1], retries=3)
    for worker in ("w1", "w2"):
        book.failed(take(book, worker))
    assert take(book, "w1", crew={"w1", "w2"}) == keys()[0]


def test_retries_are_used_up_and_counted() -> None:
    book = leases(keys(tasks=1, trials=1)[:1], retries=2)
    for again in (True, True, False):
        assert book.failed(take(book, "w", crew={"w"})) is again
    assert book.held == 1
    assert book.done(keys()[0]) == 3
    assert (book.held, book.waiting) == (0, 0)


def test_an_attempt_that_is_given_back_does_not_count() -> None:
    book = leases(keys(tasks=1, trials=1)[:1], retries=0)
    for _ in range(5):
        book.returned(take(book, "w"))
    lease = book.take("w", None, CREW)
    assert lease is not None and lease.attempt == 1


def test_whatever_happens_every_episode_is_done_exactly_once() -> None:
    dice = random.Random(0)
    planned = [*keys("short", 4, 5), *keys("long", 3, 5)]
    book = leases(planned, retries=2)
    held: list[EpisodeKey] = []
    done: list[EpisodeKey] = []
    while book.waiting or book.held:
        lease = book.take(f"w{dice.randrange(4)}", None, CREW)
        if lease is not None:
            held.append(lease.key)
        if held and dice.random() < 0.6:
            key = held.pop(dice.randrange(len(held)))
            fate = dice.choice(["done", "failed", "returned"])
            if fate == "returned":
                book.returned(key)
            elif fate == "done" or not book.failed(key):
                assert 1 <= book.done(key) <= 3
                done.append(key)
    assert sorted(done) == sorted(planned)
