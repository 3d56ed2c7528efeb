"""Intervals and tests against published or hand-computed values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from rsd.summary import statistics


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


def test_unpaired_worlds_are_counted_apart() -> None:
    found = statistics.compare_pairs({1: True, 2: True, 3: False}, {3: True, 4: True})
    assert (found.pairs, found.first_unpaired, found.second_unpaired) == (1, 2, 1)


def test_the_score_test_equals_the_published_examples() -> None:
    """Two ways of disinfecting contact lenses, 44 patients, one solved by the first alone, margin
    10 % (Tango 1998): Z = 1.709, one-sided. Airway hyper-responsiveness, 21 children, 7 and 1
    discordant (Fagerland, Lydersen and Laake 2014): Tango's interval begins at -0.517."""
    lenses = statistics.not_worse(only_first=1, only_second=0, pairs=44, margin=0.1)
    assert norm.isf(lenses) == pytest.approx(1.709, abs=5e-4)
    below, above = (statistics.not_worse(7, 1, 21, margin) for margin in (0.5165, 0.5175))
    assert below > 0.025 > above


def test_the_score_test_knows_arms_that_never_differ() -> None:
    """T = sqrt(n margin / (1 - margin)): 500 equal pairs show 2 points, 50 do not."""
    found = statistics.not_worse(0, 0, 500, 0.02)
    assert norm.isf(found) == pytest.approx((500 * 0.02 / 0.98) ** 0.5)
    assert found < 0.025 < statistics.not_worse(0, 0, 50, 0.02)
    assert statistics.not_worse(0, 0, 0, 0.02) == 1.0


def test_the_score_test_uses_the_likeliest_proportions() -> None:
    """Against a maximisation of the trinomial likelihood by numbers."""
    for only_first, only_second, pairs, margin in ((7, 1, 21, 0.1), (39, 30, 400, 0.02)):
        ties = pairs - only_first - only_second
        lost = np.linspace(margin, (1 + margin) / 2, 400_001)[1:-1]
        likelihood = (
            only_first * np.log(lost)
            + only_second * np.log(lost - margin)
            + ties * np.log1p(margin - 2 * lost)
        )
        best = lost[likelihood.argmax()]
        variance = pairs * (2 * best - margin - margin**2)
        z = (only_second - only_first + pairs * margin) / variance**0.5
        found = statistics.not_worse(only_first, only_second, pairs, margin)
        assert found == pytest.approx(norm.sf(z), rel=1e-3)


@pytest.mark.parametrize(
    ("pairs", "margin", "discordant"), [(50, 0.05, 0.1), (100, 0.05, 0.2), (500, 0.02, 0.06)]
)
def test_not_worse_is_seldom_said_of_what_is_worse_by_the_margin(
    pairs: int, margin: float, discordant: float
) -> None:
    """20,000 draws in which the second is worse by exactly the margin: at 0.025 it is said in
    less than 3 % (exact sizes are 1.2, 2.2 and 2.4 %; wrong by chance: below 1e-6). Power: where
    both are equally good, 500 pairs show 2 points in more than 40 %."""
    rng = np.random.default_rng(0)

    def share_said(lost: float, won: float) -> float:
        cells = rng.multinomial(pairs, [lost, won, 1 - lost - won], size=20_000)
        counts, times = np.unique(cells[:, :2], axis=0, return_counts=True)
        said = [statistics.not_worse(*map(int, one), pairs, margin) <= 0.025 for one in counts]
        return float(times[said].sum() / 20_000)

    assert share_said((discordant + margin) / 2, (discordant - margin) / 2) < 0.03
    if pairs == 500:
        assert share_said(discordant / 2, discordant / 2) > 0.4


def test_a_margin_is_a_share() -> None:
    for margin in (0.0, 1.0, 2.0, -0.1):
        with pytest.raises(ValueError, match="margin"):
            statistics.not_worse(1, 1, 10, margin)


@pytest.mark.parametrize(
    ("raw", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.01, 0.01, 0.5], [0.03, 0.03, 0.5]),  # ties; the largest stays
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm_adjusts_in_steps(raw: list[float], adjusted: list[float]) -> None:
    """The first as R's p.adjust and statsmodels' multipletests give it."""
    assert statistics.holm(raw) == pytest.approx(adjusted)


def test_quantiles_interpolate_and_know_an_empty_sample() -> None:
    found = statistics.quantiles(range(101))
    assert (found.count, found.median, found.p95) == (101, 50.0, 95.0)
    assert statistics.quantiles([]) == statistics.Quantiles(0, None, None, None)
