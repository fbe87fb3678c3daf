"""Each native op on every instruction set against ``kernels/*.py`` in double.

Widths that are no multiple of a vector (4, 12, 20, 48 at 4, 8 and 16 lanes), sizes that fill no tile, tensors with gaps
between the pixels, and tiles run out of order. Inputs are fp32 values, so the references see the same numbers.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from native_ops import ISAS, load, need, pixels, planes, relative_error

from gaitcrafter_rt.kernels import time_embedding as time_embedding_kernel
from gaitcrafter_rt.kernels.channel_layer_norm import channel_layer_norm
from gaitcrafter_rt.kernels.group_norm_silu import film_silu, group_norm, rms_norm
from gaitcrafter_rt.kernels.spatial_attention import spatial_attention
from gaitcrafter_rt.kernels.spatial_linear_attention import spatial_linear_attention
from gaitcrafter_rt.kernels.temporal_attention import position_bias, rotary_tables, temporal_attention
from gaitcrafter_rt.kernels.temporal_conv import temporal_conv

native = load()
TOLERANCE = 1e-6  # relative L2; fp32 rounding gives 1e-7 to 5e-7 here


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    return need(native, request.param)


def rand(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    """fp32 values as doubles."""
    gen = torch.Generator().manual_seed(seed + sum(shape))
    return (scale * torch.randn(shape, generator=gen)).double()


def f32(x: torch.Tensor) -> np.ndarray:
    return x.float().numpy()


def pending(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """``silu(x * scale + shift)``; rows of scale and shift are frames, or one row for the clip."""
    return F.silu(x * scale[:, :, None, None] + shift[:, :, None, None])


# frames, height, width, in, out, kernel, stride
CONVS = [
    (1, 1, 1, 1, 1, 1, 1),  # minimal
    (2, 5, 7, 4, 12, 3, 1),  # no full vector at 16 lanes
    (3, 8, 8, 48, 20, 3, 1),  # several frames in a tile
    (1, 33, 64, 64, 64, 3, 1),  # bands of rows, the last one shorter
    (2, 3, 17, 130, 80, 3, 1),  # three channel blocks, the last narrower; 80 = 3 + 2 vectors of 16
    (2, 9, 13, 1, 36, 7, 1),  # the paper's stem
    (1, 6, 6, 16, 32, 5, 1),
    (2, 8, 12, 12, 12, 4, 2),
    (5, 16, 16, 68, 68, 4, 2),
    (1, 64, 128, 32, 16, 4, 2),  # bands at stride 2
]  # fmt: skip


@pytest.mark.parametrize("shape", CONVS)
def test_conv2d(isa: str, shape: tuple[int, ...]) -> None:
    frames, h, w, cin, cout, k, stride = shape
    x, weight = rand(frames, cin, h, w), rand(cout, cin, k, k, seed=1, scale=(cin * k * k) ** -0.5)
    bias = rand(cout, seed=2)
    padding = k // 2 if stride == 1 else 1
    want = F.conv2d(x, weight, bias, stride=stride, padding=padding)
    got = planes(native.conv2d(isa, pixels(x), f32(weight), f32(bias), stride))
    assert relative_error(got, want) < TOLERANCE


# frames, height, width, in, out: no full vector; odd sizes, whose last patches hang over; bands; several batches of patches
WINOGRAD = [(1, 1, 1, 1, 1), (2, 5, 7, 4, 12), (3, 8, 8, 48, 20), (1, 33, 64, 64, 64), (2, 3, 17, 130, 80), (30, 4, 4, 96, 36)]


@pytest.mark.parametrize("shape", WINOGRAD)
def test_conv2d_winograd(isa: str, shape: tuple[int, ...]) -> None:
    frames, h, w, cin, cout = shape
    x, weight, bias = rand(frames, cin, h, w), rand(cout, cin, 3, 3, seed=1, scale=(9 * cin) ** -0.5), rand(cout, seed=2)
    want = F.conv2d(x, weight, bias, padding=1)
    got = planes(native.conv2d(isa, pixels(x), f32(weight), f32(bias), winograd=True))
    assert relative_error(got, want) < TOLERANCE


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(("channels", "stride", "winograd"), [(20, 1, False), (72, 1, False), (12, 2, False), (20, 1, True)])
def test_conv2d_applies_the_pending_affine(isa: str, channels: int, stride: int, winograd: bool, rows: int) -> None:
    k = 3 if stride == 1 else 4
    x, weight, bias = rand(3, channels, 6, 10), rand(24, channels, k, k, seed=1, scale=0.05), rand(24, seed=2)
    # A large shift: the zeros of the border come after the activation, and a wrong order shows there at once.
    scale, shift = rand(rows, channels, seed=3), 5 + rand(rows, channels, seed=4)
    want = F.conv2d(pending(x, scale, shift), weight, bias, stride=stride, padding=1)
    got = planes(native.conv2d(isa, pixels(x), f32(weight), f32(bias), stride, f32(scale), f32(shift), winograd))
    assert relative_error(got, want) < TOLERANCE


@pytest.mark.parametrize("winograd", [False, True])
def test_conv2d_border_with_a_large_bias(isa: str, winograd: bool) -> None:
    x, weight, bias = rand(2, 16, 8, 8), rand(32, 16, 3, 3, scale=0.1), 1000 + rand(32, seed=5)
    want = F.conv2d(x, weight, bias, padding=1)
    got = planes(native.conv2d(isa, pixels(x), f32(weight), f32(bias), winograd=winograd))
    for edge in (np.s_[:, :, 0], np.s_[:, :, -1], np.s_[:, :, :, 0], np.s_[:, :, :, -1]):
        assert float((got[edge] - want[edge]).abs().max()) < 2e-4  # three units of the last place of 1000


@pytest.mark.parametrize("shape", [(1, 1, 1, 4, 4), (3, 5, 6, 12, 20), (2, 8, 8, 70, 48), (1, 32, 33, 64, 64)])
def test_conv_transpose2d(isa: str, shape: tuple[int, ...]) -> None:
    frames, h, w, cin, cout = shape
    x, weight, bias = rand(frames, cin, h, w), rand(cin, cout, 4, 4, seed=1, scale=(4 * cin) ** -0.5), rand(cout, seed=2)
    want = F.conv_transpose2d(x, weight, bias, stride=2, padding=1)
    assert relative_error(planes(native.conv_transpose2d(isa, pixels(x), f32(weight), f32(bias))), want) < TOLERANCE


@pytest.mark.parametrize("shape", [(1, 1, 1, 3, 1), (2, 5, 5, 20, 48), (3, 17, 17, 64, 96), (1, 4, 4, 128, 4)])
@pytest.mark.parametrize("with_residual", [False, True])
def test_linear(isa: str, shape: tuple[int, ...], with_residual: bool) -> None:
    frames, h, w, cin, cout = shape
    x, weight, bias = rand(frames, cin, h, w), rand(cout, cin, seed=1, scale=cin**-0.5), rand(cout, seed=2)
    residual = rand(frames, cout, h, w, seed=3)
    want = F.conv2d(x, weight[:, :, None, None], bias) + (residual if with_residual else 0)
    got = native.linear(isa, pixels(x), f32(weight), f32(bias), pixels(residual) if with_residual else None)
    assert relative_error(planes(got), want) < TOLERANCE


@pytest.mark.parametrize("scope", ["clip", "frame"])
@pytest.mark.parametrize(("frames", "size", "channels", "groups"), [(2, 3, 4, 2), (5, 8, 12, 4), (3, 40, 48, 8), (2, 6, 20, 1)])
@pytest.mark.parametrize("bare", [True, False])
def test_group_norm_silu(isa: str, scope: str, frames: int, size: int, channels: int, groups: int, bare: bool) -> None:
    """Bare: no FiLM, no residual, direct convolution; else all three otherwise."""
    x, weight = rand(frames, channels, size, size), rand(channels, channels, 3, 3, seed=1, scale=channels**-0.5 / 3)
    # Frames of different size and a bias far from zero: statistics of the wrong scope, or by cancelling sums, show.
    x = (x * torch.linspace(0.5, 2, frames, dtype=torch.float64)[:, None, None, None]).float().double()
    bias, gain, offset = 20 + rand(channels, seed=2), 1 + rand(channels, seed=3, scale=0.3), rand(channels, seed=4)
    film, residual = rand(1, 2 * channels, seed=5), rand(frames, channels, size, size, seed=6)
    y = group_norm(F.conv2d(x, weight, bias, padding=1), gain, offset, groups, frames, scope)
    want = film_silu(y, None if bare else film, frames) + (0 if bare else residual)
    got = native.conv_group_norm_silu(
        isa, pixels(x), f32(weight), f32(bias), f32(gain), f32(offset), groups, scope,
        None if bare else f32(film[0]), None if bare else pixels(residual), not bare,
    )  # fmt: skip
    # The convolution's result is near 20 with a spread near 1, so fp32 carries it to 20 * 2^-24.
    assert relative_error(planes(got), want) < 3e-6


@pytest.mark.parametrize("channels", [4, 12, 48, 64])
@pytest.mark.parametrize("bare", [True, False])
def test_rms_norm_silu(isa: str, channels: int, bare: bool) -> None:
    x, gamma = rand(3, channels, 5, 7), 1 + rand(channels, seed=1, scale=0.3)
    x[0, :, 0, 0] = 0  # the norm of a zero pixel is clamped
    film, residual = rand(1, 2 * channels, seed=2), rand(3, channels, 5, 7, seed=3)
    want = film_silu(rms_norm(x, gamma), None if bare else film, 3) + (0 if bare else residual)
    got = native.rms_norm_silu(isa, pixels(x), f32(gamma), None if bare else f32(film[0]), None if bare else pixels(residual))
    assert relative_error(planes(got), want) < TOLERANCE


@pytest.mark.parametrize("channels", [4, 12, 64, 100])
def test_channel_layer_norm(isa: str, channels: int) -> None:
    x, gamma = 3 + rand(2, channels, 5, 7), rand(channels, seed=1)
    got = planes(native.channel_layer_norm(isa, pixels(x), f32(gamma)))
    assert relative_error(got, channel_layer_norm(x, gamma)) < TOLERANCE


def attention_weights(channels: int, heads: int, dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    hidden = heads * dim
    gamma = 1 + rand(channels, seed=1, scale=0.3)
    to_qkv = rand(3 * hidden, channels, seed=2, scale=1.5 * channels**-0.5)
    return gamma, to_qkv, rand(channels, hidden, seed=3, scale=hidden**-0.5)


# frames, height, width, channels, heads, dim, rotary, buckets
TEMPORAL = [
    (1, 1, 1, 4, 1, 4, 0, 0),  # minimal
    (5, 3, 3, 12, 2, 8, 8, 32),
    (30, 4, 5, 64, 2, 32, 32, 32),  # the paper's head
    (24, 4, 4, 20, 3, 6, 4, 16),  # heads and rotary that fill no vector
    (17, 2, 3, 48, 1, 16, 16, 0),
    (70, 2, 1, 16, 2, 8, 0, 8),  # more queries than one block of scores
]  # fmt: skip


@pytest.mark.parametrize("shape", TEMPORAL)
def test_temporal_attention(isa: str, shape: tuple[int, ...]) -> None:
    frames, h, w, channels, heads, dim, rotary, buckets = shape
    x = rand(frames, channels, h, w)
    gamma, to_qkv, to_out = attention_weights(channels, heads, dim)
    table = rand(buckets, heads, seed=4) if buckets else None
    bias = None if table is None else position_bias(table, frames, 32)
    rotation = rotary_tables(frames, rotary) if rotary else None
    want = temporal_attention(channel_layer_norm(x, gamma), to_qkv, to_out, frames, heads, bias, rotation)
    got = native.temporal_attention(
        isa, pixels(x), f32(gamma), f32(to_qkv), f32(to_out), heads, None if table is None else f32(table), 32, rotary
    )
    assert relative_error(planes(got), x + want) < TOLERANCE


@pytest.mark.parametrize("shape", [(1, 1, 1, 4, 1, 4), (3, 3, 5, 12, 2, 6), (2, 8, 8, 64, 2, 32), (2, 9, 11, 20, 2, 16)])
def test_spatial_attention(isa: str, shape: tuple[int, ...]) -> None:
    frames, h, w, channels, heads, dim = shape
    x = rand(frames, channels, h, w)
    gamma, to_qkv, to_out = attention_weights(channels, heads, dim)
    want = x + spatial_attention(channel_layer_norm(x, gamma), to_qkv, to_out, heads)
    got = native.spatial_attention(isa, pixels(x), f32(gamma), f32(to_qkv), f32(to_out), heads)
    assert relative_error(planes(got), want) < TOLERANCE


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 4, 1, 4), (3, 3, 5, 12, 2, 6), (2, 8, 8, 48, 2, 32), (2, 23, 29, 20, 2, 8), (1, 33, 33, 64, 8, 32)]
)
def test_spatial_linear_attention(isa: str, shape: tuple[int, ...]) -> None:
    frames, h, w, channels, heads, dim = shape
    x = rand(frames, channels, h, w)
    # One site far out in every frame: the softmax over the sites spans tiles with very different maxima.
    x[:, :, 0, 0] *= 30
    gamma, to_qkv, to_out = attention_weights(channels, heads, dim)
    bias = rand(channels, seed=5)
    want = spatial_linear_attention(channel_layer_norm(x, gamma), 3 * to_qkv, to_out, bias, heads)
    got = native.spatial_linear_attention(isa, pixels(x), f32(gamma), f32(3 * to_qkv), f32(to_out), f32(bias), heads)
    assert relative_error(planes(got), x + want) < TOLERANCE


@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (2, 3, 3, 12), (30, 4, 5, 32), (7, 9, 9, 20)])
def test_temporal_conv(isa: str, shape: tuple[int, ...]) -> None:
    frames, h, w, channels = shape
    x, gamma = rand(frames, channels, h, w), 1 + rand(channels, seed=1, scale=0.3)
    weight, bias = rand(channels, channels, 3, seed=2, scale=(3 * channels) ** -0.5), rand(channels, seed=3)
    want = x + temporal_conv(channel_layer_norm(x, gamma), weight, bias, frames)
    got = native.temporal_conv(isa, pixels(x), f32(gamma), f32(weight), f32(bias))
    assert relative_error(planes(got), want) < TOLERANCE


@pytest.mark.parametrize(("channels", "patch"), [(1, 1), (1, 4), (3, 2)])
def test_pixel_shuffle(channels: int, patch: int) -> None:
    clip, place = rand(channels, 3, 8, 16), rand(channels, 8, 16, seed=1)
    frames = (clip + place[:, None]).float().transpose(0, 1)
    got = native.pixel_unshuffle(f32(clip), f32(place), patch)
    assert torch.equal(planes(got), F.pixel_unshuffle(frames, patch).double())
    plain = native.pixel_unshuffle(f32(clip), None, patch)
    assert np.array_equal(native.pixel_shuffle(plain, patch), f32(clip))


def test_positional_embedding() -> None:
    x, spatial, frame = rand(3, 12, 4, 5), rand(12, 4, 5, seed=1), rand(3, 12, seed=2)
    got = planes(native.positional_embedding(pixels(x), f32(spatial), f32(frame)))
    assert relative_error(got, x + spatial + frame[:, :, None, None]) < 1e-7


@pytest.mark.parametrize("timestep", [0, 1, 417, 999])
@pytest.mark.parametrize("dim", [4, 16, 64])
def test_time_mlp(dim: int, timestep: int) -> None:
    w1, b1 = rand(4 * dim, dim, scale=dim**-0.5), rand(4 * dim, seed=1)
    w2, b2 = rand(4 * dim, 4 * dim, seed=2, scale=dim**-0.5), rand(4 * dim, seed=3)
    e = time_embedding_kernel.time_embedding(torch.tensor([timestep]), dim).double()
    want = F.linear(F.gelu(F.linear(e, w1, b1)), w2, b2)[0]
    got = native.time_mlp(dim, f32(w1), f32(b1), f32(w2), f32(b2), timestep)
    assert relative_error(torch.from_numpy(got), want) < 1e-12


def test_exp_polynomial(isa: str) -> None:
    x = np.concatenate([np.linspace(-87, 88, 200_001), [0.0]]).astype(np.float32)
    want = np.exp(x.astype(np.float64))
    assert np.max(np.abs(native.exp(isa, x) / want - 1)) < 1.6e-7  # 1.4 units of the last place


def test_silu_polynomial(isa: str) -> None:
    x = np.concatenate([np.linspace(-200, 200, 200_003), [0.0, -0.0, 1e-30, -1e-30]]).astype(np.float32)
    with np.errstate(over="ignore"):
        want = x.astype(np.float64) / (1 + np.exp(-x.astype(np.float64)))
    got = native.silu(isa, x)
    normal = np.abs(want) > 1e-35
    assert np.max(np.abs(got[normal] / want[normal] - 1)) < 4e-7
    assert np.max(np.abs(got[~normal] - want[~normal])) < 1e-35


def test_silu_keeps_nan(isa: str) -> None:
    assert np.isnan(native.silu(isa, np.array([np.nan], np.float32))).all()
