"""Distances between sets of clips in a judge's embedding: KID, density and coverage, diversity.

KID is the unbiased estimate of the squared maximum mean discrepancy with a cubic kernel (Binkowski et al. 2018), here
(c + 1)^3 of the mean cosine c over parts, times 1000. Its intervals redraw identities: the kernel is summed once per pair of
identities, and a redraw is a weighting of those sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SCALE = 1000.0
_ROWS = 512


@dataclass(frozen=True)
class KernelSums:
    """Sums and counts of the kernel over pairs of clips, by pair of identities: float64 [I, J] each."""

    total: np.ndarray
    pairs: np.ndarray

    def mean(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Weighted means. ``left`` [R, I] and ``right`` [R, J]: how often each identity was drawn. Returns [R]."""
        top = np.einsum("ri,ij,rj->r", left, self.total, right, optimize=True)
        bottom = np.einsum("ri,ij,rj->r", left, self.pairs, right, optimize=True)
        return np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0)


def kernel_sums(
    first: np.ndarray, first_owner: np.ndarray, second: np.ndarray, second_owner: np.ndarray, people: int, *, same: bool
) -> KernelSums:
    """Over clips [N, D] and [M, D] of identities 0 .. people - 1; ``same``: both are one set, and no clip is paired with itself."""
    total = np.zeros((people, people))
    one_hot = np.eye(people)[second_owner]
    for start in range(0, len(first), _ROWS):
        rows = slice(start, start + _ROWS)
        kernel = (first[rows].astype(np.float64) @ second.T.astype(np.float64) + 1.0) ** 3
        if same:
            kernel[np.arange(len(kernel)), np.arange(start, start + len(kernel))] = 0.0
        np.add.at(total, first_owner[rows], kernel @ one_hot)
    a, b = np.bincount(first_owner, minlength=people), np.bincount(second_owner, minlength=people)
    pairs = np.outer(a, b).astype(np.float64)
    if same:
        pairs -= np.diag(a)
    return KernelSums(total, pairs)


@dataclass(frozen=True)
class Kid:
    """KID of two sets, for any weights of the identities."""

    xx: KernelSums
    yy: KernelSums
    xy: KernelSums

    @classmethod
    def between(cls, x: np.ndarray, x_owner: np.ndarray, y: np.ndarray, y_owner: np.ndarray, people: int) -> Kid:
        """Of clips [N, D] and [M, D] of :func:`identity.unit_parts`, with their identities."""
        return cls(
            kernel_sums(x, x_owner, x, x_owner, people, same=True),
            kernel_sums(y, y_owner, y, y_owner, people, same=True),
            kernel_sums(x, x_owner, y, y_owner, people, same=False),
        )

    def values(self, weights: np.ndarray) -> np.ndarray:
        """[R, people] drawn counts to KID x 1000 [R]."""
        return SCALE * (self.xx.mean(weights, weights) + self.yy.mean(weights, weights) - 2 * self.xy.mean(weights, weights))


def density_coverage(reference: np.ndarray, generated: np.ndarray, nearest: int = 5) -> tuple[float, float]:
    """Naeem et al. 2020, equations 4 and 5: how densely generated clips lie in the reference's balls, and the share of balls hit.

    A ball's radius is the distance to the ``nearest``-th other reference clip. [N, D] and [M, D]; NaN if N <= ``nearest``.
    """
    if len(reference) <= nearest or not len(generated):
        return float("nan"), float("nan")
    own = _distances(reference, reference)
    np.fill_diagonal(own, np.inf)
    radius = np.partition(own, nearest - 1, axis=1)[:, nearest - 1]
    inside = _distances(reference, generated) < radius[:, None]
    return float(inside.sum() / (nearest * len(generated))), float(inside.any(1).mean())


def diversity(unit: np.ndarray, identity: np.ndarray, view: np.ndarray, covariate: np.ndarray) -> np.ndarray:
    """Per clip the mean of 1 - cosine to the others of its identity, view and covariate, float64 [N]; NaN where it is alone."""
    out = np.full(len(unit), np.nan)
    _, cell = np.unique(np.stack([identity, view, covariate]), axis=1, return_inverse=True)
    for number in np.unique(cell):
        rows = np.flatnonzero(cell == number)
        if len(rows) > 1 and identity[rows[0]] >= 0:
            cosine = unit[rows].astype(np.float64) @ unit[rows].T
            out[rows] = 1 - (cosine.sum(1) - np.diag(cosine)) / (len(rows) - 1)
    return out


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.sqrt(np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0))
