"""The figures of a report, each for generated clips beside the same number for held-out clips.

A figure is a dict: key, title, kind ("share", "ratio", "number"), generated and reference (an interval or None), baseline
(what a trivial answer would reach, or None), goal, verdict and reason (None without a goal), and note.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import Labels
from . import silhouettes
from .clipset import ClipSet, Measured, Training
from .intervals import Estimate, judge, mean_interval, ratio_interval
from .period import within_tolerance
from .recognition import gallery_recordings, rank1, squared_distances

GOALS = {"whole_frames": 0.97, "period": 0.95, "view": 0.95, "covariate": 0.90, "rank1_ratio": 0.80}
# A meter that errs more often than this on held-out clips decides nothing.
METER_FLOOR = 0.95
_SIDE = 90.0
_NEXT_VIEW = 18.0

Figure = dict[str, Any]


@dataclass(frozen=True)
class Material:
    """What the figures are computed from. ``reference``: the held-out clips of the generated cells; ``held_out``: all of them."""

    generated: Measured
    reference: Measured
    held_out: Measured
    training: Training
    labels: Labels
    seed: int

    def share(self, values: np.ndarray, of: Measured, rows: np.ndarray | None = None, **how: Any) -> Estimate | None:
        """Interval of the mean of ``values`` [N] over ``rows`` (default: where finite), clustered by identity."""
        rows = np.flatnonzero(np.isfinite(values)) if rows is None else rows
        return mean_interval(values[rows], of.clips.identity[rows], self.seed, **how)


def figure(
    key: str,
    title: str,
    generated: Estimate | None,
    reference: Estimate | None,
    *,
    kind: str = "share",
    baseline: float | None = None,
    meter_floor: float = 0.0,
    note: str = "",
) -> Figure:
    """One figure with its verdict, if GOALS knows the key."""
    goal = GOALS.get(key)
    verdict, reason = (None, None) if goal is None else judge(goal, generated, reference, meter_floor)
    return {
        "key": key, "title": title, "kind": kind,
        "generated": generated.as_dict() if generated else None, "reference": reference.as_dict() if reference else None,
        "baseline": baseline, "goal": goal, "verdict": verdict, "reason": reason, "note": note,
    }  # fmt: skip


def whole_figures(m: Material) -> list[Figure]:
    """Frames that are one figure."""
    frames = m.generated.clips.shape[0]
    pair = [m.share(part.whole, part, unit="frames", per_item=frames) for part in (m.generated, m.reference)]
    title = f"frames whose largest 8-connected component holds at least {silhouettes.WHOLE:.0%} of the foreground"
    return [figure("whole_frames", title, *pair)]


def period_figures(m: Material, known: Mapping[str, float]) -> list[Figure]:
    """Gait period in side views: against the training clips of the same cell, and against a known stride time."""
    side = side_views(m.labels)
    expected = _cell_medians(m.training, side)
    stated = {i: known[name] for i, name in enumerate(m.labels.identity) if name in known}
    by_cell, by_walker = [], []
    for part in (m.generated, m.reference):
        clips = part.clips
        rows = np.flatnonzero(np.isin(clips.view, side))
        asked = zip(clips.identity[rows].tolist(), clips.view[rows].tolist(), clips.covariate[rows].tolist(), strict=True)
        cells = np.array([expected.get(cell, np.nan) for cell in asked])
        walker = np.array([stated.get(i, np.nan) for i in clips.identity[rows]])
        by_cell.append(_period_share(m, part, rows, cells))
        by_walker.append(_period_share(m, part, rows, walker))
    names = ", ".join(m.labels.view[i] for i in side) or "none"
    constant = None
    if expected:
        periods = np.array(list(expected.values()))
        constant = float(within_tolerance(np.full(len(periods), np.nanmedian(periods)), periods).mean())
    title = f"gait period within 10 % of the training clips' of that identity, view and covariate (views {names})"
    out = [figure("period", title, *by_cell, baseline=constant, meter_floor=METER_FLOOR, note="trivial answer: one period for all")]
    if stated:
        out.append(figure("period_stride_time", "the same against the walker's own stride time", *by_walker))
    return out


def _period_share(m: Material, part: Measured, rows: np.ndarray, expected: np.ndarray) -> Estimate | None:
    rows, expected = rows[np.isfinite(expected)], expected[np.isfinite(expected)]
    # A clip whose width never changes has no period, and counts as wrong; a clip too short for any says nothing.
    if not len(rows) or not np.isfinite(m.reference.period).any():
        return None
    return mean_interval(within_tolerance(part.period[rows], expected), part.clips.identity[rows], m.seed)


def _cell_medians(training: Training, views: np.ndarray) -> dict[tuple[int, int, int], float]:
    """Median gait period of the training clips of every (identity, view, covariate) among ``views``."""
    rows = np.flatnonzero(np.isin(training.clips.view, views) & np.isfinite(training.period))
    found: dict[tuple[int, int, int], list[float]] = {}
    for i in rows:
        cell = (int(training.clips.identity[i]), int(training.clips.view[i]), int(training.clips.covariate[i]))
        found.setdefault(cell, []).append(float(training.period[i]))
    return {cell: float(np.median(periods)) for cell, periods in found.items()}


def label_figures(m: Material, predicted: tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> list[Figure]:
    """View and covariate as the classifier reads them; ``predicted`` holds (view, covariate) of generated and reference clips."""
    view, near, covariate = [], [], []
    angles = view_angles(m.labels)
    for part, (views, covariates) in zip((m.generated, m.reference), predicted, strict=True):
        clips = part.clips
        seen, worn = np.flatnonzero(clips.view >= 0), np.flatnonzero(clips.covariate >= 0)
        view.append(m.share((views == clips.view).astype(float), part, seen))
        covariate.append(m.share((covariates == clips.covariate).astype(float), part, worn))
        off = np.abs(angles[views] - angles[clips.view])
        near.append(m.share((off <= _NEXT_VIEW).astype(float), part, seen) if np.isfinite(angles).all() else None)
    chance = _chance(m.labels.view), _chance(m.labels.covariate)
    return [
        figure("view", "view, read by the classifier", *view, baseline=chance[0], meter_floor=METER_FLOOR),
        figure("view_near", f"view within {_NEXT_VIEW:.0f} degrees", *near),
        figure("covariate", "covariate, read by the classifier", *covariate, baseline=chance[1], meter_floor=METER_FLOOR),
    ]


def identity_figures(m: Material) -> list[Figure]:
    """Rank-1 by nearest gait energy image, and its ratio to what held-out clips reach."""
    recordings = gallery_recordings(m.held_out)
    both = np.concatenate(recordings[:2]) if recordings else np.empty(0, np.int64)
    against_two = rank1(m.generated, m.held_out, both)
    # The reference asks one unseen recording about the other; the like-for-like figure gives generated clips the same gallery.
    like = [rank1(m.generated, m.held_out, gallery) for gallery in recordings[:2]]
    against_one = np.mean(like, axis=0) if len(like) == 2 else np.full(len(m.generated.clips), np.nan)
    held, held_rows = _held_out_rank1(m, recordings)
    clusters = m.generated.clips.identity
    known = np.isfinite(held)
    reference = mean_interval(held[known], m.held_out.clips.identity[held_rows][known], m.seed)
    ratios = []
    for found in (against_two, against_one):
        rows = np.flatnonzero(np.isfinite(found))
        ratios.append(ratio_interval(found[rows], clusters[rows], held[known], m.held_out.clips.identity[held_rows][known], m.seed))
    chance = _chance(m.labels.identity)
    return [
        figure(
            "rank1",
            "identity rank-1: nearest gait energy image among the unseen recordings of that view and covariate",
            m.share(against_two, m.generated),
            reference,
            baseline=chance,
            note="generated clips are asked about two unseen recordings of everybody, held-out clips about the other one",
        ),
        figure("rank1_ratio", "identity rank-1 as a ratio to held-out clips", ratios[0], None, kind="ratio"),
        figure(
            "rank1_one",
            "identity rank-1 about one unseen recording of everybody, as held-out clips are asked",
            m.share(against_one, m.generated),
            reference,
            baseline=chance,
        ),
        figure("rank1_one_ratio", "the same as a ratio to held-out clips", ratios[1], None, kind="ratio"),
    ]


def _held_out_rank1(m: Material, recordings: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Each of the first two unseen recordings of the generated cells asked about the other; values and rows of ``held_out``."""
    if len(recordings) < 2:
        return np.empty(0), np.empty(0, np.int64)
    wanted = _cell_keys(m.generated.clips)
    values, rows = [], []
    for probe, gallery in ((0, 1), (1, 0)):
        found = rank1(m.held_out, m.held_out, recordings[gallery])
        asked = recordings[probe][np.isin(_cell_keys(m.held_out.clips)[recordings[probe]], wanted)]
        values.append(found[asked])
        rows.append(asked)
    return np.concatenate(values), np.concatenate(rows)


def sanity_figures(m: Material, repeats: Measured | None) -> list[Figure]:
    """Foreground, flicker, and how alike two clips of one cell are."""
    out = []
    for key, title in (("foreground", "foreground share of the frame"), ("flicker", "pixels that change from frame to frame")):
        pair = [m.share(getattr(part, key), part, share=False) for part in (m.generated, m.reference)]
        out.append(figure(key, title, *pair))
    generated = _overlaps(m.generated, repeats, m.seed) if repeats is not None else None
    recordings = gallery_recordings(m.reference)
    reference = None
    if len(recordings) > 1:
        first = _at_cells(m.reference, recordings[0], recordings[1])
        reference = _overlap_interval(m.reference.clips[first], m.reference.clips[recordings[1]], m.seed)
    out.append(figure("two_seeds", "overlap (IoU) of two clips of one cell", generated, reference,
                      note="generated: two seeds; held out: two recordings"))  # fmt: skip
    pair = [m.share(_nearest_training(part, m.training), part, share=False) for part in (m.generated, m.reference)]
    title = "distance of gait energy images to the nearest training clip of that cell"
    note = "far below the held-out figure would mean copied training clips"
    out.append(figure("training_distance", title, *pair, kind="number", note=note))
    return out


def _nearest_training(part: Measured, training: Training) -> np.ndarray:
    """Euclidean distance to the nearest training clip of the same cell; NaN where there is none."""
    known, asked = _cell_keys(training.clips), _cell_keys(part.clips)
    order = np.argsort(known, kind="stable")
    distance = np.full(len(asked), np.nan)
    for cell in np.unique(asked[asked >= 0]):
        rows = order[np.searchsorted(known[order], cell) : np.searchsorted(known[order], cell, "right")]
        if len(rows):
            probes = np.flatnonzero(asked == cell)
            distance[probes] = np.sqrt(squared_distances(part.energy[probes], training.energy[rows]).min(axis=1))
    return distance


def _overlaps(clips: Measured, repeats: Measured, seed: int) -> Estimate | None:
    keys = _cell_keys(clips.clips)
    known = np.flatnonzero(np.isin(_cell_keys(repeats.clips), keys[keys >= 0]))
    if not len(known):
        return None
    first = _at_cells_by_key(keys, _cell_keys(repeats.clips)[known])
    return _overlap_interval(clips.clips[first], repeats.clips[known], seed)


def _overlap_interval(first: ClipSet, second: ClipSet, seed: int) -> Estimate | None:
    values = [silhouettes.overlap(a, b) for a, b in zip(first.chunks(), second.chunks(), strict=True)]
    return mean_interval(np.concatenate(values), second.identity, seed, share=False, unit="pairs") if values else None


def _at_cells(measured: Measured, candidates: np.ndarray, like: np.ndarray) -> np.ndarray:
    keys = _cell_keys(measured.clips)
    return candidates[_at_cells_by_key(keys[candidates], keys[like])]


def _at_cells_by_key(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    order = np.argsort(keys, kind="stable")
    return order[np.searchsorted(keys[order], wanted)]


def _cell_keys(clips: ClipSet) -> np.ndarray:
    """One number per (identity, view, covariate), -1 where any is unknown."""
    known = (clips.identity >= 0) & (clips.view >= 0) & (clips.covariate >= 0)
    return np.where(known, (clips.identity << 32) + (clips.view << 16) + clips.covariate, -1)


def select_cells(clips: ClipSet, like: ClipSet) -> np.ndarray:
    """Rows of ``clips`` whose identity, view and covariate occur in ``like``."""
    wanted = _cell_keys(like)
    return np.flatnonzero(np.isin(_cell_keys(clips), wanted[wanted >= 0]))


def view_angles(labels: Labels) -> np.ndarray:
    """Angle of every view in degrees; NaN for a name that is no number."""
    return np.array([float(v) if v.replace(".", "", 1).isdecimal() else np.nan for v in labels.view])


def side_views(labels: Labels) -> np.ndarray:
    """Indices of the views within 18 degrees of the side view."""
    return np.flatnonzero(np.abs(view_angles(labels) - _SIDE) <= _NEXT_VIEW)


def _chance(vocabulary: list[str]) -> float:
    return 1 / len(vocabulary)
