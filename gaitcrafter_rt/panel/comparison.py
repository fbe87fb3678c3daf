"""What fast columns are compared with: teacher, floor and the flicker control, measured once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data.packed import SPLIT_TEST, SPLIT_TRAIN, PackedClips, pack
from ..errors import InvalidRequestError
from ..evaluate.classifier import default_cache, obtain
from ..evaluate.clipset import ClipSet
from ..evaluate.figures import side_views
from .controls import edge_flicker
from .distribution import Kid
from .measured import Column, Meters, periods
from .verdicts import Difference, Gate, decide, draw_weights, weighted_means

if TYPE_CHECKING:
    from ..judges import Judge

# Fixed before any run. Relative margins are of the teacher's mean.
MARGINS = {"gbs": 0.01, "temporal": 0.05, "fidelity": 0.03}
TEMPORAL = ("flicker", "toggles", "gait_band", "period", "components")
FIDELITY = ("view", "covariate")

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Comparison:
    """Columns and redraws that every fast column of one teacher shares. Make one with :meth:`prepare`."""

    meters: Meters
    held_out: Column
    teacher: Column
    floor: Column
    flickering: Column
    weights: np.ndarray

    @classmethod
    def prepare(
        cls,
        teacher: ClipSet,
        floor: ClipSet,
        data: PackedClips,
        judges: Sequence[Judge],
        *,
        cache: Path | None = None,
        seed: int = 0,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> Comparison:
        """Measures what does not depend on the fast column; arguments and errors as in ``run_panel``."""
        if not judges:
            raise InvalidRequestError("the panel needs a judge; 'gaitcrafter-rt eval train-recogniser' makes one")
        for judge in judges:
            # Walkers of two populations share names but are other people; of captured people nobody can tell.
            here, there = data.meta, judge.config
            same = here.source == there.source and (here.source == "real" or here.made_by == there.made_by)
            judge.refuse_acquaintances(here.clips_sha256, list(data.labels.identity) if same else [])
        if not len(teacher) or not len(floor):
            raise InvalidRequestError(f"teacher has {len(teacher)} clips, the floor {len(floor)}; both must hold at least one")
        say = progress or (lambda stage, done: None)
        training, held_out = (ClipSet.from_packed(data, split) for split in (SPLIT_TRAIN, SPLIT_TEST))
        held_out = held_out[np.flatnonzero(np.isin(held_out.identity, np.unique(teacher.identity)))]
        labelled = training[np.flatnonzero((training.view >= 0) & (training.covariate >= 0))]
        say("classifier", 0.0)
        classifier = obtain(data, labelled, cache or default_cache(), threads=threads)
        meters = Meters.prepare(judges, classifier, held_out, periods(training, side_views(data.labels)))
        parts = {"held_out": held_out, "teacher": teacher, "floor": floor, "flickering": spoiled(teacher, edge_flicker, seed)}
        columns = {}
        for number, (name, part) in enumerate(parts.items()):
            say("measuring", number / 5)
            columns[name] = meters.column(part)
        return cls(meters, **columns, weights=draw_weights(len(meters.people), seed))

    def gates(self, fast: Column) -> dict[str, Gate]:
        """Verdicts of one fast column, corrected over its gates."""
        differences = self.differences(fast)
        return dict(zip(differences, decide(list(differences.values())), strict=True))

    def differences(self, fast: Column) -> dict[str, Difference]:
        """Every gate's difference of ``fast`` less the teacher."""
        out: dict[str, Difference] = {}
        teacher, weights = self.teacher, self.weights
        owner, people = teacher.owner, len(self.meters.people)

        def paired(key: str, ours: np.ndarray, theirs: np.ndarray, margin: float, *, relative: bool) -> None:
            both = np.isfinite(ours) & np.isfinite(theirs)
            a, b = (np.where(both, v, np.nan) for v in (ours, theirs))
            (top, tops), (base, bases) = weighted_means(a, owner, weights), weighted_means(b, owner, weights)
            if relative:
                scale, scales = abs(base), np.abs(bases)
                value = (top - base) / scale if scale > 0 else float("nan")
                redrawn = np.divide(tops - bases, scales, out=np.full(len(tops), np.nan), where=scales > 0)
            else:
                value, redrawn = top - base, tops - bases
            out[key] = Difference(value, redrawn, margin, int(both.sum()), people)

        for key in TEMPORAL:
            paired(key, fast.values[key], teacher.values[key], MARGINS["temporal"], relative=True)
        for key in FIDELITY:
            paired(key, fast.values[key], teacher.values[key], MARGINS["fidelity"], relative=False)
        for judge in self.meters.judges:
            ours, theirs = fast.identity[judge.name], teacher.identity[judge.name]
            paired(f"gbs {judge.name}", ours.same, theirs.same, MARGINS["gbs"], relative=False)
            paired(f"rank1 {judge.name}", ours.rank1, theirs.rank1, MARGINS["fidelity"], relative=False)
            out[f"kid {judge.name}"] = _kid_difference(judge.name, self, fast)
        return out


def _kid_difference(judge: str, comparison: Comparison, fast: Column) -> Difference:
    """KID of fast less that of the 2 % flicker control, both against the teacher with another seed; below 0 is what it must be."""
    people, weights, floor = len(comparison.meters.people), comparison.weights, comparison.floor

    def kid(column: Column) -> Kid:
        return Kid.between(column.unit[judge], column.owner, floor.unit[judge], floor.owner, people)

    once = np.ones((1, people))
    ours, control, same = kid(fast), kid(comparison.flickering), kid(comparison.teacher)
    value = float((ours.values(once) - control.values(once))[0])
    # Whether this many clips can tell the control from nothing at all.
    apart = np.quantile(control.values(weights) - same.values(weights), 0.05)
    reason = "" if apart > 0 else "the 2 % flicker control cannot be told from another seed at this n; use more clips"
    return Difference(
        value, ours.values(weights) - control.values(weights), 0.0, len(fast.clips), people, one_sided=True, reason=reason
    )


def check_pair(teacher: ClipSet, fast: ClipSet) -> None:
    """Raises InvalidRequestError unless both hold the same conditions in the same order."""
    same = len(teacher) == len(fast) and all(
        np.array_equal(getattr(teacher, axis), getattr(fast, axis)) for axis in ("identity", "view", "covariate")
    )
    if not same or teacher.shape != fast.shape:
        raise InvalidRequestError(
            f"teacher has {len(teacher)} clips of {teacher.shape}, fast {len(fast)} of {fast.shape}; both must hold the same "
            "conditions in the same order"
        )


def spoiled(clips: ClipSet, spoil: Callable[[np.ndarray, int], np.ndarray], seed: int) -> ClipSet:
    """The same labels with clips broken by one of ``controls.py``."""
    return replace(clips, bits=pack(spoil(frames(clips), seed)))


def frames(clips: ClipSet) -> np.ndarray:
    """All clips, uint8 [N, F, H, W] of 0 and 1."""
    return np.concatenate(list(clips.chunks()))
