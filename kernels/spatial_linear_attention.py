"""Linear attention over the sites of one frame (``SpatialLinearAttention`` of video-diffusion-pytorch).

Kernels: ``_context`` walks once over a frame's k and v, one program per frame and head, with a running softmax over the sites, and
leaves the D x D context. ``_product`` softmaxes q, multiplies it by the context and by the output projection, head by head, and
adds bias and residual. Neither softmax is ever stored. Tuned for 32 channels a head; at most 128.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .launch import (
    channels_last,
    check_offsets,
    empty_channels_last,
    is_recording,
    jit,
    launch,
    padded,
    site_tile,
    tl,
    upcast,
    use_kernel,
)
from .temporal_attention import heads_of


def spatial_linear_attention(
    x: torch.Tensor, to_qkv: torch.Tensor, to_out: torch.Tensor, to_out_bias: torch.Tensor, heads: int
) -> torch.Tensor:
    """q is softmaxed over its D channels and scaled by D^-0.5, k over the sites; ``context = k v^T`` is D x D.

    ``x [N, C, H, W]`` (already normalised), ``to_qkv [3*heads*D, C]``, ``to_out [C, heads*D]``, ``to_out_bias [C]``.
    """
    n, c, h, w = x.shape
    tokens = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
    q, k, v = (heads_of(tokens, weight, heads) for weight in to_qkv.chunk(3))
    q = q.softmax(dim=-1) * q.shape[-1] ** -0.5
    k = k.softmax(dim=-2)
    context = k.transpose(-1, -2) @ v
    y = (q @ context).transpose(1, 2).reshape(n, h * w, -1)
    return F.linear(y, to_out, to_out_bias).view(n, h, w, c).permute(0, 3, 1, 2)


@jit
def _context(
    qkv, context, SITES: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr, DP: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """context [N, HEADS, D, D] = softmax of k over the sites, transposed, times v, times D^-0.5."""
    n = (tl.program_id(0) // HEADS).to(tl.int64)
    h = tl.program_id(0) % HEADS
    d = tl.arange(0, DP)
    row: tl.constexpr = 3 * HEADS * D
    base = qkv + n * (SITES * row) + (HEADS + h) * D + d[None, :]
    product = tl.float32 if UPCAST else qkv.dtype.element_ty
    top = tl.full((DP,), float("-inf"), tl.float32)
    total = tl.zeros((DP,), tl.float32)
    acc = tl.zeros((DP, DP), tl.float32)
    for first in range(0, SITES, TILE):
        site = first + tl.arange(0, TILE)
        inside = (site < SITES)[:, None]
        mask = inside & (d < D)[None, :]
        k = tl.load(base + site[:, None] * row, mask=mask, other=0).to(tl.float32)
        v = tl.load(base + HEADS * D + site[:, None] * row, mask=mask, other=0)
        k = tl.where(inside, k, float("-inf"))
        higher = tl.maximum(top, tl.max(k, axis=0))
        p = tl.exp(k - higher[None, :])
        keep = tl.exp(top - higher)
        total = total * keep + tl.sum(p, axis=0)
        p = p.to(qkv.dtype.element_ty).to(product)
        acc = acc * keep[:, None] + tl.dot(tl.trans(p), v.to(product), input_precision="tf32x3")
        top = higher
    acc = acc / total[:, None] * D**-0.5
    e = tl.arange(0, DP)
    out = context + (n * HEADS + h) * (D * D) + e[:, None] * D + d[None, :]
    tl.store(out, acc.to(context.dtype.element_ty), mask=(e < D)[:, None] & (d < D)[None, :])


@jit
def _product(
    qkv, context, to_out, bias, residual, y, SITES: tl.constexpr, C: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr,
    TILES: tl.constexpr, BLOCKS_N: tl.constexpr, TILE: tl.constexpr, DP: tl.constexpr, BLOCK_N: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """y = residual + bias + sum over heads of softmax(q) context to_out; ``to_out [HEADS * D, C]``."""
    at = tl.program_id(0) // BLOCKS_N
    col = (tl.program_id(0) % BLOCKS_N) * BLOCK_N + tl.arange(0, BLOCK_N)
    n = (at // TILES).to(tl.int64)
    site = (at % TILES) * TILE + tl.arange(0, TILE)
    d = tl.arange(0, DP)
    e = tl.arange(0, DP)
    row: tl.constexpr = 3 * HEADS * D
    mask = (site < SITES)[:, None] & (d < D)[None, :]
    base = qkv + n * (SITES * row) + site[:, None] * row + d[None, :]
    product = tl.float32 if UPCAST else qkv.dtype.element_ty
    acc = tl.zeros((TILE, BLOCK_N), tl.float32)
    for h in range(HEADS):
        q = tl.load(base + h * D, mask=mask, other=0).to(tl.float32)
        q = tl.where((d < D)[None, :], q, float("-inf"))
        q = tl.exp(q - tl.max(q, axis=1)[:, None])
        q = (q / tl.sum(q, axis=1)[:, None]).to(qkv.dtype.element_ty).to(product)
        square = context + (n * HEADS + h) * (D * D) + e[:, None] * D + d[None, :]
        ctx = tl.load(square, mask=(e < D)[:, None] & (d < D)[None, :], other=0).to(product)
        o = tl.dot(q, ctx, input_precision="tf32x3").to(qkv.dtype.element_ty).to(product)
        w = tl.load(to_out + (h * D + e)[:, None] * C + col[None, :], mask=(e < D)[:, None] & (col < C)[None, :], other=0)
        acc = tl.dot(o, w.to(product), acc, input_precision="tf32x3")
    acc += tl.load(bias + col, mask=col < C, other=0).to(tl.float32)[None, :]
    out_mask = (site < SITES)[:, None] & (col < C)[None, :]
    offset = n * (SITES * C) + site[:, None] * C + col[None, :]
    acc += tl.load(residual + offset, mask=out_mask, other=0).to(tl.float32)
    tl.store(y + offset, acc.to(y.dtype.element_ty), mask=out_mask)


def launch_linear_attention(qkv: Tensor, to_out: Tensor, bias: Tensor, residual: Tensor, heads: int) -> Tensor:
    """Both kernels."""
    n, h, w, width = channels_last(qkv, "qkv").shape
    c = channels_last(residual, "residual").shape[3]
    d = width // (3 * heads)
    sites, dp, tile = h * w, padded(d), site_tile(h * w)
    check_offsets(sites * width, sites * c)
    context = qkv.new_empty((n, heads, d, d))
    size = qkv.element_size()
    warps = 4 if size == 2 else 8  # fp32 takes more registers
    launch(
        _context, (n * heads,), dict(qkv=qkv, context=context),
        dict(SITES=sites, HEADS=heads, D=d, TILE=min(tile, 128 if size == 2 else 32), DP=dp, UPCAST=upcast(qkv)), stages=3,
        flops=2 * n * heads * sites * d * d, l2_bytes=2 * n * heads * sites * d * size + context.numel() * size,
    )  # fmt: skip
    y = empty_channels_last(residual, n, c, h, w)
    tiles, block_n = -(-sites // tile), min(64 if size == 2 else 32, padded(c))
    blocks_n = -(-c // block_n)
    launch(
        _product, (n * tiles * blocks_n,), dict(qkv=qkv, context=context, to_out=to_out, bias=bias, residual=residual, y=y),
        dict(SITES=sites, C=c, HEADS=heads, D=d, TILES=tiles, BLOCKS_N=blocks_n, TILE=tile, DP=dp, BLOCK_N=block_n,
             UPCAST=upcast(qkv)),
        warps=warps, flops=2 * n * heads * sites * d * (d + c),
        l2_bytes=n * tiles * blocks_n * heads * d * (tile + d + block_n) * size + 2 * y.numel() * size,
    )  # fmt: skip
    return y


@torch.library.custom_op("gaitcrafter::linear_attend", mutates_args=())
def linear_attend(qkv: Tensor, to_out: Tensor, bias: Tensor, residual: Tensor, heads: int) -> Tensor:
    """``residual + to_out(softmax(q) D^-0.5 (softmax(k)^T v)) + bias``.

    ``qkv [N, 3*heads*D, H, W]`` as a 1x1 convolution makes it, ``to_out [heads*D, C]`` (transposed), ``residual [N, C, H, W]``.
    """
    if use_kernel(qkv):
        return launch_linear_attention(qkv, to_out, bias, residual, heads)
    n, width, h, w = qkv.shape
    d = width // (3 * heads)
    q, k, v = qkv.permute(0, 2, 3, 1).reshape(n, h * w, 3, heads, d).permute(2, 0, 3, 1, 4)
    context = k.softmax(dim=-2).transpose(-1, -2) @ v
    y = ((q.softmax(dim=-1) * d**-0.5) @ context).transpose(1, 2).reshape(n, h, w, heads * d)
    return residual + F.linear(y, to_out.T, bias.to(y.dtype)).permute(0, 3, 1, 2)


@linear_attend.register_fake
def _(qkv, to_out, bias, residual, heads):
    if is_recording():
        return launch_linear_attention(qkv, to_out, bias, residual, heads)
    return torch.empty_like(residual, memory_format=torch.channels_last)
