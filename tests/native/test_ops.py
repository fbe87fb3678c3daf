"""Each native op on every instruction set against ``kernels/*.py`` in double.

Tensors have gaps between the pixels, and tiles run out of order. Inputs are fp32 values, so the references see the same numbers.
"""

from __future__ import annotations

import numpy as np
import op_cases as cases
import pytest
import torch
import torch.nn.functional as F
from native_ops import BF16, ISAS, load, need, pixels, planes, relative_error
from op_cases import Case, f32, rand

from gaitcrafter_rt.kernels import time_embedding as time_embedding_kernel

native = load()
TOLERANCE = 1e-6  # relative L2; fp32 rounding gives 1e-7 to 5e-7 here


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    return need(native, request.param)


@pytest.fixture(params=[*ISAS, *BF16])
def table(request: pytest.FixtureRequest) -> str:
    """Every op table; for what is fp32 in all of them."""
    return need(native, request.param)


def judge(isa: str, case: Case, tolerance: float = TOLERANCE) -> None:
    assert relative_error(case.got(native, isa), case.want()) < tolerance


@pytest.mark.parametrize("shape", cases.CONVS)
def test_conv2d(isa: str, shape: tuple[int, ...]) -> None:
    judge(isa, cases.random_conv2d(shape))


# frames, height, width, in, out: no full vector; odd sizes, whose last patches hang over; bands; several batches of patches
WINOGRAD = [(1, 1, 1, 1, 1), (2, 5, 7, 4, 12), (3, 8, 8, 48, 20), (1, 33, 64, 64, 64), (2, 3, 17, 130, 80), (30, 4, 4, 96, 36)]


@pytest.mark.parametrize("shape", WINOGRAD)
def test_conv2d_winograd(isa: str, shape: tuple[int, ...]) -> None:
    judge(isa, cases.conv2d(cases.random_conv2d((*shape, 3, 1)).tensors, winograd=True))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(("channels", "stride", "winograd"), [*((c, s, False) for c, s in cases.PENDING), (20, 1, True)])
def test_conv2d_applies_the_pending_affine(isa: str, channels: int, stride: int, winograd: bool, rows: int) -> None:
    judge(isa, cases.random_pending_conv2d(channels, stride, rows, winograd))


@pytest.mark.parametrize("winograd", [False, True])
def test_conv2d_border_with_a_large_bias(isa: str, winograd: bool) -> None:
    x, weight, bias = rand(2, 16, 8, 8), rand(32, 16, 3, 3, scale=0.1), 1000 + rand(32, seed=5)
    want = F.conv2d(x, weight, bias, padding=1)
    got = planes(native.conv2d(isa, pixels(x), f32(weight), f32(bias), winograd=winograd))
    for edge in (np.s_[:, :, 0], np.s_[:, :, -1], np.s_[:, :, :, 0], np.s_[:, :, :, -1]):
        assert float((got[edge] - want[edge]).abs().max()) < 2e-4  # three units of the last place of 1000


def judge_border(table: str, size: tuple[int, int], kernel: int, stride: int, rows: int, winograd: bool = False) -> None:
    """What lies outside the image is zero after the activation, not before it: with x = 0 and the shift 128, where SiLU is the
    identity, every tap inside the image gives 128 and every one outside nothing. All sums are exact, in bfloat16 too.
    """
    x, weight = torch.zeros(2, 16, *size), torch.ones(20, 16, kernel, kernel)
    scale, shift = torch.ones(rows, 16), torch.full((rows, 16), 128.0)
    padding = kernel // 2 if stride == 1 else 1
    taps = F.conv2d(torch.ones(2, 1, *size), weight[:, :1], None, stride=stride, padding=padding).double()
    got = native.conv2d(table, pixels(x), f32(weight), f32(torch.zeros(20)), stride, f32(scale), f32(shift), winograd)
    assert torch.equal(planes(got), 128 * 16 * taps)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2), (5, 3), (33, 64)])
@pytest.mark.parametrize("rows", [1, 2])
def test_conv2d_border_is_zero_after_the_activation(table: str, size: tuple[int, int], rows: int) -> None:
    judge_border(table, size, 3, 1, rows)
    judge_border(table, size, 7, 1, rows)
    judge_border(table, (2 * size[0], 2 * size[1]), 4, 2, rows)
    if table not in BF16:  # Winograd is fp32 only
        judge_border(table, size, 3, 1, rows, winograd=True)


@pytest.mark.parametrize("shape", cases.CONV_TRANSPOSES)
def test_conv_transpose2d(isa: str, shape: tuple[int, ...]) -> None:
    judge(isa, cases.random_conv_transpose2d(shape))


@pytest.mark.parametrize("shape", cases.LINEARS)
@pytest.mark.parametrize("with_residual", [False, True])
def test_linear(isa: str, shape: tuple[int, ...], with_residual: bool) -> None:
    judge(isa, cases.random_linear(shape, with_residual))


@pytest.mark.parametrize("scope", ["clip", "frame"])
@pytest.mark.parametrize("shape", cases.GROUP_NORMS)
@pytest.mark.parametrize("bare", [True, False])
def test_group_norm_silu(isa: str, scope: str, shape: tuple[int, ...], bare: bool) -> None:
    """Bare: no FiLM, no residual, direct convolution; else all three otherwise."""
    # The convolution's result is near 20 with a spread near 1, so fp32 carries it to 20 * 2^-24.
    judge(isa, cases.random_group_norm_silu(shape, scope, bare, winograd=not bare), 3e-6)


@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("shape", cases.SHORTCUTS)
def test_shortcut_norm_silu(isa: str, shape: tuple[int, ...], per_frame: bool) -> None:
    judge(isa, cases.random_shortcut_norm_silu(shape, per_frame))


@pytest.mark.parametrize("channels", cases.RMS_NORMS)
@pytest.mark.parametrize("bare", [True, False])
def test_rms_norm_silu(isa: str, channels: int, bare: bool) -> None:
    judge(isa, cases.random_rms_norm_silu(channels, bare))


@pytest.mark.parametrize("channels", cases.LAYER_NORMS)
def test_channel_layer_norm(isa: str, channels: int) -> None:
    judge(isa, cases.random_layer_norm(channels))


@pytest.mark.parametrize("shape", cases.TEMPORAL)
def test_temporal_attention(isa: str, shape: tuple[int, ...]) -> None:
    judge(isa, cases.random_temporal(shape))


@pytest.mark.parametrize("shape", cases.SPATIAL)
def test_spatial_attention(isa: str, shape: tuple[int, ...]) -> None:
    judge(isa, cases.random_spatial(shape))


@pytest.mark.parametrize("shape", cases.SPATIAL_LINEAR)
def test_spatial_linear_attention(isa: str, shape: tuple[int, ...]) -> None:
    judge(isa, cases.random_spatial_linear(shape))


@pytest.mark.parametrize("shape", cases.TEMPORAL_CONVS)
def test_temporal_conv(isa: str, shape: tuple[int, ...]) -> None:
    judge(isa, cases.random_temporal_conv(shape))


@pytest.mark.parametrize(("channels", "patch"), [(1, 1), (1, 4), (3, 2)])
def test_pixel_shuffle(table: str, channels: int, patch: int) -> None:
    clip, place = rand(channels, 3, 8, 16), rand(channels, 8, 16, seed=1)
    frames = (clip + place[:, None]).float().transpose(0, 1)
    kept = torch.bfloat16 if table in BF16 else torch.float32
    got = native.pixel_unshuffle(table, f32(clip), f32(place), patch)
    assert torch.equal(planes(got), F.pixel_unshuffle(frames, patch).to(kept).double())
    plain = native.pixel_unshuffle(table, f32(clip), None, patch)
    assert np.array_equal(native.pixel_shuffle(table, plain, patch), f32(clip.to(kept)))


@pytest.mark.parametrize("channels", [12, 48])
def test_positional_embedding(table: str, channels: int) -> None:
    x, spatial, frame = rand(3, channels, 4, 5), rand(channels, 4, 5, seed=1), rand(3, channels, seed=2)
    if table in BF16:
        x = x.bfloat16().double()
    got = planes(native.positional_embedding(table, pixels(x), f32(spatial), f32(frame)))
    want = x + spatial + frame[:, :, None, None]
    assert ((got - want).abs() <= (2.0**-8 if table in BF16 else 1e-6) * want.abs() + 1e-6).all()


@pytest.mark.parametrize("timestep", [0, 1, 417, 999])
@pytest.mark.parametrize("dim", [4, 16, 64])
def test_time_mlp(dim: int, timestep: int) -> None:
    w1, b1 = rand(4 * dim, dim, scale=dim**-0.5), rand(4 * dim, seed=1)
    w2, b2 = rand(4 * dim, 4 * dim, seed=2, scale=dim**-0.5), rand(4 * dim, seed=3)
    e = time_embedding_kernel.time_embedding(torch.tensor([timestep]), dim).double()
    want = F.linear(F.gelu(F.linear(e, w1, b1)), w2, b2)[0]
    got = native.time_mlp(dim, f32(w1), f32(b1), f32(w2), f32(b2), timestep)
    assert relative_error(torch.from_numpy(got), want) < 1e-12


def exp_arguments() -> np.ndarray:
    return np.concatenate([np.linspace(-87, 88, 200_001), [0.0]]).astype(np.float32)


def silu_arguments() -> tuple[np.ndarray, np.ndarray]:
    x = np.concatenate([np.linspace(-200, 200, 200_003), [0.0, -0.0, 1e-30, -1e-30]]).astype(np.float32)
    with np.errstate(over="ignore"):
        return x, x.astype(np.float64) / (1 + np.exp(-x.astype(np.float64)))


def test_exp_polynomial(isa: str) -> None:
    x = exp_arguments()
    assert np.max(np.abs(native.exp(isa, x) / np.exp(x.astype(np.float64)) - 1)) < 1.6e-7  # 1.4 units of the last place


def test_silu_polynomial(isa: str) -> None:
    x, want = silu_arguments()
    got = native.silu(isa, x)
    normal = np.abs(want) > 1e-35
    assert np.max(np.abs(got[normal] / want[normal] - 1)) < 4e-7
    assert np.max(np.abs(got[~normal] - want[~normal])) < 1e-35


def test_exp_and_silu_of_bf16() -> None:
    """The shorter ones: a twentieth of the error of a bfloat16, 2^-9, for exp; SiLU has the reciprocal's 2^-14 besides."""
    need(native, BF16[0])
    x = exp_arguments()
    assert np.max(np.abs(native.exp(BF16[0], x) / np.exp(x.astype(np.float64)) - 1)) < 1e-4
    assert native.exp(BF16[0], np.array([-200, 200], np.float32)).tolist() == [0, np.inf]
    x, want = silu_arguments()
    got = native.silu(BF16[0], x)
    normal = np.abs(want) > 1e-35
    assert np.max(np.abs(got[normal] / want[normal] - 1)) < 1e-4 + 2**-14
    assert np.max(np.abs(got[~normal] - want[~normal])) < 1e-35


def test_silu_keeps_nan(table: str) -> None:
    assert np.isnan(native.silu(table, np.array([np.nan], np.float32))).all()
