"""Attention along the frames of every pixel site, with rotary embedding and a relative position bias.

Source: ``Attention`` and ``RelativePositionBias`` of video-diffusion-pytorch. The focus mask of the
base network is all-false in inference and is left out, which is exact.

Kernels. Stage 1, ``_attend``: from projected q, k and v; sequences are read where they lie, tokens one image apart, and nothing is
rearranged. A program has up to four neighbouring sites and one head, whole sequences in registers (up to 64 frames; longer ones in
tiles with a running softmax). spatial_attention.py uses it too. Stage 2, ``_block``: norm, projections, attention, output
projection and residual in one kernel that reads x once and writes y once; weights pass through head by head from L2 (16 kB each at
64 channels), which is why a program takes as many sites as registers hold. It fits up to 64 channels, see ``block_fits``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .channel_layer_norm import EPS, channel_layer_norm
from .launch import (
    channels_last,
    check_offsets,
    empty_channels_last,
    is_recording,
    jit,
    launch,
    next_power_of_2,
    padded,
    tl,
    upcast,
    use_kernel,
)


def position_bucket(frames: int, buckets: int, max_distance: int) -> torch.Tensor:
    """T5's bidirectional bucket of ``key - query`` for every frame pair; ``[F, F]`` int64, rows are queries."""
    position = torch.arange(frames)
    n = position[:, None] - position[None, :]  # -(key - query), as the base network has it
    half = buckets // 2
    base = (n < 0).long() * half
    n = n.abs()
    exact = half // 2
    # The base network computes this in fp32; so do we, to land in the same bucket at the edges.
    large = exact + (torch.log(n.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (half - exact)).long()
    return base + torch.where(n < exact, n, large.clamp(max=half - 1))


def position_bias(weight: torch.Tensor, frames: int, max_distance: int) -> torch.Tensor:
    """Bias added to the scores: ``[heads, F, F]`` from the table ``weight [buckets, heads]``."""
    bucket = position_bucket(frames, weight.shape[0], max_distance).to(weight.device)
    return weight[bucket].permute(2, 0, 1)


def rotary_tables(frames: int, rotary_dim: int, device: torch.device | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin ``[F, rotary_dim/2]`` at theta 10000; pair ``i`` is the channels ``2i`` and ``2i + 1``."""
    freqs = 1.0 / (10000 ** (torch.arange(0, rotary_dim, 2, device=device).float() / rotary_dim))
    angle = torch.arange(frames, device=device).float()[:, None] * freqs[None, :]
    return angle.cos(), angle.sin()


def pairs_apart(weight: torch.Tensor, heads: int, rotary_dim: int) -> torch.Tensor:
    """Rows of a q or k projection ``[heads*D, C]`` in an order that puts the first channel of every rotated pair before all second
    ones, head by head. q and k in the same order have the same scores, and halves are cheaper to rotate than interleaved pairs.
    """
    w = weight.view(heads, -1, weight.shape[1])
    rotated = (w[:, 0:rotary_dim:2], w[:, 1:rotary_dim:2], w[:, rotary_dim:])
    return torch.cat(rotated, dim=1).reshape(weight.shape)


def rotate_halves(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of ``x [..., F, D]`` whose channels are in the order of ``pairs_apart``; those past the pairs stay."""
    half = cos.shape[-1]
    a, b = x[..., :half], x[..., half : 2 * half]
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    turned = (a * cos - b * sin, b * cos + a * sin)
    return torch.cat(turned if 2 * half == x.shape[-1] else (*turned, x[..., 2 * half :]), dim=-1)


def rotate_pairs(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The same for ``x [..., F, D]`` whose channels are in the base network's order: pairs interleaved."""
    pairs = cos.shape[-1]
    a, b = x[..., 0 : 2 * pairs : 2], x[..., 1 : 2 * pairs : 2]
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    turned = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    return torch.cat((turned, x[..., 2 * pairs :]), dim=-1)


def heads_of(tokens: torch.Tensor, weight: torch.Tensor, heads: int) -> torch.Tensor:
    """``tokens [N, T, C]`` projected by ``weight [heads*D, C]``: ``[N, heads, T, D]``.

    q, k and v take one product each: a wider one's result would have to be copied apart.
    """
    n, count, _ = tokens.shape
    return torch.nn.functional.linear(tokens, weight).view(n, count, heads, -1).transpose(1, 2)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``softmax(q k^T + bias) v`` written out; on 30-long sequences torch's fused forms are slower on a CPU."""
    scores = q @ k.transpose(-1, -2)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    return scores.softmax(dim=-1) @ v


def temporal_attention(
    x: torch.Tensor,
    to_qkv: torch.Tensor,
    to_out: torch.Tensor,
    frames: int,
    heads: int,
    bias: torch.Tensor | None,
    rotary: tuple[torch.Tensor, torch.Tensor] | None,
) -> torch.Tensor:
    """Self-attention over frames at every site.

    ``x [B*F, C, H, W]`` (already normalised), ``to_qkv [3*heads*D, C]``, ``to_out [C, heads*D]``, ``bias [heads, F, F]``.
    """
    n, c, h, w = x.shape
    b = n // frames
    tokens = x.view(b, frames, c, h, w).permute(0, 3, 4, 1, 2).reshape(b * h * w, frames, c)
    to_q, to_k, to_v = to_qkv.chunk(3)
    if rotary is not None:
        rotary_dim = 2 * rotary[0].shape[-1]
        to_q, to_k = pairs_apart(to_q, heads, rotary_dim), pairs_apart(to_k, heads, rotary_dim)
    q, k, v = (heads_of(tokens, weight, heads) for weight in (to_q, to_k, to_v))
    q = q * q.shape[-1] ** -0.5
    if rotary is not None:
        q, k = rotate_halves(q, *rotary), rotate_halves(k, *rotary)
    y = attention(q, k, v, bias).transpose(1, 2).reshape(b * h * w, frames, -1)
    y = torch.nn.functional.linear(y, to_out)
    return y.view(b, h, w, frames, c).permute(0, 3, 4, 1, 2).reshape(n, c, h, w)


@jit
def _scores(q, k, bias, scale, qi, ki, L: tl.constexpr):
    """softmax's input [S, Q, K] in fp32: scaled products plus the head's bias; minus infinity past the sequence's end."""
    s = tl.dot(q, tl.permute(k, (0, 2, 1)), input_precision="tf32x3") * scale
    if bias is not None:
        pair = qi[:, None] * L + ki[None, :]
        s += tl.load(bias + pair, mask=(qi < L)[:, None] & (ki < L)[None, :], other=0).to(tl.float32)[None, :, :]
    return tl.where((ki < L)[None, None, :], s, float("-inf"))


@jit
def _rotated(v, cos, sin, i, L: tl.constexpr, PAIRS: tl.constexpr, S: tl.constexpr, T: tl.constexpr, DP: tl.constexpr):
    """Rotary embedding of fp32 ``v [S, T, DP]`` at frames ``i``, interleaved pairs; channels past 2 * PAIRS stay."""
    p = tl.arange(0, DP // 2)
    mask = (i < L)[:, None] & (p < PAIRS)[None, :]
    c = tl.load(cos + i[:, None] * PAIRS + p[None, :], mask=mask, other=1)[None, :, :]
    s = tl.load(sin + i[:, None] * PAIRS + p[None, :], mask=mask, other=0)[None, :, :]
    a, b = tl.split(tl.reshape(v, (S, T, DP // 2, 2)))
    return tl.reshape(tl.join(a * c - b * s, b * c + a * s), (S, T, DP))


@jit
def _attend(
    qkv, bias, cos, sin, y, SEQUENCES: tl.constexpr, L: tl.constexpr, STEP: tl.constexpr, NEXT: tl.constexpr, HEADS: tl.constexpr,
    D: tl.constexpr, PAIRS: tl.constexpr, TILES: tl.constexpr, QUERY_TILES: tl.constexpr, S: tl.constexpr, T: tl.constexpr,
    DP: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """S sequences of one image or clip, one head, T queries against all keys with a running softmax.

    A token is a row of ``qkv [tokens, 3 * HEADS * D]``; token i of sequence s is row ``s * NEXT + i * STEP`` of its image or clip.
    """
    at = tl.program_id(0) // QUERY_TILES
    first = (tl.program_id(0) % QUERY_TILES) * T
    h = tl.program_id(1)
    group = (at // TILES).to(tl.int64) * (SEQUENCES * L)
    s = (at % TILES) * S + tl.arange(0, S)
    d = tl.arange(0, DP)
    qi = first + tl.arange(0, T)
    row: tl.constexpr = 3 * HEADS * D
    here = (s < SEQUENCES)[:, None, None] & (d < D)[None, None, :]
    q_mask = here & (qi < L)[None, :, None]
    token = s[:, None] * NEXT + qi[None, :] * STEP
    base = qkv + group * row + h * D
    q = tl.load(base + token[:, :, None] * row + d[None, None, :], mask=q_mask, other=0).to(tl.float32)
    if cos is not None:
        q = _rotated(q, cos, sin, qi, L, PAIRS, S, T, DP)
    product = tl.float32 if UPCAST else qkv.dtype.element_ty
    q = q.to(qkv.dtype.element_ty).to(product)
    if bias is not None:
        bias += h * (L * L)
    top = tl.full((S, T), float("-inf"), tl.float32)
    total = tl.zeros((S, T), tl.float32)
    acc = tl.zeros((S, T, DP), tl.float32)
    for start in range(0, L, T):
        ki = start + tl.arange(0, T)
        rows = (s[:, None] * NEXT + ki[None, :] * STEP)[:, :, None] * row + d[None, None, :]
        k_mask = here & (ki < L)[None, :, None]
        k = tl.load(base + HEADS * D + rows, mask=k_mask, other=0)
        v = tl.load(base + 2 * HEADS * D + rows, mask=k_mask, other=0)
        if cos is not None:
            k = _rotated(k.to(tl.float32), cos, sin, ki, L, PAIRS, S, T, DP).to(qkv.dtype.element_ty)
        scores = _scores(q, k.to(product), bias, D**-0.5, qi, ki, L)
        higher = tl.maximum(top, tl.max(scores, axis=2))
        p = tl.exp(scores - higher[:, :, None])
        keep = tl.exp(top - higher)
        total = total * keep + tl.sum(p, axis=2)
        acc = acc * keep[:, :, None] + tl.dot(p.to(qkv.dtype.element_ty).to(product), v.to(product), input_precision="tf32x3")
        top = higher
    acc = acc / total[:, :, None]
    out = y + group * (HEADS * D) + h * D + token[:, :, None] * (HEADS * D) + d[None, None, :]
    tl.store(out, acc.to(y.dtype.element_ty), mask=q_mask)


@jit
def _block(
    x, gamma, to_qkv, to_out, bias, cos, sin, y, SITES: tl.constexpr, L: tl.constexpr, C: tl.constexpr, HEADS: tl.constexpr,
    D: tl.constexpr, PAIRS: tl.constexpr, TILES: tl.constexpr, S: tl.constexpr, T: tl.constexpr, CP: tl.constexpr,
    DP: tl.constexpr, EPS: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """y = x + attention(layer norm(x)) of S sites of one clip; weights [HEADS, 3, CP, DP] and [HEADS, DP, CP] come head by head."""
    at = tl.program_id(0)
    clip = (at // TILES).to(tl.int64) * (SITES * L * C)
    s = (at % TILES) * S + tl.arange(0, S * T) // T
    i = tl.arange(0, S * T) % T
    c = tl.arange(0, CP)
    d = tl.arange(0, DP)
    frame = tl.arange(0, T)
    mask = ((s < SITES) & (i < L))[:, None] & (c < C)[None, :]
    offset = (i * SITES + s)[:, None] * C + c[None, :]
    v = tl.load(x + clip + offset, mask=mask, other=0).to(tl.float32)
    apart = tl.where(mask, v - (tl.sum(v, axis=1) / C)[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(apart * apart, axis=1) / C + EPS)
    gain = tl.load(gamma + c, mask=c < C, other=0).to(tl.float32)
    product = tl.float32 if UPCAST else x.dtype.element_ty
    normed = (apart * scale[:, None] * gain[None, :]).to(x.dtype.element_ty).to(product)
    acc = tl.zeros((S * T, CP), tl.float32)
    for h in range(HEADS):
        weight = to_qkv + h * (3 * CP * DP) + c[:, None] * DP + d[None, :]
        q = tl.reshape(tl.dot(normed, tl.load(weight).to(product), input_precision="tf32x3"), (S, T, DP))
        if cos is not None:
            q = _rotated(q, cos, sin, frame, L, PAIRS, S, T, DP)
        q = q.to(x.dtype.element_ty).to(product)
        k = tl.reshape(tl.dot(normed, tl.load(weight + CP * DP).to(product), input_precision="tf32x3"), (S, T, DP))
        if cos is not None:
            k = _rotated(k, cos, sin, frame, L, PAIRS, S, T, DP)
        k = k.to(x.dtype.element_ty).to(product)
        scores = _scores(q, k, None if bias is None else bias + h * (L * L), D**-0.5, frame, frame, L)
        p = tl.exp(scores - tl.max(scores, axis=2)[:, :, None])
        total = tl.sum(p, axis=2)
        u = tl.reshape(tl.dot(normed, tl.load(weight + 2 * CP * DP).to(product), input_precision="tf32x3"), (S, T, DP))
        u = u.to(x.dtype.element_ty).to(product)
        o = tl.dot(p.to(x.dtype.element_ty).to(product), u, input_precision="tf32x3") / total[:, :, None]
        o = tl.reshape(o, (S * T, DP)).to(x.dtype.element_ty).to(product)
        acc = tl.dot(o, tl.load(to_out + h * (DP * CP) + d[:, None] * CP + c[None, :]).to(product), acc, input_precision="tf32x3")
    acc += tl.load(x + clip + offset, mask=mask, other=0).to(tl.float32)  # from cache: held since the start it costs registers
    tl.store(y + clip + offset, acc.to(y.dtype.element_ty), mask=mask)


def launch_attend(
    qkv: Tensor, heads: int, sequences: int, length: int, step: int, after: int, bias: Tensor | None,
    rotary: tuple[Tensor, Tensor] | None,
) -> Tensor:  # fmt: skip
    """Attention of ``qkv [N, 3*heads*D, H, W]`` in groups of sequences; tokens are ``step`` rows apart, sequences ``after``."""
    n, h, w, width = channels_last(qkv, "qkv").shape
    d = width // (3 * heads)
    check_offsets(sequences * length * width)
    y = empty_channels_last(qkv, n, heads * d, h, w)
    tile, dp = min(64 if qkv.element_size() == 2 else 32, padded(length)), padded(d)  # fp32 takes more registers
    # Half precision: so few rows that a warp, for the longest tile two, holds them. fp32 takes more registers.
    is_half = qkv.element_size() == 2
    s = max(1, min((64 if is_half else 128) // tile, next_power_of_2(sequences), 4))
    warps = tile // 32 or 1 if is_half else 4 if s * tile >= 64 else tile // 16
    tiles, query_tiles = -(-sequences // s), -(-length // tile)
    groups = n * h * w // (sequences * length)
    cos, sin = rotary or (None, None)
    launch(
        _attend, (groups * tiles * query_tiles, heads), dict(qkv=qkv, bias=bias, cos=cos, sin=sin, y=y),
        dict(SEQUENCES=sequences, L=length, STEP=step, NEXT=after, HEADS=heads, D=d, PAIRS=0 if cos is None else cos.shape[1],
             TILES=tiles, QUERY_TILES=query_tiles, S=s, T=tile, DP=dp, UPCAST=upcast(qkv)),
        warps=warps, flops=4 * n * h * w * heads * length * d,
        l2_bytes=n * h * w * heads * d * (2 + 2 * query_tiles) * qkv.element_size(),
    )  # fmt: skip
    return y


LARGEST_BLOCK_WIDTH = 64  # channels that stage 2 takes; at 128 it spills registers and reads weights from L2 36 times per byte of x
LARGEST_BLOCK_FRAMES = 64


def block_fits(channels: int, frames: int, dim_head: int, dtype: torch.dtype) -> bool:
    """Whether stage 2 takes this attention; wider or longer ones, and fp32, go through stage 1, which holds less in registers."""
    return channels <= LARGEST_BLOCK_WIDTH and frames <= LARGEST_BLOCK_FRAMES and dim_head <= 64 and dtype.itemsize == 2


def pack_block(to_qkv: Tensor, to_out: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """``to_qkv [3*heads*D, C]``, ``to_out [C, heads*D]`` head by head, zero-padded: ``[heads, 3, CP, DP]``, ``[heads, DP, CP]``."""
    c = to_qkv.shape[1]
    d = to_qkv.shape[0] // (3 * heads)
    qkv = to_qkv.view(3, heads, d, c).permute(1, 0, 3, 2)
    out = to_out.view(c, heads, d).permute(1, 2, 0)
    add_c, add_d = padded(c) - c, padded(d) - d
    pad = torch.nn.functional.pad
    return pad(qkv, (0, add_d, 0, add_c)).contiguous(), pad(out, (0, add_c, 0, add_d)).contiguous()


def launch_block(
    x: Tensor, gamma: Tensor, to_qkv: Tensor, to_out: Tensor, frames: int, dim_head: int, bias: Tensor | None,
    rotary: tuple[Tensor, Tensor] | None,
) -> Tensor:  # fmt: skip
    """Stage 2; weights from ``pack_block``."""
    n, h, w, c = channels_last(x).shape
    heads, _, cp, dp = to_qkv.shape
    check_offsets(h * w * frames * c)
    y = empty_channels_last(x, n, c, h, w)
    tile = padded(frames)
    room = 16384 // x.element_size()  # values of x per program that leave registers for the rest
    s = min(max(1, room // (tile * cp)), 256 // tile, next_power_of_2(h * w))
    tiles = -(-h * w // s)
    cos, sin = rotary or (None, None)
    programs = n // frames * tiles
    launch(
        _block, (programs,), dict(x=x, gamma=gamma, to_qkv=to_qkv, to_out=to_out, bias=bias, cos=cos, sin=sin, y=y),
        dict(SITES=h * w, L=frames, C=c, HEADS=heads, D=dim_head, PAIRS=0 if cos is None else cos.shape[1], TILES=tiles, S=s,
             T=tile, CP=cp, DP=dp, EPS=EPS, UPCAST=upcast(x)),
        warps=8 if s * tile * cp >= 4096 else 4, flops=n * h * w * heads * dim_head * (8 * c + 4 * frames),
        l2_bytes=2 * x.numel() * x.element_size()
        + programs * ((to_qkv.numel() + to_out.numel()) * x.element_size() + (0 if bias is None else bias.numel() * 4)),
    )  # fmt: skip
    return y


@torch.library.custom_op("gaitcrafter::attend_frames", mutates_args=())
def attend_frames(
    qkv: Tensor, frames: int, heads: int, bias: Tensor | None = None, cos: Tensor | None = None, sin: Tensor | None = None
) -> Tensor:
    """Stage 1: ``softmax(rotary(q) rotary(k)^T D^-0.5 + bias) v`` along the frames of every site.

    ``qkv [B*F, 3*heads*D, H, W]`` as a 1x1 convolution with ``to_qkv`` makes it; result ``[B*F, heads*D, H, W]``. ``bias [heads, F,
    F]`` and the tables ``cos, sin [F, pairs]`` are fp32.
    """
    if use_kernel(qkv):
        return _attend_frames(qkv, frames, heads, bias, cos, sin)
    n, _, h, w = qkv.shape
    tokens = qkv.view(n // frames, frames, -1, h, w).permute(0, 3, 4, 1, 2)
    q, k, v = tokens.reshape(-1, frames, 3, heads, qkv.shape[1] // (3 * heads)).permute(2, 0, 3, 1, 4)
    q = q * q.shape[-1] ** -0.5
    if cos is not None and sin is not None:
        q, k = rotate_pairs(q, cos, sin), rotate_pairs(k, cos, sin)
    y = attention(q, k, v, bias).permute(0, 2, 1, 3).reshape(n // frames, h, w, frames, -1).permute(0, 3, 1, 2, 4)
    return y.reshape(n, h, w, -1).permute(0, 3, 1, 2)


def _attend_frames(
    qkv: Tensor, frames: int, heads: int, bias: Tensor | None, cos: Tensor | None, sin: Tensor | None
) -> Tensor:
    sites = qkv.shape[2] * qkv.shape[3]
    return launch_attend(qkv, heads, sites, frames, sites, 1, bias, None if cos is None or sin is None else (cos, sin))


@attend_frames.register_fake
def _(qkv, frames, heads, bias=None, cos=None, sin=None):
    if is_recording():
        return _attend_frames(qkv, frames, heads, bias, cos, sin)
    n, width, h, w = qkv.shape
    return empty_channels_last(qkv, n, width // 3, h, w)


@torch.library.custom_op("gaitcrafter::temporal_block", mutates_args=())
def temporal_block(
    x: Tensor, gamma: Tensor, to_qkv: Tensor, to_out: Tensor, frames: int, dim_head: int, bias: Tensor | None = None,
    cos: Tensor | None = None, sin: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Stage 2: ``x + temporal_attention(channel_layer_norm(x))``; weights from ``pack_block``, sizes within ``block_fits``."""
    rotary = None if cos is None or sin is None else (cos, sin)
    if use_kernel(x):
        return launch_block(x, gamma, to_qkv, to_out, frames, dim_head, bias, rotary)
    c, heads = x.shape[1], len(to_qkv)
    qkv = to_qkv[:, :, :c, :dim_head].permute(1, 0, 3, 2).reshape(3 * heads * dim_head, c)
    out = to_out[:, :dim_head, :c].permute(2, 0, 1).reshape(c, heads * dim_head)
    y = x + temporal_attention(channel_layer_norm(x, gamma.to(x.dtype)), qkv, out, frames, heads, bias, rotary)
    return y.contiguous(memory_format=torch.channels_last)


@temporal_block.register_fake
def _(x, gamma, to_qkv, to_out, frames, dim_head, bias=None, cos=None, sin=None):
    if is_recording():
        return launch_block(x, gamma, to_qkv, to_out, frames, dim_head, bias, None if cos is None else (cos, sin))
    return torch.empty_like(x, memory_format=torch.channels_last)
