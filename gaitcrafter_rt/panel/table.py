"""A panel's report as Markdown."""

from __future__ import annotations

from typing import Any

_FIGURES = {
    "flicker": ("pixels that change from frame to frame, per pixel of foreground", "{:.4f}"),
    "toggles": ("pixels per frame that toggle for one frame", "{:.2f}"),
    "gait_band": ("share of the lower body's motion at the frequencies of steps", "{:.3f}"),
    "period": ("gait period, frames (side views)", "{:.2f}"),
    "period_error": ("its error against the training clips of that cell", "{:.2%}"),
    "components": ("connected components per frame", "{:.3f}"),
    "foreground": ("foreground, share of pixels", "{:.3%}"),
    "view": ("view, read by the classifier", "{:.1%}"),
    "covariate": ("covariate, read by the classifier", "{:.1%}"),
}
_JUDGED = {
    "gbs": ("GBS", "{:.4f}"),
    "impostor": ("impostor floor", "{:.4f}"),
    "fraction": ("(g - imp) / (same - imp)", "{:.3f}"),
    "margin": ("margin to the nearest other", "{:.4f}"),
    "rank1": ("identity rank-1", "{:.1%}"),
}
_COLUMNS = ("held out", "teacher", "fast", "floor")


def render_markdown(report: dict[str, Any]) -> str:
    """Columns, distributions, gates and controls, as tables."""
    lines = [f"{report['clips']:,} clips of {report['people']} people; judges {', '.join(report['judges'])}.", ""]
    lines += _columns(report) + _distribution(report) + _gates(report)
    if report.get("numerics"):
        n = report["numerics"]
        lines += [
            f"Same sampler, steps and noise: mean IoU {n['iou_mean']:.4f}, 1st percentile {n['iou_p1']:.4f}; of all pixels "
            f"{n['edge_flips']:.4%} flip at edges, {n['interior_flips']:.4%} inside.",
            "",
        ]  # fmt: skip
    if "controls" in report:
        lines += ["| broken control | flagged by |", "|---|---|"]
        for name, found in report["controls"].items():
            lines.append(f"| {name} | {', '.join(found['flagged_by']) or '**nothing: do not believe this panel**'} |")
    return "\n".join(lines).rstrip() + "\n"


def _columns(report: dict[str, Any]) -> list[str]:
    columns = report["columns"]
    lines = ["| figure | " + " | ".join(_COLUMNS) + " |", "|---" * 5 + "|"]
    for key, (title, form) in _FIGURES.items():
        lines.append(f"| {title} | " + " | ".join(_cell(columns[c].get(key), form) for c in _COLUMNS) + " |")
    for judge in report["judges"]:
        ceiling = columns["held out"][judge]["gbs"]
        for key, (title, form) in _JUDGED.items():
            cells = []
            for c in _COLUMNS:
                scores = columns[c][judge]
                cells.append(_cell(fraction(scores, ceiling) if key == "fraction" else scores[key], form))
            lines.append(f"| {title}, judge {judge} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def fraction(scores: dict[str, float | None], ceiling: float | None) -> float | None:
    """How far GBS gets from the impostor floor to what held-out clips of the same person reach."""
    gbs, floor = scores["gbs"], scores["impostor"]
    if gbs is None or floor is None or ceiling is None or ceiling <= floor:
        return None
    return (gbs - floor) / (ceiling - floor)


def _distribution(report: dict[str, Any]) -> list[str]:
    names = ("kid_other_seed", "kid_held_out", "density", "coverage", "diversity")
    lines = ["| judge | column | KID x 1000, other seed | KID x 1000, held out | density | coverage | diversity |"]
    lines.append("|---" * 7 + "|")
    for judge, rows in report["distribution"].items():
        for column, row in rows.items():
            lines.append(f"| {judge} | {column} | " + " | ".join(_cell(row.get(n), "{:.3f}") for n in names) + " |")
    return [*lines, ""]


def _gates(report: dict[str, Any]) -> list[str]:
    lines = ["| gate | fast less teacher | interval | margin | smallest margin this n shows | n | verdict |", "|---" * 7 + "|"]
    for key, g in report["gates"].items():
        interval = "" if g["low"] is None else f"[{g['low']:.4f}, {g['high']:.4f}]"
        why = f": {g['reason']}" if g["reason"] else ""
        value, detectable = (_cell(g[name], "{:.4f}") for name in ("value", "detectable"))
        lines.append(f"| {key} | {value} | {interval} | {g['margin']:g} | {detectable} | {g['n']:,} | **{g['verdict']}**{why} |")
    return [*lines, ""]


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
