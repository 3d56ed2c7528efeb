"""A LeRobot checkpoint in a replica, against LeRobot's own evaluation and vla-eval's bridge."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lerobot", reason="pip install --no-deps -r requirements-lerobot.txt")
pytest.importorskip(
    "torchvision", exc_type=ImportError, reason="needs torchvision of torch's build"
)

import torch
from lerobot_policies import made_up_checkpoints
from lerobot_policies.made_up_checkpoints import EXECUTED, PIXELS
from remote_servers import FOREIGN, observations, requests

from rsd.errors import UserError
from rsd.models import load_policy
from rsd.types import ImageSpec, Observation

pytestmark = pytest.mark.timeout(300)
SEEN = observations(3, ImageSpec(PIXELS, PIXELS))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_checkpoints.act(tmp_path_factory.mktemp("lerobot") / "act")


def as_lerobot_evaluates(checkpoint: Path, seen: Observation, steps: int) -> np.ndarray:
    """`rollout` of lerobot_eval.py, for frames as its LIBERO environment has them: not turned."""
    from lerobot.configs import PreTrainedConfig
    from lerobot.envs.utils import preprocess_observation
    from lerobot.policies import get_policy_class, make_pre_post_processors
    from lerobot.processor.env_processor import LiberoProcessorStep

    config = PreTrainedConfig.from_pretrained(checkpoint)
    policy = get_policy_class("act").from_pretrained(checkpoint, config=config)
    before, after = make_pre_post_processors(config, str(checkpoint))
    policy.reset()
    actions = []
    for _ in range(steps):
        raw = {
            "pixels": {
                "image": seen.agentview[None, ::-1, ::-1].copy(),
                "image2": seen.wrist[None, ::-1, ::-1].copy(),
            },
            "agent_pos": seen.proprio[None],
        }
        observation: dict[str, Any] = preprocess_observation(raw)
        observation["task"] = [seen.instruction]
        observation = LiberoProcessorStep().observation(observation)
        with torch.inference_mode():
            actions.append(after(policy.select_action(before(observation))).numpy())
    return np.concatenate(actions)


def test_actions_are_those_of_lerobots_own_evaluation_bit_for_bit(checkpoint: Path) -> None:
    policy = load_policy(f"lerobot://{checkpoint}", deterministic=True, device="cpu")
    for seen, chunk in zip(SEEN, policy.act(requests(SEEN)), strict=True):
        expected = as_lerobot_evaluates(checkpoint, seen, EXECUTED)
        assert (np.abs(expected) > 1).sum() == chunk.trace.clipped
        assert np.array_equal(chunk.actions, np.clip(expected, -1, 1))
    assert policy.chunk_steps == EXECUTED
    swapped = f"lerobot://{checkpoint}?agentview=image2&wrist=image"
    other = load_policy(swapped, deterministic=True, device="cpu").act(requests(SEEN[:1]))
    turned = replace(SEEN[0], agentview=SEEN[0].wrist, wrist=SEEN[0].agentview)
    assert np.array_equal(other[0].actions, policy.act(requests([turned]))[0].actions)
    assert not np.array_equal(other[0].actions, policy.act(requests(SEEN[:1]))[0].actions)


def test_the_state_is_the_one_that_lerobots_environment_builds() -> None:
    from lerobot.processor.env_processor import LiberoProcessorStep

    transforms = pytest.importorskip("robosuite.utils.transform_utils")
    random = np.random.default_rng(3)
    quaternions = random.normal(size=(200, 4))
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    theirs = LiberoProcessorStep()._quat2axisangle(torch.from_numpy(quaternions)).numpy()
    ours = np.stack([transforms.quat2axisangle(each) for each in quaternions])
    assert np.abs(theirs - ours).max() < 1e-4 and np.linalg.norm(ours, axis=1).max() > math.pi


def test_an_answer_depends_on_its_question_alone(checkpoint: Path) -> None:
    policy = load_policy(f"lerobot://{checkpoint}", deterministic=True, device="cpu")
    first, second = policy.act(requests(SEEN[:2]))
    (again,) = policy.act([requests(SEEN[:2])[1]])
    assert np.array_equal(again.actions, second.actions)
    assert not np.array_equal(first.actions, second.actions)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    policy.act(requests(SEEN[:1]))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("actt", "LeRobot cannot load the actt"),
        ("act", r"cannot load the act of .*header too small"),
        ("diffusion", "not bring along: 'diffusers' is required"),
    ],
)
def test_what_lerobot_cannot_load_is_told_in_a_sentence(
    tmp_path: Path, kind: str, message: str
) -> None:
    folder = made_up_checkpoints.described(tmp_path, type=kind)
    with pytest.raises(UserError, match=message):
        load_policy(f"lerobot://{folder}", deterministic=True, device="cpu")


def test_vla_evals_bridge_gives_the_same_actions(checkpoint: Path) -> None:
    pytest.importorskip("vla_eval", reason="pip install --no-deps vla-eval==0.8.0")
    pytest.importorskip("websockets", reason="pip install -r requirements-remote.txt")
    command = [sys.executable, str(FOREIGN / "serve_lerobot_with_vla_eval.py"), str(checkpoint)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            port = next(line.split()[1] for line in lines if line.startswith("port "))
            spec = f"vla-eval://127.0.0.1:{port}?chunk={EXECUTED}&image={PIXELS}"
            theirs = load_policy(spec, deterministic=True, device="cpu").act(requests(SEEN))
        finally:
            process.kill()
    ours = load_policy(f"lerobot://{checkpoint}", deterministic=True, device="cpu")
    for their, our in zip(theirs, ours.act(requests(SEEN)), strict=True):
        assert np.array_equal(their.actions, our.actions)
        assert their.trace.clipped == our.trace.clipped
