"""What recorded codes mean: the actions of a run from before actions were recorded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from rsd.errors import UserError
from rsd.models import load_policy
from rsd.models.code_policy import CodePolicy

AT_ONCE = 4096  # chunks: some megabytes


def decoder(spec: str) -> Callable[[np.ndarray], np.ndarray]:
    """Of a policy of codes: uint8 (n, T D, K), as the books hold them, -> float32 (n, T, 7).

    Raises UserError for a policy without codes, and whatever loading it finds wrong.
    """
    policy = load_policy(spec, deterministic=False, device="cpu")
    if not isinstance(policy, CodePolicy):
        raise UserError(f"{spec!r} has no codes that could be decoded; name a policy of codes")
    steps = policy.chunk_steps

    @torch.inference_mode()
    def decode(codes: np.ndarray) -> np.ndarray:
        count, _, layers = codes.shape
        shaped = torch.from_numpy(codes.astype(np.int64)).view(count, steps, -1, layers)
        parts = [policy.model.actions(some) for some in shaped.split(AT_ONCE)]
        return torch.cat(parts).numpy()

    return decode
