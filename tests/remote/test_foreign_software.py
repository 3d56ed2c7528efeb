"""Against software that nobody here wrote, each in a virtual environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from remote_servers import (
    FOREIGN,
    ROOT,
    ask_with,
    foreign_python,
    foreign_server,
    observations,
    requests,
    serving,
)

from rsd import repeat
from rsd.errors import UserError
from rsd.models import inspect_policy, load_policy
from rsd.models.remote.conventions import resized
from rsd.models.remote.dialect import ServerError
from rsd.types import Decoding, ImageSpec, Past

pytest.importorskip("websockets", reason="pip install -r requirements-remote.txt")


def seen_by(images: ImageSpec, observation):
    """As a policy gets a client's frames."""
    size = images.height, images.width
    frames = (
        resized(resized(f, 224, 224), *size) for f in (observation.agentview, observation.wrist)
    )
    agentview, wrist = frames
    return replace(observation, agentview=agentview, wrist=wrist)


@pytest.mark.parametrize("policy", ["toy", "libero"])
def test_openpi_client_gets_the_actions_of_the_policy_bit_for_bit(
    policy: str, tmp_path: Path
) -> None:
    info = inspect_policy(policy)
    seen = observations(3)
    with serving(policy, "openpi") as port:
        actions, told = ask_with("openpi_client", port, tmp_path, seen)
    local = load_policy(policy, deterministic=True, device="cpu")
    asked = requests([seen_by(info.images, each) for each in seen], info.modes[0])
    assert np.array_equal(actions, np.stack([chunk.actions for chunk in local.act(asked)]))
    assert json.loads(told)["checkpoint_sha256"] == info.sha256


def test_openpi_client_is_let_in_with_the_key_and_not_without(tmp_path: Path) -> None:
    with serving("toy", "openpi", api_key="secret") as port:
        assert len(ask_with("openpi_client", port, tmp_path, observations(1), "secret")[0]) == 1
        with pytest.raises(AssertionError, match="401"):
            ask_with("openpi_client", port, tmp_path, observations(1), "guess")


def test_we_get_what_a_server_on_openpi_clients_codec_computes() -> None:
    seen = observations(5)
    with foreign_server("openpi_client", "serve_with_openpi_client.py") as port:
        spec = f"ws://127.0.0.1:{port}"
        info = inspect_policy(spec)
        assert (info.chunk_steps, json.loads(info.says)) == (5, {"model": "pi0_libero"})
        policy = load_policy(spec, deterministic=True, device="cpu")
        chunks = policy.act(requests(seen))
        for observation, chunk in zip(seen, chunks, strict=True):
            frames = (resized(f, 224, 224) for f in (observation.agentview, observation.wrist))
            sees = np.concatenate([[f.mean() / 300 for f in frames], observation.proprio])
            expected = np.stack([np.cos(sees[:7] + step) for step in range(5)])
            assert np.array_equal(chunk.actions, expected.astype(np.float32))
            assert chunk.trace.clipped == 0


def test_an_error_of_openpis_is_told_in_a_sentence_and_the_next_question_is_answered() -> None:
    (seen,) = observations(1)
    with foreign_server("openpi_client", "serve_with_openpi_client.py") as port:
        policy = load_policy(f"ws://127.0.0.1:{port}", deterministic=True, device="cpu")
        with pytest.raises(ServerError, match=r"RuntimeError: the model is out of memory"):
            policy.act(requests([replace(seen, instruction="fail")]))
        with pytest.raises(ServerError, match=r"shape \(3, 6\); actions are \(n, 7\)"):
            policy.act(requests([replace(seen, instruction="short")]))
        assert len(policy.act(requests([seen]))) == 1


@pytest.mark.parametrize("batch", ["1", "4"])
def test_we_get_the_chunks_of_a_model_server_of_vla_evals(batch: str) -> None:
    seen = observations(6)
    with foreign_server("vla_eval", "serve_with_vla_eval.py", batch) as port:
        policy = load_policy(
            f"vla-eval://127.0.0.1:{port}?chunk=6", deterministic=True, device="cpu"
        )
        for chunk, observation in zip(policy.act(requests(seen)), seen, strict=True):
            frames = (observation.agentview, observation.wrist)
            sees = np.concatenate([[f.mean() / 300 for f in frames], observation.proprio])
            expected = np.stack([np.cos(sees[:7] + step) for step in range(6)])
            assert np.array_equal(chunk.actions, expected.astype(np.float32))


def test_a_chunk_of_vla_evals_that_is_said_too_long_is_an_error_and_no_action() -> None:
    with foreign_server("vla_eval", "serve_with_vla_eval.py") as port:
        policy = load_policy(
            f"vla-eval://127.0.0.1:{port}?chunk=8", deterministic=True, device="cpu"
        )
        with pytest.raises(ServerError, match="its chunk may be shorter than `chunk` says"):
            policy.act(requests(observations(1)))
        shorter = load_policy(
            f"vla-eval://127.0.0.1:{port}?chunk=2", deterministic=True, device="cpu"
        )
        assert shorter.act(requests(observations(1)))[0].actions.shape == (2, 7)


def test_what_a_server_of_vla_evals_says_of_itself_decides_and_contradicts() -> None:
    with foreign_server("vla_eval", "serve_with_vla_eval.py") as port:
        spec = f"vla-eval://127.0.0.1:{port}"
        with pytest.raises(UserError, match=r"give it as chunk=N"):
            inspect_policy(spec)
        with pytest.raises(UserError, match=r"its gripper is 'minus-opens'; gripper=one-opens"):
            inspect_policy(f"{spec}?chunk=6&gripper=one-opens")
        assert json.loads(inspect_policy(f"{spec}?chunk=6").says)["model_server"] == "Server"
        with pytest.raises(UserError, match=r"looks like vla-eval's: vla-eval://"):
            inspect_policy(f"ws://127.0.0.1:{port}")


@pytest.mark.parametrize("policy", ["toy", "libero"])
def test_vla_evals_connection_gets_the_episodes_of_the_policy_bit_for_bit(
    policy: str, tmp_path: Path
) -> None:
    """Two chunks an episode, the second one after the first, as `rsd evaluate` asks."""
    info = inspect_policy(policy)
    assert info.chunk_steps is not None
    seen = observations(2)
    with serving(policy, "vla-eval") as port:
        actions, told = ask_with("vla_eval", port, tmp_path, seen, str(2 * info.chunk_steps))
    assert json.loads(told)["capabilities"]["checkpoint_sha256"] == info.sha256
    local = load_policy(policy, deterministic=True, device="cpu")
    expected = []
    for observation in seen:
        size = info.images.height, info.images.width
        frames = (resized(f, *size) for f in (observation.agentview, observation.wrist))
        agentview, wrist = frames
        sees = replace(observation, agentview=agentview, wrist=wrist)
        (request,) = requests([sees], info.modes[0])
        (first,) = local.act([replace(request, decoding=Decoding(info.modes[0]))])
        (second,) = local.act([replace(request, chunk_index=1, past=Past(first.codes))])
        expected += [first.actions, second.actions]
    assert np.array_equal(actions, np.concatenate(expected))


@pytest.mark.parametrize("twice", [(), ("twice",)], ids=["once", "twice"])
def test_we_get_what_an_act_server_on_json_numpys_codec_computes(twice: tuple[str, ...]) -> None:
    """Its column of the gripper is 1 for open, 0 for closed."""
    pytest.importorskip("httpx")
    seen = observations(3)
    with foreign_server("json_numpy", "serve_with_json_numpy.py", *twice) as port:
        spec = f"http://127.0.0.1:{port}/act?connections=1"
        policy = load_policy(spec, deterministic=True, device="cpu")
        for observation, chunk in zip(seen, policy.act(requests(seen)), strict=True):
            frames = (observation.agentview, observation.wrist)
            sees = np.concatenate([[f.mean() / 300 for f in frames], observation.proprio])
            expected = np.stack([np.cos(sees[:7] + step) for step in range(8)]).astype(np.float32)
            expected[:, 6] = np.where(expected[:, 6] > 0.5, -1, 1)
            assert np.array_equal(chunk.actions, expected)


def site_packages(package: str) -> str:
    (found,) = Path(foreign_python(package)).parents[1].glob("lib/*/site-packages")
    return str(found)


def test_an_episode_that_asks_openpi_client_alone_ends_as_rsd_evaluate_recorded() -> None:
    kept = repeat.load(str(ROOT / "docs" / "results" / "machines" / "epyc.parquet"))
    key = repeat.worlds_of(kept, ["speculative"], worlds=1, seed=1)[0]
    with serving("libero", "openpi") as port:
        program = FOREIGN / "evaluate_with_openpi_client.py"
        words = [site_packages("openpi_client"), port, key.suite, key.trial, key.task_id]
        done = subprocess.run(
            [sys.executable, program, *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    rows = kept.rows.set_index(["suite", "task_id", "trial", "arm"])
    row = rows.loc[(key.suite, key.task_id, key.trial, "speculative")]
    assert (told["outcome"], told["steps"], told["error"]) == (row["outcome"], row["steps"], "")
    assert told["final_state"].startswith(row["final_state"])


def test_vla_eval_run_evaluates_a_policy_of_ours_on_its_own_libero(tmp_path: Path) -> None:
    """Ten steps of an episode: that it runs through, not what comes of it (docs/remote.md)."""
    with serving("libero", "vla-eval") as port:
        program = FOREIGN / "evaluate_with_vla_eval.py"
        words = [
            site_packages("vla_eval"),
            str(port),
            str(tmp_path),
            "libero_spatial",
            "1",
            "1",
            "lite",
            "10",
        ]
        done = subprocess.run(
            [sys.executable, str(program), *words],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    (aggregate,) = tmp_path.rglob("*_aggregate.json")
    told = json.loads(aggregate.read_text())
    assert "errored" not in done.stdout and told
