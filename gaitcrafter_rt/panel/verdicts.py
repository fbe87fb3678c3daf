"""What a difference between fast and teacher says, given a margin that was fixed beforehand.

Equivalence is what a gate must show: that the difference lies inside the margin, not that no difference was found. Identities
are redrawn (cluster bootstrap); a gate's p-value is the share of redraws in which the difference reaches the margin, and the
p-values of one panel are corrected by Holm's rule (1979), so that the chance of passing any gate wrongly stays at 5 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

LEVEL = 0.05
REPLICATES = 4000
FEWEST_IDENTITIES = 10

Verdict = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class Difference:
    """Of one figure: ``value``, its redraws [R] (NaN where a redraw held nothing), ``n`` clips of ``identities`` people.

    The gate holds while ``-margin < value < margin``; ``one_sided`` leaves out the lower bound.
    """

    value: float
    redrawn: np.ndarray
    margin: float
    n: int
    identities: int
    one_sided: bool = False
    reason: str = ""  # why it cannot be decided, whatever the numbers are


@dataclass(frozen=True)
class Gate:
    """A verdict: the difference, its interval at the level that Holm's rule left, and the smallest margin this n could show."""

    verdict: Verdict
    value: float
    low: float
    high: float
    margin: float
    detectable: float
    n: int
    identities: int
    reason: str


def draw_weights(people: int, seed: int) -> np.ndarray:
    """How often each identity is drawn in every redraw: float64 [REPLICATES, people]."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 0xB007]))
    return rng.multinomial(people, np.full(people, 1 / people), size=REPLICATES).astype(np.float64)


def weighted_means(values: np.ndarray, owner: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean of the finite ``values`` [N], and of every redraw; ``owner`` int [N] in 0 .. people - 1. NaN without values."""
    known = np.isfinite(values)
    people = weights.shape[1]
    totals = np.bincount(owner[known], values[known], people)
    counts = np.bincount(owner[known], minlength=people).astype(np.float64)
    bottom = weights @ counts
    redrawn = np.divide(weights @ totals, bottom, out=np.full(len(weights), np.nan), where=bottom > 0)
    return (float(values[known].mean()) if known.any() else float("nan")), redrawn


def p_value(difference: Difference) -> float:
    """Share of redraws at or beyond the margin, the worse side; never 0."""
    redrawn = difference.redrawn[np.isfinite(difference.redrawn)]
    if not len(redrawn) or not np.isfinite(difference.value):
        return 1.0
    above = int((redrawn >= difference.margin).sum())
    below = 0 if difference.one_sided else int((redrawn <= -difference.margin).sum())
    return (1 + max(above, below)) / (1 + len(redrawn))


def decide(differences: Sequence[Difference]) -> list[Gate]:
    """A gate per difference, corrected over all of them.

    ``pass``: Holm's rule rejects that the difference reaches the margin. ``fail``: the corrected interval lies outside the margin
    altogether. All else is ``inconclusive``, as are fewer than 10 identities.
    """
    order = sorted(range(len(differences)), key=lambda i: p_value(differences[i]))
    levels, passed, still = [LEVEL] * len(differences), [False] * len(differences), True
    for place, i in enumerate(order):
        levels[i] = LEVEL / (len(differences) - place)
        still = still and p_value(differences[i]) <= levels[i]
        passed[i] = still
    return [_gate(d, level, ok) for d, level, ok in zip(differences, levels, passed, strict=True)]


def _gate(d: Difference, level: float, passed: bool) -> Gate:
    redrawn = d.redrawn[np.isfinite(d.redrawn)]
    if not len(redrawn) or not np.isfinite(d.value):
        why = d.reason or "nothing was measured"
        return Gate("inconclusive", d.value, np.nan, np.nan, d.margin, np.nan, d.n, d.identities, why)
    low, high = (float(v) for v in np.quantile(redrawn, [level, 1 - level]))
    detectable = float(max(high - np.median(redrawn), np.median(redrawn) - low))
    outside = low >= d.margin or (not d.one_sided and high <= -d.margin)
    verdict: Verdict = "pass" if passed else "fail" if outside else "inconclusive"
    reason = ""
    if verdict == "pass" and d.reason:
        verdict, reason = "inconclusive", d.reason
    elif d.identities < FEWEST_IDENTITIES and verdict == "pass":
        verdict, reason = "inconclusive", f"{d.identities} identities; an interval needs at least {FEWEST_IDENTITIES}"
    elif verdict == "inconclusive":
        reason = d.reason or "the interval holds the margin"
    return Gate(verdict, d.value, low, high, d.margin, detectable, d.n, d.identities, reason)
