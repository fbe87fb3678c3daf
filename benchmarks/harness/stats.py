"""Figures of repeated measurements: medians with spread, ratios, and when a loss counts as one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Summary(NamedTuple):
    median: float
    least: float
    most: float
    count: int


def summary(samples: Sequence[float]) -> Summary:
    """Raises ValueError if there are none, or one is not a positive number."""
    if not samples or not all(math.isfinite(s) and s > 0 for s in samples):
        raise ValueError(f"samples must be positive numbers, at least one; got {list(samples)}")
    return Summary(statistics.median(samples), min(samples), max(samples), len(samples))


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Summary:
    """How many times as long ``slow`` takes: ratio of each round's pair. Both were measured round by round."""
    return summary([a / b for a, b in zip(slow, fast, strict=True)])


def median_bounds(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """A range that holds the true median with at least that confidence, whatever the distribution.

    The k-th smallest and k-th largest of the samples, k from the binomial distribution of how many fall below the median. With
    fewer than six samples not even the extremes reach 95 %; they are given then.
    """
    ordered, n = sorted(samples), len(samples)
    outside, k = 0.0, 0
    while k < n // 2:
        outside += 2 * math.comb(n, k) / 2**n
        if outside > 1 - confidence:
            break
        k += 1
    k = max(k, 1)
    return ordered[k - 1], ordered[n - k]


class Verdict(NamedTuple):
    ratio: float  # of the medians of the rounds' ratios; 1.02: B takes 2 % longer
    low: float
    high: float
    lost: bool


def verdict(before: Sequence[float], after: Sequence[float], allowed: float = 0.05) -> Verdict:
    """Whether ``after`` lost more than ``allowed`` beyond the noise: the lower bound of the ratio's median is above it."""
    ratios = [b / a for a, b in zip(before, after, strict=True)]
    low, high = median_bounds(ratios)
    return Verdict(summary(ratios).median, low, high, low > 1 + allowed)
