"""The torch engine on the GPU, end to end: its clips beside the native engine's, its bits across batches, its clips per second."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from ..clips import ClipBatch
from ..engine import Engine
from ..errors import InternalError
from ..models import resolve_model
from ..package import read_config, read_weights, write_package
from .measure import time_left
from .networks import paper, paper_config

SAMPLERS: list[dict[str, Any]] = [
    dict(), dict(guidance=1.0), dict(guidance=0.0), dict(sampler="ddpm", steps=8), dict(sampler="ddim", steps=8, eta=0.5),
    dict(sampler="ddim", steps=6, rederive_eps=False), dict(sampler="dpmpp_2m", steps=8), dict(sampler="dpmpp_3m", steps=8),
    dict(sampler="dpmpp_2m", steps=8, thresholding="dynamic"), dict(sampler="unipc", steps=8, thresholding="none"),
]  # fmt: skip
LEAST_AGREEMENT = 0.999  # of pixels, fp32
TIMED = 5
PART_SECONDS, ROW_SECONDS = 15, 25  # what a part, or a row of the speeds, wants to have left


def conditions(count: int) -> list[dict[str, Any]]:
    """Labels of the shipped model, a blend and an unconditional clip among them."""
    made: list[dict[str, Any]] = []
    for i in range(count):
        made.append(dict(identity=f"{i % 48 + 1:03d}", view=f"{18 * (i % 11):03d}", covariate=("nm", "bg", "cl")[i % 3]))
    for i, special in ((1, dict(identity={"001": 1, "002": 1}, view="036")), (2, {})):
        if i < count:
            made[i] = special
    return made


def compared(a: ClipBatch, b: ClipBatch) -> dict[str, float]:
    """Share of equal pixels, and mean intersection over union of the clips."""
    one, two = a.frames > 0, b.frames > 0
    union = (one | two).sum(axis=(1, 2, 3))
    both = (one & two).sum(axis=(1, 2, 3))
    return {"pixels": float((one == two).mean()), "iou": float(np.where(union > 0, both / np.maximum(union, 1), 1.0).mean())}


def section(dtypes: list[str], batches: dict[str, list[int]]) -> dict[str, Any]:
    """All of it; a part that fails does not hide the others."""
    found: dict[str, Any] = {"failures": [], "left_out": []}
    with tempfile.TemporaryDirectory() as folder:
        parts: list[tuple[str, Callable[[], Any]]] = [
            ("parity", lambda: parity(dtypes)), ("determinism", determinism), ("samplers", samplers), ("errors", errors),
            ("speed", lambda: speed(batches, Path(folder))),
        ]  # fmt: skip
        for name, part in parts:
            if time_left() < PART_SECONDS:
                found["left_out"].append(name)
                continue
            try:
                found[name] = part()
                found["failures"] += [f"{name} {row['what']}: {row['why']}" for row in found[name] if row.get("why")]
            except Exception as e:
                found["failures"].append(f"{name}: {type(e).__name__}: {str(e)[:400]}")
            torch.cuda.empty_cache()
    return found


def parity(dtypes: list[str]) -> list[dict[str, Any]]:
    """16 clips of the shipped model by its default sampler, beside the native engine in fp32.

    fp32 must agree in 99.9 % of pixels; bf16 and fp16 may differ at most twice as much as the native engine's bf16 does (where
    this processor has it), or in 1 % of pixels.
    """
    wanted = conditions(16)
    with Engine.from_pretrained("walker", precision="fp32") as native:
        truth = native.generate(wanted, seed=5)
    with Engine.from_pretrained("walker") as native:
        fastest, precision = native.generate(wanted, seed=5), native.info["precision"]
    rows: list[dict[str, Any]] = [{"what": f"native {precision}", **compared(fastest, truth)}]
    allowed = max(2 * (1 - rows[0]["pixels"]), 0.01)
    for name in dtypes:
        for conv in ("triton", "torch"):
            with Engine.from_pretrained("walker", device="cuda", precision=name, conv=conv) as engine:
                clips = engine.generate(wanted, seed=5)
            row: dict[str, Any] = {"what": f"torch {name}, {conv} convolutions", **compared(clips, truth)}
            least = LEAST_AGREEMENT if name == "fp32" else 1 - allowed
            if row["pixels"] < least:
                row["why"] = f"{row['pixels']:.5f} of the pixels agree with the native engine in fp32; at least {least:.5f} must"
            rows.append(row)
    return rows


def samplers() -> list[dict[str, Any]]:
    """Every kind of sampler, guidance and thresholding in fp32, beside the native engine."""
    wanted, rows = conditions(4), []
    with (
        Engine.from_pretrained("walker", precision="fp32") as native,
        Engine.from_pretrained("walker", device="cuda", precision="fp32", batch=4) as engine,
    ):
        for settings in SAMPLERS:
            row: dict[str, Any] = {"what": ", ".join(f"{k} {v}" for k, v in settings.items()) or "default"}
            row |= compared(engine.generate(wanted, seed=9, **settings), native.generate(wanted, seed=9, **settings))
            if row["pixels"] < LEAST_AGREEMENT:
                row["why"] = f"{row['pixels']:.5f} of the pixels agree with the native engine; at least {LEAST_AGREEMENT} must"
            rows.append(row)
    return rows


def determinism() -> list[dict[str, Any]]:
    """Equal bits: of one engine twice; with our convolutions in any batch; with torch's in a fixed one, whatever else is in it."""
    wanted = conditions(41)
    with Engine.from_pretrained("walker", device="cuda") as engine:
        whole = engine.generate(wanted, seed=3)
        rows = [_equal("the same call again", whole, engine.generate(wanted, seed=3))]
        graphs = engine.info["batches"]
    rows.append({"what": f"graphs of {graphs} clips"})
    for batch in (1, 8, 32):
        with Engine.from_pretrained("walker", device="cuda", batch=batch) as engine:
            rows.append(_equal(f"triton convolutions, batch {batch} beside the mixture", whole, engine.generate(wanted, seed=3)))
    with Engine(resolve_model("walker"), device="cuda", batch=16, graphs=False) as engine:
        rows.append(_equal("without CUDA graphs", whole, engine.generate(wanted, seed=3)))
    for conv in ("torch", "auto"):
        with Engine.from_pretrained("walker", device="cuda", conv=conv, batch=8) as engine:
            whole = engine.generate(wanted, seed=3)
            few = engine.generate(wanted[5:8], seed=3, start=5)
            rows.append(_equal(f"{conv} convolutions, batch 8, three clips alone", whole[5:8], few))
    return rows


def equal_bits(a: ClipBatch, b: ClipBatch) -> int:
    """How many clips differ."""
    return int((a.packed != b.packed).any(axis=1).sum())


def _equal(what: str, a: ClipBatch, b: ClipBatch) -> dict[str, Any]:
    differ = equal_bits(a, b)
    return {"what": what, "clips": len(a), "differ": differ, "why": f"{differ} of {len(a)} clips have other bits" if differ else ""}


def errors() -> list[dict[str, Any]]:
    """Weights that are not finite end in the same typed error as in the native engine, and name the clip."""
    folder = resolve_model("walker")
    weights = read_weights(folder)
    weights["final_conv.bias"] = np.full_like(weights["final_conv.bias"], np.inf)
    row: dict[str, Any] = {"what": "infinite weights", "why": "no error"}
    with tempfile.TemporaryDirectory() as place:
        config = read_config(folder).model_copy(update={"quantisation": None})
        plain = {k: v for k, v in weights.items() if not k.endswith((".input_low", ".input_high"))}
        write_package(Path(place) / "bad", config, plain, "infinite")
        with Engine.from_pretrained(Path(place) / "bad", device="cuda", batch=2) as engine:
            try:
                engine.generate(conditions(3), start=7)
            except InternalError as e:
                row["why"] = "" if "clip 7" in str(e) and "not finite" in str(e) else str(e)
    return [row]


def speed(batches: dict[str, list[int]], folder: Path) -> list[dict[str, Any]]:
    """Clips per second and seconds per network-batch of clips, conditions in to packed clips out, by the clock of this process."""
    paper_model = paper()
    write_package(folder / "paper", paper_config(), dict(paper_model.state_dict()), "random weights")
    rows = []
    for name, model in (("walker", "walker"), ("paper", folder / "paper")):
        for batch in batches.get(name, []):
            for conv in ("triton", "auto") if batch in (8, 32) else ("triton",):
                if time_left() < ROW_SECONDS:
                    rows.append({"what": f"{name} batch {batch} {conv}", "left_out": "no time"})
                    continue
                try:
                    rows.append(_timed(name, str(model), batch, conv))
                except Exception as e:
                    rows.append({"what": f"{name} batch {batch} {conv}", "why": f"{type(e).__name__}: {str(e)[:300]}"})
                torch.cuda.empty_cache()
    return rows


def _timed(name: str, model: str, batch: int, conv: str) -> dict[str, Any]:
    torch.cuda.reset_peak_memory_stats()
    with Engine.from_pretrained(model, device="cuda", batch=batch, conv=conv) as engine:
        settings = engine.resolve_sampler()
        wanted: list[Any] = conditions(batch) if name == "walker" else [{}] * batch
        began = time.perf_counter()
        engine.generate(wanted)  # compiles and captures
        opened = time.perf_counter() - began
        single = [seconds(lambda: engine.generate(wanted)) for _ in range(TIMED)]
        rounds = max(1, min(32, int(1.0 / median(single))))
        streamed = [seconds(lambda: engine.generate(wanted * rounds)) for _ in range(3)]
    row = {"what": f"{name} batch {batch} {conv}", "network": name, "batch": batch, "conv": conv, "steps": settings["steps"]}
    row |= {"guidance": settings["guidance"], "latency_s": median(single), "latency_min_s": min(single), "n": TIMED}
    row |= {
        "clips_per_s": rounds * batch / median(streamed),
        "clips_per_s_max": rounds * batch / min(streamed),
        "first_call_s": opened,
    }
    return {**row, "peak_bytes": torch.cuda.max_memory_allocated()}


def seconds(work: Callable[[], object]) -> float:
    """What ``work`` takes by the clock."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
