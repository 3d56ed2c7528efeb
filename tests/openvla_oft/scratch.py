"""A base to be trained from scratch: the published layout, sizes that two cores can train, random
weights, statistics of the demonstrations.

    PYTHONPATH=.:tests python -m openvla_oft.scratch --data DATA --output BASE
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from openvla_oft import published

from rsd.demos import read_demonstrations
from rsd.models.openvla_oft.config import LlamaSizes, OFTConfig, TowerConfig
from rsd.models.openvla_oft.prompts import PROMPT
from rsd.models.openvla_oft.statistics import FILE

SMALL = OFTConfig(
    dinov2=TowerConfig("vit_large_patch14_reg4_dinov2.lvd142m", 64, 3, 192, 5, heads=2),
    siglip=TowerConfig("vit_so400m_patch14_siglip_224", 64, 3, 192, 0, heads=2),
    llama=LlamaSizes(width=96, hidden=256, depth=2, heads=3, vocabulary=512),
    image_size=84,
)


def make(output: Path, data: Sequence[Path], config: OFTConfig = SMALL, seed: int = 0) -> None:
    """Write it; of residual branches the last map is small, as in initialisations that train."""
    demos = list(read_demonstrations(*data))
    written = published.make(
        output, config, suites=sorted({demo.suite for demo in demos}), dtype=torch.float32,
        action_head=True, shards=1, seed=seed,
    )  # fmt: skip
    backbone = {name: started(name, tensor) for name, tensor in written.backbone.items()}
    published.write_shards(output, backbone, 1)
    by_suite: dict[str, list[Any]] = {}
    for demo in demos:
        by_suite.setdefault(demo.suite, []).append(demo)
    write_tokeniser(output / "tokenizer.json", {demo.instruction for demo in demos})
    told = {f"{suite}_no_noops": statistics(of) for suite, of in by_suite.items()}
    published.write_json(output / FILE, told)


def started(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if "norm" in name or tensor.ndim < 2 or name.endswith("embed_tokens.weight"):
        whole = 1.0 if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")) else 0.0
        if name.endswith("scale_factor"):
            whole = 0.5
        return torch.full_like(tensor, whole) if tensor.ndim < 2 else 0.3 * tensor
    if name.endswith("pos_embed"):
        return 0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
    last = name.endswith(
        ("attn.proj.weight", "mlp.fc2.weight", "o_proj.weight", "down_proj.weight")
    )
    return tensor * (0.4 if last else 1.0)


def write_tokeniser(path: Path, instructions: Iterable[str]) -> None:
    """Merges learnt from the prompts: as few tokens as Llama's own makes of English."""
    from tokenizers import Tokenizer, trainers

    tokeniser = Tokenizer.from_file(str(path))
    kept = [piece for piece, _ in sorted(tokeniser.get_vocab().items(), key=lambda each: each[1])]
    tokeniser.train_from_iterator(
        [PROMPT.format(each) for each in instructions],
        trainers.BpeTrainer(vocab_size=440, special_tokens=kept[:259], show_progress=False),
    )
    tokeniser.save(str(path))


def statistics(demos: Sequence[Any]) -> dict[str, Any]:
    """dataset_statistics.json of one suite; the gripper as published, 0 closed, 1 open."""
    actions = np.concatenate([demo.actions for demo in demos])
    proprio = np.concatenate([demo.proprio for demo in demos])
    bounds = {
        name: {"q01": np.quantile(of, 0.01, axis=0), "q99": np.quantile(of, 0.99, axis=0)}
        for name, of in (("action", actions), ("proprio", proprio))
    }
    bounds["action"]["q01"][6], bounds["action"]["q99"][6] = 0, 1
    told = {n: {q: v.astype(float).tolist() for q, v in b.items()} for n, b in bounds.items()}
    told["action"]["mask"] = [True] * 6 + [False]
    return {**told, "num_transitions": len(actions), "num_trajectories": len(demos)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    make(given.output, given.data)
