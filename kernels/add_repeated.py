"""A table added to every clip or lane of a batch. Kernel: elementwise, the table comes from cache.

It adds what stands for the place of a pixel and the number of its frame; and the FiLM rows of a network call, which are what the
timestep gives plus what a clip's conditions give: ``film(silu(cat(time_mlp(t), cond)))`` is linear after the SiLU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InvalidRequestError
from .launch import check_offsets, is_recording, jit, launch, tl, use_kernel

BLOCK = 1024


@jit
def _add_repeated(x, table, y, N: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """y [repeats, N] = x + table [N]."""
    at = (tl.program_id(0) // BLOCKS).to(tl.int64)
    i = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    mask = i < N
    total = tl.load(x + at * N + i, mask=mask).to(tl.float32) + tl.load(table + i, mask=mask).to(tl.float32)
    tl.store(y + at * N + i, total.to(y.dtype.element_ty), mask=mask)


def launch_add_repeated(x: Tensor, table: Tensor) -> Tensor:
    """Arguments and result of ``add_repeated``. Raises InvalidRequestError unless both lie in memory alike, without gaps."""
    order = _order(x)
    if _order(table) != order:
        raise InvalidRequestError(f"a table with strides {table.stride()} does not lie in memory like x with strides {x.stride()}")
    y = torch.empty_like(x)
    elements = table.numel()
    check_offsets(elements + BLOCK)
    blocks = -(-elements // BLOCK)
    launch(
        _add_repeated, (len(x) // len(table) * blocks,), dict(x=x, table=table, y=y), dict(N=elements, BLOCKS=blocks, BLOCK=BLOCK),
        flops=x.numel(), l2_bytes=3 * x.numel() * x.element_size(),
    )  # fmt: skip
    return y


def _order(x: Tensor) -> str:
    if x.is_contiguous():
        return "row-major"
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return "channels-last"
    raise InvalidRequestError(f"a tensor of shape {tuple(x.shape)} and strides {x.stride()} is neither row-major nor channels-last")


@torch.library.custom_op("gaitcrafter::add_repeated", mutates_args=())
def add_repeated(x: Tensor, table: Tensor) -> Tensor:
    """``x [repeats * n, ...] + table [n, ...]``, repeated along the first axis; both row-major or both channels-last."""
    if use_kernel(x):
        return launch_add_repeated(x, table)
    return x + table.repeat(len(x) // len(table), *[1] * (table.dim() - 1)).view(x.shape)


@add_repeated.register_fake
def _(x, table):
    if is_recording():
        return launch_add_repeated(x, table)
    return torch.empty_like(x)
