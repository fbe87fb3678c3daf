"""Blended identities: is a blend somebody new (uniqueness), and the same somebody under every seed (consistency)?

Both are measured by distances of gait energy images of one view and covariate, beside the same distances among known people.
They are figures without a goal: nobody knows how far apart two people ought to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..clips import ClipBatch, Condition
from ..config import Labels
from .clipset import ClipSet, Measured, measure
from .figures import Figure, figure
from .intervals import Estimate, mean_interval
from .recognition import squared_distances


@dataclass(frozen=True)
class _Distances:
    """Of each clip: to the nearest clip of its own kind, to the nearest of another, and whose it is. Floats [N], NaN: none."""

    own: np.ndarray
    other: np.ndarray
    owner: np.ndarray


def blend_figures(blends: ClipBatch, held_out: Measured, labels: Labels, seed: int) -> list[Figure]:
    """Figures of clips of several blended identities; distances are Euclidean between gait energy images.

    A clip's "other" is the nearest known identity for a blend, the nearest other known identity for a held-out clip. Empty if no
    held-out clip shares a view and covariate with the blends.
    """
    clips = ClipSet.from_batch(blends, labels)
    energy, people = measure(clips).energy, _people(blends.conditions)
    blend, person, confused = [], [], []
    for view, covariate in sorted(set(zip(clips.view.tolist(), clips.covariate.tolist(), strict=True))):
        rows = np.flatnonzero((clips.view == view) & (clips.covariate == covariate))
        known = np.flatnonzero((held_out.clips.view == view) & (held_out.clips.covariate == covariate))
        if min(view, covariate) < 0 or not len(known):
            continue
        owner = held_out.clips.identity[known]
        among = _within(energy[rows], people[rows])
        to_known = np.sqrt(squared_distances(energy[rows], held_out.energy[known])).min(axis=1)
        blend.append(_Distances(among.own, to_known, people[rows]))
        confused.append(np.where(np.isfinite(among.own), among.own < np.fmin(among.other, to_known), np.nan))
        person.append(_within(held_out.energy[known], owner))
    if not blend:
        return []
    return _figures(_joined(blend), _joined(person), np.concatenate(confused), seed)


def _figures(blend: _Distances, person: _Distances, consistent: np.ndarray, seed: int) -> list[Figure]:
    own = person.own[np.isfinite(person.own)]
    # Two recordings of one person lie within this distance 95 times in 100; a blend outside it is none of the known people.
    radius = np.percentile(own, 95) if len(own) else np.nan
    unique = [np.where(np.isfinite(radius) & np.isfinite(d.other), d.other > radius, np.nan) for d in (blend, person)]
    return [
        figure(
            "blend_nearest_known",
            "distance of a blend to the nearest known identity",
            _mean(blend.other, blend.owner, seed),
            _mean(person.other, person.owner, seed),
            kind="number",
            note="held out: of a known identity to the nearest other one",
        ),
        figure(
            "blend_unique",
            "blends farther from every known identity than 95 % of recordings are from another of the same person",
            _mean(unique[0], blend.owner, seed, share=True),
            _mean(unique[1], person.owner, seed, share=True),
            note="held out: known identities, from all others",
        ),
        figure(
            "blend_same",
            "distance between two seeds of a blend",
            _mean(blend.own, blend.owner, seed),
            _mean(person.own, person.owner, seed),
            kind="number",
            note="held out: between two recordings of a known identity",
        ),
        figure(
            "blend_consistent",
            "blends nearer to another seed of themselves than to any other blend or known identity",
            _mean(consistent, blend.owner, seed, share=True),
            None,
        ),
    ]


def _people(conditions: Sequence[Condition]) -> np.ndarray:
    """A number per distinct set of identity weights."""
    names = [repr(sorted(c.get("identity", {}).items())) for c in conditions]
    return np.unique(names, return_inverse=True)[1]


def _within(energy: np.ndarray, owner: np.ndarray) -> _Distances:
    distances = np.sqrt(squared_distances(energy, energy))
    alike = owner[:, None] == owner
    return _Distances(_nearest(distances, alike & ~np.eye(len(owner), dtype=bool)), _nearest(distances, ~alike), owner)


def _nearest(distances: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Smallest allowed distance of each row; NaN where none is allowed."""
    best = np.where(allowed, distances, np.inf).min(axis=1)
    return np.where(np.isfinite(best), best, np.nan)


def _joined(parts: list[_Distances]) -> _Distances:
    return _Distances(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("own", "other", "owner")))


def _mean(values: np.ndarray, clusters: np.ndarray, seed: int, share: bool = False) -> Estimate | None:
    kept = np.isfinite(values)
    return mean_interval(values[kept], clusters[kept], seed, share=share)
