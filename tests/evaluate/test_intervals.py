"""Intervals against scipy and against simulated clusters of known mean; verdicts case by case."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from gaitcrafter_rt.evaluate.intervals import Estimate, judge, mean_interval, ratio_interval, wilson


@pytest.mark.parametrize("right, n", [(0, 5), (3, 7), (40, 40), (1500, 1584)])
def test_wilson_is_scipys(right: int, n: int) -> None:
    expected = binomtest(right, n).proportion_ci(0.95, "wilson")
    np.testing.assert_allclose(wilson(right / n, n), [expected.low, expected.high], atol=1e-6)


def test_interval_covers_a_clustered_binomial_and_wilson_alone_does_not() -> None:
    """48 identities of 33 clips whose own rates follow Beta(8, 2): mean 0.8."""
    rng = np.random.default_rng(3)
    clusters = np.repeat(np.arange(48), 33)
    covered = naive = 0
    for trial in range(120):
        rates = rng.beta(8, 2, 48)
        values = (rng.random(len(clusters)) < rates[clusters]).astype(float)
        estimate = mean_interval(values, clusters, seed=trial)
        covered += estimate.low <= 0.8 <= estimate.high
        low, high = wilson(values.mean(), len(values))
        naive += low <= 0.8 <= high
    assert covered / 120 >= 0.89  # 0.95 less three standard errors of 120 trials
    assert naive / 120 < 0.75


def test_agreement_of_all_clips_does_not_make_the_interval_a_point() -> None:
    estimate = mean_interval(np.ones(480), np.repeat(np.arange(48), 10))
    assert estimate.high == 1.0
    assert 0.99 < estimate.low < 0.995
    assert (estimate.n, estimate.clusters) == (480, 48)


def test_an_interval_does_not_depend_on_the_order_of_the_clips() -> None:
    rng = np.random.default_rng(0)
    values, clusters = rng.random(300), rng.integers(0, 20, 300)
    order = rng.permutation(300)
    first, second = (mean_interval(values[o], clusters[o], share=False) for o in (np.arange(300), order))
    np.testing.assert_allclose([first.value, first.low, first.high], [second.value, second.low, second.high])


def test_ratio_of_two_rates() -> None:
    rng = np.random.default_rng(5)
    clusters = np.repeat(np.arange(48), 30)
    bottom = (rng.random(len(clusters)) < 0.9).astype(float)
    ratio = ratio_interval(bottom * (rng.random(len(clusters)) < 0.5), clusters, bottom, clusters)
    assert ratio.low < 0.5 < ratio.high < 0.6
    assert ratio_interval(bottom, clusters, 0 * bottom, clusters) is None
    assert ratio_interval(bottom[:0], clusters[:0], bottom, clusters) is None


def estimate(low: float, high: float, clusters: int = 48) -> Estimate:
    return Estimate((low + high) / 2, low, high, 1000, "clips", clusters)


@pytest.mark.parametrize(
    "generated, reference, expected",
    [
        (estimate(0.96, 0.99), estimate(0.98, 1.0), "reached"),
        (estimate(0.94, 0.99), estimate(0.98, 1.0), "inconclusive"),
        (estimate(0.80, 0.90), estimate(0.98, 1.0), "not reached"),
        (estimate(0.80, 0.90), None, "not reached"),
        (estimate(0.80, 0.90), estimate(0.85, 0.95), "inconclusive"),  # the meter may be to blame
        (estimate(0.30, 0.40), estimate(0.85, 0.95), "not reached"),  # it may not
        (estimate(0.96, 0.99), estimate(0.85, 0.95), "inconclusive"),  # a bad meter approves of nothing
        (estimate(0.96, 0.99, clusters=9), estimate(0.98, 1.0), "inconclusive"),
        (None, estimate(0.98, 1.0), "inconclusive"),
    ],
)
def test_verdicts(generated: Estimate | None, reference: Estimate | None, expected: str) -> None:
    verdict, reason = judge(0.95, generated, reference, meter_floor=0.95)
    assert verdict == expected
    assert reason
