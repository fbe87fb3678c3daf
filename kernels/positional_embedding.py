"""What is added for the place of a pixel and the number of its frame. Kernel: elementwise, the table comes from cache."""

from __future__ import annotations

import torch
from torch import Tensor

from .launch import channels_last, check_offsets, empty_channels_last, is_recording, jit, launch, tl, use_kernel

BLOCK = 1024


@jit
def _add_place(x, place, y, N: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """y [clips, N] = x + place [N]."""
    clip = (tl.program_id(0) // BLOCKS).to(tl.int64)
    i = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    mask = i < N
    total = tl.load(x + clip * N + i, mask=mask).to(tl.float32) + tl.load(place + i, mask=mask).to(tl.float32)
    tl.store(y + clip * N + i, total.to(y.dtype.element_ty), mask=mask)


def launch_add_place(x: Tensor, place: Tensor) -> Tensor:
    """Arguments and result of ``add_place``."""
    n, h, w, c = channels_last(x).shape
    channels_last(place, "place")
    y = empty_channels_last(x, n, c, h, w)
    elements = place.numel()
    check_offsets(elements + BLOCK)
    blocks = -(-elements // BLOCK)
    launch(
        _add_place, (n // len(place) * blocks,), dict(x=x, place=place, y=y), dict(N=elements, BLOCKS=blocks, BLOCK=BLOCK),
        flops=x.numel(), l2_bytes=3 * x.numel() * x.element_size(),
    )  # fmt: skip
    return y


@torch.library.custom_op("gaitcrafter::add_place", mutates_args=())
def add_place(x: Tensor, place: Tensor) -> Tensor:
    """``x [B * F, C, H, W] + place [F, C, H, W]`` of every clip, channels-last."""
    if use_kernel(x):
        return launch_add_place(x, place)
    return (x + place.repeat(len(x) // len(place), 1, 1, 1)).contiguous(memory_format=torch.channels_last)


@add_place.register_fake
def _(x, place):
    if is_recording():
        return launch_add_place(x, place)
    return torch.empty_like(x, memory_format=torch.channels_last)
