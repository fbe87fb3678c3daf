"""The comparison as a picture: a bar per contestant and network, in seconds; matplotlib, extra bench."""

from __future__ import annotations

from pathlib import Path

from .results import Results
from .stats import summary

OURS, PEERS, INK = "#1b6ca8", "#b8bec6", "#222222"


def draw(measured: list[Results], path: Path) -> None:
    """One panel per network, the fastest on top, written to ``path`` as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(measured), figsize=(5.6 * len(measured), 3.9), squeeze=False)
    for axes, results in zip(panels[0], measured, strict=True):
        _panel(axes, results)
    host = measured[0].identity["host"]["cpu"]
    figure.supxlabel(f"CPU seconds of one thread for one network call on one clip ({host})", fontsize=9, color=INK)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _panel(axes, results: Results) -> None:  # type: ignore[no-untyped-def]
    bars = []
    for key in results.best_forms():
        if samples := results.samples(key):
            c = results.contestants[key]
            bars.append((summary(samples), c["peer"], c["engine"] == "gaitcrafter"))
    bars.sort(key=lambda bar: bar[0].median, reverse=True)
    for row, (s, _, ours) in enumerate(bars):
        spread = [[s.median - s.least], [s.most - s.median]]
        axes.barh(row, s.median, color=OURS if ours else PEERS, xerr=spread, error_kw={"lw": 1, "ecolor": INK})
        axes.text(s.most, row, f"  {s.median:.3g}", va="center", fontsize=8.5, color=INK)
    axes.set_yticks(range(len(bars)), [name for _, name, _ in bars], fontsize=9)
    for label, (_, _, ours) in zip(axes.get_yticklabels(), bars, strict=True):
        label.set_color(OURS if ours else INK)
        label.set_fontweight("bold" if ours else "normal")
    axes.set_xlim(0, 1.12 * max((s.most for s, _, _ in bars), default=1))
    axes.set_title(f"{results.identity['network']}, {results.gflop:.4g} GFLOP a call", fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=8.5)
