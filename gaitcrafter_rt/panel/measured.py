"""Every number of one column of the panel, clip by clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluate.classifier_input import clip_planes
from ..evaluate.clipset import ClipSet
from ..evaluate.period import can_measure, gait_period, lower_body_width
from . import signals
from .identity import IdentityScores, identity_scores, unit_parts

if TYPE_CHECKING:
    from ..evaluate.classifier import Classifier
    from ..judges import Judge

Cell = tuple[int, int, int]
_SIGNALS = ("flicker", "toggles", "gait_band", "components", "foreground")


@dataclass(frozen=True)
class Column:
    """``values``: float64 [N] per figure, NaN where it does not apply; per judge ``unit`` [N, P * D] and ``identity`` scores.

    ``owner`` int64 [N]: place of the clip's identity among the people of the panel.
    """

    clips: ClipSet
    owner: np.ndarray
    values: dict[str, np.ndarray]
    unit: dict[str, np.ndarray]
    identity: dict[str, IdentityScores]

    def summary(self) -> dict[str, Any]:
        """Mean of every figure over the clips it applies to."""
        out: dict[str, Any] = {key: _mean(values) for key, values in self.values.items()}
        for judge, scores in self.identity.items():
            same, impostor = _mean(scores.same), _mean(scores.impostor)
            out[judge] = {"gbs": same, "impostor": impostor, "margin": _mean(scores.margin), "rank1": _mean(scores.rank1)}
        return out


@dataclass(frozen=True)
class Meters:
    """What measures a column: judges, classifier, held-out references, and the period expected of every cell."""

    judges: Sequence[Judge]
    classifier: Classifier
    references: ClipSet
    reference_unit: dict[str, np.ndarray]
    people: np.ndarray
    expected: dict[Cell, float]

    @classmethod
    def prepare(cls, judges: Sequence[Judge], classifier: Classifier, references: ClipSet, expected: dict[Cell, float]) -> Meters:
        """Embeds the references once."""
        units = {judge.name: unit_parts(judge.embed_set(references)) for judge in judges}
        return cls(judges, classifier, references, units, np.unique(references.identity), expected)

    def column(self, clips: ClipSet) -> Column:
        """All figures of ``clips``, whose identities must be among the references'."""
        per_chunk: list[dict[str, np.ndarray]] = []
        planes = []
        for chunk in clips.chunks():
            per_chunk.append({name: getattr(signals, name)(chunk) for name in _SIGNALS})
            planes.append(clip_planes(chunk))
        values = {name: np.concatenate([part[name] for part in per_chunk]) for name in per_chunk[0]}
        period = _periods(clips)
        asked = [self.expected.get(cell, np.nan) for cell in _cells(clips)]
        values["period"] = np.where(np.isfinite(asked), period, np.nan)
        values["period_error"] = np.abs(values["period"] / np.asarray(asked) - 1)
        view, covariate = self.classifier.predict(np.concatenate(planes))
        values["view"] = (view == clips.view).astype(np.float64)
        values["covariate"] = (covariate == clips.covariate).astype(np.float64)
        unit, identity = {}, {}
        for judge in self.judges:
            known = clips is self.references
            unit[judge.name] = self.reference_unit[judge.name] if known else unit_parts(judge.embed_set(clips))
            identity[judge.name] = identity_scores(clips, unit[judge.name], self.references, self.reference_unit[judge.name])
        return Column(clips, np.searchsorted(self.people, clips.identity), values, unit, identity)


def periods(training: ClipSet, views: np.ndarray) -> dict[Cell, float]:
    """Median gait period of the training clips of every (identity, view, covariate) among ``views``, where it can be told."""
    training = training[np.flatnonzero(np.isin(training.view, views))]
    found: dict[Cell, list[float]] = {}
    for cell, period in zip(_cells(training), _periods(training), strict=True):
        if np.isfinite(period):
            found.setdefault(cell, []).append(float(period))
    return {cell: float(np.median(values)) for cell, values in found.items()}


def _periods(clips: ClipSet) -> np.ndarray:
    if not len(clips) or not can_measure(clips.shape[0]):
        return np.full(len(clips), np.nan)
    return gait_period(np.concatenate([lower_body_width(chunk) for chunk in clips.chunks()]))


def _cells(clips: ClipSet) -> list[Cell]:
    return list(zip(clips.identity.tolist(), clips.view.tolist(), clips.covariate.tolist(), strict=True))


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
