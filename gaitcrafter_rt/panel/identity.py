"""Identity in a judge's embedding: GBS with its ceiling and its floor, margin to the nearest other, rank-1.

GBS of a clip is the mean over the body's parts of the cosine between its embedding and that of held-out clips of the same
identity, view and covariate, averaged over those clips. What we know of the paper gives no formula; this one is ours. The
ceiling is the same for held-out clips about the other recordings of their cell, the floor a clip's mean cosine with other
people's held-out clips of its view and covariate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..evaluate.clipset import ClipSet


@dataclass(frozen=True)
class IdentityScores:
    """float64 [N] each, NaN where the references hold nothing to compare with.

    ``same``: GBS; ``impostor``: mean cosine with others; ``margin``: same less the nearest other person's mean cosine;
    ``rank1``: 1 where the nearest reference clip (mean cosine) is of that person.
    """

    same: np.ndarray
    impostor: np.ndarray
    margin: np.ndarray
    rank1: np.ndarray


def unit_parts(embeddings: np.ndarray) -> np.ndarray:
    """[N, P, D] to [N, P * D] such that a dot product of two rows is the mean over parts of the cosine. float32."""
    length = np.linalg.norm(embeddings, axis=2, keepdims=True)
    parts = embeddings / np.maximum(length, 1e-12)
    return (parts / np.sqrt(embeddings.shape[1])).reshape(len(embeddings), -1).astype(np.float32)


def identity_scores(clips: ClipSet, unit: np.ndarray, references: ClipSet, reference_unit: np.ndarray) -> IdentityScores:
    """Scores of ``clips`` about ``references``; a clip that is itself a reference (same recording) is not compared with itself.

    Args:
        clips, references: labels; ``sequence`` -1 never matches a recording.
        unit, reference_unit: of :func:`unit_parts`.
    """
    scores = [np.full(len(clips), np.nan) for _ in range(4)]
    cells, known_cells = _cells(clips), _cells(references)
    for cell in np.unique(cells[cells >= 0]):
        asked, known = np.flatnonzero(cells == cell), np.flatnonzero(known_cells == cell)
        if not len(known):
            continue
        cosine = (unit[asked] @ reference_unit[known].T).astype(np.float64)
        owner = references.identity[known]
        for row, i in enumerate(asked):
            usable = np.ones(len(known), bool)
            if clips is references:
                usable = references.sequence[known] != clips.sequence[i]
            mine, others = usable & (owner == clips.identity[i]), usable & (owner != clips.identity[i])
            if not mine.any():
                continue
            scores[0][i] = cosine[row, mine].mean()
            if others.any():
                people = np.unique(owner[others])
                by_person = [cosine[row, others & (owner == p)].mean() for p in people]
                scores[1][i] = float(np.mean(by_person))
                scores[2][i] = scores[0][i] - max(by_person)
                nearest = np.flatnonzero(usable)[cosine[row, usable].argmax()]
                scores[3][i] = float(owner[nearest] == clips.identity[i])
    return IdentityScores(*scores)


def _cells(clips: ClipSet) -> np.ndarray:
    """One number per (view, covariate), -1 where a label is missing."""
    known = (clips.identity >= 0) & (clips.view >= 0) & (clips.covariate >= 0)
    return np.where(known, (clips.view.astype(np.int64) << 32) + clips.covariate, -1)
