"""Kernel parity: every op by its kernel, by eager torch at the same type, and in double, at the networks' sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..kernels.launch import plain_torch
from ..kernels.sampler_step import as_signed, initial_noise, pack_clips, threshold_level
from ..samplers.noise_reference import normals
from .kernel_cases import Case, Maker, cases

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# Added to twice eager's loss, as a share of the largest value: half a unit in the last place, where rounding may fall either way.
TINY = {torch.float32: 2.0**-22, torch.float16: 2.0**-12, torch.bfloat16: 2.0**-9}


def section(dtypes: list[str]) -> dict[str, Any]:
    """Rows of all cases and dtypes, with what failed."""
    rows = [row for name in dtypes for case in cases(DTYPES[name]) for row in check(case, name)]
    rows += noise_rows()
    return {"rows": rows, "failures": [f"{r['op']} {r['case']} {r['dtype']}: {r['why']}" for r in rows if r["why"]]}


def check(case: Case, dtype_name: str) -> list[dict[str, Any]]:
    """One row per floating-point result of the op. An error while it runs is a row too."""
    dtype = DTYPES[dtype_name]
    row: dict[str, Any] = {"op": _name(case), "case": case.name, "dtype": dtype_name, "why": ""}
    try:
        with torch.no_grad():
            found = _judged(case, dtype)
    except Exception as e:  # whatever a kernel dies of must not hide what the others do
        torch.cuda.empty_cache()
        return [{**row, "why": f"{type(e).__name__}: {str(e)[:300]}"}]
    return [{**row, **values, "result": i} for i, values in enumerate(found)]


def _name(case: Case) -> str:
    return str(getattr(case.op, "_name", case.op)).removeprefix("gaitcrafter::")


def _judged(case: Case, dtype: torch.dtype) -> list[dict[str, Any]]:
    args = case.build(Maker(dtype))
    got = _tuple(case.op(*args))
    again = _tuple(case.op(*args))
    with plain_torch():
        plain = _tuple(case.op(*args))
        exact = _tuple(case.op(*map(_doubled, args)))
    rows = []
    for mine, second, theirs, truth in zip(got, again, plain, exact, strict=True):
        if truth.numel():
            rows.append(_verdict(mine, second, theirs, truth, dtype))
    del args, got, again, plain, exact
    torch.cuda.empty_cache()
    return rows


def _verdict(mine: Tensor, again: Tensor, theirs: Tensor, truth: Tensor, dtype: torch.dtype) -> dict[str, Any]:
    size = truth.abs().max().item()
    error, loss = (v.double().sub(truth.double()).abs() for v in (mine, theirs))
    row = {
        "error": error.max().item() / size, "eager": loss.max().item() / size, "error_rms": _rms(error) / size,
        "eager_rms": _rms(loss) / size, "why": "",
    }  # fmt: skip
    if mine.shape != truth.shape or mine.dtype != theirs.dtype:
        row["why"] = f"{tuple(mine.shape)} {mine.dtype} in place of {tuple(truth.shape)} {theirs.dtype}"
    elif not mine.isfinite().all():
        row["why"] = f"{(~mine.isfinite()).sum().item()} of {mine.numel()} values are not finite"
    elif row["error"] > 2 * row["eager"] + TINY[dtype] or row["error_rms"] > 2 * row["eager_rms"] + TINY[dtype]:
        row["why"] = f"error {row['error']:.2e} (rms {row['error_rms']:.2e}), eager {row['eager']:.2e} ({row['eager_rms']:.2e})"
    elif not torch.equal(mine, again):
        row["why"] = "two calls gave different bits"
    return row


def noise_rows() -> list[dict[str, Any]]:
    """The device's normals beside the engine's, and packed bits beside numpy's: share of values with the same bits."""
    seeds, clips, n = np.array([3, 2**64 - 1], np.uint64), np.array([2**32 + 3, 0], np.uint64), 30 * 64 * 64
    x = torch.empty(2, n, device="cuda")
    rows = []
    for op, work in (("initial_noise", _noise), ("pack_clips", _pack)):
        row = {"op": op, "case": "2 clips of 30x64x64", "dtype": "fp32", "why": "", "result": 0}
        try:
            same, farthest = work(x, seeds, clips)
            row |= {"same": same, "error": farthest, "why": "" if same == 1 else f"{1 - same:.2e} of the values differ"}
        except Exception as e:
            row["why"] = f"{type(e).__name__}: {str(e)[:300]}"
        rows.append(row)
    return rows


def _noise(x: Tensor, seeds: np.ndarray, clips: np.ndarray) -> tuple[float, float]:
    initial_noise(x, as_signed(seeds, "cuda"), as_signed(clips, "cuda"))
    expected = np.stack([normals(int(s), int(c), 0, x.shape[1]) for s, c in zip(seeds, clips, strict=True)])
    got = x.cpu().numpy()
    return float((got == expected).mean()), float(np.abs(got - expected).max())


def _pack(x: Tensor, seeds: np.ndarray, clips: np.ndarray) -> tuple[float, float]:
    x.copy_(torch.randn(x.shape, generator=torch.Generator().manual_seed(1)))
    bad = torch.zeros(len(x), dtype=torch.int32, device="cuda")
    got = pack_clips(x, threshold_level(0.3, "cuda"), bad).cpu().numpy()
    level = np.float32(2) * np.float32(0.3) - np.float32(1)
    return float((got == np.packbits(x.cpu().numpy() > level, axis=1)).mean()), float(bad.sum().item())


def _rms(v: Tensor) -> float:
    return v.square().mean().sqrt().item()


def _doubled(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _tuple(value: Any) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)
