"""Times on the GPU: CUDA events around replays of CUDA graphs, contestants by turns, medians with their spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

WARM_UPS = 2
LEAST_SECONDS = 0.002  # of one timed replay; shorter work is repeated inside the graph


_ends: list[float] = []


def set_time(seconds: float | None) -> None:
    """How long the whole check may take; sections leave out what no longer fits, and say so."""
    _ends[:] = [] if seconds is None else [time.monotonic() + seconds]


def time_left() -> float:
    """Seconds."""
    return _ends[0] - time.monotonic() if _ends else float("inf")


def captured(work: Callable[[], object], repeats: int = 1) -> Callable[[], None]:
    """``work`` as a CUDA graph that runs it ``repeats`` times; returns the replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            work()
    return graph.replay


def once(replay: Callable[[], object]) -> float:
    """Seconds of one call on the current stream."""
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    before.record()
    replay()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1e3


def repeats_for(work: Callable[[], object]) -> int:
    """How often ``work`` must run for one timing to be long against the clock's grain."""
    work()
    torch.cuda.synchronize()
    return max(1, min(200, int(LEAST_SECONDS / max(once(work), 1e-6))))


def summary(seconds: list[float]) -> dict[str, Any]:
    """Median, smallest, largest and number of timings, in microseconds."""
    micro = [s * 1e6 for s in seconds]
    return {"us": statistics.median(micro), "us_min": min(micro), "us_max": max(micro), "n": len(micro)}


def compare(works: dict[str, Callable[[], object]], rounds: int = 9) -> dict[str, dict[str, Any]]:
    """Time every contestant once per round, by turns, so that a change of clock meets all of them.

    Each runs as a CUDA graph; one that cannot be captured (it copies from the host) runs as it is, and its row says so. One that
    does not run at all is ``{"absent": why}``, except the first, which raises.
    """
    absent: dict[str, dict[str, Any]] = {}
    for name, work in list(works.items())[1:]:
        try:
            work()
            torch.cuda.synchronize()
        except Exception as e:
            absent[name] = {"absent": f"{type(e).__name__}: {str(e)[:200]}"}
    works = {name: work for name, work in works.items() if name not in absent}
    replays: dict[str, tuple[Callable[[], object], int]] = {}
    graphs: dict[str, bool] = {}
    for name, work in works.items():
        repeats = repeats_for(work)
        try:
            replays[name], graphs[name] = (captured(work, repeats), repeats), True
        except RuntimeError:
            torch.cuda.synchronize()
            replays[name], graphs[name] = (work, 1), False
    times: dict[str, list[float]] = {name: [] for name in works}
    for replay, _ in replays.values():
        replay()
    torch.cuda.synchronize()
    for _ in range(rounds):
        for name, (replay, repeats) in replays.items():
            times[name].append(once(replay) / repeats)
    return {**{name: {**summary(values), "graph": graphs[name]} for name, values in times.items()}, **absent}


def bandwidth() -> float:
    """Bytes per second of a copy far larger than the caches, read and written bytes both counted."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    seconds = compare({"copy": lambda: target.copy_(source)})["copy"]["us"] / 1e6
    return 2 * source.numel() / seconds


def product_rate(dtype: torch.dtype = torch.bfloat16, side: int = 8192) -> float:
    """Operations per second of one large square product of random matrices."""
    a, b = (torch.randn(side, side, device="cuda", dtype=dtype) for _ in range(2))
    seconds = compare({"product": lambda: a @ b})["product"]["us"] / 1e6
    return 2 * side**3 / seconds
