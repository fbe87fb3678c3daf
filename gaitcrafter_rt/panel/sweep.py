"""Steps against quality: many fast columns beside one teacher, one row each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.packed import PackedClips
from ..evaluate.clipset import ClipSet
from .comparison import MARGINS, Comparison, check_pair
from .panel import plain

if TYPE_CHECKING:
    from ..judges import Judge


@dataclass(frozen=True)
class Candidate:
    """A fast column of a sweep. ``calls``: network calls of a clip, both lanes of guidance counted."""

    name: str
    calls: int
    clips: Callable[[], ClipSet]


def run_sweep(
    teacher: ClipSet,
    floor: ClipSet,
    candidates: Iterable[Candidate],
    data: PackedClips,
    judges: Sequence[Judge],
    *,
    cache: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Gates of every candidate, and of the floor, which is what chance does. Arguments and errors as in ``run_panel``.

    Each row's gates are corrected over that row; whoever picks the best of many rows picks with hindsight, so confirm it with a
    panel under another seed.
    """
    comparison = Comparison.prepare(teacher, floor, data, judges, cache=cache, seed=seed)
    rows = [_row("another seed", 0, comparison, floor)] if len(floor) == len(teacher) else []
    for candidate in candidates:
        clips = candidate.clips()
        check_pair(teacher, clips)
        rows.append(_row(candidate.name, candidate.calls, comparison, clips))
    judge_names = [j.name for j in judges]
    return {
        "format": "gaitcrafter-sweep", "format_version": 1, "clips": len(teacher), "people": len(comparison.meters.people),
        "judges": judge_names, "margins": MARGINS, "teacher": comparison.teacher.summary(), "rows": rows,
        "stand_in": stand_in(rows),
    }  # fmt: skip


def stand_in(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Which sampler may stand in for the teacher where more clips are needed than it has.

    A row may if it passes every gate but KID, whose margin is a control's and not a distance, and fails none; rows with another
    guidance, spacing or eta are left out. ``row``: the plain DDIM row with the fewest steps that may; ``cheapest``: the plain row
    of any sampler with the fewest calls; None where there is none. ``short_of`` names per plain DDIM row the gates that keep it
    from that, each with the bound of its interval farther from zero: the margin at which it would have passed.
    """
    plain_rows = [row for row in rows if row["name"].count(":") == 1]
    short = {row["name"]: _short_of(row) for row in plain_rows}
    whole = [row for row in plain_rows if not short[row["name"]]]
    ddim = [row["name"] for row in whole if row["name"].startswith("ddim:")]
    cheapest = min(whole, key=lambda row: int(row["calls"]), default=None)
    return {
        "row": min(ddim, key=lambda name: int(name.split(":")[1]), default=None),
        "cheapest": cheapest and cheapest["name"],
        "short_of": {name: gates for name, gates in short.items() if name.startswith("ddim:")},
    }


def _short_of(row: dict[str, Any]) -> dict[str, float]:
    """Gates that a row does not pass, with the margin at which it would; not a KID that is merely undecided."""
    return {
        key: round(max(abs(gate["low"]), abs(gate["high"])), 4)
        for key, gate in row["gates"].items()
        if gate["low"] is not None and gate["verdict"] != "pass" and not (key.startswith("kid") and gate["verdict"] != "fail")
    }


def _row(name: str, calls: int, comparison: Comparison, clips: ClipSet) -> dict[str, Any]:
    column = comparison.meters.column(clips)
    gates = {key: plain(gate) for key, gate in comparison.gates(column).items()}
    return {"name": name, "calls": calls, "column": column.summary(), "gates": gates}


def render_markdown(report: dict[str, Any]) -> str:
    """A row per candidate: calls, every gate's difference to the teacher and its verdict."""
    keys = list(report["rows"][0]["gates"])
    lines = [
        f"{report['clips']:,} clips of {report['people']} people, differences to the teacher; + pass, - fail, ? inconclusive.", "",
        "| sampler | calls | " + " | ".join(keys) + " | passed |", "|---" * (len(keys) + 3) + "|",
    ]  # fmt: skip
    marks = {"pass": "+", "fail": "-", "inconclusive": "?"}
    for row in report["rows"]:
        gates = [row["gates"][key] for key in keys]
        cells = ["-" if g["value"] is None else f"{g['value']:+.4f} {marks[g['verdict']]}" for g in gates]
        passed = sum(g["verdict"] == "pass" for g in gates)
        lines.append(f"| {row['name']} | {row['calls'] or '-'} | " + " | ".join(cells) + f" | {passed} of {len(gates)} |")
    found = report["stand_in"]
    if found["row"]:
        lines += [
            "",
            f"{found['row']} may stand in for the teacher: the fewest steps of a plain DDIM row that pass every gate but KID.",
        ]
        if found["cheapest"] != found["row"]:
            lines.append(f"Of all samplers {found['cheapest']} does so with the fewest calls.")
    elif found["short_of"]:
        lines += [
            "",
            "No DDIM count may stand in for the teacher. What each misses, and the margin at which it would have passed:",
            "",
        ]
        lines += [
            f"- {name}: " + ", ".join(f"{key} {by:g}" for key, by in gates.items()) for name, gates in found["short_of"].items()
        ]
    return "\n".join(lines) + "\n"
