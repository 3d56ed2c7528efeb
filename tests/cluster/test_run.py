from __future__ import annotations

import os
import platform
import random
import signal
import threading
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import TOY, assert_exactly_once, processes, rows, run_toy, same_worlds
from rich.console import Console

from rsd import books
from rsd.cluster import actors, life, pool, replicas
from rsd.cluster.actors import PolicyReplicaActor
from rsd.cluster.evaluate import evaluate
from rsd.commands.status import look
from rsd.config import parse
from rsd.envs.assets import ResolvedAssets
from rsd.errors import RunStoppedError
from rsd.models.toy import HANGS_AT
from rsd.preflight import open_books, prepare

pytestmark = [pytest.mark.usefixtures("ray_here"), pytest.mark.timeout(240)]

FORTY = ["--task-suite", "toy_slow", "--tasks", "0", "1", "2", "3", "--num-trials", "10"]


def kill_at_random(kind: str, seed: int, kills: int) -> threading.Thread:
    """SIGKILL processes of `kind` at seeded moments of the run that the main thread does."""
    dice = random.Random(seed)

    def work() -> None:
        killed = 0
        while killed < kills:
            time.sleep(dice.uniform(0.3, 1.2))
            victims = processes(kind)
            if victims:
                victim = dice.choice(victims)
                with_it = psutil.Process(victim.pid)
                with_it.kill()
                killed += 1

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_every_planned_episode_is_recorded_once_and_arms_are_paired(tmp_path: Path) -> None:
    flags = ["--task-suite", "toy", "--num-trials", "5", "--arms"]
    standing, _ = run_toy(tmp_path, *flags, "autoregressive", "speculative", "parallel@2")
    assert standing.recorded == standing.planned == 150
    assert_exactly_once(tmp_path, arms=3, episodes_per_arm=50)
    assert all(len(states) == 1 for states in same_worlds(tmp_path).values())
    chunks = books.read_chunks(str(tmp_path)).to_pandas()
    assert (chunks[chunks["arm"] == "parallel@2"]["layers"] == 2).all()
    assert (chunks["queue_s"] > 0).all()


def test_a_killed_worker_costs_one_retry_and_no_episode(tmp_path: Path) -> None:
    killer = kill_at_random("EnvWorkerActor.episode", seed=1, kills=3)
    run_toy(tmp_path, *FORTY)
    killer.join(1)
    assert not killer.is_alive()
    assert_exactly_once(tmp_path, arms=2, episodes_per_arm=40)
    assert rows(tmp_path)["attempts"].sum() == 80 + 3


def test_a_killed_replica_costs_nothing_but_time(tmp_path: Path) -> None:
    killer = kill_at_random("PolicyReplicaActor", seed=2, kills=2)
    run_toy(tmp_path, *FORTY)
    killer.join(1)
    assert not killer.is_alive()
    assert_exactly_once(tmp_path, arms=2, episodes_per_arm=40)
    assert (rows(tmp_path)["attempts"] == 1).all()


def test_the_books_tell_that_a_replica_died_and_answered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed once it is ready: what dies while it loads is started again by Ray, as one start."""
    monkeypatch.setattr(replicas, "PING_PERIOD_S", 0.2)

    def work() -> None:
        while not ((tmp_path / "run.json").is_file() and told() == ["started", "ready"]):
            time.sleep(0.05)
        (victim,) = processes("PolicyReplicaActor")
        victim.kill()

    def told() -> list[str]:
        (session,) = books.read_run(str(tmp_path))["sessions"]
        return [event["what"] for event in session["replicas"]]

    killer = threading.Thread(target=work, daemon=True)
    killer.start()
    run_toy(tmp_path, *FORTY)
    killer.join(1)
    assert not killer.is_alive()
    (session,) = books.read_run(str(tmp_path))["sessions"]
    assert [event["what"] for event in session["replicas"]] == ["started", "ready", "died", "ready"]
    assert {event["replica"] for event in session["replicas"]} == {"replica-0"}
    assert session["replicas"][1]["node"] == platform.node()
    assert session["replicas"][1]["processor"] == session["machines"][0]["cpu"]
    (found,) = look(str(tmp_path)).replicas
    assert (found.state, len(found.deaths)) == ("ready", 1) and found.ready[0][1] is not None


def test_where_one_of_two_replicas_is_dead_for_good_the_other_one_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors, "REPLICA_RESTARTS", 0)
    monkeypatch.setattr(replicas, "PING_PERIOD_S", 0.5)
    killer = kill_at_random("PolicyReplicaActor", seed=3, kills=1)
    _, text = run_toy(tmp_path, *FORTY, "--replicas", "2")
    killer.join(1)
    assert not killer.is_alive()
    assert "a replica is dead for good, 1 left" in text
    assert text.count("starting") == 2  # replicas and workers, once
    assert_exactly_once(tmp_path, arms=2, episodes_per_arm=40)
    assert (rows(tmp_path)["attempts"] == 1).all()


def test_a_replica_whose_device_hangs_is_replaced_and_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches hold two chunks at most, so at least two processes hang: the second is looked at
    while it does."""
    monkeypatch.setattr(replicas, "PING_PERIOD_S", 0.2)
    flags = ["--task-suite", "toy", "--tasks", "0", "1", "--num-trials", "20"]
    limits = ["--workers", "2", "--decode-limit-s", "1"]
    _, text = run_toy(tmp_path, *flags, "--policy", "toy-hang", *limits)
    assert len(books.read_chunks(str(tmp_path))) > 2 * 2 * HANGS_AT
    assert "a replica died and" in text
    assert_exactly_once(tmp_path, arms=2, episodes_per_arm=40)
    assert (rows(tmp_path)["attempts"] == 1).all()


def test_a_replica_that_does_not_answer_at_all_is_killed_and_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its whole process stands still, the thread included that watches over decodes."""
    monkeypatch.setattr(replicas, "PING_PERIOD_S", 0.5)
    monkeypatch.setattr(replicas, "KILL_GRACE_S", 2.0)
    stopped: list[psutil.Process] = []

    def stop_one() -> None:
        while not processes("EnvWorkerActor.episode"):
            time.sleep(0.05)
        time.sleep(1)
        stopped.extend(processes("PolicyReplicaActor"))
        stopped[0].suspend()

    stopper = threading.Thread(target=stop_one, daemon=True)
    stopper.start()
    _, text = run_toy(tmp_path, *FORTY, "--decode-limit-s", "1", "--time-limit-s", "200")
    assert len(stopped) == 1 and not stopped[0].is_running()
    assert "a replica does not answer any more" in text
    assert_exactly_once(tmp_path, arms=2, episodes_per_arm=40)
    assert (rows(tmp_path)["attempts"] == 1).all()


def test_run_json_names_the_machines_of_replicas_and_workers(tmp_path: Path) -> None:
    flags = ["--task-suite", "toy", "--tasks", "0", "--arms", "parallel"]
    run_toy(tmp_path, *flags)
    run_toy(tmp_path, *flags, "--num-trials", "1", "--resume")  # nothing left to run
    first, second = books.read_run(str(tmp_path))["sessions"]
    assert second["machines"] == []
    machines = {machine.pop("role"): machine for machine in first["machines"]}
    assert len(first["machines"]) == len(machines) == 2  # workers of one node are noted once
    assert machines["replica"].pop("runs_on") == "cpu"
    assert machines["worker"].pop("runs_on") == "none"
    assert machines["replica"] == machines["worker"]
    assert machines["worker"]["node"] == platform.node()
    assert machines["worker"]["cpus"] >= 1 and isinstance(machines["worker"]["gpus"], list)


def test_broken_simulators_become_errors_with_their_traceback_and_spare_their_neighbours(
    tmp_path: Path,
) -> None:
    """Task 0 raises, task 1 hangs, task 2 ends the process; odd trials only."""
    flags = ["--task-suite", "toy_faults", "--num-trials", "2", "--arms", "parallel"]
    run_toy(tmp_path, *flags, "--retries", "1", "--time-limit-s", "2", "--decode-limit-s", "1")
    table = rows(tmp_path).set_index(["task_id", "trial"])
    assert len(table) == 6
    for task, told in enumerate(["toy simulator has diverged", "time limit of 2 s", "died"]):
        assert table.loc[(task, 0), "outcome"] in ("success", "timeout")
        assert table.loc[(task, 1), "outcome"] == "error"
        assert told in table.loc[(task, 1), "error"]
        assert table.loc[(task, 1), "attempts"] == 2
    assert "in _raise" in table.loc[(0, 1), "error"]
    assert "in _hang" in table.loc[(1, 1), "error"]


@pytest.mark.parametrize(
    ("policy", "told"),
    [("toy-nan", "NaN or infinity"), ("toy-crash", "the toy policy has crashed")],
)
def test_a_policy_that_breaks_is_an_error_and_not_a_failure(
    policy: str, told: str, tmp_path: Path
) -> None:
    flags = ["--task-suite", "toy", "--tasks", "0", "--num-trials", "4", "--arms", "parallel"]
    standing, _ = run_toy(tmp_path, *flags, "--policy", policy, "--retries", "1")
    table = rows(tmp_path).set_index("trial")
    assert standing.errors == 2
    assert (table.loc[[1, 3], "outcome"] == "error").all()
    assert table.loc[[1, 3], "error"].str.contains(told).all()
    assert table.loc[[0, 2], "outcome"].isin(["success", "timeout"]).all()


def test_resume_runs_what_is_not_recorded_and_nothing_else(tmp_path: Path) -> None:
    flags = ["--task-suite", "toy", "--num-trials", "2"]
    run_toy(tmp_path, *flags)
    episodes = sorted((tmp_path / "episodes").glob("*.parquet"))
    episodes[0].unlink()
    left = len(rows(tmp_path))
    assert 0 < left < 40
    standing, _ = run_toy(tmp_path, *flags, "--resume", "--workers", "1")
    assert standing.recorded_before == left
    assert standing.recorded_now == 40 - left
    assert_exactly_once(tmp_path, arms=2, episodes_per_arm=20)


def test_workers_are_replaced_after_so_many_episodes(tmp_path: Path) -> None:
    flags = ["--task-suite", "toy", "--tasks", "0", "--num-trials", "6", "--arms", "parallel"]
    run_toy(tmp_path, *flags, "--workers", "1", "--episodes-per-worker", "3")
    assert rows(tmp_path)["worker"].value_counts().to_list() == [3, 3]


def test_a_replica_that_dies_whenever_it_loads_stops_the_run_and_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray restarts it and says nothing: calls to it wait."""

    class Dying:
        def __init__(self, *_: object) -> None:
            time.sleep(0.5)
            os._exit(1)

        async def expect(self, callers: int) -> None: ...

        async def info(self) -> None: ...

    monkeypatch.setattr(actors, "PolicyReplicaActor", Dying)
    told = "every replica of the policy is dead: .*, [5-9] times in a row before it answered"
    with pytest.raises(RunStoppedError, match=told):
        run_toy(tmp_path, "--task-suite", "toy")


def test_a_replica_that_is_stopped_for_good_while_it_loads_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody hears of it: it may as well load a large model."""
    monkeypatch.setattr(replicas, "PATIENCE_S", 1.0)
    monkeypatch.setattr(life, "STOPPED_S", 1.0)
    stopped = tmp_path / "stopped"

    class Stopping(PolicyReplicaActor):
        def __init__(self, *given: Any) -> None:
            if not stopped.exists():
                stopped.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGSTOP)
            super().__init__(*given)

    monkeypatch.setattr(actors, "PolicyReplicaActor", Stopping)
    flags = ["--task-suite", "toy", "--tasks", "0", "--arms", "parallel"]
    standing, _ = run_toy(tmp_path / "run", *flags)
    assert standing.recorded == standing.planned
    assert not psutil.pid_exists(int(stopped.read_text()))


def test_a_replica_with_another_checkpoint_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rsd.models import toy

    monkeypatch.setattr(toy, "sha256", lambda variant: "0" * 64)
    with pytest.raises(RunStoppedError, match="another checkpoint"):
        run_toy(tmp_path, "--task-suite", "toy")


def test_a_replica_or_worker_with_other_code_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (pool, replicas):
        monkeypatch.setattr(module, "source_sha256", lambda: "0" * 64)
    with pytest.raises(RunStoppedError, match="runs other code"):
        run_toy(tmp_path, "--task-suite", "toy")
    assert len(rows(tmp_path)) == 0


def test_a_node_that_lacks_the_assets_stops_the_run_before_an_episode_is_charged_with_it(
    tmp_path: Path,
) -> None:
    run = prepare(parse([*TOY, "--task-suite", "toy", "--output", str(tmp_path)]))
    keys = [replace(key, suite="libero_goal") for key in run.keys]
    absent = ResolvedAssets("official", Path("/nowhere/assets"), "", "")
    run = replace(run, keys=keys, assets=absent, renderer="osmesa")
    with (
        open_books(run, print) as books,
        pytest.raises(RunStoppedError, match=r"cannot run episodes: .*/nowhere/assets"),
    ):
        evaluate(run, books, Console(file=StringIO()))
    assert len(rows(tmp_path)) == 0
