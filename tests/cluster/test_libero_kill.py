"""Trial k is trial k on whatever worker it ends up: real LIBERO, real policy, a real SIGKILL."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil
import pytest
from conftest import assert_exactly_once, processes, rows, run_toy

pytestmark = [pytest.mark.usefixtures("ray_here"), pytest.mark.timeout(400)]

EPISODES = ["--task-suite", "libero_spatial", "--tasks", "2", "--num-trials", "2"]
HOW = ["--policy", "spatial", "--assets", "lite", "--arms", "autoregressive"]
DECODED_S = 0.3  # CPU time of a dozen chunks


def kill_an_episode_in_its_middle(killed: list[int]) -> threading.Thread:
    """SIGKILL a worker as soon as the policy has decoded some chunks."""

    def decoding_s() -> float:
        return sum(process.cpu_times().user for process in processes("PolicyReplicaActor"))

    def work() -> None:
        while not processes("EnvWorkerActor.episode"):  # none before the policy is loaded
            time.sleep(0.02)
        loaded_s = decoding_s()
        while decoding_s() < loaded_s + DECODED_S:
            time.sleep(0.02)
        victim = processes("EnvWorkerActor.episode")[0]
        psutil.Process(victim.pid).kill()
        killed.append(victim.pid)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_killed_worker_changes_no_episode(tmp_path: Path) -> None:
    run_toy(tmp_path / "calm", *EPISODES, *HOW)
    killed: list[int] = []
    killer = kill_an_episode_in_its_middle(killed)
    run_toy(tmp_path / "killed", *EPISODES, *HOW)
    killer.join(5)
    assert len(killed) == 1

    calm, disturbed = (rows(tmp_path / name).set_index("trial") for name in ("calm", "killed"))
    assert_exactly_once(tmp_path / "killed", arms=1, episodes_per_arm=2)
    assert sorted(disturbed["attempts"]) == [1, 2] and (calm["attempts"] == 1).all()
    assert (disturbed["error"] == "").all()
    for column in ("final_state_sha256", "steps", "outcome", "chunks"):
        assert disturbed[column].to_dict() == calm[column].to_dict()
    assert calm["final_state_sha256"].nunique() == 2
