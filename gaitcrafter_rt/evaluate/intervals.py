"""95 % intervals of means over clips, and what an interval says about a goal.

Clips of one identity resemble each other, so the bootstrap draws identities, not clips (cluster bootstrap, Davison and
Hinkley 1997, section 3.8; percentile interval). It knows nothing where all clips agree: an interval of a share is therefore
never narrower than Wilson's (1927) for as many independent clips.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

LEVEL = 0.95
REPLICATES = 2000
# With fewer identities than this the bootstrap's interval is too short to decide anything.
FEWEST_CLUSTERS = 10
_Z = 1.959964

Verdict = Literal["reached", "not reached", "inconclusive"]


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval. ``n`` counts ``unit``; ``clusters`` counts the identities (or blends) behind them."""

    value: float
    low: float
    high: float
    n: int
    unit: str
    clusters: int

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return asdict(self)


def mean_interval(
    values: np.ndarray, clusters: np.ndarray, seed: int = 0, *, share: bool = True, unit: str = "clips", per_item: int = 1
) -> Estimate | None:
    """Mean of ``values`` with a cluster-bootstrap interval; None without values.

    Args:
        values: float [N], one per clip.
        clusters: int [N], the identity that each belongs to.
        seed: of the bootstrap.
        share: whether the values are shares (0 to 1), which bounds the interval by Wilson's from outside.
        unit, per_item: what is counted, and how many of it each value stands for (frames per clip, ...).
    """
    values = np.asarray(values, np.float64)
    if not len(values):
        return None
    totals, counts = _per_cluster(values, clusters)
    low, high = _percentiles(_resampled(totals, counts, seed))
    value = float(values.mean())
    if share:
        outer = wilson(value, len(values))
        low, high = min(low, outer[0]), max(high, outer[1])
    return Estimate(value, float(low), float(high), len(values) * per_item, unit, len(totals))


def ratio_interval(
    top: np.ndarray, top_clusters: np.ndarray, bottom: np.ndarray, bottom_clusters: np.ndarray, seed: int = 0
) -> Estimate | None:
    """Ratio of two shares whose clips belong to the same identities, drawn together; None if the lower one is 0 or empty."""
    top, bottom = np.asarray(top, np.float64), np.asarray(bottom, np.float64)
    if not len(top) or not len(bottom) or bottom.mean() == 0:
        return None
    names = np.union1d(top_clusters, bottom_clusters)
    above = _per_cluster(top, top_clusters, names)
    below = _per_cluster(bottom, bottom_clusters, names)
    numerator, denominator = _resampled(*above, seed), _resampled(*below, seed)
    usable = np.isfinite(numerator) & np.isfinite(denominator) & (denominator > 0)
    low, high = _percentiles(numerator[usable] / denominator[usable])
    base = float(bottom.mean())
    outer = wilson(float(top.mean()), len(top))
    value = float(top.mean()) / base
    return Estimate(value, min(low, outer[0] / base), max(high, outer[1] / base), len(top), "clips", len(names))


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of ``share`` among ``n`` independent trials."""
    z2 = _Z * _Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def judge(
    goal: float, generated: Estimate | None, reference: Estimate | None = None, meter_floor: float = 0.0
) -> tuple[Verdict, str]:
    """What the interval says about a goal, and why.

    ``reached``: the whole interval lies at or above the goal. ``not reached``: it lies below the goal, and below what the
    same measurement gives on held-out clips, so that the meter is not to blame. All else is ``inconclusive``, as is a
    meter that reads less than ``meter_floor`` on held-out clips, and a set with too few identities.
    """
    if generated is None:
        return "inconclusive", "nothing could be measured"
    if generated.clusters < FEWEST_CLUSTERS:
        return "inconclusive", f"{generated.clusters} identities; an interval needs at least {FEWEST_CLUSTERS}"
    if reference is not None and generated.high < min(goal, reference.low):
        return "not reached", "the interval lies below the goal"
    if reference is None and generated.high < goal:
        return "not reached", "the interval lies below the goal"
    if reference is not None and reference.value < meter_floor:
        return "inconclusive", f"the meter itself reads {reference.value:.1%} on held-out clips; it needs {meter_floor:.0%}"
    if generated.low >= goal:
        return "reached", "the interval lies at or above the goal"
    if generated.high < goal:
        return "inconclusive", "below the goal, but not below what held-out clips reach"
    return "inconclusive", "the interval holds the goal"


def _per_cluster(values: np.ndarray, clusters: np.ndarray, names: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    names = np.unique(clusters) if names is None else names
    place = np.searchsorted(names, clusters)
    return np.bincount(place, values, len(names)), np.bincount(place, minlength=len(names)).astype(np.float64)


def _resampled(totals: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Means of REPLICATES draws of as many clusters as there are, with replacement; NaN where a draw holds no clip."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 0xB007]))
    draws = rng.multinomial(len(totals), np.full(len(totals), 1 / len(totals)), size=REPLICATES).astype(np.float64)
    weights = draws @ counts
    return np.divide(draws @ totals, weights, out=np.full(REPLICATES, np.nan), where=weights > 0)


def _percentiles(samples: np.ndarray) -> tuple[float, float]:
    tail = 50 * (1 - LEVEL)
    low, high = np.nanpercentile(samples, [tail, 100 - tail])
    return float(low), float(high)
