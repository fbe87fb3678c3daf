"""The panel itself: measures the columns, compares fast with teacher, tries the controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.packed import SPLIT_TEST, SPLIT_TRAIN, PackedClips, pack
from ..errors import InvalidRequestError
from ..evaluate.agreement import agreement
from ..evaluate.classifier import default_cache, obtain
from ..evaluate.clipset import ClipSet
from ..evaluate.figures import side_views
from .controls import CONTROLS
from .distribution import Kid, density_coverage, diversity
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
class PanelClips:
    """What a panel looks at, all with the labels of one packed set.

    ``teacher`` and ``fast``: the same conditions and clip indices in the same order; ``floor``: the teacher with another seed.
    ``same_run``: fast differs from the teacher in arithmetic alone (same sampler, steps and noise), so pixels may be compared.
    """

    teacher: ClipSet
    fast: ClipSet
    floor: ClipSet
    same_run: bool = False


def run_panel(
    clips: PanelClips,
    data: PackedClips,
    judges: Sequence[Judge],
    *,
    cache: Path | None = None,
    controls: bool = True,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure all columns, and say for every gate whether fast is as good as its teacher.

    Args:
        clips: the generated columns.
        data: the packed set that the model was trained on; its held-out split is the column "held out".
        judges: trained on other people; the first of kind "set" and the first of kind "temporal" are needed for the full panel.
        cache: folder of the classifier of view and covariate.
        controls: also put the broken controls through the gates.
        seed: of the redraws and of the controls.
        threads: of the classifier's training.
        progress: called with a stage and the share of it that is done.

    Returns:
        A document of plain values; :func:`render_markdown` shows it.

    Raises:
        InvalidRequestError: columns that do not belong together, or no judge. DataFormatError: a judge knows the people.
    """
    _check(clips, data, judges)
    say = progress or (lambda stage, done: None)
    training = ClipSet.from_packed(data, SPLIT_TRAIN)
    held_out = ClipSet.from_packed(data, SPLIT_TEST)
    held_out = held_out[np.flatnonzero(np.isin(held_out.identity, np.unique(clips.teacher.identity)))]
    labelled = training[np.flatnonzero((training.view >= 0) & (training.covariate >= 0))]
    classifier = obtain(data, labelled, cache or default_cache(), threads=threads, progress=None)
    meters = Meters.prepare(judges, classifier, held_out, periods(training, side_views(data.labels)))
    columns = {}
    for number, (name, part) in enumerate(
        (("held out", held_out), ("teacher", clips.teacher), ("fast", clips.fast), ("floor", clips.floor))
    ):
        say("measuring", number / 4)
        columns[name] = meters.column(part)
    weights = draw_weights(len(meters.people), seed)
    flickering = meters.column(_spoiled(clips.teacher, CONTROLS["2 % edge flicker"], seed))
    compare = partial(_differences, meters, columns["teacher"], columns["floor"], flickering, weights)
    differences = compare(columns["fast"])
    gates = dict(zip(differences, decide(list(differences.values())), strict=True))
    report: dict[str, Any] = {
        "format": "gaitcrafter-panel", "format_version": 1, "clips": len(clips.teacher), "people": len(meters.people),
        "judges": [j.name for j in judges], "columns": {name: column.summary() for name, column in columns.items()},
        "gates": {key: _plain(gate) for key, gate in gates.items()}, "margins": MARGINS,
        "numerics": agreement(_frames(clips.teacher), _frames(clips.fast)).to_dict() if clips.same_run else None,
        "distribution": _distribution(meters, columns),
    }  # fmt: skip
    if controls:
        report["controls"] = {}
        for number, (name, spoil) in enumerate(CONTROLS.items()):
            say("controls", number / len(CONTROLS))
            broken = flickering if spoil is CONTROLS["2 % edge flicker"] else meters.column(_spoiled(clips.teacher, spoil, seed))
            found = compare(broken)
            flags = [key for key, gate in zip(found, decide(list(found.values())), strict=True) if gate.verdict == "fail"]
            report["controls"][name] = {"flagged_by": flags, "flagged": bool(flags)}
    return report


def _check(clips: PanelClips, data: PackedClips, judges: Sequence[Judge]) -> None:
    if not judges:
        raise InvalidRequestError("the panel needs a judge; 'gaitcrafter-rt eval train-recogniser' makes one")
    for judge in judges:
        judge.refuse_acquaintances(data.meta.clips_sha256, list(data.labels.identity) if data.meta.source == "real" else [])
        if judge.config.source == "rendered" and data.meta.source == "rendered" and judge.config.made_by == data.meta.made_by:
            judge.refuse_acquaintances(data.meta.clips_sha256, list(data.labels.identity))
    t, f = clips.teacher, clips.fast
    same = len(t) == len(f) and all(
        np.array_equal(getattr(t, axis), getattr(f, axis)) for axis in ("identity", "view", "covariate")
    )
    if not same or t.shape != f.shape or not len(t) or not len(clips.floor):
        raise InvalidRequestError(
            f"teacher has {len(t)} clips of {t.shape}, fast {len(f)} of {f.shape}; both must hold the same conditions in the same "
            "order, and the floor at least one clip"
        )


def _differences(
    meters: Meters, teacher: Column, floor: Column, flickering: Column, weights: np.ndarray, fast: Column
) -> dict[str, Difference]:
    """Every gate's difference of ``fast`` less ``teacher``."""
    out: dict[str, Difference] = {}
    owner, people = teacher.owner, len(meters.people)

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
    for judge in meters.judges:
        ours, theirs = fast.identity[judge.name], teacher.identity[judge.name]
        paired(f"gbs {judge.name}", ours.same, theirs.same, MARGINS["gbs"], relative=False)
        paired(f"rank1 {judge.name}", ours.rank1, theirs.rank1, MARGINS["fidelity"], relative=False)
        out[f"kid {judge.name}"] = _kid_difference(judge.name, people, weights, fast, floor, flickering, teacher)
    return out


def _kid_difference(
    judge: str, people: int, weights: np.ndarray, fast: Column, floor: Column, flickering: Column, teacher: Column
) -> Difference:
    """KID of fast less that of the 2 % flicker control, both against the teacher with another seed; below 0 is what it must be."""

    def kid(column: Column) -> Kid:
        return Kid.between(column.unit[judge], column.owner, floor.unit[judge], floor.owner, people)

    once = np.ones((1, people))
    ours, control, same = kid(fast), kid(flickering), kid(teacher)
    value = float((ours.values(once) - control.values(once))[0])
    # Whether this many clips can tell the control from nothing at all.
    apart = np.quantile(control.values(weights) - same.values(weights), 0.05)
    reason = "" if apart > 0 else "the 2 % flicker control cannot be told from another seed at this n; use more clips"
    return Difference(
        value, ours.values(weights) - control.values(weights), 0.0, len(fast.clips), people, one_sided=True, reason=reason
    )


def _distribution(meters: Meters, columns: dict[str, Column]) -> dict[str, Any]:
    """KID against teacher's other seed and against held-out data, density and coverage, diversity, per judge."""
    out: dict[str, Any] = {}
    people, once = len(meters.people), np.ones((1, len(meters.people)))
    held, floor = columns["held out"], columns["floor"]
    for judge in meters.judges:
        rows = {}
        for name in ("teacher", "fast", "floor"):
            column = columns[name]
            unit = column.unit[judge.name]
            to = {
                key: float(Kid.between(unit, column.owner, other.unit[judge.name], other.owner, people).values(once)[0])
                for key, other in (("kid_other_seed", floor), ("kid_held_out", held))
                if other is not column
            }
            density, coverage = density_coverage(held.unit[judge.name], unit)
            clips = column.clips
            spread = diversity(unit, clips.identity, clips.view, clips.covariate)
            known = spread[np.isfinite(spread)]
            rows[name] = {**to, "density": density, "coverage": coverage, "diversity": float(known.mean()) if len(known) else None}
        out[judge.name] = rows
    return out


def _spoiled(clips: ClipSet, spoil: Callable[[np.ndarray, int], np.ndarray], seed: int) -> ClipSet:
    return replace(clips, bits=pack(spoil(_frames(clips), seed)))


def _frames(clips: ClipSet) -> np.ndarray:
    return np.concatenate(list(clips.chunks()))


def _plain(gate: Gate) -> dict[str, Any]:
    return {key: (None if isinstance(value, float) and not np.isfinite(value) else value) for key, value in vars(gate).items()}
