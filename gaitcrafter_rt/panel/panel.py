"""The panel itself: measures the columns, compares fast with teacher, tries the controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.packed import PackedClips
from ..evaluate.agreement import agreement
from ..evaluate.clipset import ClipSet
from .comparison import MARGINS, Comparison, Progress, check_pair, frames, spoiled
from .controls import CONTROLS, edge_flicker
from .distribution import Kid, density_coverage, diversity
from .measured import Column, Meters
from .verdicts import Gate

if TYPE_CHECKING:
    from ..judges import Judge


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
    say = progress or (lambda stage, done: None)
    check_pair(clips.teacher, clips.fast)
    comparison = Comparison.prepare(clips.teacher, clips.floor, data, judges, cache=cache, seed=seed, threads=threads, progress=say)
    meters = comparison.meters
    say("measuring", 0.8)
    fast = meters.column(clips.fast)
    columns = {"held out": comparison.held_out, "teacher": comparison.teacher, "fast": fast, "floor": comparison.floor}
    gates = comparison.gates(fast)
    report: dict[str, Any] = {
        "format": "gaitcrafter-panel", "format_version": 1, "clips": len(clips.teacher), "people": len(meters.people),
        "judges": [j.name for j in judges], "columns": {name: column.summary() for name, column in columns.items()},
        "gates": {key: plain(gate) for key, gate in gates.items()}, "margins": MARGINS,
        "numerics": agreement(frames(clips.teacher), frames(clips.fast)).to_dict() if clips.same_run else None,
        "distribution": _distribution(meters, columns),
    }  # fmt: skip
    if controls:
        report["controls"] = {}
        for number, (name, spoil) in enumerate(CONTROLS.items()):
            say("controls", number / len(CONTROLS))
            kept = comparison.flickering if spoil is edge_flicker else meters.column(spoiled(clips.teacher, spoil, seed))
            flags = [key for key, gate in comparison.gates(kept).items() if gate.verdict == "fail"]
            report["controls"][name] = {"flagged_by": flags, "flagged": bool(flags)}
    return report


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


def plain(gate: Gate) -> dict[str, Any]:
    return {key: (None if isinstance(value, float) and not np.isfinite(value) else value) for key, value in vars(gate).items()}
