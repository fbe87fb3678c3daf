"""conv2d.py under Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from judge import DTYPES, Maker, judge

from gaitcrafter_rt.errors import InvalidRequestError
from gaitcrafter_rt.kernels.conv2d import conv2d, images_together, pack_conv, pack_conv_transpose

# kernel, stride, images, channels in, channels out, height, width
SHAPES = [
    pytest.param((1, 1, 1, 16, 16, 1, 1), id="minimal"),
    pytest.param((3, 1, 2, 20, 24, 5, 7), id="neither sites nor channels fill a tile"),
    pytest.param((3, 1, 1, 72, 80, 9, 15), id="two tiles of sites, two blocks of channels in and out"),
    pytest.param((7, 1, 2, 1, 24, 9, 6), id="the paper's stem: one channel, taps gathered"),
    pytest.param((3, 1, 1, 15, 16, 6, 6), id="taps gathered over three blocks, the last one part full"),
    pytest.param((4, 2, 2, 20, 17, 6, 10), id="downsampling"),
    pytest.param((1, 1, 2, 32, 1, 5, 3), id="the last layer: one channel out"),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_plain(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    kernel, stride, n, ci, co, h, w = shape
    make = Maker(dtype)
    packed = pack_conv(make.weight(co, ci, kernel, kernel, terms=ci * kernel**2))
    args = (make.image(n, ci, h, w), None, packed, make.vector(co), stride)
    judge(conv2d, *args, None, None, None, None, True, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_transpose(dtype: torch.dtype) -> None:
    make = Maker(dtype)
    packed = pack_conv_transpose(make.weight(20, 18, 4, 4, terms=80))
    judge(conv2d, make.image(2, 20, 5, 3), None, packed, make.vector(18), 1, dtype=dtype)


def test_packed_transpose_is_torchs() -> None:
    """The reference unpacks what pack_conv_transpose packed; torch's own layer is the judge of both."""
    make = Maker(torch.float32)
    x, weight = make.image(2, 6, 5, 3), make.weight(6, 7, 4, 4, terms=24)
    y, _ = conv2d(x, None, pack_conv_transpose(weight), None)
    torch.testing.assert_close(y, torch.nn.functional.conv_transpose2d(x, weight, stride=2, padding=1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layer_norm_on_load(dtype: torch.dtype) -> None:
    """Three blocks of channels, the last part full."""
    make = Maker(dtype)
    packed = pack_conv(make.weight(48, 136, 1, 1, terms=136))
    judge(conv2d, make.image(2, 136, 5, 3), None, packed, None, 1, None, make.vector(136), make.image(2, 48, 5, 3), dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", [1, 3])
def test_two_inputs_norms_and_residual(kernel: int, dtype: torch.dtype) -> None:
    """All that surrounds a convolution on the way up: 20 + 8 channels, norm and SiLU on load, a normed residual, fp32 out."""
    make = Maker(dtype)
    packed = pack_conv(make.weight(24, 28, kernel, kernel, terms=28 * kernel**2))
    x, second, rest = make.image(4, 20, 5, 3), make.image(4, 8, 5, 3), make.image(4, 24, 5, 3)
    affine, rest_affine = make.vector(2, 2, 28), make.vector(4, 2, 24)
    judge(
        conv2d, x, second, packed, make.vector(24), 1, affine, None, rest, rest_affine, True, torch.float32, dtype=dtype
    )  # fmt: skip


# frames of a clip, height, width: how many images a tile holds
FOLDED = [
    pytest.param((4, 8, 8), id="two of 64 sites"), pytest.param((30, 4, 4), id="six of 16 sites in a tile of eight"),
    pytest.param((3, 4, 4), id="three, a whole clip, in a tile of four"), pytest.param((6, 2, 1), id="six of 2 sites"),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("shape", FOLDED)
def test_small_images_share_a_tile(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Products, moments of every image, and a residual whose norm is every frame's own or the clip's; bits as in a tile alone."""
    frames, h, w = shape
    make, packed = Maker(dtype), pack_conv(Maker(dtype).weight(20, 18, 3, 3, terms=160))
    n = 2 * frames
    assert images_together(frames, h * w) > 1
    x, rest = make.image(n, 18, h, w), make.image(n, 20, h, w)
    for scopes in (n, 2):
        bias, affine = make.vector(20), make.vector(scopes, 2, 20)
        judge(conv2d, x, None, packed, bias, 1, None, None, rest, affine, True, None, frames, dtype=dtype)
    together, alone = (conv2d(x, None, packed, None, want_moments=True, frames=f) for f in (frames, 1))
    assert torch.equal(together[0], alone[0])
    torch.testing.assert_close(together[1], alone[1])


def test_images_that_are_no_clips_are_refused() -> None:
    make = Maker(torch.float32)
    with pytest.raises(InvalidRequestError, match="5 images are no whole clips of 3 frames"):
        conv2d(make.image(5, 18, 4, 4), None, pack_conv(make.weight(20, 18, 1, 1, terms=18)), None, frames=3)


def test_padding_is_zero_after_the_norm() -> None:
    """silu(b) is not zero: the border must be zero after norm and SiLU, not before."""
    make = Maker(torch.float32)
    x, affine = make.image(1, 16, 3, 3), torch.stack((torch.zeros(16), torch.full((16,), 5.0)))[None]
    packed = torch.ones(1, 3, 3, 16, 16)
    corner = conv2d(x, None, packed, None, 1, affine)[0][0, 0, 0, 0]
    torch.testing.assert_close(corner, 4 * 16 * torch.nn.functional.silu(torch.tensor(5.0)))


def test_an_image_does_not_see_its_batch() -> None:
    make = Maker(torch.float16)
    x, packed = make.image(3, 20, 5, 7), pack_conv(make.weight(24, 20, 3, 3, terms=180))
    whole, moments = conv2d(x, None, packed, None, want_moments=True)
    for n in range(3):
        alone, alone_moments = conv2d(x[n : n + 1], None, packed, None, want_moments=True)
        assert torch.equal(alone[0], whole[n]) and torch.equal(alone_moments[0], moments[n])
