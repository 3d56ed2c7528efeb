"""Ratios over clusters and comparisons without common worlds, against independent software, counts
by hand, and the truth of simulated draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rsd.summary.statistics import (
    RatioSums,
    compare_unpaired,
    proportion,
    ratio_interval,
    share_interval,
)


def test_a_ratio_and_its_variance_by_hand() -> None:
    """Three episodes keep 8 of 10, 9 of 10 and 20 of 20 tokens: 37 of 40."""
    sums = RatioSums.of(np.array([8, 9, 20]), np.array([10, 10, 20]))
    residuals = np.array([8 - 9.25, 9 - 9.25, 20 - 18.5])
    assert float(sums.ratio) == 0.925
    assert float(sums.variance) == pytest.approx(3 / 2 * (residuals**2).sum() / 40**2)


def test_the_variance_is_the_one_of_cluster_robust_regression() -> None:
    api = pytest.importorskip("statsmodels.api", reason="statsmodels is not installed")
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 40, 25)
    kept = rng.binomial(sizes, rng.beta(18, 2, 25))
    tokens = np.concatenate([np.arange(n) < k for n, k in zip(sizes, kept, strict=True)])
    fitted = api.OLS(tokens.astype(float), np.ones(len(tokens))).fit(
        cov_type="cluster", cov_kwds={"groups": np.repeat(np.arange(25), sizes)}
    )
    sums = RatioSums.of(kept, sizes)
    assert float(sums.ratio) == pytest.approx(fitted.params[0])
    assert float(sums.variance) == pytest.approx(fitted.cov_params()[0, 0])


def test_sums_of_parts_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(2)
    x = rng.integers(0, 9, (30, 4))
    y = rng.binomial(x, 0.7)
    whole = RatioSums.of(y, x)
    parts = RatioSums.of(y[:11], x[:11]) + RatioSums.of(y[11:], x[11:])
    for name, value in vars(whole).items():
        assert np.array_equal(value, getattr(parts, name)), name


def test_tokens_that_are_independent_have_nearly_wilsons_interval() -> None:
    """One token a cluster: the variance differs from the binomial one by n / (n - 1) alone, and
    Student's quantile from the normal one by 0.3 %."""
    kept = np.arange(500) < 470
    low, high = share_interval(RatioSums.of(kept, np.ones(500)))
    wilson = proportion(470, 500)
    assert (low, high) == pytest.approx((wilson.low, wilson.high), abs=5e-4)


def test_all_alike_leaves_the_doubt_of_so_many_clusters() -> None:
    sums = RatioSums.of(np.full(20, 56), np.full(20, 56))
    low, high = share_interval(sums)
    t2 = stats.t.ppf(0.975, 19) ** 2
    assert (float(low), float(high)) == pytest.approx((20 / (20 + t2), 1.0))


def test_of_one_cluster_or_none_no_interval_is_claimed() -> None:
    sums = RatioSums.of(np.array([[7, 0]]), np.array([[8, 0]]))
    for interval in (share_interval, ratio_interval):
        assert np.isnan(interval(sums)).all()


@pytest.mark.parametrize(("episodes", "tokens"), [(20, 56), (200, 300)])
def test_the_interval_of_a_share_covers_the_truth_of_clustered_tokens(
    episodes: int, tokens: int
) -> None:
    """4,000 draws, truth 0.97, tokens of an episode correlated by 0.09 (beta-binomial): of 95 %
    claimed it covers 92 with 20 episodes, few of which hold all misses, and 95 with 200. A binomial
    interval, the negative control, covers below 80."""
    rng = np.random.default_rng(3)
    sizes = rng.integers(tokens // 2, tokens, (episodes, 4000))
    kept = rng.binomial(sizes, rng.beta(9.7, 0.3, (episodes, 4000)))
    low, high = share_interval(RatioSums.of(kept, sizes))
    assert 0.91 < np.mean((low <= 0.97) & (high >= 0.97)) < 0.97
    share, half = kept.sum(0) / sizes.sum(0), 1.96 * np.sqrt(0.97 * 0.03 / sizes.sum(0))
    assert np.mean(np.abs(share - 0.97) <= half) < 0.8


def test_the_interval_of_a_ratio_of_times_covers_the_truth() -> None:
    """4,000 draws of 40 worlds whose decodes take 24 and 16 ms in the mean, in both arms longer in
    the same worlds; coverage 0.93 to 0.97."""
    rng = np.random.default_rng(4)
    world = rng.gamma(9, 1 / 9, (40, 4000))
    first = 24 * world * rng.gamma(25, 1 / 25, (40, 4000))
    second = 16 * world * rng.gamma(16, 1 / 16, (40, 4000))
    low, high = ratio_interval(RatioSums.of(first, second))
    assert 0.93 < np.mean((low <= 1.5) & (high >= 1.5)) < 0.97


def test_the_unpaired_interval_is_newcombes() -> None:
    """56 of 70 and 48 of 80 (Newcombe 1998b, table II, example a, method 10): 0.0524 to 0.3339."""
    found = compare_unpaired(proportion(48, 80), proportion(56, 70))
    assert found.difference == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_the_unpaired_interval_is_that_of_independent_software() -> None:
    proportions = pytest.importorskip(
        "statsmodels.stats.proportion", reason="statsmodels is not installed"
    )
    for (x1, n1), (x2, n2) in [((45, 50), (380, 400)), ((0, 20), (20, 20)), ((7, 9), (7, 9))]:
        wanted = proportions.confint_proportions_2indep(x2, n2, x1, n1, method="newcomb")
        found = compare_unpaired(proportion(x1, n1), proportion(x2, n2))
        assert (found.low, found.high) == pytest.approx(wanted)


def test_the_unpaired_interval_covers_the_truth() -> None:
    """1,000 draws of 200 and 500 episodes with rates 0.93 and 0.89; coverage 0.93 to 0.975."""
    rng = np.random.default_rng(5)
    cover = 0
    for x1, x2 in zip(rng.binomial(200, 0.93, 1000), rng.binomial(500, 0.89, 1000), strict=True):
        found = compare_unpaired(proportion(int(x1), 200), proportion(int(x2), 500))
        cover += found.low <= -0.04 <= found.high
    assert 0.93 < cover / 1000 < 0.975
