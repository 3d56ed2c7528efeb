"""Intervals and tests against published or hand-computed values."""

from __future__ import annotations

import numpy as np
import pytest

from rsd import statistics


@pytest.mark.parametrize(
    ("successes", "finished", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998a, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_equals_the_published_values(
    successes: int, finished: int, low: float, high: float
) -> None:
    found = statistics.proportion(successes, finished)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.rate == successes / finished


def test_nothing_finished_says_nothing() -> None:
    found = statistics.proportion(0, 0)
    assert (found.rate, found.low, found.high) == (None, 0.0, 1.0)


def test_more_successes_than_trials_are_refused() -> None:
    with pytest.raises(ValueError, match="5 successes of 4"):
        statistics.proportion(5, 4)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [
        (1, 7, 18 / 256),  # 2 * (C(8,0) + C(8,1)) / 2^8
        (7, 1, 18 / 256),
        (0, 5, 2 / 32),
        (3, 3, 1.0),
        (0, 0, 1.0),
    ],
)
def test_exact_mcnemar_equals_the_binomial_sum(
    only_first: int, only_second: int, p_value: float
) -> None:
    assert statistics.mcnemar_exact(only_first, only_second) == pytest.approx(p_value)


def test_paired_interval_equals_the_published_example() -> None:
    """Airway hyper-responsiveness, 21 children (Fagerland, Lydersen and Laake 2014)."""
    low, high = statistics.paired_difference_interval(only_first=7, only_second=1, pairs=21)
    assert (low, high) == pytest.approx((-0.508, -0.013), abs=1e-3)


def test_paired_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """4,000 draws of 50 pairs, truth +0.05; coverage 0.93..0.98 (wrong by chance: below 1e-5)."""
    rng = np.random.default_rng(0)
    cells = rng.multinomial(50, [0.7, 0.05, 0.10, 0.15], size=4000)  # both, 1st, 2nd, neither
    cover = 0
    for _, first, second, _ in cells:
        low, high = statistics.paired_difference_interval(int(first), int(second), 50)
        cover += low <= 0.05 <= high
    assert 0.93 < cover / 4000 < 0.98


def test_a_comparison_uses_shared_worlds_only() -> None:
    first = {1: True, 2: True, 3: False, 4: False, 5: True}
    second = {1: True, 2: False, 3: False, 4: True, 6: True}
    found = statistics.compare_pairs(first, second)
    counts = (found.both, found.only_first, found.only_second, found.neither)
    assert (found.pairs, counts) == (4, (1, 1, 1, 1))
    assert found.difference == 0.0
    assert found.low < 0 < found.high


def test_arms_without_a_shared_world_have_no_difference() -> None:
    found = statistics.compare_pairs({1: True}, {2: True})
    assert (found.pairs, found.difference, found.p_value) == (0, None, 1.0)
    assert (found.low, found.high) == (-1.0, 1.0)


def test_quantiles_interpolate_and_know_an_empty_sample() -> None:
    found = statistics.quantiles(range(101))
    assert (found.count, found.median, found.p95) == (101, 50.0, 95.0)
    assert statistics.quantiles([]) == statistics.Quantiles(0, None, None)
