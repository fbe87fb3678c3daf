"""Clips to the network's images and back: ``patch x patch`` pixels become channels (pixel_unshuffle), input maps are added.

Kernels: one read, one write, elementwise over the output. The first also serves guidance: each of a clip's lanes gets a copy.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InvalidRequestError
from .launch import channels_last, check_offsets, empty_channels_last, is_recording, jit, launch, tl, use_kernel

BLOCK = 1024


@jit
def _unshuffle(
    x, maps, y, C: tl.constexpr, F: tl.constexpr, H: tl.constexpr, W: tl.constexpr, P: tl.constexpr, LANES: tl.constexpr,
    BLOCKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y [lanes, F, H / P, W / P, C * P * P] from x [clips, C, F, H, W] plus maps [lanes, C, H, W]."""
    lane = (tl.program_id(0) // BLOCKS).to(tl.int64)
    i = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    mask = i < C * F * H * W
    channel = i % (C * P * P)
    site = i // (C * P * P)
    c, row, column = channel // (P * P), channel // P % P, channel % P
    pixel = ((site // (W // P)) % (H // P) * P + row) * W + site % (W // P) * P + column
    frame = site // (H // P * (W // P))
    v = tl.load(x + lane // LANES * (C * F * H * W) + (c * F + frame) * (H * W) + pixel, mask=mask)
    if maps is not None:
        v += tl.load(maps + lane * (C * H * W) + c * (H * W) + pixel, mask=mask)
    tl.store(y + lane * (C * F * H * W) + i, v, mask=mask)


@jit
def _shuffle(
    y, x, C: tl.constexpr, F: tl.constexpr, H: tl.constexpr, W: tl.constexpr, P: tl.constexpr, BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """x [lanes, C, F, H, W] from y [lanes, F, H / P, W / P, C * P * P]."""
    lane = (tl.program_id(0) // BLOCKS).to(tl.int64)
    i = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    mask = i < C * F * H * W
    column, row, frame, c = i % W, i // W % H, i // (H * W) % F, i // (H * W * F)
    site = (frame * (H // P) + row // P) * (W // P) + column // P
    channel = (c * P + row % P) * P + column % P
    v = tl.load(y + lane * (C * F * H * W) + site * (C * P * P) + channel, mask=mask)
    tl.store(x + lane * (C * F * H * W) + i, v, mask=mask)


def launch_unshuffle(x: Tensor, maps: Tensor | None, patch: int, lanes: int) -> Tensor:
    """Arguments and result of ``unshuffle_clips``."""
    clips, c, f, h, w = x.shape
    for name, tensor in (("x", x), ("maps", maps)):
        if tensor is not None and not tensor.is_contiguous():
            raise InvalidRequestError(f"{name} of shape {tuple(tensor.shape)} is not contiguous; call .contiguous() first")
    n = c * f * h * w
    check_offsets(n + BLOCK)
    y = empty_channels_last(x, clips * lanes * f, c * patch * patch, h // patch, w // patch)
    blocks = -(-n // BLOCK)
    launch(
        _unshuffle, (clips * lanes * blocks,), dict(x=x, maps=maps, y=y),
        dict(C=c, F=f, H=h, W=w, P=patch, LANES=lanes, BLOCKS=blocks, BLOCK=BLOCK), flops=y.numel(), l2_bytes=12 * y.numel(),
    )  # fmt: skip
    return y


def launch_shuffle(y: Tensor, frames: int, patch: int) -> Tensor:
    """Arguments and result of ``shuffle_clips``."""
    n, h, w, width = channels_last(y, "y").shape
    c, h, w = width // patch**2, h * patch, w * patch
    x = y.new_empty((n // frames, c, frames, h, w))
    check_offsets(c * frames * h * w + BLOCK)
    blocks = -(-c * frames * h * w // BLOCK)
    launch(
        _shuffle, (n // frames * blocks,), dict(y=y, x=x),
        dict(C=c, F=frames, H=h, W=w, P=patch, BLOCKS=blocks, BLOCK=BLOCK), l2_bytes=8 * x.numel(),
    )  # fmt: skip
    return x


@torch.library.custom_op("gaitcrafter::unshuffle_clips", mutates_args=())
def unshuffle_clips(x: Tensor, maps: Tensor | None, patch: int, lanes: int = 1) -> Tensor:
    """``x [clips, C, F, H, W]`` fp32, each clip ``lanes`` times, plus ``maps [clips * lanes, C, H, W]`` on every frame, as
    channels-last images ``[clips * lanes * F, C * patch^2, H / patch, W / patch]``."""
    if use_kernel(x):
        return launch_unshuffle(x, maps, patch, lanes)
    y = x.repeat_interleave(lanes, 0).transpose(1, 2)
    if maps is not None:
        y = y + maps[:, None]
    y = F.pixel_unshuffle(y.flatten(0, 1), patch)
    return y.contiguous(memory_format=torch.channels_last)


@unshuffle_clips.register_fake
def _(x, maps, patch, lanes=1):
    if is_recording():
        return launch_unshuffle(x, maps, patch, lanes)
    clips, c, f, h, w = x.shape
    return empty_channels_last(x, clips * lanes * f, c * patch * patch, h // patch, w // patch)


@torch.library.custom_op("gaitcrafter::shuffle_clips", mutates_args=())
def shuffle_clips(y: Tensor, frames: int, patch: int) -> Tensor:
    """Images ``[clips * F, C * patch^2, h, w]`` back to clips ``[clips, C, F, h * patch, w * patch]``, contiguous."""
    if use_kernel(y):
        return launch_shuffle(y, frames, patch)
    x = F.pixel_shuffle(y, patch)
    return x.view(-1, frames, *x.shape[1:]).transpose(1, 2).contiguous()


@shuffle_clips.register_fake
def _(y, frames, patch):
    if is_recording():
        return launch_shuffle(y, frames, patch)
    n, width, h, w = y.shape
    return y.new_empty((n // frames, width // patch**2, frames, h * patch, w * patch))
