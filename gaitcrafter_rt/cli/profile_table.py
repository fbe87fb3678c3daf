"""Profiles of clips: time and share of the cores' limit of every op at every resolution."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ..install import native
from .common import console

if TYPE_CHECKING:
    from ..engine import Engine

_FP32_CALLS = "network in fp32"


def profile(engine: Engine, condition: dict[str, Any], clips: int, cores: int, call: dict[str, Any]) -> dict[str, Any]:
    """Where the time of a clip goes: ``clips`` clips, one after another, by ``cores`` threads each.

    Returns ``limits`` (operations per second of one core by arithmetic, probed now), ``cores``, ``seconds`` per clip, and
    ``rows``, longest first: ``stage``, ``op``, ``arithmetic``, ``height``, ``width``, and per clip ``calls``, ``seconds``,
    ``operations``; ``share`` of the clip's time and ``of_limit``, the share of the limit of all cores (None without products).
    The rest of the clip's time is a row of its own, "unaccounted".
    """
    with engine.profile() as rows:
        began = time.perf_counter()
        for number in range(clips):
            engine.generate([condition], seed=0, start=number, **call)
        seconds = (time.perf_counter() - began) / clips
    limits = {a: native().processor_rate(a, engine.info["isa"]) for a in sorted({r["arithmetic"] for r in rows} - {""})}
    counted = [{**r, **{k: r[k] / clips for k in ("calls", "seconds", "operations")}} for r in rows]
    rest = max(0.0, seconds - sum(r["seconds"] for r in counted))
    nothing = {"arithmetic": "", "height": 0, "width": 0, "operations": 0.0}
    counted.append({"stage": "clip", "op": "unaccounted", **nothing, "calls": 1.0, "seconds": rest})
    for r in counted:
        r["share"] = r["seconds"] / seconds
        possible = r["seconds"] * limits.get(r["arithmetic"], 0.0) * cores
        r["of_limit"] = r["operations"] / possible if possible else None
    return {"limits": limits, "cores": cores, "seconds": seconds, "rows": sorted(counted, key=lambda r: -r["seconds"])}


def show_profile(name: str, found: dict[str, Any]) -> None:
    """Print it, ``name`` saying what was run."""
    from rich.table import Table

    out = console()
    limits = ", ".join(f"{a} {rate / 1e9:.0f}" for a, rate in found["limits"].items())
    out.print(f"\n{name}: {1000 * found['seconds']:.1f} ms a clip; limit of a core, GOP/s: {limits}; cores: {found['cores']}")
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for title in ("op", "pixels", "type"):
        table.add_column(title, no_wrap=True)
    for title in ("calls", "ms", "share", "GOP/s", "of limit"):
        table.add_column(title, justify="right", no_wrap=True)
    fp32_calls = any(r["stage"] == _FP32_CALLS for r in found["rows"])
    for r in found["rows"]:
        rate = f"{r['operations'] / r['seconds'] / 1e9:.0f}" if r["operations"] else ""
        op = r["op"] + (" *" if r["stage"] == _FP32_CALLS else "")
        pixels = f"{r['height']}x{r['width']}" if r["height"] else ""
        limit = "" if r["of_limit"] is None else f"{r['of_limit']:.0%}"
        numbers = (f"{r['calls']:g}", f"{1000 * r['seconds']:.2f}", f"{r['share']:.1%}", rate, limit)
        table.add_row(op, pixels, r["arithmetic"], *numbers)
    out.print(table)
    if fp32_calls:
        out.print("* in the calls that this model makes in fp32 whatever the precision")
    operations = sum(r["operations"] for r in found["rows"])
    least = sum(r["operations"] / found["limits"][r["arithmetic"]] for r in found["rows"] if r["arithmetic"]) / found["cores"]
    out.print(f"all: {operations / found['seconds'] / 1e9:.0f} GOP/s, {least / found['seconds']:.0%} of the limit")
