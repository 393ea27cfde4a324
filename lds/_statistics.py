"""Means, intervals and paired tests over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Attributes:
        mean: the mean.
        std: standard deviation of a single value, with n − 1; NaN for one value.
        half_width: half the width of the 95 % interval of the mean by Student's t; NaN for one value.
        count: number of values n.
    """

    mean: float
    std: float
    half_width: float
    count: int


@dataclass(frozen=True)
class PairedDifference:
    """Differences a − b over the seeds that both have.

    Attributes:
        difference: their mean, with standard deviation and 95 % interval.
        p_value: of the paired t test, two-sided; NaN where it is not defined (one pair, or equal differences).
    """

    difference: Mean
    p_value: float


def mean(values: Sequence[float]) -> Mean:
    """Return the mean with its 95 % interval, mean ± t_{0.975, n−1} · std / √n.

    Raises:
        ValueError: there is no value.
    """
    from scipy import stats

    n = len(values)
    if n == 0:
        raise ValueError("a mean needs at least one value")
    centre = math.fsum(values) / n
    if n == 1:
        return Mean(centre, math.nan, math.nan, 1)
    std = math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (n - 1))
    return Mean(centre, std, float(stats.t.ppf(0.975, n - 1)) * std / math.sqrt(n), n)


def paired(a: Sequence[float], b: Sequence[float]) -> PairedDifference:
    """Return the mean of a_i − b_i and the p-value of the paired t test.

    Raises:
        ValueError: the lengths differ, or there is no value.
    """
    from scipy import stats

    difference = mean([x - y for x, y in zip(a, b, strict=True)])
    # Differences that are equal but for rounding would pass for certain.
    if difference.count == 1 or difference.std <= 1e-12 * max(map(abs, (*a, *b))):
        return PairedDifference(difference, math.nan)
    t = difference.mean / (difference.std / math.sqrt(difference.count))
    return PairedDifference(difference, float(2 * stats.t.sf(abs(t), difference.count - 1)))
