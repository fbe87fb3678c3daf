"""Every custom op keeps torch's contract (``torch.library.opcheck``): what it says of mutation and aliases, and fake tensors like
real ones, which is what torch.export and torch.compile go by.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import gaitcrafter_rt.nn.fused  # noqa: F401  # registers the network's ops
from gaitcrafter_rt.kernels.conv2d import pack_conv
from gaitcrafter_rt.kernels.dynamic_limits import dynamic_limits  # noqa: F401  # registers the sampler's
from gaitcrafter_rt.kernels.group_norm_silu import moments_of
from gaitcrafter_rt.kernels.sampler_step import NEWEST
from gaitcrafter_rt.kernels.spatial_linear_attention import pack_linear_block
from gaitcrafter_rt.kernels.temporal_attention import pack_block, rotary_tables
from gaitcrafter_rt.kernels.temporal_conv import pack_temporal_conv

FRAMES, C, HEADS, D = 3, 8, 2, 8


def image(channels: int = C, n: int = 2 * FRAMES) -> Tensor:
    return torch.randn(n, channels, 4, 5).contiguous(memory_format=torch.channels_last)


def attention_weights() -> tuple[Tensor, Tensor]:
    return torch.randn(3 * HEADS * D, C), torch.randn(C, HEADS * D)


def row() -> tuple[Tensor, Tensor]:
    """A row of a sampler's table that keeps its estimate, and its integers."""
    return torch.rand(12), torch.tensor([5, 3, NEWEST, 0], dtype=torch.int32)


def step() -> tuple[Any, ...]:
    x, index = torch.randn(2, 24), torch.arange(2)
    bad, history = torch.zeros(2, dtype=torch.int32), torch.zeros(2, 2, 24)
    return x, torch.randn(2, 24), torch.randn(2, 24), *row(), index, index, torch.ones(2), history, bad


positions = torch.randn(HEADS, FRAMES, FRAMES), *rotary_tables(FRAMES, 8)
EXAMPLES: dict[str, Callable[[], tuple[Any, ...]]] = {
    "add_repeated": lambda: (image(), image(n=FRAMES)),
    "affine_silu": lambda: (image(), torch.randn(2, 2, C), image()),
    "attend_frames": lambda: (image(3 * HEADS * D), FRAMES, HEADS, *positions),
    "attend_sites": lambda: (image(3 * HEADS * D), HEADS),
    "channel_moments": lambda: (image(),),
    "conv2d": lambda: (
        image(), image(4), pack_conv(torch.randn(6, C + 4, 3, 3)), torch.randn(6), 1, None, None, image(6), None, True, None,
        FRAMES,
    ),
    "dynamic_limits": lambda: (torch.randn(2, 24), torch.randn(2, 24), None, *row(), torch.ones(2)),
    "group_norm_silu": lambda: (image(), torch.randn(C), torch.randn(C), 4, FRAMES, "clip", torch.randn(2, 2 * C), image()),
    "initial_noise": lambda: (torch.empty(2, 24), torch.arange(2), torch.arange(2)),
    "linear_attend": lambda: (image(3 * HEADS * D), torch.randn(HEADS * D, C), torch.randn(C), image(), HEADS),
    "linear_block": lambda: (image(), torch.randn(C), *pack_linear_block(*attention_weights(), HEADS), torch.randn(C), D),
    "norm_affine": lambda: (moments_of(image()), torch.randn(C), torch.randn(C), 4, FRAMES, "clip", 20, torch.randn(2, 2 * C)),
    "norm_linear": lambda: (image(), torch.randn(C), torch.randn(C, 12)),
    "pack_clips": lambda: (torch.randn(2, 21), torch.zeros(1), torch.zeros(2, dtype=torch.int32)),
    "rms_norm_silu": lambda: (image(), torch.randn(C), FRAMES, torch.randn(2, 2 * C), image()),
    "sampler_step": step,
    "shuffle_clips": lambda: (image(), FRAMES, 2),
    "temporal_block": lambda: (image(), torch.randn(C), *pack_block(*attention_weights(), HEADS), FRAMES, D, *positions),
    "temporal_conv_block": lambda: (image(), torch.randn(C), pack_temporal_conv(torch.randn(C, C, 3)), torch.randn(C), FRAMES),
    "unshuffle_clips": lambda: (torch.randn(2, 1, FRAMES, 4, 6), torch.randn(4, 1, 4, 6), 2, 2),
}  # fmt: skip


def test_no_op_is_left_out() -> None:
    names = [name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("gaitcrafter::")]
    assert {name.split(".")[0] for name in names} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_contract(name: str) -> None:
    torch.manual_seed(0)
    op = getattr(torch.ops.gaitcrafter, name).default
    torch.library.opcheck(op, EXAMPLES[name](), test_utils=("test_schema", "test_faketensor"))
