"""temporal_attention.py, spatial_attention.py, spatial_linear_attention.py and temporal_conv.py under Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from judge import DTYPES, Maker, judge

from gaitcrafter_rt.kernels.linear import norm_linear
from gaitcrafter_rt.kernels.spatial_attention import attend_sites
from gaitcrafter_rt.kernels.spatial_linear_attention import linear_attend, linear_block, pack_linear_block
from gaitcrafter_rt.kernels.temporal_attention import attend_frames, pack_block, rotary_tables, temporal_block
from gaitcrafter_rt.kernels.temporal_conv import pack_temporal_conv, temporal_conv_block

# clips, frames, heads, dim_head, rotated pairs, height, width
TEMPORAL = [
    pytest.param((1, 1, 1, 16, 8, 1, 1), id="minimal: one frame attends to itself"),
    pytest.param((2, 5, 2, 8, 2, 3, 3), id="9 sites, heads of 8 padded to 16, half of a head rotated"),
    pytest.param((1, 30, 2, 32, 16, 1, 5), id="the paper's clip length and head"),
    pytest.param((1, 70, 1, 24, 12, 1, 2), id="longer than one tile of frames: running softmax"),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", TEMPORAL)
def test_frames(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    clips, frames, heads, d, pairs, h, w = shape
    make = Maker(dtype)
    qkv = make.image(clips * frames, 3 * heads * d, h, w, mean=0)
    judge(attend_frames, qkv, frames, heads, make.vector(heads, frames, frames), *rotary_tables(frames, 2 * pairs), dtype=dtype)
    judge(attend_frames, qkv, frames, heads, None, None, None, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [*TEMPORAL[:3], pytest.param((1, 4, 1, 8, 0, 3, 2), id="neither rotary nor bias")])
def test_block(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    clips, frames, heads, d, pairs, h, w = shape
    make, c = Maker(dtype), 20
    qkv, out = make.weight(3 * heads * d, c, terms=c), make.weight(c, heads * d, terms=heads * d)
    bias = make.vector(heads, frames, frames) if pairs else None
    tables = rotary_tables(frames, 2 * pairs) if pairs else (None, None)
    x = make.image(clips * frames, c, h, w)
    judge(temporal_block, x, make.vector(c), *pack_block(qkv, out, heads), frames, d, bias, *tables, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (9, 8)], ids=["one site", "15 sites", "72 sites: two tiles"])
def test_sites(size: tuple[int, int], dtype: torch.dtype) -> None:
    judge(attend_sites, Maker(dtype).image(2, 3 * 2 * 16, *size, mean=0), 2, dtype=dtype)


# images, heads, dim_head, channels, height, width
LINEAR = [
    pytest.param((1, 1, 16, 16, 1, 1), id="minimal"),
    pytest.param((2, 3, 24, 20, 5, 7), id="heads of 24 padded to 32, 35 sites, 20 channels"),
    pytest.param((1, 2, 32, 72, 9, 15), id="two tiles of sites, two blocks of channels"),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", LINEAR)
def test_linear(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    n, heads, d, c, h, w = shape
    make = Maker(dtype)
    qkv, rest = make.image(n, 3 * heads * d, h, w, mean=0), make.image(n, c, h, w)
    judge(linear_attend, qkv, make.weight(heads * d, c, terms=heads * d), make.vector(c), rest, heads, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [*LINEAR, pytest.param((1, 4, 16, 24, 10, 10), id="two groups of heads, tiles part full")])
def test_linear_block(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    n, heads, d, c, h, w = shape
    make = Maker(dtype)
    weights = pack_linear_block(make.weight(3 * heads * d, c, terms=c), make.weight(c, heads * d, terms=heads * d), heads)
    judge(linear_block, make.image(n, c, h, w), make.vector(c), *weights, make.vector(c), d, dtype=dtype)


# images, channels in, channels out, height, width
PROJECTIONS = [
    pytest.param((1, 16, 16, 1, 1), id="minimal"), pytest.param((2, 20, 72, 5, 7), id="20 channels to 72, 35 sites"),
    pytest.param((1, 40, 200, 9, 8), id="two tiles, two blocks of columns"),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", PROJECTIONS)
def test_norm_linear(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    n, c, co, h, w = shape
    make = Maker(dtype)
    judge(norm_linear, make.image(n, c, h, w), make.vector(c), make.weight(c, co, terms=c), dtype=dtype)


def test_linear_block_softmax_of_large_scores() -> None:
    """As below, in the fused form; the second sum of k begins far above the first."""
    make = Maker(torch.float32)
    q, kv, out = pack_linear_block(make.weight(96, 16, terms=16), make.weight(16, 32, terms=32), 2)
    x = make.image(1, 16, 9, 15)
    judge(linear_block, x, 40 * make.vector(16), q, kv, out, make.vector(16), 16, dtype=torch.float32)


def test_linear_softmax_of_large_scores() -> None:
    """k up to 200: exp overflows fp32 unless the running maximum is taken off."""
    make = Maker(torch.float32)
    qkv = make.image(1, 3 * 16, 9, 15, mean=0, scale=60)
    judge(linear_attend, qkv, make.weight(16, 16, terms=16), make.vector(16), make.image(1, 16, 9, 15), 1, dtype=torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 1, 16, 1, 1), (2, 2, 20, 5, 7), (1, 5, 72, 3, 3)],
    ids=["one frame is its own neighbour", "two frames: both neighbours are one frame", "two blocks of channels"],
)  # fmt: skip
def test_temporal_conv(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    clips, frames, c, h, w = shape
    make = Maker(dtype)
    packed = pack_temporal_conv(make.weight(c, c, 3, terms=3 * c))
    judge(temporal_conv_block, make.image(clips * frames, c, h, w), make.vector(c), packed, make.vector(c), frames, dtype=dtype)


def test_a_clip_does_not_see_its_batch() -> None:
    make = Maker(torch.float16)
    x = make.image(6, 3 * 2 * 16, 3, 3)
    whole, linear = attend_frames(x, 2, 2), linear_attend(x, weight := make.weight(32, 96, terms=32), bias := make.vector(96), x, 2)
    for clip in range(3):
        part = slice(2 * clip, 2 * clip + 2)
        assert torch.equal(attend_frames(x[part], 2, 2), whole[part])
        assert torch.equal(linear_attend(x[part], weight, bias, x[part], 2), linear[part])
