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

from ..config import SamplerDefaults
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
def guided(out, null, at, row, mask):
    """The model's output at some elements, with ``null`` moved away from that lane by the row's guidance."""
    o = tl.load(out + at, mask=mask, other=0)
    if null is not None:
        base = tl.load(null + at, mask=mask, other=0)
        o = base + (o - base) * tl.load(row + 8)
    return o


@jit
def _step(
    x, out, null, limit, history, row, integers, seeds, clips, bad, N: tl.constexpr, OUT: tl.constexpr, NEWEST: tl.constexpr,
    CLIP: tl.constexpr, DYNAMIC: tl.constexpr, KEEP: tl.constexpr, PREV1: tl.constexpr, PREV2: tl.constexpr, RAW: tl.constexpr,
    NOISE: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row over x [clips, N]; its numbers and which terms it has are read. history [clips, 2, N], outputs OUT apart.

    No argument is called ``stream``: Triton 3.6 takes that name as a launch option of its own.
    """
    clip = (tl.program_id(0) // BLOCKS).to(tl.int64)
    i = (tl.program_id(0) % BLOCKS) * (4 * BLOCK) + tl.arange(0, 4 * BLOCK)
    mask = i < N
    at = clip * N + i
    flags = tl.load(integers + 2)
    v = tl.load(x + at, mask=mask, other=0)
    o = guided(out, null, clip * OUT + i, row, mask)
    raw = tl.load(row) * v + tl.load(row + 1) * o
    dynamic = (flags & DYNAMIC) != 0
    bound = tl.where((flags & CLIP) != 0, 1.0, float("inf"))
    bound = tl.where(dynamic, tl.load(limit + clip), bound)
    x0 = tl.where(raw < -bound, -bound, raw)
    x0 = tl.where(x0 > bound, bound, x0)
    x0 = tl.div_rn(x0, tl.where(dynamic, bound, 1.0) + tl.zeros_like(x0))
    total = tl.load(row + 2) * v + tl.load(row + 3) * x0
    later = flags & NEWEST
    newest = history + (2 * clip + later) * N + i
    oldest = history + (2 * clip + 1 - later) * N + i
    prev1, prev2 = (flags & PREV1) != 0, (flags & PREV2) != 0
    total = tl.where(prev1, total + tl.load(row + 4) * tl.load(newest, mask=mask & prev1, other=0), total)
    total = tl.where(prev2, total + tl.load(row + 5) * tl.load(oldest, mask=mask & prev2, other=0), total)
    tl.store(oldest, x0, mask=mask & ((flags & KEEP) != 0))
    total = tl.where((flags & RAW) != 0, total + tl.load(row + 6) * raw, total)
    if (flags & NOISE) != 0:
        counter = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
        total = total + tl.load(row + 7) * _normals(seeds, clips, clip, tl.load(integers), counter, BLOCK)
    count = _not_finite(o, mask)
    tl.atomic_add(bad + clip, count, mask=count > 0)
    tl.store(x + at, total, mask=mask)


@jit
def _pack(x, level, packed, bad, N: tl.constexpr, BYTES: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """packed [clips, BYTES]: bit 7 - i % 8 of byte i / 8 says whether element i exceeds the level."""
    clip = (tl.program_id(0) // BLOCKS).to(tl.int64)
    byte = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    bit = tl.arange(0, 8)
    i = byte[:, None] * 8 + bit[None, :]
    at_least = tl.load(level)
    v = tl.load(x + clip * N + i, mask=i < N, other=0)
    value = tl.sum(tl.where((v > at_least) & (i < N), 1, 0) << (7 - bit)[None, :], axis=1)
    tl.store(packed + clip * BYTES + byte, value.to(tl.uint8), mask=byte < BYTES)
    count = tl.sum(_not_finite(v, i < N), axis=0)
    tl.atomic_add(bad + clip, count, mask=count > 0)


# Bits of a row's flags: which half of the history holds the later x0, how x0 is bounded, which terms the row has.
NEWEST, CLIPPED, DYNAMIC, KEEPS, PREV1, PREV2, RAW, NOISE = (1 << i for i in range(8))


@dataclass(frozen=True)
class DeviceTable:
    """A sampler table on a device: ``rows [n, 12]`` fp32 (the eight coefficients in the order of ``Row``, guidance, the fraction of
    dynamic thresholding's rank, padding to whole 16 bytes), ``integers [n, 4]`` int32 (noise stream, rank, flags, padding).
    """

    rows: Tensor
    integers: Tensor
    is_dynamic: bool

    @classmethod
    def of(
        cls, rows: Sequence[Row], settings: SamplerDefaults, elements: int, device: torch.device | str
    ) -> DeviceTable:
        """From ``samplers.table.compile_rows`` for clips of ``elements``; coefficients are rounded to fp32 once."""
        rank = settings.dynamic_percentile * (elements - 1)
        numbers = np.zeros((len(rows), 12), np.float32)
        numbers[:, :8] = coefficients(list(rows))[:, 1:]
        numbers[:, 8], numbers[:, 9] = settings.guidance, rank - int(rank)
        integers = np.zeros((len(rows), 4), np.int32)
        integers[:, 0] = [row.stream for row in rows]
        integers[:, 1] = int(rank)
        bound = {"none": 0, "clip": CLIPPED, "dynamic": DYNAMIC}[settings.thresholding]
        keeps = KEEPS if any(row.c_prev1 or row.c_prev2 for row in rows) else 0
        for i, row in enumerate(rows):
            terms = ((PREV1, row.c_prev1), (PREV2, row.c_prev2), (RAW, row.c_raw), (NOISE, row.c_noise))
            integers[i, 2] = i % 2 * NEWEST + bound + keeps + sum(flag for flag, coefficient in terms if coefficient)
        tensors = (torch.from_numpy(values).to(device) for values in (numbers, integers))
        return cls(next(tensors), next(tensors), settings.thresholding == "dynamic")


def as_signed(values: NDArray[np.uint64], device: torch.device | str) -> Tensor:
    """Seeds or clip indices as the int64 tensor of the same bits that the kernels take."""
    return torch.from_numpy(np.ascontiguousarray(values, np.uint64).view(np.int64)).to(device)


def threshold_level(threshold: float, device: torch.device | str) -> Tensor:
    """``2 * threshold - 1`` as pack_clips takes it, fp32 ``[1]``."""
    return torch.full((1,), float(np.float32(2) * np.float32(threshold) - np.float32(1)), device=device)


def blocks_of(x: Tensor) -> int:
    """Programs per clip of ``x [clips, N]``. Raises InvalidRequestError for other layouts and larger clips."""
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
    blocks = blocks_of(x)
    launch(
        _initial_noise, (len(x) * blocks,), dict(seeds=seeds, clips=clips, x=x), dict(N=x.shape[1], BLOCKS=blocks, BLOCK=BLOCK),
        contract=False, flops=50 * x.numel(), l2_bytes=4 * x.numel(),
    )  # fmt: skip


def outputs_apart(out: Tensor, null: Tensor | None) -> int:
    """Elements from one clip's output to the next; with guidance both lanes may lie in one tensor by turns."""
    apart = out.stride(0)
    if out.stride(1) != 1 or (null is not None and null.stride() != out.stride()):
        raise InvalidRequestError(f"model outputs of strides {out.stride()}; rows must be contiguous and alike in both lanes")
    return apart


@torch.library.custom_op("gaitcrafter::sampler_step", mutates_args=("x", "history", "bad"))
def sampler_step(
    x: Tensor, out: Tensor, null: Tensor | None, row: Tensor, integers: Tensor, seeds: Tensor, clips: Tensor, limit: Tensor,
    history: Tensor, bad: Tensor,
) -> None:  # fmt: skip
    """One row in place: ``x [clips, N]`` fp32, ``out`` the model's output, or with ``null`` that of the conditioned lane.

    ``row``, ``integers`` are rows of a ``DeviceTable``, whose flags say which of the rest are used: ``limit [clips]`` from
    ``dynamic_limits``, ``history [clips, 2, N]`` with the last two x0. ``bad`` int32 counts a clip's outputs that are not finite.
    """
    if use_kernel(x):
        _launch_step(x, out, null, row, integers, seeds, clips, limit, history, bad)
        return
    flags = int(integers[2])
    o = out if null is None else null + (out - null) * row[8]
    bad += (~o.isfinite()).sum(dim=1).int()
    estimate = row[0] * x + row[1] * o
    x0 = estimate
    if flags & CLIPPED:
        x0 = x0.clamp(-1, 1)
    if flags & DYNAMIC:
        x0 = x0.clamp(-limit[:, None], limit[:, None]) / limit[:, None]
    total = row[2] * x + row[3] * x0
    newest = flags & NEWEST
    if flags & PREV1:
        total = total + row[4] * history[:, newest]
    if flags & PREV2:
        total = total + row[5] * history[:, 1 - newest]
    if flags & KEEPS:
        history[:, 1 - newest] = x0
    if flags & RAW:
        total = total + row[6] * estimate
    if flags & NOISE:
        total = total + row[7] * _noise(seeds, clips, int(integers[0]), x.shape[1])
    x.copy_(total)


def _launch_step(
    x: Tensor, out: Tensor, null: Tensor | None, row: Tensor, integers: Tensor, seeds: Tensor, clips: Tensor, limit: Tensor,
    history: Tensor, bad: Tensor,
) -> None:  # fmt: skip
    blocks = blocks_of(x)
    launch(
        _step, (len(x) * blocks,),
        dict(x=x, out=out, null=null, limit=limit, history=history, row=row, integers=integers, seeds=seeds, clips=clips, bad=bad),
        dict(N=x.shape[1], OUT=outputs_apart(out, null), NEWEST=NEWEST, CLIP=CLIPPED, DYNAMIC=DYNAMIC, KEEP=KEEPS, PREV1=PREV1,
             PREV2=PREV2, RAW=RAW, NOISE=NOISE, BLOCKS=blocks, BLOCK=BLOCK),
        contract=False, flops=60 * x.numel(), l2_bytes=4 * (5 + (null is not None)) * x.numel(), updated=("x", "bad", "history"),
    )  # fmt: skip


@torch.library.custom_op("gaitcrafter::pack_clips", mutates_args=("bad",))
def pack_clips(x: Tensor, level: Tensor, bad: Tensor) -> Tensor:
    """uint8 ``[clips, ceil(N / 8)]``, most significant bit first: 1 where ``x > level`` (``threshold_level``); ``bad`` as above."""
    if use_kernel(x):
        return _launch_pack(x, level, bad)
    bad += (~x.isfinite()).sum(dim=1).int()
    bits = torch.nn.functional.pad((x > level).to(torch.uint8), (0, -x.shape[1] % 8)).view(len(x), -1, 8)
    return (bits << torch.arange(7, -1, -1, device=x.device, dtype=torch.uint8)).sum(dim=2, dtype=torch.uint8)


def _launch_pack(x: Tensor, level: Tensor, bad: Tensor) -> Tensor:
    blocks_of(x)
    size = -(-x.shape[1] // 8)
    packed = x.new_empty((len(x), size), dtype=torch.uint8)
    blocks = -(-size // BLOCK)
    launch(
        _pack, (len(x) * blocks,), dict(x=x, level=level, packed=packed, bad=bad),
        dict(N=x.shape[1], BYTES=size, BLOCKS=blocks, BLOCK=BLOCK), flops=2 * x.numel(), l2_bytes=4 * x.numel() + packed.numel(),
        updated=("bad",),
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
def _(x, level, bad):
    if is_recording():
        return _launch_pack(x, level, bad)
    return x.new_empty((len(x), -(-x.shape[1] // 8)), dtype=torch.uint8)
