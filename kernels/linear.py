"""LayerNorm and a product over the channels of every site: the projection to q, k and v of an attention.

Kernel: a program keeps the normalised rows of its pixels and walks over all output channels, so that x is read and normalised once
however wide the output is. It holds whole pixels, so at most 512 channels in bf16 and 64 in fp32.
"""

from __future__ import annotations

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
    padded,
    site_tile,
    tl,
    upcast,
    use_kernel,
)

LARGEST_WIDTH = {2: 512, 4: 64}  # channels that the kernel takes, by bytes of one: wider rows spill registers


def linear_fits(channels: int, dtype: torch.dtype) -> bool:
    """Whether the kernel takes rows of so many channels."""
    return padded(channels) <= LARGEST_WIDTH.get(dtype.itemsize, 0)


@jit
def _linear(
    x, gamma, w, y, SITES: tl.constexpr, C: tl.constexpr, CO: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr,
    CP: tl.constexpr, BLOCK_N: tl.constexpr, EPS: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """y = layer norm(x) w; ``w [C, CO]``."""
    at = tl.program_id(0)
    n = (at // TILES).to(tl.int64)
    site = (at % TILES) * TILE + tl.arange(0, TILE)
    c = tl.arange(0, CP)
    rows = (site < SITES)[:, None]
    mask = rows & (c < C)[None, :]
    v = tl.load(x + n * (SITES * C) + site[:, None] * C + c[None, :], mask=mask, other=0).to(tl.float32)
    apart = tl.where(mask, v - (tl.sum(v, axis=1) / C)[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(apart * apart, axis=1) / C + EPS)
    gain = tl.load(gamma + c, mask=c < C, other=0).to(tl.float32)
    product = tl.float32 if UPCAST else x.dtype.element_ty
    normed = (apart * scale[:, None] * gain[None, :]).to(x.dtype.element_ty).to(product)
    y += n * (SITES * CO)
    for first in range(0, CO, BLOCK_N):
        col = first + tl.arange(0, BLOCK_N)
        f_mask = (col < CO)[None, :]
        if C != CP:
            f_mask = f_mask & (c < C)[:, None]
        f = tl.load(w + c[:, None] * CO + col[None, :], mask=f_mask, other=0).to(product)
        acc = tl.dot(normed, f, input_precision="tf32x3")
        tl.store(y + site[:, None] * CO + col[None, :], acc.to(y.dtype.element_ty), mask=rows & (col < CO)[None, :])


def launch_linear(x: Tensor, gamma: Tensor, w: Tensor) -> Tensor:
    """The whole of ``norm_linear``."""
    n, h, width, c = channels_last(x).shape
    co = w.shape[1]
    sites, cp, size = h * width, padded(c), x.element_size()
    check_offsets(sites * max(c, co))
    y = empty_channels_last(x, n, co, h, width)
    row = cp * size
    tile = site_tile(sites, 64 if row <= 512 else 32)
    tiles, block = -(-sites // tile), min(32 if size > 2 or row > 512 else 128 if row <= 128 else 64, padded(co))
    launch(
        _linear, (n * tiles,), dict(x=x, gamma=gamma, w=w, y=y),
        dict(SITES=sites, C=c, CO=co, TILES=tiles, TILE=tile, CP=cp, BLOCK_N=block, EPS=EPS, UPCAST=upcast(x)),
        warps=4, stages=3 if row <= 256 else 1, flops=2 * n * sites * c * co,
        l2_bytes=(x.numel() + y.numel() + n * tiles * w.numel()) * size,
    )  # fmt: skip
    return y


@torch.library.custom_op("gaitcrafter::norm_linear", mutates_args=())
def norm_linear(x: Tensor, gamma: Tensor, w: Tensor) -> Tensor:
    """``channel_layer_norm(x) @ w`` at every site: ``x [N, C, H, W]``, ``gamma [C]``, ``w [C, CO]``; result ``[N, CO, H, W]``."""
    if linear_fits(x.shape[1], x.dtype) and use_kernel(x):
        return launch_linear(x, gamma, w)
    y = channel_layer_norm(x, gamma.to(x.dtype)).permute(0, 2, 3, 1) @ w
    return y.permute(0, 3, 1, 2)


@norm_linear.register_fake
def _(x, gamma, w):
    if is_recording() and linear_fits(x.shape[1], x.dtype):
        return launch_linear(x, gamma, w)
    n, _, h, width = x.shape
    return empty_channels_last(x, n, w.shape[1], h, width)
