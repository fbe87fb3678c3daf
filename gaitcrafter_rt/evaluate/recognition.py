"""Identity by the nearest gait energy image, within one view and covariate (Han and Bhanu 2006, with a Euclidean distance)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .clipset import Measured


def rank1(probes: Measured, gallery: Measured, gallery_rows: np.ndarray) -> np.ndarray:
    """Whether each probe's nearest gallery clip of its view and covariate is of its identity.

    Args:
        probes: the clips asked about.
        gallery: clips of known people.
        gallery_rows: int [G], which of them to use.

    Returns:
        float64 [probes]: 1 right, 0 wrong, NaN where the gallery holds no clip of that person, view and covariate.
    """
    right = np.full(len(probes.clips), np.nan)
    for cell, asked in _cells(probes):
        known = gallery_rows[_cell_of(gallery, gallery_rows) == cell]
        owners = gallery.clips.identity[known]
        asked = asked[np.isin(probes.clips.identity[asked], owners)]
        if len(asked):
            nearest = squared_distances(probes.energy[asked], gallery.energy[known]).argmin(axis=1)
            right[asked] = owners[nearest] == probes.clips.identity[asked]
    return right


def gallery_recordings(measured: Measured) -> list[np.ndarray]:
    """Rows of ``measured`` split by recording: the first of every (identity, view, covariate), the second, ..."""
    clips = measured.clips
    order = np.lexsort((clips.sequence, clips.covariate, clips.view, clips.identity))
    order = order[clips.identity[order] >= 0]
    cell = np.stack([clips.identity[order], clips.view[order], clips.covariate[order]])
    new = np.ones(len(order), bool)
    new[1:] = (cell[:, 1:] != cell[:, :-1]).any(axis=0)
    number = np.arange(len(order)) - np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    return [order[number == i] for i in range(int(number.max(initial=-1)) + 1)]


def squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances [N, M] between rows of [N, D] and [M, D]."""
    sums = (first.astype(np.float64) ** 2).sum(axis=1)[:, None] + (second.astype(np.float64) ** 2).sum(axis=1)
    return np.maximum(sums - 2.0 * (first.astype(np.float64) @ second.astype(np.float64).T), 0.0)


def _cells(measured: Measured) -> Iterator[tuple[int, np.ndarray]]:
    cells = _cell_of(measured, np.arange(len(measured.clips)))
    for cell in np.unique(cells[cells >= 0]):
        yield int(cell), np.flatnonzero(cells == cell)


def _cell_of(measured: Measured, rows: np.ndarray) -> np.ndarray:
    """One number per (view, covariate), -1 where either or the identity is unknown."""
    clips = measured.clips
    identity, view, covariate = clips.identity[rows], clips.view[rows], clips.covariate[rows]
    return np.where((identity >= 0) & (view >= 0) & (covariate >= 0), (view << 32) + covariate, -1)
