"""The comparison as Markdown, from stored rounds alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .results import Results
from .stats import ratio, summary

FORM_WORDS = {"own": "", "flat": "Conv2d, frames folded", "volume": "Conv3d"}
HEAD = ("", "CPU s a clip", "least to most", "GFLOP/s", "of its limit", "peak MB", "error")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def comparison(results: Results, ours: str = "gaitcrafter") -> str:
    """Every peer in its best form; then how many times as long as our tiers it takes."""
    keys = [key for key in results.best_forms() if results.samples(key)]
    tiers = [key for key in keys if results.contestants[key]["engine"] == ours]
    limits = results.limits()
    rows = []
    for key in keys:
        c = results.contestants[key]
        s = summary(results.samples(key))
        rate = results.gflop / s.median
        limit = limits.get(c["precision"])
        rows.append([
            c["peer"], f"{s.median:{_digits(s.median)}}", f"{s.least:{_digits(s.median)}} to {s.most:{_digits(s.median)}}",
            f"{rate:.0f}", "-" if limit is None else f"{rate / limit:.0%}", f"{c['peak_mb']:.0f}", f"{c['error']:.1e}",
        ])  # fmt: skip
    blocks = [table(HEAD, rows)]
    others = [key for key in keys if key not in tiers]
    if tiers and others:
        names = [results.contestants[key]["peer"].removeprefix(ours + " ") for key in tiers]
        head = ["times as long as ours in", *names, "measured form"]
        blocks.append(table(head, ([*_ratios(results, key, tiers), _form(results.contestants[key])] for key in others)))
    return "\n\n".join(blocks)


def _digits(median: float) -> str:
    return ".2f" if median >= 1 else ".4f"


def _ratios(results: Results, key: str, tiers: list[str]) -> list[str]:
    """Median of the rounds' ratios, with the least and the largest."""
    row = [results.contestants[key]["peer"]]
    for tier in tiers:
        slow, fast = results.samples(key, tier), results.samples(tier, key)
        r = ratio(slow, fast) if slow else None
        row.append("-" if r is None else f"{r.median:.2f} ({r.least:.2f} to {r.most:.2f})")
    return row


def _form(c: dict[str, Any]) -> str:
    return f"{FORM_WORDS[c['form']]}, batch {c['batch']}"


def forms(results: Results) -> str:
    """All forms that were tried."""
    rows = []
    for c in results.contestants.values():
        if c["engine"] != "gaitcrafter":
            told = f"{c['trial']:{_digits(c['trial'])}}" if c["state"] == "ok" else f"{c['state']}: {c['note']}"
            error = f"{c['error']:.1e}" if c["state"] == "ok" else ""
            rows.append([c["peer"], _form(c), told, error])
    return table(("", "form", "trial, CPU s a clip", "error"), rows)


def conditions(results: Results) -> str:
    """Machine, commit, versions and limits in a few lines."""
    identity, limits = results.identity, results.limits()
    host = identity["host"]
    lines = [
        f"{identity['title']}: {results.gflop:.1f} GFLOP a call, one clip, one thread; {len(results.rounds)} interleaved rounds",
        f"{host['cpu']}, {host['processors']} processors; {', '.join(host['instruction_sets'])}",
        "limits of one core, GFLOP/s: " + (", ".join(f"{name} {rate:.0f}" for name, rate in limits.items()) or "not measured"),
        "commit " + identity["commit"] + "; " + ", ".join(f"{name} {v}" for name, v in identity["versions"].items()),
        f"int8 of both calibrated on {identity['calibration']}",
    ]
    if "avx512_bf16" not in host["instruction_sets"]:
        lines.append("This processor has no avx512_bf16: bf16 and int8 of this engine do not run here; torch emulates bf16.")
    return "\n".join(lines)
