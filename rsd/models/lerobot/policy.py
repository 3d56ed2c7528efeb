"""A LeRobot checkpoint that answers chunks, through its own processors and `select_action`.

Source: lerobot 0.6.1, `scripts/lerobot_eval.py` (`rollout`), `envs/utils.py`
(`preprocess_observation`), `processor/env_processor.py` (`LiberoProcessorStep`): frames turned by
180 degrees as float32 in [0, 1], the state as eef position, axis-angle without the antipodal flip,
gripper's joints; actions as the simulator takes them. That is how observations are here, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from rsd.episode import ACTION_LIMIT
from rsd.errors import UserError
from rsd.models.lerobot.folder import STATE, Checkpoint, identity
from rsd.types import (
    ACTION_DIM,
    Chunk,
    ChunkRequest,
    DecodeTrace,
    Deliver,
    ImageSpec,
    Observation,
)


class LeRobotPolicy:
    """Implements `rsd.types.Policy`."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        policy: Any,
        before: Callable[[dict[str, Any]], dict[str, Any]],
        after: Callable[[torch.Tensor], torch.Tensor],
        device: str,
    ) -> None:
        """`policy` and its processors as LeRobot loads them."""
        self.chunk_steps = checkpoint.chunk_steps
        self.images = ImageSpec(*checkpoint.image)
        self.checkpoint_sha256 = identity(checkpoint)
        self._cameras = checkpoint.cameras
        self._policy = policy
        self._before = before
        self._after = after
        self._gpus = [device] if device == "cuda" else []

    def act(self, requests: list[ChunkRequest], deliver: Deliver | None = None) -> list[Chunk]:
        """Raises ValueError for answers that are no actions."""
        chunks = []
        for row, request in enumerate(requests):
            started = time.perf_counter()
            actions = self._actions(request)
            seconds = time.perf_counter() - started
            clipped = int((np.abs(actions) > ACTION_LIMIT).sum())
            trace = DecodeTrace((), (), 1, 0, target_s=seconds, clipped=clipped)
            chunk = Chunk(np.clip(actions, -ACTION_LIMIT, ACTION_LIMIT), None, trace)
            chunks.append(chunk)
            if deliver is not None:
                deliver(row, chunk)
        return chunks

    def _actions(self, request: ChunkRequest) -> np.ndarray:
        """float32 (T, 7): the actions that its queue holds after one observation. What it samples
        depends on the request alone."""
        with torch.random.fork_rng(self._gpus), torch.inference_mode():
            torch.manual_seed(int.from_bytes(request.draws.encode()) % 2**63)
            self._policy.reset()
            seen = self._before(self._seen(request.observation))
            steps = [
                self._after(self._policy.select_action(seen)).cpu().numpy()
                for _ in range(self.chunk_steps)
            ]
        actions = np.concatenate(steps).astype(np.float32)
        if actions.shape != (self.chunk_steps, ACTION_DIM) or not np.isfinite(actions).all():
            raise ValueError(
                f"the policy gave an array of shape {actions.shape}, of which "
                f"{int((~np.isfinite(actions)).sum())} values are NaN or infinite; actions are "
                f"finite, ({self.chunk_steps}, {ACTION_DIM})"
            )
        return actions

    def _seen(self, observation: Observation) -> dict[str, Any]:
        def frame(pixels: np.ndarray) -> torch.Tensor:
            chw = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
            return chw[None].to(torch.float32) / 255

        return {
            self._cameras["agentview"]: frame(observation.agentview),
            self._cameras["wrist"]: frame(observation.wrist),
            STATE: torch.from_numpy(observation.proprio)[None],
            "task": [observation.instruction],
        }


def load(checkpoint: Checkpoint, device: str) -> LeRobotPolicy:
    """Raises UserError for a type that LeRobot does not know, or lacks packages for."""
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies import get_policy_class, make_pre_post_processors

    folder = str(checkpoint.folder)
    try:
        kind = get_policy_class(checkpoint.kind)
        config = PreTrainedConfig.from_pretrained(folder)
        config.device = device
        if hasattr(config, "pretrained_backbone_weights"):
            config.pretrained_backbone_weights = None  # downloaded, and then overwritten
        policy = kind.from_pretrained(folder, config=config, strict=True)
        before, after = make_pre_post_processors(
            config, folder, preprocessor_overrides={"device_processor": {"device": device}}
        )
    except ImportError as error:
        raise UserError(
            f"a policy of type {checkpoint.kind!r} needs packages that LeRobot does not bring "
            f"along: {error}"
        ) from error
    except Exception as error:  # whatever a loader of somebody else's raises
        told = f"{type(error).__name__}: {error}"
        raise UserError(f"LeRobot cannot load the {checkpoint.kind} of {folder}: {told}") from error
    return LeRobotPolicy(checkpoint, policy.eval(), before, after, device)
