"""A sweep as a picture (extra ``plots``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import MissingExtraError

_ACROSS = 4


def draw(report: dict[str, Any], path: Path) -> None:
    """A plot per gate: difference to the teacher over network calls with its interval, the margin as a band. Format by the name.

    Raises MissingExtraError without matplotlib.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError as e:
        raise MissingExtraError.for_extra("plots", "drawing a sweep", e.name) from e
    keys, rows = list(report["rows"][0]["gates"]), [row for row in report["rows"] if row["calls"]]
    down = -(-len(keys) // _ACROSS)
    figure, plots = plt.subplots(down, _ACROSS, figsize=(4 * _ACROSS, 2.6 * down), squeeze=False)
    for axes, key in zip(plots.flat, keys, strict=False):
        _plot(axes, key, rows)
    for axes in plots.flat[len(keys) :]:
        axes.set_visible(False)
    handles, names = plots[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, fontsize=8, loc="lower right", ncols=2)
    figure.supxlabel(f"network calls of a clip; {report['clips']:,} clips; band: the margin", fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _plot(axes: Any, key: str, rows: list[dict[str, Any]]) -> None:
    margin = rows[0]["gates"][key]["margin"] if rows else 0.0
    axes.axhspan(-margin, margin, color="#d9ead3", zorder=0)
    axes.axhline(0, color="#999999", lw=0.8)
    # KIND:STEPS rows are one line per kind; what has a guidance or a spacing of its own is a point of its own.
    series: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for row in rows:
        kind, _, *other = row["name"].split(":")
        series.setdefault(row["name"] if other else kind, []).append((row["calls"], row["gates"][key]))
    markers = dict(zip([name for name in series if ":" in name], "sD^v<>PX*dph8H", strict=False))
    for name, mine in series.items():
        points = sorted((calls, g["value"], g["low"], g["high"]) for calls, g in mine if g["low"] is not None)
        if points:
            calls, value, low, high = zip(*points, strict=True)
            below = [v - b for v, b in zip(value, low, strict=True)]
            above = [t - v for v, t in zip(value, high, strict=True)]
            alone = ":" in name
            axes.errorbar(
                calls, value, [below, above], marker=markers.get(name, "o"), ms=5 if alone else 3, lw=1, capsize=0 if alone else 2,
                ls="none" if alone else "-", label=name,
            )  # fmt: skip
    axes.set_title(key, fontsize=9)
    axes.set_xscale("log")
    ticks = sorted({row["calls"] for row in rows})
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    axes.tick_params(labelsize=8)
