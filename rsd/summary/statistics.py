"""What may be said from counts: intervals, paired comparisons, quantiles. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import stats

CONFIDENCE = 0.95

Pair = TypeVar("Pair")


@dataclass(frozen=True)
class Proportion:
    """Successes of finished trials with the Wilson interval of the rate."""

    successes: int
    finished: int
    rate: float | None  # None where nothing has finished
    low: float
    high: float


def proportion(successes: int, finished: int, confidence: float = CONFIDENCE) -> Proportion:
    """Wilson's score interval (Wilson 1927; without continuity correction).

    Episodes that ended in `error` belong into neither count. Nothing finished: [0, 1].
    Raises ValueError unless 0 <= successes <= finished.
    """
    if not 0 <= successes <= finished:
        raise ValueError(f"{successes} successes of {finished} finished: not a proportion")
    if finished == 0:
        return Proportion(0, 0, None, 0.0, 1.0)
    interval = stats.binomtest(successes, finished).proportion_ci(confidence, method="wilson")
    return Proportion(
        successes, finished, successes / finished, float(interval.low), float(interval.high)
    )


@dataclass(frozen=True)
class PairedComparison:
    """Two arms on the same worlds. `difference` is second minus first, in success rate."""

    pairs: int  # worlds that both arms finished
    both: int
    only_first: int
    only_second: int
    neither: int
    difference: float | None  # None where there are no pairs
    low: float
    high: float
    p_value: float  # exact McNemar test, two-sided
    first_unpaired: int = 0  # worlds that the first alone finished: in none of the counts above
    second_unpaired: int = 0


def compare_pairs(
    first: Mapping[Pair, bool], second: Mapping[Pair, bool], confidence: float = CONFIDENCE
) -> PairedComparison:
    """Compare the verdicts of two arms over the worlds that both have finished.

    Keys name a world (suite, task, trial, ...), values say success. Worlds of one arm only are
    counted apart.
    """
    shared = first.keys() & second.keys()
    counts = {(a, b): 0 for a in (False, True) for b in (False, True)}
    for world in shared:
        counts[bool(first[world]), bool(second[world])] += 1
    only_first, only_second = counts[True, False], counts[False, True]
    low, high = paired_difference_interval(only_first, only_second, len(shared), confidence)
    return PairedComparison(
        pairs=len(shared),
        both=counts[True, True],
        only_first=only_first,
        only_second=only_second,
        neither=counts[False, False],
        difference=(only_second - only_first) / len(shared) if shared else None,
        low=low,
        high=high,
        p_value=mcnemar_exact(only_first, only_second),
        first_unpaired=len(first.keys() - shared),
        second_unpaired=len(second.keys() - shared),
    )


@dataclass(frozen=True)
class UnpairedComparison:
    """Two samples of their own. `difference` is second minus first, in success rate."""

    first: Proportion
    second: Proportion
    difference: float | None  # None where one of them has finished nothing
    low: float
    high: float
    p_value: float  # Fisher's exact test, two-sided


def compare_unpaired(first: Proportion, second: Proportion) -> UnpairedComparison:
    """Newcombe's interval of the difference (1998, method 10), from the Wilson intervals of both;
    Fisher's exact test."""
    if first.rate is None or second.rate is None:
        return UnpairedComparison(first, second, None, -1.0, 1.0, 1.0)
    difference = second.rate - first.rate
    below = math.hypot(second.rate - second.low, first.high - first.rate)
    above = math.hypot(second.high - second.rate, first.rate - first.low)
    table = [[one.successes, one.finished - one.successes] for one in (first, second)]
    return UnpairedComparison(
        first,
        second,
        difference,
        difference - below,
        difference + above,
        float(stats.fisher_exact(table).pvalue),
    )


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact McNemar p-value: the discordant pairs against a fair coin (McNemar 1947)."""
    discordant = only_first + only_second
    return float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0


def paired_difference_interval(
    only_first: int, only_second: int, pairs: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Interval of (second - first) in success rate: Wald with one added to each discordant count.

    Bonett and Price (2012), recommended by Fagerland, Lydersen and Laake (2014) for paired
    proportions. It keeps a width when no pair is discordant: 0 of 50 says +-0.053, not +-0.
    """
    if pairs == 0:
        return -1.0, 1.0
    first = (only_first + 1) / (pairs + 2)
    second = (only_second + 1) / (pairs + 2)
    centre = second - first
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    half = z * math.sqrt((first + second - centre**2) / (pairs + 2))
    return max(-1.0, centre - half), min(1.0, centre + half)


def not_worse(only_first: int, only_second: int, pairs: int, margin: float) -> float:
    """One-sided p-value against "the second is worse than the first by `margin` or more".

    The score test of a difference of paired proportions (Nam 1997, Tango 1998): its variance is
    that of the likeliest proportions with exactly that difference, so that it also works where no
    pair is discordant. Small: not worse, by less than `margin` (0.02 is two
    points of success rate). Reject at 0.025 to agree with a two-sided interval of 95 %.
    Raises ValueError unless 0 < margin < 1.
    """
    if not 0 < margin < 1:
        raise ValueError(f"margin {margin}: a difference of success rates, between 0 and 1")
    if pairs == 0:
        return 1.0
    # in Tango's notation b = only_second, c = only_first, difference b - c = -margin n
    linear = -only_second - only_first - (2 * pairs - only_second + only_first) * margin
    constant = only_first * margin * (1 + margin)
    root = math.sqrt(max(0.0, linear**2 - 8 * pairs * constant))  # 0 may round below
    lost = (root - linear) / (4 * pairs)  # likeliest share of worlds that the first alone solves
    variance = pairs * (2 * lost - margin * (1 + margin))
    excess = only_second - only_first + pairs * margin
    return float(stats.norm.sf(excess / math.sqrt(variance)))


@dataclass(frozen=True)
class RatioSums:
    """What a ratio of sums y / x needs of independent clusters (episodes, worlds), of any shape:
    sums over clusters of y, x and their products. Those of several readings add up."""

    clusters: np.ndarray  # with x > 0
    y: np.ndarray
    x: np.ndarray
    yy: np.ndarray
    xy: np.ndarray
    xx: np.ndarray

    @classmethod
    def of(cls, y: np.ndarray, x: np.ndarray) -> RatioSums:
        """Of clusters along the first axis, (clusters, ...) -> sums (...)."""
        y, x = y.astype(np.float64), x.astype(np.float64)
        terms = (x > 0, y, x, y * y, x * y, x * x)
        return cls(*(term.sum(axis=0) for term in terms))

    def __add__(self, other: RatioSums) -> RatioSums:
        mine, others = vars(self).values(), vars(other).values()
        return RatioSums(*(a + b for a, b in zip(mine, others, strict=True)))

    @property
    def ratio(self) -> np.ndarray:
        """NaN of nothing."""
        return np.divide(self.y, self.x, out=np.full_like(self.x, np.nan), where=self.x > 0)

    @property
    def variance(self) -> np.ndarray:
        """Of the ratio, clusters being independent and what is inside one not: the linearised
        estimator of survey sampling (Cochran 1977, 6.4), which regression calls cluster-robust.
        NaN of fewer than two clusters."""
        ratio, clusters = self.ratio, self.clusters.astype(np.float64)
        residual = np.maximum(self.yy - 2 * ratio * self.xy + ratio**2 * self.xx, 0.0)
        several = np.where(clusters > 1, clusters, np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            return several / (several - 1) * residual / self.x**2


def ratio_interval(
    sums: RatioSums, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
    """Of a ratio of positive sums, on the scale of its logarithm, with Student's t of clusters - 1
    degrees of freedom. NaN of fewer than two clusters."""
    with np.errstate(invalid="ignore", divide="ignore"):
        t = stats.t.ppf(0.5 + confidence / 2, sums.clusters - 1)
        width = np.exp(t * np.sqrt(sums.variance) / sums.ratio)
    return sums.ratio / width, sums.ratio * width


def share_interval(
    sums: RatioSums, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
    """Of a share of tokens that come in clusters: Wilson's interval of as many independent tokens
    as would have the variance found (Kish's effective sample size; Dean and Pagano 2015), and
    Student's t.

    As many as there are clusters, where every token of all of them went the same way, which shows
    no variance. NaN of fewer than two clusters.
    """
    share, clusters = sums.ratio, sums.clusters.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        effective = np.where(
            sums.variance > 0, share * (1 - share) / sums.variance, np.minimum(clusters, sums.x)
        )
        effective = np.where(clusters > 1, effective, np.nan)
        t2 = stats.t.ppf(0.5 + confidence / 2, clusters - 1) ** 2
        centre = (share + t2 / (2 * effective)) / (1 + t2 / effective)
        half = np.sqrt(t2 * share * (1 - share) / effective + t2**2 / (4 * effective**2))
        half = half / (1 + t2 / effective)
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several comparisons, adjusted by Holm (1979), in their order.

    Where only adjusted values below 0.05 are called differences, the chance that any of them is
    none is below 0.05, however the comparisons depend on each other.
    """
    count = len(p_values)
    adjusted = [0.0] * count
    largest = 0.0
    for rank, place in enumerate(sorted(range(count), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (count - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


@dataclass(frozen=True)
class Quantiles:
    """Mean, middle and tail of a sample; None where it is empty. In the sample's unit."""

    count: int
    mean: float | None
    median: float | None
    p95: float | None


def quantiles(values: Sequence[float] | np.ndarray) -> Quantiles:
    """Mean, median and 95th percentile (linear interpolation between order statistics)."""
    if len(values) == 0:
        return Quantiles(0, None, None, None)
    sample = np.asarray(values, dtype=np.float64)
    median, p95 = np.quantile(sample, (0.5, 0.95))
    return Quantiles(len(values), float(sample.mean()), float(median), float(p95))
