"""The CASIA-B protocol: rank-1 across views, probes of every covariate against normal walking, the same view left out.

Of the recordings of normal walking of a person the first four (or all but the last, if there are fewer) are the gallery, the rest
are probes, as is everything with a bag or a coat. For every pair of probe view and gallery view the nearest gallery clip is
sought (mean over parts of the Euclidean distance); a covariate's figure is the mean over probe views of the mean over the other
gallery views (OpenGait's evaluator does the same).
"""

from __future__ import annotations

import numpy as np

from ..errors import InvalidRequestError

GALLERY_RECORDINGS = 4


def part_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mean over parts of the Euclidean distance. float32 [N, P, D] and [M, P, D] to float64 [N, M]."""
    total = np.zeros((len(first), len(second)))
    for part in range(first.shape[1]):
        a, b = first[:, part].astype(np.float64), second[:, part].astype(np.float64)
        squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        total += np.sqrt(np.maximum(squares, 0))
    return total / first.shape[1]


def split_gallery(identity: np.ndarray, covariate: np.ndarray, sequence: np.ndarray, normal: int) -> np.ndarray:
    """bool [N]: which clips are gallery. ``normal`` is the index of normal walking.

    Raises InvalidRequestError if no person has two recordings of normal walking.
    """
    gallery = np.zeros(len(identity), bool)
    for person in np.unique(identity):
        rows = (identity == person) & (covariate == normal)
        recordings = np.unique(sequence[rows])
        kept = recordings[: min(GALLERY_RECORDINGS, max(len(recordings) - 1, 0))]
        gallery |= rows & np.isin(sequence, kept)
    if not gallery.any():
        raise InvalidRequestError("no person has two recordings of normal walking, one for the gallery and one to ask about")
    return gallery


def rank1_table(
    embeddings: np.ndarray, identity: np.ndarray, view: np.ndarray, covariate: np.ndarray, gallery: np.ndarray
) -> dict[int, np.ndarray]:
    """Rank-1 per covariate index: float64 [probe view, gallery view], NaN where nobody was asked.

    Args:
        embeddings: float32 [N, P, D].
        identity, view, covariate: int [N].
        gallery: bool [N]; the others are probes.
    """
    views = np.unique(view)
    tables = {}
    for worn in np.unique(covariate[~gallery]):
        table = np.full((len(views), len(views)), np.nan)
        for i, asked_view in enumerate(views):
            probes = np.flatnonzero(~gallery & (covariate == worn) & (view == asked_view))
            if not len(probes):
                continue
            for j, gallery_view in enumerate(views):
                known = np.flatnonzero(gallery & (view == gallery_view))
                if len(known):
                    nearest = part_distances(embeddings[probes], embeddings[known]).argmin(1)
                    table[i, j] = (identity[known][nearest] == identity[probes]).mean()
        tables[int(worn)] = table
    return tables


def cross_view_mean(table: np.ndarray) -> float:
    """Mean over probe views of the mean over the other gallery views; NaN if there is one view only."""
    other = np.where(np.eye(len(table), dtype=bool), np.nan, table)
    rows = [row[np.isfinite(row)].mean() for row in other if np.isfinite(row).any()]
    return float(np.mean(rows)) if rows else float("nan")


def same_view_mean(table: np.ndarray) -> float:
    """Mean of the diagonal: probe and gallery from one view."""
    diagonal = np.diag(table)
    return float(np.nanmean(diagonal)) if np.isfinite(diagonal).any() else float("nan")
