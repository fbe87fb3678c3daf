"""pixel_shuffle.py and add_repeated.py under Triton's interpreter: they move and add, to the bit."""

from __future__ import annotations

import pytest
import torch

from gaitcrafter_rt.kernels.add_repeated import add_repeated
from gaitcrafter_rt.kernels.launch import plain_torch
from gaitcrafter_rt.kernels.pixel_shuffle import shuffle_clips, unshuffle_clips

# clips, channels, frames, height, width, patch, lanes
SHAPES = [
    pytest.param((1, 1, 1, 4, 4, 1, 1), id="minimal"),
    pytest.param((2, 1, 3, 8, 12, 4, 2), id="patches of 4, both lanes of guidance"),
    pytest.param((2, 3, 5, 6, 10, 2, 1), id="three channels"),
    pytest.param((1, 2, 3, 16, 24, 8, 2), id="three programs a lane"),
]


@pytest.mark.parametrize("with_maps", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_there_and_back(shape: tuple[int, ...], with_maps: bool) -> None:
    clips, c, f, h, w, patch, lanes = shape
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(clips, c, f, h, w, generator=draw)
    maps = torch.randn(clips * lanes, c, h, w, generator=draw) if with_maps else None
    y = unshuffle_clips(x, maps, patch, lanes)
    back = shuffle_clips(y, f, patch)
    with plain_torch():
        assert torch.equal(y, unshuffle_clips(x, maps, patch, lanes))
        assert torch.equal(back, shuffle_clips(y, f, patch))
    expected = x.repeat_interleave(lanes, 0) + (0 if maps is None else maps[:, :, None])
    assert torch.equal(back, expected)


@pytest.mark.parametrize("width", [1, 2500], ids=["one number", "three programs"])
def test_film_rows(width: int) -> None:
    time, conditions = torch.randn(1, width), torch.randn(3, width)
    assert torch.equal(add_repeated(conditions, time), time + conditions)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_places(dtype: torch.dtype) -> None:
    """Two programs a clip; one rounding."""
    x, place = (torch.randn(n, 5, 7, 20).to(dtype).permute(0, 3, 1, 2) for n in (6, 3))
    assert torch.equal(add_repeated(x, place), x + place.repeat(2, 1, 1, 1))
