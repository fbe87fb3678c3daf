"""Convolution of channels-last images as one product: 1x1, 3x3, 7x7, 4x4 with stride 2, and the 4x4 transpose with stride 2.

Kernel: implicit GEMM. A program makes a tile of one image's output pixels times a block of output channels and walks over taps
and blocks of input channels, in that order, whatever the batch. What surrounds a convolution in this network is folded in:

- on load: ``silu(a * x + b)`` of the norm before it (``affine`` of group_norm_silu.py), or the channel LayerNorm before a 1x1;
- a second input, whose channels follow those of the first: the way up reads skip connections without concatenating them;
- at the end: bias, a residual (itself through ``silu(a * r + b)`` if ``residual_affine`` is given), and the moments that the next
  GroupNorm needs.

The transpose is four 2x2 convolutions, one per parity of the output pixel, in one launch. Few input channels (``FLAT``, the stem)
are gathered over taps and channels together. Tuned for 64 to 512 channels in bf16; on 8x8 images and below tiles are small and
tensor cores wait. torch's own convolution (cuDNN) is the rival to measure against.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InvalidRequestError
from .channel_layer_norm import EPS, channel_layer_norm
from .group_norm_silu import moments_of
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

FLAT_BELOW = 16  # input channels


def pack_conv(weight: Tensor) -> Tensor:
    """``Conv2d.weight [Co, Ci, KH, KW]`` as ``[1, KH, KW, Ci, Co]``: a row of output channels lies together."""
    return weight.permute(2, 3, 1, 0).contiguous()[None]


def pack_conv_transpose(weight: Tensor) -> Tensor:
    """``ConvTranspose2d.weight [Ci, Co, 4, 4]`` as ``[4, 2, 2, Ci, Co]``: the taps of each parity of the output pixel.

    Output row ``2 i + p`` reads input row ``i + p - 1 + a`` through kernel row ``3 - p - 2 a``, for ``a`` in 0, 1.
    """
    phases = [
        torch.stack([torch.stack([weight[:, :, 3 - p - 2 * a, 3 - q - 2 * b] for b in (0, 1)]) for a in (0, 1)])
        for p in (0, 1)
        for q in (0, 1)
    ]
    return torch.stack(phases).contiguous()


def unpack_conv_transpose(packed: Tensor) -> Tensor:
    """What ``pack_conv_transpose`` was given."""
    weight = packed.new_empty((*packed.shape[3:], 4, 4))
    for p in (0, 1):
        for q in (0, 1):
            for a in (0, 1):
                for b in (0, 1):
                    weight[:, :, 3 - p - 2 * a, 3 - q - 2 * b] = packed[2 * p + q, a, b]
    return weight


def conv2d_reference(
    x: Tensor, second: Tensor | None, packed: Tensor, bias: Tensor | None, stride: int, affine: Tensor | None,
    gamma: Tensor | None, residual: Tensor | None, residual_affine: Tensor | None,
) -> Tensor:  # fmt: skip
    """What the kernel computes, in plain operations of the dtype of ``x``; arguments as in ``conv2d``."""
    v = x if second is None else torch.cat((x, second), dim=1)
    if affine is not None:
        v = affine_silu(v, affine)
    if gamma is not None:
        v = channel_layer_norm(v, gamma.to(v.dtype))
    bias = None if bias is None else bias.to(x.dtype)
    if len(packed) == 4:
        y = F.conv_transpose2d(v, unpack_conv_transpose(packed), bias, stride=2, padding=1)
    else:
        weight = packed[0].permute(3, 2, 0, 1)
        y = F.conv2d(v, weight, bias, stride=stride, padding=padding_of(packed.shape[1]))
    if residual is not None:
        y = y + (residual if residual_affine is None else affine_silu(residual, residual_affine))
    return y


def affine_silu(x: Tensor, affine: Tensor) -> Tensor:
    """``silu(a * x + b)``, ``affine [scopes, 2, C]``; each scope is equally many images."""
    rows = affine.repeat_interleave(x.shape[0] // len(affine), 0)[..., None, None].to(x.dtype)
    return F.silu(x * rows[:, 0] + rows[:, 1])


def padding_of(kernel: int) -> int:
    """Padding of the network's convolutions: sizes stay (odd kernels) or halve (4)."""
    return (kernel - 1) // 2


@jit
def _load_block(x, at, mask, c, C: tl.constexpr, mean, scale, affine, gamma, AT: tl.constexpr, TOTAL: tl.constexpr):
    """A block of one source's channels ``c`` from the offsets ``at``, normalised, in the dtype of x; zero outside."""
    v = tl.load(x + at, mask=mask, other=0)
    if affine is not None:
        a = tl.load(affine + AT + c, mask=c < C, other=0)
        b = tl.load(affine + TOTAL + AT + c, mask=c < C, other=0)
        u = v.to(tl.float32) * a[None, :] + b[None, :]
        v = tl.where(mask, u * tl.sigmoid(u), 0.0).to(x.dtype.element_ty)
    if gamma is not None:
        g = tl.load(gamma + c, mask=c < C, other=0).to(tl.float32)
        u = (v.to(tl.float32) - mean[:, None]) * scale[:, None] * g[None, :]
        v = tl.where(mask, u, 0.0).to(x.dtype.element_ty)
    return v


@jit
def _products(
    acc, x, w, affine, gamma, mean, scale, base, y0, x0, ok, col, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    AT: tl.constexpr, TOTAL: tl.constexpr, CO: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, BLOCK_K: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """acc += the products of one source: C channels, of which the first is channel AT of TOTAL; ``base`` is each row's image."""
    blocks: tl.constexpr = (C + BLOCK_K - 1) // BLOCK_K
    k = tl.arange(0, BLOCK_K)
    start = ((base + y0 * W + x0) * C)[:, None] + k[None, :]
    weights = w + (AT + k)[:, None] * CO + col[None, :]
    for step in range(KH * KW * blocks):
        tap = step // blocks
        first = (step - tap * blocks) * BLOCK_K
        yy = y0 + tap // KW
        xx = x0 + tap % KW
        inside = ok & (yy >= 0) & (yy < H) & (xx >= 0) & (xx < W)
        mask = inside[:, None]
        if C % BLOCK_K != 0:
            mask = mask & (first + k < C)[None, :]
        at = start + ((tap // KW * W + tap % KW) * C + first)
        v = _load_block(x, at, mask, first + k, C, mean, scale, affine, gamma, AT, TOTAL)
        f_mask = (col < CO)[None, :]
        if C % BLOCK_K != 0:
            f_mask = f_mask & (first + k < C)[:, None]
        f = tl.load(weights + (tap * TOTAL + first) * CO, mask=f_mask, other=0)
        if UPCAST:
            v = v.to(tl.float32)
            f = f.to(tl.float32)
        acc = tl.dot(v, f, acc, input_precision="tf32x3")
    return acc


@jit
def _flat_products(
    acc, x, w, base, y0, x0, ok, col, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr, CO: tl.constexpr, KH: tl.constexpr,
    KW: tl.constexpr, BLOCK_K: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """The same for few channels: a block of the sum runs over taps and channels together."""
    terms: tl.constexpr = KH * KW * C
    for first in range(0, terms, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        tap = k // C
        yy = y0[:, None] + (tap // KW)[None, :]
        xx = x0[:, None] + (tap % KW)[None, :]
        inside = ok[:, None] & (k < terms)[None, :] & (yy >= 0) & (yy < H) & (xx >= 0) & (xx < W)
        v = tl.load(x + (base[:, None] + yy * W + xx) * C + (k % C)[None, :], mask=inside, other=0)
        f = tl.load(w + k[:, None] * CO + col[None, :], mask=(k < terms)[:, None] & (col < CO)[None, :], other=0)
        if UPCAST:
            v = v.to(tl.float32)
            f = f.to(tl.float32)
        acc = tl.dot(v, f, acc, input_precision="tf32x3")
    return acc


@jit
def _layer_moments(x, site, ok, C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, EPS: tl.constexpr):
    """Mean and 1 / deviation over the channels of every site; the tile is read again from cache."""
    total = tl.zeros((BLOCK_M,), tl.float32)
    for first in range(0, C, BLOCK_K):
        c = first + tl.arange(0, BLOCK_K)
        v = tl.load(x + site[:, None] * C + c[None, :], mask=ok[:, None] & (c < C)[None, :], other=0).to(tl.float32)
        total += tl.sum(v, axis=1)
    mean = total / C
    squares = tl.zeros((BLOCK_M,), tl.float32)
    for first in range(0, C, BLOCK_K):
        c = first + tl.arange(0, BLOCK_K)
        mask = ok[:, None] & (c < C)[None, :]
        v = tl.load(x + site[:, None] * C + c[None, :], mask=mask, other=0).to(tl.float32)
        apart = tl.where(mask, v - mean[:, None], 0.0)
        squares += tl.sum(apart * apart, axis=1)
    return mean, 1.0 / tl.sqrt(squares / C + EPS)


@jit
def _store_moments(
    moments, acc, mask, ok, row, sites, inside, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, TILE: tl.constexpr, CO: tl.constexpr,
    col,
):  # fmt: skip
    """Mean and squared deviations of the parts of TILE pixels that a block of rows holds: ``row``, ``sites`` of every part."""
    parts: tl.constexpr = BLOCK_M // TILE
    v = tl.reshape(tl.where(mask, acc, 0.0), (parts, TILE, BLOCK_N))
    centre = tl.sum(v, axis=1) / tl.maximum(sites, 1).to(tl.float32)[:, None]
    apart = tl.where(tl.reshape(ok, (parts, TILE))[:, :, None], v - centre[:, None, :], 0.0)
    out = moments + row[:, None] * (2 * CO) + col[None, :]
    out_mask = inside[:, None] & (col < CO)[None, :]
    tl.store(out, centre, mask=out_mask)
    tl.store(out + CO, tl.sum(apart * apart, axis=1), mask=out_mask)


@jit
def _conv2d(
    x, second, w, bias, affine, gamma, residual, residual_affine, y, moments, H: tl.constexpr, W: tl.constexpr, C1: tl.constexpr,
    C2: tl.constexpr, CO: tl.constexpr, GH: tl.constexpr, GW: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    STRIDE: tl.constexpr, PAD: tl.constexpr, SPREAD: tl.constexpr, IMAGES: tl.constexpr,
    RESIDUAL_IMAGES: tl.constexpr, TILES: tl.constexpr, FOLD: tl.constexpr, MOMENTS_TILE: tl.constexpr,
    BLOCKS_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, FLAT: tl.constexpr,
    EPS: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One tile of pixels (of GH x GW, the output or one of its four parities) times one block of output channels.

    The pixels are those of one image, or of FOLD whole images (then TILES is 1).
    """
    at = tl.program_id(0) // BLOCKS_N
    col = (tl.program_id(0) % BLOCKS_N) * BLOCK_N + tl.arange(0, BLOCK_N)
    phase = tl.program_id(1)
    n = (at // TILES).to(tl.int64) * FOLD
    line = (at % TILES) * BLOCK_M + tl.arange(0, BLOCK_M)
    ok = line < FOLD * GH * GW
    image = line // (GH * GW)
    site = line - image * (GH * GW)
    row, place = site // GW, site % GW
    y0 = row * STRIDE - PAD + phase // SPREAD
    x0 = place * STRIDE - PAD + phase % SPREAD
    base = image * (H * W)
    x += n * (H * W * C1)
    w += phase.to(tl.int64) * (KH * KW * (C1 + C2) * CO)
    mean, scale = 0.0, 0.0
    if gamma is not None:
        mean, scale = _layer_moments(x, line, ok, C1, BLOCK_M, BLOCK_K, EPS)
    if affine is not None:
        affine += (n // IMAGES) * (2 * (C1 + C2))
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if FLAT:
        acc = _flat_products(acc, x, w, base, y0, x0, ok, col, H, W, C1, CO, KH, KW, BLOCK_K, UPCAST)
    else:
        acc = _products(
            acc, x, w, affine, gamma, mean, scale, base, y0, x0, ok, col, H, W, C1, 0, C1 + C2, CO, KH, KW, BLOCK_K, UPCAST
        )
        if second is not None:
            second += n * (H * W * C2)
            acc = _products(
                acc, second, w, affine, None, mean, scale, base, y0, x0, ok, col, H, W, C2, C1, C1 + C2, CO, KH, KW, BLOCK_K, UPCAST
            )
    if bias is not None:
        acc += tl.load(bias + col, mask=col < CO, other=0).to(tl.float32)[None, :]
    mask = ok[:, None] & (col < CO)[None, :]
    pixels: tl.constexpr = GH * GW * SPREAD * SPREAD
    out_site = image * pixels + (row * SPREAD + phase // SPREAD) * (GW * SPREAD) + place * SPREAD + phase % SPREAD
    offset = out_site[:, None] * CO + col[None, :]
    whole = n * (pixels * CO)
    if residual is not None:
        r = tl.load(residual + whole + offset, mask=mask, other=0).to(tl.float32)
        if residual_affine is not None:
            if RESIDUAL_IMAGES % FOLD == 0:
                scope = residual_affine + (n // RESIDUAL_IMAGES) * (2 * CO) + col
                a = tl.load(scope, mask=col < CO, other=0)[None, :]
                b = tl.load(scope + CO, mask=col < CO, other=0)[None, :]
            else:
                scope = residual_affine + ((n + image) // RESIDUAL_IMAGES)[:, None] * (2 * CO) + col[None, :]
                a, b = tl.load(scope, mask=mask, other=0), tl.load(scope + CO, mask=mask, other=0)
            r = r * a + b
            r = r * tl.sigmoid(r)
        acc += r
    if moments is not None:
        part = tl.arange(0, BLOCK_M // MOMENTS_TILE)
        tiles: tl.constexpr = (GH * GW + MOMENTS_TILE - 1) // MOMENTS_TILE
        if FOLD > 1:
            rows, count = n + part, part * 0 + MOMENTS_TILE
            held = part < FOLD
        else:
            tile = (at % TILES) * (BLOCK_M // MOMENTS_TILE) + part
            rows, count = n * tiles + tile, tl.minimum(GH * GW - tile * MOMENTS_TILE, MOMENTS_TILE)
            held = tile < tiles
        _store_moments(moments, acc, mask, ok, rows, count, held, BLOCK_M, BLOCK_N, MOMENTS_TILE, CO, col)
    tl.store(y + whole + offset, acc.to(y.dtype.element_ty), mask=mask)


def tiles_of(
    element_size: int, sites: int, c1: int, c2: int, co: int, kernel: int, fold: int, terms: int | None
) -> tuple[int, int, int, int]:
    """Rows, columns and depth of a program's products, and its warps; ``terms`` where taps and channels are gathered together.

    Measured on an H100 in bf16 among what fits into 99 kB of shared memory, the least that a served chip has (docs/gpu.md). fp32
    takes more registers and shared memory.
    """
    rows = padded(fold * sites) if fold > 1 else site_tile(sites)
    if terms is not None:
        return rows, min(64 if element_size == 2 else 32, padded(co)), min(32, padded(terms)), 4 if element_size == 2 else 8
    depth = padded(max(c1, c2))
    if element_size != 2:
        return rows, min(32, padded(co)), min(32, depth), 8
    columns = min(128 if rows == 128 else 64, padded(co))
    # With a block per tap the compiler unrolls the nine of a narrow convolution, which takes registers.
    # Two inputs are two such loops: the narrowest take twice the warps.
    is_short = kernel == 3 and c2 == 0 and depth <= 64
    is_narrow = columns < 64 and rows == 128 and c2 > 0
    return rows, columns, min(32 if is_short else 64, depth), 8 if columns == 128 or is_narrow else 4


def images_together(frames: int, sites: int) -> int:
    """How many small images of a clip a tile of 128 rows holds: a divisor of ``frames``, so that clips never share a tile."""
    if sites & (sites - 1) or sites > 64:
        return 1
    return max(count for count in range(1, frames + 1) if frames % count == 0 and (count == 1 or count * sites <= 128))


def launch_conv2d(
    x: Tensor, second: Tensor | None, packed: Tensor, bias: Tensor | None, stride: int, affine: Tensor | None,
    gamma: Tensor | None, residual: Tensor | None, residual_affine: Tensor | None, want_moments: bool,
    dtype: torch.dtype | None, frames: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Arguments and results of ``conv2d``."""
    n, h, w, c1 = channels_last(x).shape
    c2 = 0 if second is None else channels_last(second, "second").shape[3]
    phases, kh, kw, _, co = packed.shape
    spread = 2 if phases == 4 else 1
    pad = 1 if phases == 4 else padding_of(kh)
    gh, gw = (h, w) if phases == 4 else ((h + 2 * pad - kh) // stride + 1, (w + 2 * pad - kw) // stride + 1)
    y = empty_channels_last(x, n, co, gh * spread, gw * spread, dtype)
    if residual is not None:
        channels_last(residual, "residual")
    if gamma is not None and (second is not None or kh * kw * phases > 1):
        raise InvalidRequestError("a LayerNorm on load goes with a 1x1 convolution of one input only")
    if n % frames:
        raise InvalidRequestError(f"{n} images are no whole clips of {frames} frames")
    flat = c1 < FLAT_BELOW and second is None and affine is None and gamma is None
    fold = 1 if affine is not None else images_together(frames, gh * gw)
    block_m, block_n, block_k, warps = tiles_of(
        x.element_size(), gh * gw, c1, c2, co, kh, fold, kh * kw * c1 if flat else None
    )
    tiles, blocks_n = 1 if fold > 1 else -(-gh * gw // block_m), -(-co // block_n)
    check_offsets(fold * h * w * max(c1, c2), fold * gh * gw * phases * co, kh * kw * (c1 + c2) * co)
    moments = x.new_empty((n, -(-gh * gw // site_tile(gh * gw)), 2, co) if want_moments else (0,), dtype=torch.float32)
    terms, programs = kh * kw * (c1 + c2), n // fold * tiles * blocks_n
    launch(
        _conv2d, (programs, phases),
        dict(x=x, second=second, w=packed, bias=bias, affine=affine, gamma=gamma, residual=residual,
             residual_affine=residual_affine, y=y, moments=moments if want_moments else None),
        dict(H=h, W=w, C1=c1, C2=c2, CO=co, GH=gh, GW=gw, KH=kh, KW=kw, STRIDE=stride, PAD=pad, SPREAD=spread,
             IMAGES=_images(n, affine), RESIDUAL_IMAGES=_images(n, residual_affine), TILES=tiles, FOLD=fold,
             MOMENTS_TILE=site_tile(gh * gw) if fold == 1 else gh * gw, BLOCKS_N=blocks_n, BLOCK_M=block_m, BLOCK_N=block_n,
             BLOCK_K=block_k, FLAT=flat, EPS=EPS, UPCAST=upcast(x)),
        warps=warps, stages=3, flops=2 * n * gh * gw * phases * terms * co,
        l2_bytes=programs * phases * terms * (block_m + block_n) * x.element_size()
        + (1 + (residual is not None)) * y.numel() * y.element_size(),
    )  # fmt: skip
    return y, moments


def _images(n: int, affine: Tensor | None) -> int:
    return 1 if affine is None else n // max(len(affine), 1)


@torch.library.custom_op("gaitcrafter::conv2d", mutates_args=())
def conv2d(
    x: Tensor, second: Tensor | None, packed: Tensor, bias: Tensor | None, stride: int = 1, affine: Tensor | None = None,
    gamma: Tensor | None = None, residual: Tensor | None = None, residual_affine: Tensor | None = None, want_moments: bool = False,
    dtype: torch.dtype | None = None, frames: int = 1,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The output, and its moments ``[N, tiles, 2, Co]`` over tiles of ``site_tile`` pixels (empty unless wanted).

    ``x [N, C1, H, W]``, ``second [N, C2, H, W]``, ``packed`` from pack_conv or pack_conv_transpose over C1 + C2 channels, ``affine
    [scopes, 2, C1 + C2]`` goes before the products, ``gamma [C1]`` is LayerNorm's (1x1 without ``second`` only), ``residual`` is
    like the output and ``residual_affine [scopes, 2, Co]`` goes before it is added. Norms are fp32, products have the dtype of x;
    ``dtype`` is that of the output (None: of x). Every ``frames`` images are a clip: small ones may share a tile.
    """
    if use_kernel(x):
        return launch_conv2d(x, second, packed, bias, stride, affine, gamma, residual, residual_affine, want_moments, dtype, frames)
    y = conv2d_reference(x, second, packed, bias, stride, affine, gamma, residual, residual_affine)
    moments = moments_of(y) if want_moments else x.new_empty(0, dtype=torch.float32)
    return y.to(dtype or x.dtype, memory_format=torch.channels_last), moments


@conv2d.register_fake
def _(
    x, second, packed, bias, stride=1, affine=None, gamma=None, residual=None, residual_affine=None, want_moments=False, dtype=None,
    frames=1,
):  # fmt: skip
    if is_recording():
        return launch_conv2d(x, second, packed, bias, stride, affine, gamma, residual, residual_affine, want_moments, dtype, frames)
    phases, kernel, _, _, co = packed.shape
    n, _, h, w = x.shape
    if phases == 4:
        h, w = 2 * h, 2 * w
    else:
        h, w = ((size + 2 * padding_of(kernel) - kernel) // stride + 1 for size in (h, w))
    moments = (n, -(-h * w // site_tile(h * w)), 2, co) if want_moments else (0,)
    return empty_channels_last(x, n, co, h, w, dtype), x.new_empty(moments, dtype=torch.float32)
