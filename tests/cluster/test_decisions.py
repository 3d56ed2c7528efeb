"""What an evaluation and a collection make of what comes back; no Ray is started."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError
from rich.console import Console

from rsd.books import read_episodes
from rsd.cluster.collect import TaskStanding
from rsd.cluster.display import LineDisplay
from rsd.cluster.evaluate import EvaluationRun, wishes_of
from rsd.cluster.pool import Report
from rsd.cluster.watch import Interrupts
from rsd.cluster.worker import error_result
from rsd.config import parse
from rsd.errors import RunStoppedError
from rsd.preflight import open_books, prepare


def test_experts_alone_need_no_replica(tmp_path: Path) -> None:
    run = prepare(parse(["--arms", "expert", "--assets", "lite", "--output", str(tmp_path)]))
    assert wishes_of(run).replicas == 0


def test_episodes_that_are_killed_for_memory_again_and_again_stop_the_run_and_become_no_errors(
    tmp_path: Path,
) -> None:
    flags = ["--task-suite", "toy", "--policy", "toy", "--retries", "0", "--output", str(tmp_path)]
    run = prepare(parse(flags))
    now = 0.0
    member = SimpleNamespace(name="worker-0", node="here")
    killed = OutOfMemoryError("a node running low on memory")
    with open_books(run, print) as books:
        display = LineDisplay(Console(file=StringIO()))
        session = EvaluationRun(run, books, display, Interrupts(print), clock=lambda: now)

        def come_back(error: Exception | None) -> None:
            lease = session._leases.take("worker-0", None, {"worker-0"})
            assert lease is not None
            result = (
                None
                if error
                else error_result(
                    lease.key, session._arm_of(lease.key), "", session._worker_settings
                )
            )
            session._take_in(Report(member, lease, result, error))  # type: ignore[arg-type]

        recorded = []
        for error in (*[killed] * 4, None, *[killed] * 4, ActorDiedError()):
            come_back(error)
            recorded.append(session.standing.recorded)
            now += 10
        # the first of a row may be its episode's fault
        assert recorded == [1, 1, 1, 1, 2, 3, 3, 3, 3, 4]
        with pytest.raises(RunStoppedError, match="killed for memory 5 times in a row"):
            come_back(killed)
    assert read_episodes(str(tmp_path)).num_rows == 4


@pytest.mark.parametrize(
    ("standing", "why"),
    [
        (TaskStanding(5, 3, done_now=3, failed_now=9, void_now=9, errors_now=9), ""),
        (TaskStanding(5, 3, done_now=3, failed_now=10), "10 placements were not solved; 3 were"),
        (TaskStanding(50, 3, done_now=3, failed_now=49), ""),
        (TaskStanding(50, 50, done_now=50, failed_now=50), ""),
        (TaskStanding(5, 0, void_now=10), "10 placements were solved before anything was done"),
        (TaskStanding(50, 3, done_now=3, errors_now=10), "10 placements ended in errors, which"),
        (TaskStanding(50, 20, done_now=20, errors_now=10), ""),
    ],
)
def test_a_task_is_given_up_for_a_reason_and_errors_are_none_of_the_experts(
    standing: TaskStanding, why: str
) -> None:
    assert standing.given_up.startswith(why) and bool(standing.given_up) == bool(why)
