"""The sampler on the device: x_T, one row of the sampler table, and the packed bits of the finished clip.

Reference: ``gaitcrafter_rt.samplers`` (table.py, noise_reference.py, thresholds.py) and ``csrc/sampler/step.cc``, in numpy and C++.
The noise has the same integers, Philox4x32-10 with counter (element / 4, stream, clip low, clip high) and key (seed low, seed
high), and the same sequence of fp32 operations, each rounded once: the kernels must not contract a product and a sum. Whether a
GPU's bits equal the CPU's is for a GPU to show. Everything a row needs is read from buffers, so that a captured graph runs again
with other seeds and clips. Elementwise: one read and one write of x, one read of the model output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InvalidRequestError
from ..samplers.noise_reference import normals
from ..samplers.table import Row, coefficients
from .launch import is_recording, jit, launch, tl, use_kernel

BLOCK = 256  # counters per program, four elements each
LARGEST_CLIP = 2**31 - 8 * BLOCK  # elements


@jit
def _ln_unit(u):
    """Natural logarithm of fp32 values in (0, 1], as csrc/noise/normal.cc has it."""
    offset = u.to(tl.uint32, bitcast=True) - 0x3F3504F3
    e = (offset.to(tl.int32, bitcast=True) >> 23).to(tl.float32)
    f = ((offset & 0x007FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0
    g = f * f
    p = 0.0697161183 * f - 0.114797339
    p = p * f + 0.116854198
    p = p * f - 0.124256872
    p = p * f + 0.142490581
    p = p * f - 0.166678026
    p = p * f + 0.200007156
    p = p * f - 0.24999997
    p = p * f + 0.333333313
    y = f * g * p
    y = y + e * -2.12194440e-4
    y = y - 0.5 * g
    return (f + y) + e * 0.693359375


@jit
def _box_muller(w0, w1):
    """Two words to two standard normals."""
    u1 = ((w0 >> 8) + 1).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08
    r = tl.sqrt_rn(-2.0 * _ln_unit(u1))
    turns = (w1 >> 8).to(tl.int32)
    quarter = (turns + 2097152) >> 22
    f = (turns - (quarter << 22)).to(tl.float32) * 5.9604644775390625e-08
    g = f * f
    s = f * (((-75.4016113 * g + 81.5925446) * g - 41.3416634) * g + 6.28318548)
    c = (((59.2201691 * g - 85.4428482) * g + 64.9393158) * g - 19.7392082) * g + 1.0
    odd = (quarter & 1) != 0
    cos = tl.where(odd, s, c)
    sin = tl.where(odd, c, s)
    return r * tl.where(((quarter + 1) & 2) != 0, -cos, cos), r * tl.where((quarter & 2) != 0, -sin, sin)


@jit
def _normals(seeds, clips, clip, stream, counter, BLOCK: tl.constexpr):
    """Four normals of every counter, in the order of the elements: [4 * BLOCK]."""
    seed = tl.load(seeds + clip).to(tl.uint64, bitcast=True)
    index = tl.load(clips + clip).to(tl.uint64, bitcast=True)
    zero = tl.zeros((BLOCK,), tl.uint32)
    w0, w1, w2, w3 = tl.philox_impl(
        zero + counter.to(tl.uint32), zero + stream.to(tl.uint32), zero + index.to(tl.uint32), zero + (index >> 32).to(tl.uint32),
        zero + seed.to(tl.uint32), zero + (seed >> 32).to(tl.uint32), 10,
    )  # fmt: skip
    a, b = _box_muller(w0, w1)
    c, d = _box_muller(w2, w3)
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (4 * BLOCK,))


@jit
def _initial_noise(seeds, clips, x, N: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """x [clips, N] = stream 0."""
    clip = (tl.program_id(0) // BLOCKS).to(tl.int64)
    counter = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    z = _normals(seeds, clips, clip, tl.zeros((1,), tl.int32), counter, BLOCK)
    i = (tl.program_id(0) % BLOCKS) * (4 * BLOCK) + tl.arange(0, 4 * BLOCK)
    tl.store(x + clip * N + i, z, mask=i < N)


@jit
def _not_finite(v, mask):
    return tl.sum(tl.where(mask & ((v - v) != 0.0), 1, 0), axis=0)


@jit
def _step(
    x, out, null, limit, history, row, stream, seeds, clips, bad, N: tl.constexpr, NEWEST: tl.constexpr, CLIP: tl.constexpr,
    PREV1: tl.constexpr, PREV2: tl.constexpr, RAW: tl.constexpr, NOISE: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row over x [clips, N]; which terms it has is known beforehand, its numbers are read. history [clips, 2, N]."""
    clip = (tl.program_id(0) // BLOCKS).to(tl.int64)
    i = (tl.program_id(0) % BLOCKS) * (4 * BLOCK) + tl.arange(0, 4 * BLOCK)
    mask = i < N
    at = clip * N + i
    v = tl.load(x + at, mask=mask, other=0)
    o = tl.load(out + at, mask=mask, other=0)
    if null is not None:
        base = tl.load(null + at, mask=mask, other=0)
        o = base + (o - base) * tl.load(row + 8)
    raw = tl.load(row) * v + tl.load(row + 1) * o
    x0 = raw
    if CLIP:
        x0 = tl.where(x0 < -1.0, -1.0, x0)
        x0 = tl.where(x0 > 1.0, 1.0, x0)
    if limit is not None:
        bound = tl.load(limit + clip)
        x0 = tl.where(x0 < -bound, -bound, x0)
        x0 = tl.div_rn(tl.where(x0 > bound, bound, x0), bound + tl.zeros_like(x0))
    total = tl.load(row + 2) * v + tl.load(row + 3) * x0
    if history is not None:
        newest = history + (2 * clip + NEWEST) * N + i
        oldest = history + (2 * clip + 1 - NEWEST) * N + i
        if PREV1:
            total = total + tl.load(row + 4) * tl.load(newest, mask=mask, other=0)
        if PREV2:
            total = total + tl.load(row + 5) * tl.load(oldest, mask=mask, other=0)
        tl.store(oldest, x0, mask=mask)
    if RAW:
        total = total + tl.load(row + 6) * raw
    if NOISE:
        counter = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
        total = total + tl.load(row + 7) * _normals(seeds, clips, clip, tl.load(stream), counter, BLOCK)
    count = _not_finite(o, mask)
    tl.atomic_add(bad + clip, count, mask=count > 0)
    tl.store(x + at, total, mask=mask)


@jit
def _pack(x, packed, bad, N: tl.constexpr, BYTES: tl.constexpr, LEVEL: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """packed [clips, BYTES]: bit 7 - i % 8 of byte i / 8 says whether element i exceeds LEVEL."""
    clip = (tl.program_id(0) // BLOCKS).to(tl.int64)
    byte = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    bit = tl.arange(0, 8)
    i = byte[:, None] * 8 + bit[None, :]
    v = tl.load(x + clip * N + i, mask=i < N, other=LEVEL)
    value = tl.sum(tl.where(v > LEVEL, 1, 0) << (7 - bit)[None, :], axis=1)
    tl.store(packed + clip * BYTES + byte, value.to(tl.uint8), mask=byte < BYTES)
    count = tl.sum(_not_finite(v, i < N), axis=0)
    tl.atomic_add(bad + clip, count, mask=count > 0)


@dataclass(frozen=True)
class DeviceTable:
    """A sampler table on a device: ``rows [n, 12]`` fp32 (the eight coefficients in the order of ``Row``, guidance, padding to
    whole 16 bytes), ``streams [n, 4]`` int32 (the first counts), and which terms each row has.
    """

    rows: Tensor
    streams: Tensor
    terms: list[tuple[bool, bool, bool, bool]]  # c_prev1, c_prev2, c_raw, c_noise
    needs_history: bool

    @classmethod
    def of(cls, rows: Sequence[Row], guidance: float, device: torch.device | str) -> DeviceTable:
        """From ``samplers.table.compile_rows``; coefficients are rounded to fp32 once."""
        numbers = np.zeros((len(rows), 12), np.float32)
        numbers[:, :8] = coefficients(list(rows))[:, 1:]
        numbers[:, 8] = guidance
        streams = np.zeros((len(rows), 4), np.int32)
        streams[:, 0] = [row.stream for row in rows]
        terms = [(r.c_prev1 != 0, r.c_prev2 != 0, r.c_raw != 0, r.c_noise != 0) for r in rows]
        history = any(prev1 or prev2 for prev1, prev2, _, _ in terms)
        return cls(torch.from_numpy(numbers).to(device), torch.from_numpy(streams).to(device), terms, history)


def as_signed(values: NDArray[np.uint64], device: torch.device | str) -> Tensor:
    """Seeds or clip indices as the int64 tensor of the same bits that the kernels take."""
    return torch.from_numpy(np.ascontiguousarray(values, np.uint64).view(np.int64)).to(device)


def dynamic_limits(x: Tensor, out: Tensor, row: Tensor, percentile: float) -> Tensor:
    """Dynamic thresholding's factor of every clip, fp32 ``[clips]``: the quantile of |x0| (linear interpolation), at least 1."""
    magnitudes = (row[0] * x + row[1] * out).abs().sort(dim=1).values
    rank = percentile * (x.shape[1] - 1)
    lower = int(rank)
    low, high = magnitudes[:, lower], magnitudes[:, min(lower + 1, x.shape[1] - 1)]
    quantile = low + torch.tensor(rank - lower, dtype=torch.float32, device=x.device) * (high - low)
    return torch.where(quantile < 1, 1, quantile)


def _blocks(x: Tensor) -> int:
    if x.shape[1] > LARGEST_CLIP or not x.is_contiguous():
        raise InvalidRequestError(f"x is {tuple(x.shape)}; a row-major clip of at most {LARGEST_CLIP} elements is allowed")
    return -(-x.shape[1] // (4 * BLOCK))


def _noise(seeds: Tensor, clips: Tensor, stream: int, n: int) -> Tensor:
    pairs = zip(seeds.tolist(), clips.tolist(), strict=True)
    return torch.from_numpy(np.stack([normals(s % 2**64, c % 2**64, stream, n) for s, c in pairs])).to(seeds.device)


@torch.library.custom_op("gaitcrafter::initial_noise", mutates_args=("x",))
def initial_noise(x: Tensor, seeds: Tensor, clips: Tensor) -> None:
    """``x [clips, N]`` fp32 becomes stream 0 of each (seed, clip); seeds and clips are int64, see ``as_signed``."""
    if use_kernel(x):
        _launch_noise(x, seeds, clips)
    else:
        x.copy_(_noise(seeds, clips, 0, x.shape[1]))


def _launch_noise(x: Tensor, seeds: Tensor, clips: Tensor) -> None:
    blocks = _blocks(x)
    launch(
        _initial_noise, (len(x) * blocks,), dict(seeds=seeds, clips=clips, x=x), dict(N=x.shape[1], BLOCKS=blocks, BLOCK=BLOCK),
        contract=False, flops=50 * x.numel(), l2_bytes=4 * x.numel(),
    )  # fmt: skip


@torch.library.custom_op("gaitcrafter::sampler_step", mutates_args=("x", "history", "bad"))
def sampler_step(
    x: Tensor, out: Tensor, null: Tensor | None, row: Tensor, stream: Tensor, seeds: Tensor, clips: Tensor, limit: Tensor | None,
    history: Tensor | None, bad: Tensor, newest: int, clip: bool, prev1: bool, prev2: bool, raw: bool, noise: bool,
) -> None:  # fmt: skip
    """One row in place: ``x [clips, N]`` fp32, ``out`` the model's output, or with ``null`` that of the conditioned lane.

    ``row``, ``stream`` are rows of a ``DeviceTable`` and the four last flags its terms; ``clip`` limits x0 to -1..1, ``limit`` is
    ``dynamic_limits``; ``history [clips, 2, N]`` keeps the last two x0, the later at ``newest``; ``bad`` int32 counts outputs of
    each clip that are not finite.
    """
    if use_kernel(x):
        _launch_step(x, out, null, row, stream, seeds, clips, limit, history, bad, newest, clip, prev1, prev2, raw, noise)
        return
    o = out if null is None else null + (out - null) * row[8]
    bad += (~o.isfinite()).sum(dim=1).int()
    estimate = row[0] * x + row[1] * o
    x0 = estimate
    if clip:
        x0 = x0.clamp(-1, 1)
    if limit is not None:
        x0 = x0.clamp(-limit[:, None], limit[:, None]) / limit[:, None]
    total = row[2] * x + row[3] * x0
    if history is not None:
        if prev1:
            total = total + row[4] * history[:, newest]
        if prev2:
            total = total + row[5] * history[:, 1 - newest]
        history[:, 1 - newest] = x0
    if raw:
        total = total + row[6] * estimate
    if noise:
        total = total + row[7] * _noise(seeds, clips, int(stream[0]), x.shape[1])
    x.copy_(total)


def _launch_step(
    x: Tensor, out: Tensor, null: Tensor | None, row: Tensor, stream: Tensor, seeds: Tensor, clips: Tensor, limit: Tensor | None,
    history: Tensor | None, bad: Tensor, newest: int, clip: bool, prev1: bool, prev2: bool, raw: bool, noise: bool,
) -> None:  # fmt: skip
    blocks = _blocks(x)
    launch(
        _step, (len(x) * blocks,),
        dict(x=x, out=out, null=null, limit=limit, history=history, row=row, stream=stream, seeds=seeds, clips=clips, bad=bad),
        dict(N=x.shape[1], NEWEST=newest, CLIP=clip, PREV1=prev1, PREV2=prev2, RAW=raw, NOISE=noise, BLOCKS=blocks, BLOCK=BLOCK),
        contract=False, flops=(60 if noise else 12) * x.numel(), l2_bytes=4 * (3 + (null is not None)) * x.numel(),
        updated=("x", "bad") if history is None else ("x", "bad", "history"),
    )  # fmt: skip


@torch.library.custom_op("gaitcrafter::pack_clips", mutates_args=("bad",))
def pack_clips(x: Tensor, threshold: float, bad: Tensor) -> Tensor:
    """uint8 ``[clips, ceil(N / 8)]``, most significant bit first: 1 where ``x > 2 * threshold - 1``. ``bad`` as in sampler_step."""
    if use_kernel(x):
        return _launch_pack(x, threshold, bad)
    bad += (~x.isfinite()).sum(dim=1).int()
    bits = torch.nn.functional.pad((x > _level(threshold)).to(torch.uint8), (0, -x.shape[1] % 8)).view(len(x), -1, 8)
    return (bits << torch.arange(7, -1, -1, device=x.device, dtype=torch.uint8)).sum(dim=2, dtype=torch.uint8)


def _level(threshold: float) -> float:
    return float(np.float32(2) * np.float32(threshold) - np.float32(1))


def _launch_pack(x: Tensor, threshold: float, bad: Tensor) -> Tensor:
    _blocks(x)
    size = -(-x.shape[1] // 8)
    packed = x.new_empty((len(x), size), dtype=torch.uint8)
    blocks = -(-size // BLOCK)
    launch(
        _pack, (len(x) * blocks,), dict(x=x, packed=packed, bad=bad),
        dict(N=x.shape[1], BYTES=size, LEVEL=_level(threshold), BLOCKS=blocks, BLOCK=BLOCK), flops=2 * x.numel(),
        l2_bytes=4 * x.numel() + packed.numel(),
    )  # fmt: skip
    return packed


@initial_noise.register_fake
def _(x, seeds, clips):
    if is_recording():
        _launch_noise(x, seeds, clips)


@sampler_step.register_fake
def _(*args):
    if is_recording():
        _launch_step(*args)


@pack_clips.register_fake
def _(x, threshold, bad):
    if is_recording():
        return _launch_pack(x, threshold, bad)
    return x.new_empty((len(x), -(-x.shape[1] // 8)), dtype=torch.uint8)
