"""The tokeniser: codes alone decode, layers refine, the published faults cannot come back."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rsd.rfsq import RFSQ
from rsd.rfsq_config import RFSQConfig
from rsd.training.tokeniser import train_tokeniser, truncation_table

IDENTITY = RFSQConfig(latent_dim=7, layers=6, hidden=0, overlap=3.0)
COSINE = dataclasses.replace(IDENTITY, cosine=True)


def _chunks(count: int = 64, seed: int = 0) -> torch.Tensor:
    """Smooth made-up chunks (N, 8, 7) in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    start = 2 * torch.rand(count, 1, 7, generator=generator) - 1
    slope = 0.2 * (torch.rand(count, 1, 7, generator=generator) - 0.5)
    chunks = start + slope * torch.arange(8)[:, None]
    chunks[..., 6] = chunks[..., 6].sign()
    return chunks.clamp(-1, 1)


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


@pytest.mark.parametrize(
    "config", [RFSQConfig(), IDENTITY, COSINE], ids=["published", "identity", "cosine"]
)
def test_codes_alone_decode_bit_for_bit_in_a_fresh_process(
    config: RFSQConfig, tmp_path: Path
) -> None:
    tokeniser = train_tokeniser(config, _chunks(), steps=20, batch_size=32, seed=0)
    with torch.inference_mode():
        codes = tokeniser.encode(_chunks())
        expected = _digest(tokeniser.reconstruct(_chunks(), config.layers))
    save_file(tokeniser.state_dict(), tmp_path / "tokeniser.safetensors")
    save_file({"codes": codes}, tmp_path / "codes.safetensors")
    script = f"""
import hashlib, torch
from safetensors.torch import load_file
from rsd.rfsq_config import RFSQConfig
from rsd.rfsq import RFSQ
tokeniser = RFSQ({config!r}).eval()
tokeniser.load_state_dict(load_file("{tmp_path}/tokeniser.safetensors"))
codes = load_file("{tmp_path}/codes.safetensors")["codes"]
with torch.inference_mode():
    actions = torch.cat([tokeniser.decode(codes[:5]), tokeniser.decode(codes[5:])])
print(hashlib.sha256(actions.contiguous().numpy().tobytes()).hexdigest())
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.strip() == expected


def test_every_layer_narrows_the_reconstruction() -> None:
    table = truncation_table(RFSQ(IDENTITY), _chunks())
    errors = [row.position_mm for row in table]
    assert all(finer < coarser * 0.8 for coarser, finer in itertools.pairwise(errors))
    assert errors[-1] < 0.5
    assert all(row.used_levels > 2 for row in table)


def test_cosine_coefficients_give_the_motion_back_and_leave_the_gripper_alone() -> None:
    tokeniser, actions = RFSQ(COSINE), _chunks()
    latent = tokeniser.latent(actions)
    assert torch.equal(latent[..., 6], actions[..., 6])
    assert torch.allclose(latent[:, 0, :6], actions[..., :6].mean(dim=1), atol=1e-6)
    assert latent.abs().max() <= 1
    table = truncation_table(tokeniser, actions)
    assert table[-1].position_mm < 0.8 and table[-1].gripper_errors == 0


def test_smooth_motion_has_fewer_tokens_off_the_middle_as_cosines() -> None:
    """Why the bundled policy uses them: a draft cannot miss what is always the same."""
    middle = COSINE.levels // 2
    live = [
        (RFSQ(config).encode(_chunks())[..., :6, 0] != middle).float().mean()
        for config in (IDENTITY, COSINE)
    ]
    assert live[1] < 0.5 * live[0]


def test_without_scales_the_deeper_layers_are_dead() -> None:
    naive = RFSQConfig(latent_dim=7, layers=4, hidden=0, scaled=False)
    table = truncation_table(RFSQ(naive), _chunks())
    assert table[-1].position_mm == pytest.approx(table[0].position_mm)
    assert table[-1].used_levels == 1


def test_a_coarse_code_off_by_one_level_is_repaired_by_the_finer_layers() -> None:
    tokeniser = RFSQ(IDENTITY)
    latent = tokeniser.latent(_chunks().clamp(-0.6, 0.6))
    shifts = torch.zeros(*latent.shape, IDENTITY.layers, dtype=torch.int64)
    shifts[..., 0] = 1
    _, labels = tokeniser.quantise_noisily(latent, shifts)
    repaired, _ = tokeniser.quantise_noisily(latent, shifts)
    assert not torch.equal(labels[..., 0], repaired[..., 0])
    clean = tokeniser.dequantise(tokeniser.quantise(latent))
    error = (tokeniser.dequantise(repaired) - latent).abs().max()
    assert error < 4 * (clean - latent).abs().max()


def test_codes_stay_levels_and_labels_equal_codes_without_noise() -> None:
    tokeniser = RFSQ(IDENTITY)
    codes, labels = tokeniser.quantise_noisily(tokeniser.latent(_chunks()), None)
    assert torch.equal(codes, labels)
    assert codes.min() >= 0 and codes.max() < IDENTITY.levels
    assert torch.equal(codes, tokeniser.encode(_chunks()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"latent_dim": 16, "hidden": 0}, "latent_dim"), ({"overlap": 0.5}, "gaps")],
)
def test_settings_that_cannot_work_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RFSQConfig(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "config", [RFSQConfig(), IDENTITY, COSINE], ids=["published", "identity", "cosine"]
)
def test_actions_are_those_of_exact_sums_rounded_once(config: RFSQConfig) -> None:
    """Not of a matrix product in single precision, which every processor rounds in its own way."""
    tokeniser = train_tokeniser(config, _chunks(), steps=5, batch_size=32, seed=0)
    with torch.inference_mode():
        latents = tokeniser.dequantise(tokeniser.encode(_chunks()))
        exact = tokeniser.decoder.double()(latents.double())
        if config.cosine:
            motion = torch.einsum("kt,bkd->btd", tokeniser.basis.double(), exact[..., :-1])
            exact = torch.cat([motion, exact[..., -1:]], dim=-1)
        actions = tokeniser.actions(latents)
    assert actions.dtype == torch.float32
    assert torch.equal(actions, exact.clamp(-1, 1).float())


def test_actions_do_not_depend_on_threads_kernels_or_batch() -> None:
    tokeniser = RFSQ(COSINE).eval()
    latents = 2 * torch.rand(64, 8, 7, generator=torch.Generator().manual_seed(1)) - 1
    with torch.inference_mode():
        together = tokeniser.actions(latents)
        alone = torch.cat([tokeniser.actions(latent[None]) for latent in latents])
        product = (tokeniser.basis.T @ latents[..., :-1]).clamp(-1, 1)
    assert torch.equal(together, alone)
    assert not torch.equal(together[..., :-1], product), "negative control: single precision"
