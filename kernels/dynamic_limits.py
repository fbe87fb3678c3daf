"""Dynamic thresholding's factor of every clip: a quantile of |x0|, without sorting.

Kernel: one program per clip finds the order statistic bit by bit, 31 counts over the clip from cache and one more for its neighbour
above. For the few samplers that want it; clips share the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .launch import is_recording, jit, launch, tl, use_kernel
from .sampler_step import blocks_of, guided, outputs_apart


@jit
def _magnitudes(x, out, null, row, clip, first, N: tl.constexpr, OUT: tl.constexpr, BLOCK: tl.constexpr):
    """Bits of |x0| of some elements, which order like the floats and put NaN last; past the end more than any."""
    i = first + tl.arange(0, BLOCK)
    mask = i < N
    v = tl.load(x + clip * N + i, mask=mask, other=0)
    raw = tl.load(row) * v + tl.load(row + 1) * guided(out, null, clip * OUT + i, row, mask)
    return tl.where(mask, raw.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 0x7FFFFFFF)


@jit
def _limit(x, out, null, row, integers, limit, N: tl.constexpr, OUT: tl.constexpr, BLOCK: tl.constexpr):
    """limit [clips]: dynamic thresholding's factor. One program per clip finds the order statistic by its bits, highest first."""
    clip = tl.program_id(0).to(tl.int64)
    rank = tl.load(integers + 1)
    low = tl.zeros((1,), tl.int32)  # bits of the value at `rank`
    for bit in range(31):
        middle = low | (1 << (30 - bit))
        below = tl.zeros((BLOCK,), tl.int32)
        for first in range(0, N, BLOCK):
            below += (_magnitudes(x, out, null, row, clip, first, N, OUT, BLOCK) < middle).to(tl.int32)
        low = tl.where(tl.sum(below, axis=0) <= rank, middle, low)
    upto = tl.zeros((BLOCK,), tl.int32)
    above = tl.full((BLOCK,), 0x7FFFFFFF, tl.int32)
    for first in range(0, N, BLOCK):
        bits = _magnitudes(x, out, null, row, clip, first, N, OUT, BLOCK)
        upto += (bits <= low).to(tl.int32)
        above = tl.minimum(above, tl.where(bits > low, bits, 0x7FFFFFFF))
    high = tl.where((tl.sum(upto, axis=0) > rank + 1) | (rank + 1 >= N), low, tl.min(above, axis=0))
    a, b = low.to(tl.float32, bitcast=True), high.to(tl.float32, bitcast=True)
    quantile = a + tl.load(row + 9) * (b - a)
    tl.store(limit + clip + tl.arange(0, 1), tl.where(quantile < 1.0, 1.0, quantile))


@torch.library.custom_op("gaitcrafter::dynamic_limits", mutates_args=("limit",))
def dynamic_limits(x: Tensor, out: Tensor, null: Tensor | None, row: Tensor, integers: Tensor, limit: Tensor) -> None:
    """``limit [clips]`` becomes dynamic thresholding's factor: the quantile of |x0| (linear interpolation), at least 1."""
    if use_kernel(x):
        _launch_limits(x, out, null, row, integers, limit)
        return
    o = out if null is None else null + (out - null) * row[8]
    magnitudes = (row[0] * x + row[1] * o).abs().sort(dim=1).values
    lower = int(integers[1])
    low, high = magnitudes[:, lower], magnitudes[:, min(lower + 1, x.shape[1] - 1)]
    quantile = low + row[9] * (high - low)
    limit.copy_(torch.where(quantile < 1, 1, quantile))


def _launch_limits(x: Tensor, out: Tensor, null: Tensor | None, row: Tensor, integers: Tensor, limit: Tensor) -> None:
    blocks_of(x)
    n = x.shape[1]
    launch(
        _limit, (len(x),), dict(x=x, out=out, null=null, row=row, integers=integers, limit=limit),
        dict(N=n, OUT=outputs_apart(out, null), BLOCK=4096), warps=16, contract=False, flops=32 * 6 * x.numel(),
        l2_bytes=32 * 4 * (2 + (null is not None)) * x.numel(),
    )  # fmt: skip


@dynamic_limits.register_fake
def _(*args):
    if is_recording():
        _launch_limits(*args)
