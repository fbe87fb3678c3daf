"""Every distinct launch of a network alone on the GPU: time, share of the measured bandwidth and of the tensor-core rate.

Launches are recorded on tensors without data and run on random ones of the same shapes. Beside a convolution stands torch's own
(cuDNN) of the same shape, without what our kernel folds in.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import ModelConfig
from ..export.cubins import distinct, key_of
from ..export.launches import network_launches, sampler_launches
from ..kernels.launch import Launch
from .measure import compare, time_left


def warm_up(launches: Iterable[Launch]) -> list[str]:
    """Compile into Triton's cache by all processors, each in a process of its own; returns what did not compile."""
    launches = distinct(launches)
    workers = min(len(launches), os.cpu_count() or 1)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        # A recorded kernel travels by the name of its function.
        jobs = [pool.submit(_compile, _described(launch)) for launch in sorted(launches, key=lambda launch: -launch.flops)]
        return [problem for job in jobs if (problem := job.result())]


def options(launch: Launch) -> dict[str, Any]:
    """What ``kernels.launch.launch`` passes to Triton beside arguments."""
    return dict(num_warps=launch.warps, num_stages=launch.stages, enable_fp_fusion=launch.contract)


def _described(launch: Launch) -> tuple[Any, ...]:
    kernel = launch.kernel
    types = {name: None if t is None else t.dtype for name, t in launch.tensors.items()}
    return kernel.__module__, kernel.__name__, types, launch.constants, options(launch)


def _compile(description: tuple[Any, ...]) -> str:
    import importlib

    from triton.runtime.jit import MockTensor

    module, name, types, constants, how = description
    kernel = getattr(importlib.import_module(module), name)
    mocks = {key: None if dtype is None else MockTensor(dtype) for key, dtype in types.items()}
    try:
        kernel.warmup(**mocks, **constants, **how, grid=(1,))
    except Exception as e:
        return f"{name} {constants}: {type(e).__name__}: {str(e)[:300]}"
    return ""


def materialised(launch: Launch) -> dict[str, Tensor | None]:
    """Random tensors on the GPU of the shapes, strides and types of a recorded launch."""
    made: dict[str, Tensor | None] = {}
    for name, t in launch.tensors.items():
        if t is None:
            made[name] = None
            continue
        real = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cuda")
        made[name] = real.normal_() if t.dtype.is_floating_point else real.zero_()
    return made


def runner(launch: Launch, tensors: dict[str, Tensor | None]) -> Callable[[], Any]:
    """The launch on those tensors; a call returns Triton's compiled kernel."""
    grid, kernel, how = launch.grid, launch.kernel, options(launch)
    return lambda: kernel[grid](**tensors, **launch.constants, **how)


def rivals(launch: Launch, tensors: dict[str, Tensor | None]) -> dict[str, Callable[[], object]]:
    """torch's convolution of the same shape and type, channels-last; inputs of two sources are counted as one tensor."""
    if launch.name != "conv2d":
        return {}
    c, x, w = launch.constants, tensors["x"], tensors["w"]
    assert x is not None and w is not None
    ci, n = c["C1"] + c["C2"], len(x)
    v = torch.randn(n, c["H"], c["W"], ci, dtype=w.dtype, device="cuda").permute(0, 3, 1, 2)
    if c["SPREAD"] == 2:
        weight = torch.randn(ci, c["CO"], 4, 4, dtype=w.dtype, device="cuda").contiguous(memory_format=torch.channels_last)
        return {"torch": lambda: F.conv_transpose2d(v, weight, stride=2, padding=1)}
    weight = torch.randn(c["CO"], ci, c["KH"], c["KW"], dtype=w.dtype, device="cuda").contiguous(memory_format=torch.channels_last)
    return {"torch": lambda: F.conv2d(v, weight, stride=c["STRIDE"], padding=c["PAD"])}


def section(configs: dict[str, tuple[ModelConfig, int]], copy: float, products: float, dtype: torch.dtype) -> dict[str, Any]:
    """``configs``: name to (config, batch); ``copy`` in bytes/s and ``products`` in operations/s are the measured limits."""
    torch.backends.cudnn.benchmark = True
    recorded = {name: network_launches(c, batch, dtype) + sampler_launches(c, batch) for name, (c, batch) in configs.items()}
    rows, failures, left_out = [], [], []
    for name, launches in recorded.items():
        counts: dict[str, int] = {}
        for launch in launches:
            counts[key_of(launch)] = counts.get(key_of(launch), 0) + 1
        for launch in sorted(distinct(launches), key=lambda launch: -launch.flops):
            if time_left() < 4:
                left_out.append(f"{name} {launch.name}")
                continue
            try:
                rows.append({"network": name, **_row(launch, counts[key_of(launch)], copy, products)})
            except Exception as e:
                failures.append(f"{name} {launch.name} {launch.constants}: {type(e).__name__}: {str(e)[:300]}")
            torch.cuda.empty_cache()
    return {"rows": rows, "failures": failures, "left_out": left_out}


def _row(launch: Launch, count: int, copy: float, products: float) -> dict[str, Any]:
    tensors = materialised(launch)
    run = runner(launch, tensors)
    made = run()
    torch.cuda.synchronize()
    times = compare({"ours": run, **rivals(launch, tensors)}, rounds=5)
    seconds = times["ours"]["us"] / 1e6
    c = launch.constants
    return {
        "kernel": launch.name, "count": count, "grid": launch.grid, "warps": launch.warps, "stages": launch.stages,
        "shape": {k: c[k] for k in _SHAPE if k in c}, "folded": [k for k in _FOLDED if launch.tensors.get(k) is not None],
        "ours": times["ours"], "torch": times.get("torch"), "bandwidth_share": launch.dram_bytes / seconds / copy,
        "rate_share": launch.flops / seconds / products, "flops": launch.flops, "dram_bytes": launch.dram_bytes,
        "registers": made.n_regs, "spills": made.n_spills, "shared": made.metadata.shared,
    }  # fmt: skip


_SHAPE = (
    "H", "W", "C1", "C2", "CO", "KH", "STRIDE", "SPREAD", "SITES", "C", "HEADS", "D", "L", "N", "S", "T", "BLOCK_M", "BLOCK_N",
    "BLOCK_K",
)  # fmt: skip
_FOLDED = ("second", "affine", "gamma", "residual", "residual_affine", "moments", "history", "null")
