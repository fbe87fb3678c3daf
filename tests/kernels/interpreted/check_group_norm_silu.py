"""group_norm_silu.py under Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from judge import DTYPES, Maker, judge

from gaitcrafter_rt.kernels.group_norm_silu import affine_silu, channel_moments, group_norm_silu, norm_affine, rms_norm_silu
from gaitcrafter_rt.kernels.launch import site_tile

# clips, frames, channels, groups, height, width
SHAPES = [
    pytest.param((1, 1, 8, 4, 1, 1), id="minimal: one pixel, two channels a group"),
    pytest.param((3, 2, 8, 8, 2, 2), id="a group is a channel; more clips than frames"),
    pytest.param((2, 3, 24, 8, 5, 7), id="35 sites are no multiple of a tile, 3 channels a group"),
    pytest.param((1, 2, 72, 8, 9, 15), id="two tiles of 128 sites, the last of 7; two blocks of channels, the last of 8"),
    pytest.param((1, 2, 16, 1, 3, 2), id="one group over all channels"),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_group_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    clips, frames, c, groups, h, w = shape
    make = Maker(dtype)
    x, rest = make.image(clips * frames, c, h, w), make.image(clips * frames, c, h, w)
    weight, bias, film = make.vector(c), make.vector(c), make.vector(clips, 2 * c)
    judge(group_norm_silu, x, weight, bias, groups, frames, "clip", film, rest, dtype=dtype)
    judge(group_norm_silu, x, weight, bias, groups, frames, "frame", None, None, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    clips, frames, c, _, h, w = shape
    make = Maker(dtype)
    x, rest = make.image(clips * frames, c, h, w), make.image(clips * frames, c, h, w)
    judge(rms_norm_silu, x, make.vector(c), frames, make.vector(clips, 2 * c), rest, dtype=dtype)
    judge(rms_norm_silu, x, make.vector(c), frames, None, None, dtype=dtype)


def test_mean_far_from_zero() -> None:
    """Statistics survive a mean a thousand times the deviation, where a sum of squares would not."""
    make = Maker(torch.float32)
    x = make.image(2, 16, 9, 15, mean=1000, scale=1)
    judge(group_norm_silu, x, make.vector(16), make.vector(16), 8, 2, "clip", None, None, dtype=torch.float32)


def test_zeros_stay_finite() -> None:
    """A clip of zeros has no variance and no length."""
    make = Maker(torch.float32)
    x = torch.zeros(2, 16, 3, 3).contiguous(memory_format=torch.channels_last)
    judge(group_norm_silu, x, make.vector(16), make.vector(16), 8, 2, "clip", None, None, dtype=torch.float32)
    judge(rms_norm_silu, x, make.vector(16), 2, None, None, dtype=torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (9, 15)], ids=["one site", "two tiles, the last of 7"])
def test_moments_of_any_tensor(size: tuple[int, int], dtype: torch.dtype) -> None:
    judge(channel_moments, Maker(dtype).image(2, 24, *size), dtype=dtype, terms=min(size[0] * size[1], 128))


@pytest.mark.parametrize("scope", ["clip", "frame"])
def test_moments_to_affine(scope: str) -> None:
    """The half that follows a convolution's epilogue, for several tiles a frame."""
    make, sites = Maker(torch.float32), 9 * 15
    moments = make.vector(4, -(-sites // site_tile(sites)), 2, 24)
    moments[:, :, 1] = moments[:, :, 1].abs()
    judge(norm_affine, moments, make.vector(24), make.vector(24), 8, 2, scope, sites, make.vector(2, 48), dtype=torch.float32)
    judge(affine_silu, make.image(4, 24, 9, 15), make.vector(2, 2, 24), None, dtype=torch.float32)


def test_a_clip_does_not_see_its_batch() -> None:
    """The same bits alone and among others."""
    make = Maker(torch.float16)
    x, weight, bias = make.image(6, 24, 5, 7), make.vector(24), make.vector(24)
    whole = group_norm_silu(x, weight, bias, 8, 2, "clip", None, None)
    for clip in range(3):
        alone = x[2 * clip : 2 * clip + 2]
        assert torch.equal(group_norm_silu(alone, weight, bias, 8, 2, "clip", None, None), whole[2 * clip : 2 * clip + 2])
