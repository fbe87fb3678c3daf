"""Linear attention over the sites of one frame (``SpatialLinearAttention`` of video-diffusion-pytorch).

Kernels: ``_context`` walks once over a frame's k and v, one program per frame and head, with a running softmax over the sites, and
leaves the D x D context. ``_product`` softmaxes q, multiplies it by the context and by the output projection, head by head, and
adds bias and residual. Neither softmax is ever stored. Tuned for 32 channels a head; at most 128.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .channel_layer_norm import EPS, channel_layer_norm
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


@jit
def _normed(x, gamma, site, SITES: tl.constexpr, C: tl.constexpr, CP: tl.constexpr, EPS: tl.constexpr):
    """LayerNorm over the channels of some sites of one image, fp32 [sites, CP]; zero outside."""
    c = tl.arange(0, CP)
    mask = (site < SITES)[:, None] & (c < C)[None, :]
    v = tl.load(x + site[:, None] * C + c[None, :], mask=mask, other=0).to(tl.float32)
    apart = tl.where(mask, v - (tl.sum(v, axis=1) / C)[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(apart * apart, axis=1) / C + EPS)
    return apart * scale[:, None] * tl.load(gamma + c, mask=c < C, other=0).to(tl.float32)[None, :]


@jit
def _context_of(
    x, gamma, to_kv, context, SITES: tl.constexpr, C: tl.constexpr, GROUPS: tl.constexpr, TILE: tl.constexpr, CP: tl.constexpr,
    DP: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, EPS: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """``_context`` from the block's input, WIDTH / DP heads at a time: context [N, heads, DP, DP], to_kv [GROUPS, 2, CP, WIDTH].

    The product of all pairs of heads of a group is taken, of which the squares on the diagonal are kept.
    """
    n = (tl.program_id(0) // GROUPS).to(tl.int64)
    group = tl.program_id(0) % GROUPS
    x += n * (SITES * C)
    c = tl.arange(0, CP)
    d = tl.arange(0, WIDTH)
    weight = to_kv + group * (2 * CP * WIDTH) + c[:, None] * WIDTH + d[None, :]
    dtype = x.dtype.element_ty
    product = tl.float32 if UPCAST else dtype
    to_k, to_v = tl.load(weight).to(product), tl.load(weight + CP * WIDTH).to(product)
    top = tl.full((WIDTH,), float("-inf"), tl.float32)
    total = tl.zeros((WIDTH,), tl.float32)
    acc = tl.zeros((WIDTH, WIDTH), tl.float32)
    for first in range(0, SITES, TILE):
        site = first + tl.arange(0, TILE)
        normed = _normed(x, gamma, site, SITES, C, CP, EPS).to(dtype).to(product)
        k = tl.dot(normed, to_k, input_precision="tf32x3")
        v = tl.dot(normed, to_v, input_precision="tf32x3").to(dtype).to(product)
        if SITES % TILE != 0:
            k = tl.where((site < SITES)[:, None], k, float("-inf"))
        higher = tl.maximum(top, tl.max(k, axis=0))
        p = tl.exp(k - higher[None, :])
        keep = tl.exp(top - higher)
        total = total * keep + tl.sum(p, axis=0)
        acc = acc * keep[:, None] + tl.dot(tl.trans(p.to(dtype).to(product)), v, input_precision="tf32x3")
        top = higher
    acc = acc / total[:, None] * D**-0.5
    e = tl.arange(0, WIDTH)
    head = group * (WIDTH // DP) + e // DP
    heads: tl.constexpr = GROUPS * (WIDTH // DP)
    out = context + (n * heads + head)[:, None] * (DP * DP) + (e % DP)[:, None] * DP + (d % DP)[None, :]
    tl.store(out, acc.to(context.dtype.element_ty), mask=(e // DP)[:, None] == (d // DP)[None, :])


@jit
def _product_of(
    x, gamma, to_q, context, to_out, bias, y, SITES: tl.constexpr, C: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr,
    TILES: tl.constexpr, TILE: tl.constexpr, CP: tl.constexpr, DP: tl.constexpr, EPS: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """``_product`` from the block's input: y = x + bias + sum over heads; to_q [HEADS, CP, DP], to_out [HEADS, DP, CP]."""
    n = (tl.program_id(0) // TILES).to(tl.int64)
    site = (tl.program_id(0) % TILES) * TILE + tl.arange(0, TILE)
    c = tl.arange(0, CP)
    d = tl.arange(0, DP)
    e = tl.arange(0, DP)
    dtype = x.dtype.element_ty
    product = tl.float32 if UPCAST else dtype
    x += n * (SITES * C)
    normed = _normed(x, gamma, site, SITES, C, CP, EPS).to(dtype).to(product)
    acc = tl.zeros((TILE, CP), tl.float32)
    for h in range(HEADS):
        q = tl.dot(normed, tl.load(to_q + h * (CP * DP) + c[:, None] * DP + d[None, :]).to(product), input_precision="tf32x3")
        if D != DP:
            q = tl.where((d < D)[None, :], q, float("-inf"))
        q = tl.exp(q - tl.max(q, axis=1)[:, None])
        q = (q / tl.sum(q, axis=1)[:, None]).to(dtype).to(product)
        square = context + (n * HEADS + h) * (DP * DP) + e[:, None] * DP + d[None, :]
        o = tl.dot(q, tl.load(square).to(product), input_precision="tf32x3").to(dtype).to(product)
        w = tl.load(to_out + h * (DP * CP) + e[:, None] * CP + c[None, :]).to(product)
        acc = tl.dot(o, w, acc, input_precision="tf32x3")
    acc += tl.load(bias + c, mask=c < C, other=0).to(tl.float32)[None, :]
    mask = (site < SITES)[:, None] & (c < C)[None, :]
    offset = site[:, None] * C + c[None, :]
    acc += tl.load(x + offset, mask=mask, other=0).to(tl.float32)
    tl.store(y + n * (SITES * C) + offset, acc.to(y.dtype.element_ty), mask=mask)


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


LARGEST_LINEAR_BLOCK_WIDTH = 128  # channels that the fused form takes


def linear_block_fits(channels: int, dim_head: int, dtype: torch.dtype) -> bool:
    """Whether ``linear_block`` takes this attention; wider ones, and fp32, whose products in three parts need more registers
    and shared memory than most chips have, go through a projection and ``linear_attend``.
    """
    return dtype.itemsize == 2 and padded(channels) <= LARGEST_LINEAR_BLOCK_WIDTH and dim_head <= 64


def pack_linear_block(to_qkv: Tensor, to_out: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """``to_qkv [3*heads*D, C]``, ``to_out [C, heads*D]`` zero-padded: q ``[heads, CP, DP]``, k and v of groups of heads
    ``[groups, 2, CP, width]``, output ``[heads, DP, CP]``.
    """
    c = to_qkv.shape[1]
    d = to_qkv.shape[0] // (3 * heads)
    pad = torch.nn.functional.pad
    cp, dp = padded(c), padded(d)
    q, k, v = pad(to_qkv.view(3, heads, d, c).transpose(2, 3), (0, dp - d, 0, cp - c))  # each [heads, CP, DP]
    together = _heads_together(heads, dp)
    kv = torch.stack((k, v), dim=1).view(heads // together, together, 2, cp, dp)
    out = pad(to_out.view(c, heads, d).permute(1, 2, 0), (0, cp - c, 0, dp - d))
    return q.contiguous(), kv.permute(0, 2, 3, 1, 4).reshape(heads // together, 2, cp, together * dp).contiguous(), out.contiguous()


def _heads_together(heads: int, dp: int) -> int:
    return 2 if heads % 2 == 0 and dp <= 32 else 1


def launch_linear_block(
    x: Tensor, gamma: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor, bias: Tensor, dim_head: int
) -> Tensor:
    """Both fused kernels; weights from ``pack_linear_block``."""
    n, h, w, c = channels_last(x).shape
    heads, cp, dp = to_q.shape
    groups, _, _, width = to_kv.shape
    sites, size = h * w, x.element_size()
    check_offsets(sites * c)
    context = x.new_empty((n, heads, dp, dp))
    tile = site_tile(sites, 32)
    launch(
        _context_of, (n * groups,), dict(x=x, gamma=gamma, to_kv=to_kv, context=context),
        dict(SITES=sites, C=c, GROUPS=groups, TILE=tile, CP=cp, DP=dp, WIDTH=width, D=dim_head, EPS=EPS, UPCAST=upcast(x)),
        warps=4, stages=3, flops=n * sites * 2 * heads * dim_head * (2 * c + dim_head),
        l2_bytes=n * groups * (sites * c + to_kv[0].numel()) * size + context.numel() * size,
    )  # fmt: skip
    y = empty_channels_last(x, n, c, h, w)
    tile = site_tile(sites, 64 if size == 2 else 32)
    tiles = -(-sites // tile)
    launch(
        _product_of, (n * tiles,), dict(x=x, gamma=gamma, to_q=to_q, context=context, to_out=to_out, bias=bias, y=y),
        dict(SITES=sites, C=c, HEADS=heads, D=dim_head, TILES=tiles, TILE=tile, CP=cp, DP=dp, EPS=EPS, UPCAST=upcast(x)),
        warps=4, stages=3 if size == 2 else 1, flops=n * sites * 2 * heads * dim_head * (2 * c + dim_head),
        l2_bytes=2 * x.numel() * size + n * tiles * heads * (2 * cp * dp + dp * dp) * size,
    )  # fmt: skip
    return y


@torch.library.custom_op("gaitcrafter::linear_block", mutates_args=())
def linear_block(x: Tensor, gamma: Tensor, to_q: Tensor, to_kv: Tensor, to_out: Tensor, bias: Tensor, dim_head: int) -> Tensor:
    """``x + spatial_linear_attention(channel_layer_norm(x))``; weights from ``pack_linear_block``, see ``linear_block_fits``."""
    if use_kernel(x):
        return launch_linear_block(x, gamma, to_q, to_kv, to_out, bias, dim_head)
    heads, _, dp = to_q.shape
    groups, _, cp, width = to_kv.shape
    c = x.shape[1]
    k, v = to_kv.view(groups, 2, cp, width // dp, dp).permute(1, 0, 3, 2, 4).reshape(2, heads, cp, dp)
    qkv = torch.stack((to_q, k, v))[:, :, :c, :dim_head].transpose(2, 3).reshape(3 * heads * dim_head, c)
    out = to_out[:, :dim_head, :c].permute(2, 0, 1).reshape(c, heads * dim_head)
    y = x + spatial_linear_attention(channel_layer_norm(x, gamma.to(x.dtype)), qkv, out, bias.to(x.dtype), heads)
    return y.contiguous(memory_format=torch.channels_last)


@linear_block.register_fake
def _(x, gamma, to_q, to_kv, to_out, bias, dim_head):
    if is_recording():
        return launch_linear_block(x, gamma, to_q, to_kv, to_out, bias, dim_head)
    return torch.empty_like(x, memory_format=torch.channels_last)


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
