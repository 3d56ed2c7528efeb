"""Speculative sampling draws from the target's own distribution."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from rsd.decoding.modes import autoregressive, speculative
from rsd.decoding.rules import Rule, Sampling, Verdict, inverse_cdf
from rsd.decoding.stopwatch import Stopwatch
from rsd.decoding.uniforms import Purpose, Uniforms
from tests.decoding.backbones import TableBackbone

# One step, one latent dim, two layers of three levels: nine outcomes, each with known probability.
LEVELS, LAYERS, DRAWS = 3, 3, 6000
FALSE_ALARM = 1e-4  # chance that a right implementation fails one of these tests; seeds are fixed


def _table(seed: int):  # type: ignore[no-untyped-def]
    def logits(row: int, layer: int, coarser: Tensor) -> Tensor:
        name = (seed, layer, *coarser.flatten().tolist())
        generator = torch.Generator().manual_seed(hash(name) % 2**31)
        return 1.2 * torch.randn(1, 1, LEVELS, dtype=torch.float64, generator=generator)

    return logits


TARGET, DRAFT = _table(1), _table(2)


def _expected() -> np.ndarray:
    """Probability of each code sequence under the target."""
    joint = []
    for sequence in itertools.product(range(LEVELS), repeat=LAYERS):
        probability = 1.0
        for layer, code in enumerate(sequence):
            coarser = torch.tensor(sequence[:layer]).reshape(1, 1, layer)
            probability *= float(TARGET(0, layer, coarser).softmax(-1)[0, 0, code])
        joint.append(probability)
    return np.array(joint)


def _backbone(table) -> TableBackbone:  # type: ignore[no-untyped-def]
    return TableBackbone(table, steps=1, latent_dim=1)


def _counts(codes: Tensor) -> np.ndarray:
    index = torch.zeros(len(codes), dtype=torch.int64)
    for layer in range(LAYERS):
        index = index * LEVELS + codes[:, 0, 0, layer]
    return np.bincount(index.numpy(), minlength=LEVELS**LAYERS)


def _p_value(codes: Tensor) -> float:
    return float(chisquare(_counts(codes), _expected() * len(codes)).pvalue)


def _decode(rule: Rule, draft_layers: int) -> Tensor:
    context = torch.zeros(DRAWS, 1, 1, dtype=torch.float64)
    uniforms = Uniforms(tuple((7, draft_layers, row) for row in range(DRAWS)))
    return speculative(
        _backbone(TARGET),
        _backbone(DRAFT),
        context,
        context,
        rule,
        LAYERS,
        draft_layers,
        uniforms,
        Stopwatch(),
    ).codes


@pytest.mark.parametrize("draft_layers", range(LAYERS))
def test_speculative_samples_follow_the_target_distribution(draft_layers: int) -> None:
    assert _p_value(_decode(Sampling(), draft_layers)) > FALSE_ALARM


def test_direct_samples_follow_the_target_distribution() -> None:
    context = torch.zeros(DRAWS, 1, 1, dtype=torch.float64)
    uniforms = Uniforms(tuple((11, row) for row in range(DRAWS)))
    codes = autoregressive(
        _backbone(TARGET), context, Sampling(), LAYERS, uniforms, Stopwatch()
    ).codes
    assert _p_value(codes) > FALSE_ALARM


def test_negative_control_a_residual_of_p_instead_of_p_minus_q_is_caught() -> None:
    class Broken(Sampling):
        def judge(self, guess, draft_logits, target_logits, u_accept, u_choose) -> Verdict:  # type: ignore[no-untyped-def]
            verdict = super().judge(guess, draft_logits, target_logits, u_accept, u_choose)
            wrong = inverse_cdf(target_logits.softmax(dim=-1), u_choose)
            return Verdict(verdict.accepted, torch.where(verdict.accepted, guess, wrong))

    assert _p_value(_decode(Broken(), LAYERS - 1)) < FALSE_ALARM


def test_draws_of_a_row_do_not_depend_on_the_batch_around_it() -> None:
    names = (("a", 1), ("b", 2), ("c", 3))
    together = Uniforms(names).draw(Purpose.ACCEPT, 1, 0, (2, 3))
    alone = Uniforms(names[1:2]).draw(Purpose.ACCEPT, 1, 0, (2, 3))
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(together[0], together[1])
    other = Uniforms(names).draw(Purpose.CHOOSE, 1, 0, (2, 3))
    assert not torch.equal(together, other)
