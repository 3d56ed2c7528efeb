"""Speculative sampling draws from the target's own distribution."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from rsd.decoding.rules import Case, Rule, Sampling, Verdict, inverse_cdf
from rsd.decoding.sequential import autoregressive
from rsd.decoding.stopwatch import Stopwatch
from rsd.decoding.uniforms import Purpose, Uniforms
from tests.decoding.backbones import TableBackbone, speculate

LEVELS, DRAWS = 3, 6000
SHAPES = [(1, 3), (2, 2)]  # steps, layers: 27 and 81 outcomes, each of known probability
FALSE_ALARM = 1e-4  # chance that a right implementation fails one of these tests; seeds are fixed


def _table(seed: int, steps: int):  # type: ignore[no-untyped-def]
    def logits(row: int, layer: int, coarser: Tensor) -> Tensor:
        name = (seed, layer, *coarser.flatten().tolist())
        generator = torch.Generator().manual_seed(hash(name) % 2**31)
        return 1.2 * torch.randn(steps, 1, LEVELS, dtype=torch.float64, generator=generator)

    return logits


def _backbone(seed: int, steps: int) -> TableBackbone:
    return TableBackbone(_table(seed, steps), steps=steps, latent_dim=1)


TARGET, DRAFT = 1, 2  # seeds


def _expected(steps: int, layers: int, temperature: float) -> np.ndarray:
    """Probability of each outcome under the target; an outcome's digits are its codes, layer by
    layer, step by step."""
    table = _table(TARGET, steps)
    joint = []
    for outcome in itertools.product(range(LEVELS), repeat=steps * layers):
        codes = torch.tensor(outcome).view(layers, steps).T[:, None]  # (T, D, L)
        probability = 1.0
        for layer in range(layers):
            p = (table(0, layer, codes[..., :layer]) / temperature).softmax(-1)
            probability *= float(p.gather(-1, codes[..., layer, None]).prod())
        joint.append(probability)
    return np.array(joint)


def _p_value(codes: Tensor, temperature: float = 1.0) -> float:
    """Of a chi-square test against the target; outcomes expected less than five times are one."""
    count, steps, _, layers = codes.shape
    digits = codes[:, :, 0].transpose(1, 2).flatten(1)
    places = LEVELS ** torch.arange(steps * layers - 1, -1, -1)
    observed = np.bincount((digits * places).sum(1).numpy(), minlength=LEVELS ** (steps * layers))
    expected = _expected(steps, layers, temperature) * count
    rare = expected < 5
    pooled = [
        np.append(counts[~rare], counts[rare].sum()) if rare.any() else counts
        for counts in (observed, expected)
    ]
    return float(chisquare(*pooled).pvalue)


def _decode(rule: Rule, steps: int, layers: int, draft_layers: int) -> Tensor:
    context = torch.zeros(DRAWS, 1, 1, dtype=torch.float64)
    uniforms = Uniforms(tuple((7, draft_layers, row) for row in range(DRAWS)))
    target, draft = _backbone(TARGET, steps), _backbone(DRAFT, steps)
    return speculate(target, draft, context, context, rule, layers, draft_layers, uniforms).codes


@pytest.mark.parametrize(
    ("steps", "layers", "draft_layers"),
    [(steps, layers, k) for steps, layers in SHAPES for k in range(layers)],
)
def test_speculative_samples_follow_the_target_distribution(
    steps: int, layers: int, draft_layers: int
) -> None:
    assert _p_value(_decode(Sampling(), steps, layers, draft_layers)) > FALSE_ALARM


@pytest.mark.parametrize(("steps", "layers"), SHAPES)
def test_direct_samples_follow_the_target_distribution(steps: int, layers: int) -> None:
    context = torch.zeros(DRAWS, 1, 1, dtype=torch.float64)
    uniforms = Uniforms(tuple((11, row) for row in range(DRAWS)))
    target = _backbone(TARGET, steps)
    codes = autoregressive(target, context, Sampling(), layers, uniforms, Stopwatch()).codes
    assert _p_value(codes) > FALSE_ALARM


def test_a_temperature_is_the_targets_and_another_one_is_caught() -> None:
    steps, layers = SHAPES[0]
    codes = _decode(Sampling(0.5), steps, layers, layers - 1)
    assert _p_value(codes, temperature=0.5) > FALSE_ALARM
    assert _p_value(codes, temperature=1.0) < FALSE_ALARM


@pytest.mark.parametrize(("steps", "layers"), SHAPES)
def test_negative_control_a_residual_of_p_instead_of_p_minus_q_is_caught(
    steps: int, layers: int
) -> None:
    class Broken(Sampling):
        def judge(self, case: Case) -> Verdict:
            verdict = super().judge(case)
            wrong = inverse_cdf(case.target_logits.softmax(dim=-1), case.u_choose)
            return verdict._replace(codes=torch.where(verdict.accepted, case.guess, wrong))

    assert _p_value(_decode(Broken(), steps, layers, layers - 1)) < FALSE_ALARM


def test_draws_of_a_row_do_not_depend_on_the_batch_around_it() -> None:
    names = (("a", 1), ("b", 2), ("c", 3))
    together = Uniforms(names).draw(Purpose.ACCEPT, 1, 0, (2, 3))
    alone = Uniforms(names[1:2]).draw(Purpose.ACCEPT, 1, 0, (2, 3))
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(together[0], together[1])
    other = Uniforms(names).draw(Purpose.CHOOSE, 1, 0, (2, 3))
    assert not torch.equal(together, other)
