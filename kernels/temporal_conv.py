"""Three-tap convolution along the frames, circular: a clip is about one gait cycle, so its ends are neighbours.

Kernel: norm, three products and residual of a tile of one frame's sites; a program holds whole pixels, so at most 256 channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .channel_layer_norm import EPS, channel_layer_norm
from .launch import channels_last, empty_channels_last, is_recording, jit, launch, padded, site_tile, tl, upcast, use_kernel

LARGEST_WIDTH = 256  # channels the kernel takes


def temporal_conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, frames: int) -> torch.Tensor:
    """``y[f] = sum_k W[:, :, k] x[(f + k - 1) mod F] + bias``; ``x [B*F, C, H, W]``, weight ``[C, C, 3]``."""
    n, c, h, w = x.shape
    clips = x.permute(0, 2, 3, 1).view(n // frames, frames, h, w, c)
    taps = torch.cat((clips.roll(1, 1), clips, clips.roll(-1, 1)), dim=-1)
    y = F.linear(taps, weight.permute(0, 2, 1).reshape(weight.shape[0], 3 * c), bias)
    return y.view(n, h, w, -1).permute(0, 3, 1, 2)


@jit
def _temporal_conv(
    x, gamma, w, bias, y, SITES: tl.constexpr, FRAMES: tl.constexpr, C: tl.constexpr, TILES: tl.constexpr, BLOCKS_N: tl.constexpr,
    TILE: tl.constexpr, CP: tl.constexpr, BLOCK_N: tl.constexpr, EPS: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """y = x + bias + sum over three taps of layer norm(x of that frame) w[tap]; ``w [3, C, C]``, output channels last."""
    at = tl.program_id(0) // BLOCKS_N
    col = (tl.program_id(0) % BLOCKS_N) * BLOCK_N + tl.arange(0, BLOCK_N)
    n = (at // TILES).to(tl.int64)
    site = (at % TILES) * TILE + tl.arange(0, TILE)
    c = tl.arange(0, CP)
    mask = (site < SITES)[:, None] & (c < C)[None, :]
    gain = tl.load(gamma + c, mask=c < C, other=0).to(tl.float32)
    product = tl.float32 if UPCAST else x.dtype.element_ty
    acc = tl.zeros((TILE, BLOCK_N), tl.float32)
    for tap in range(3):
        source = n // FRAMES * FRAMES + (n % FRAMES + FRAMES + tap - 1) % FRAMES
        v = tl.load(x + source * (SITES * C) + site[:, None] * C + c[None, :], mask=mask, other=0).to(tl.float32)
        apart = tl.where(mask, v - (tl.sum(v, axis=1) / C)[:, None], 0.0)
        scale = 1.0 / tl.sqrt(tl.sum(apart * apart, axis=1) / C + EPS)
        normed = (apart * scale[:, None] * gain[None, :]).to(x.dtype.element_ty).to(product)
        f = tl.load(w + (tap * C + c)[:, None] * C + col[None, :], mask=(c < C)[:, None] & (col < C)[None, :], other=0)
        acc = tl.dot(normed, f.to(product), acc, input_precision="tf32x3")
    acc += tl.load(bias + col, mask=col < C, other=0).to(tl.float32)[None, :]
    out_mask = (site < SITES)[:, None] & (col < C)[None, :]
    offset = n * (SITES * C) + site[:, None] * C + col[None, :]
    acc += tl.load(x + offset, mask=out_mask, other=0).to(tl.float32)
    tl.store(y + offset, acc.to(y.dtype.element_ty), mask=out_mask)


def pack_temporal_conv(weight: Tensor) -> Tensor:
    """``Conv1d.weight [C, C, 3]`` as ``[3, Ci, Co]``."""
    return weight.permute(2, 1, 0).contiguous()


def launch_temporal_conv(x: Tensor, gamma: Tensor, packed: Tensor, bias: Tensor, frames: int) -> Tensor:
    """The whole of ``temporal_conv_block``."""
    n, h, w, c = channels_last(x).shape
    y = empty_channels_last(x, n, c, h, w)
    cp = padded(c)
    tile, block_n = site_tile(h * w, 64 if cp <= 64 else 32), min(64, cp)
    tiles, blocks_n = -(-h * w // tile), -(-c // block_n)
    launch(
        _temporal_conv, (n * tiles * blocks_n,), dict(x=x, gamma=gamma, w=packed, bias=bias, y=y),
        dict(SITES=h * w, FRAMES=frames, C=c, TILES=tiles, BLOCKS_N=blocks_n, TILE=tile, CP=cp, BLOCK_N=block_n, EPS=EPS,
             UPCAST=upcast(x)),
        flops=6 * x.numel() * c, l2_bytes=(n * tiles * blocks_n * 3 * c * (tile + block_n) + 2 * x.numel()) * x.element_size(),
    )  # fmt: skip
    return y


@torch.library.custom_op("gaitcrafter::temporal_conv_block", mutates_args=())
def temporal_conv_block(x: Tensor, gamma: Tensor, packed: Tensor, bias: Tensor, frames: int) -> Tensor:
    """``x + temporal_conv(channel_layer_norm(x))``; ``packed`` from pack_temporal_conv."""
    if x.shape[1] <= LARGEST_WIDTH and use_kernel(x):
        return launch_temporal_conv(x, gamma, packed, bias, frames)
    y = temporal_conv(channel_layer_norm(x, gamma.to(x.dtype)), packed.permute(2, 1, 0), bias.to(x.dtype), frames)
    return (x + y).contiguous(memory_format=torch.channels_last)


@temporal_conv_block.register_fake
def _(x, gamma, packed, bias, frames):
    if is_recording():
        return launch_temporal_conv(x, gamma, packed, bias, frames)
    return torch.empty_like(x, memory_format=torch.channels_last)
