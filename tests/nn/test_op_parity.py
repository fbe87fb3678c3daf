"""Every op and block against the class of the public base network that it stands for, judged by that class in double."""

from __future__ import annotations

import math

import pytest
import torch
from peers import base_network, in_double, randomise_norms, relative_l2
from torch import Tensor, nn

from gaitcrafter_rt.config import paper_preset
from gaitcrafter_rt.convert.base_network import base_name
from gaitcrafter_rt.kernels.channel_layer_norm import channel_layer_norm
from gaitcrafter_rt.kernels.group_norm_silu import clip_view, film_silu, group_norm, rms_norm
from gaitcrafter_rt.kernels.spatial_attention import spatial_attention
from gaitcrafter_rt.kernels.spatial_linear_attention import spatial_linear_attention
from gaitcrafter_rt.kernels.temporal_attention import (
    pairs_apart,
    position_bias,
    position_bucket,
    rotary_tables,
    rotate_halves,
    temporal_attention,
)
from gaitcrafter_rt.kernels.temporal_conv import temporal_conv
from gaitcrafter_rt.kernels.time_embedding import frequencies, time_embedding
from gaitcrafter_rt.nn.blocks import ResnetBlock
from gaitcrafter_rt.nn.unet import TimeMLP

OP_TOLERANCE = 3e-6
DOUBLE_TOLERANCE = 1e-7
NORMS = ["group_norm", "rms_norm"]
# (batch, channels, frames, height, width): smallest; odd sites; a clip as long as the paper's; more channels than sites
SHAPES = [(1, 8, 1, 1, 1), (2, 16, 5, 3, 7), (1, 16, 30, 4, 4), (3, 48, 4, 2, 2)]


@pytest.fixture(params=SHAPES, ids=str)
def x(request: pytest.FixtureRequest) -> Tensor:
    return torch.randn(request.param, generator=torch.Generator().manual_seed(7))


def fold(x: Tensor) -> Tensor:
    """``[B, C, F, H, W]`` of the base network to our ``[B*F, C, H, W]`` with channels-last strides."""
    b, c, f, h, w = x.shape
    return x.transpose(1, 2).reshape(b * f, c, h, w).contiguous(memory_format=torch.channels_last)


def unfold(x: Tensor, frames: int) -> Tensor:
    return x.reshape(-1, frames, *x.shape[1:]).transpose(1, 2)


def judge(op, base: nn.Module, x: Tensor, *args) -> None:
    """``op(tensor, weights by name)`` in fp32 and fp64 against ``base`` in fp64; ``args`` go to both."""
    double = in_double(base)
    exact = [a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
    with torch.no_grad():
        want = double(x.double(), *exact)
        got = op(x, dict(base.named_parameters()), *args)
        got_double = op(x.double(), dict(double.named_parameters()), *exact)
    assert relative_l2(got, want) < OP_TOLERANCE
    assert relative_l2(got_double, want) < DOUBLE_TOLERANCE


def test_channel_layer_norm(x: Tensor) -> None:
    base = base_network("group_norm").LayerNorm(x.shape[1])
    randomise_norms(base, 1)
    judge(lambda x, p: unfold(channel_layer_norm(fold(x), p["gamma"].flatten()), x.shape[2]), base, x)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("with_film", [True, False])
def test_block(x: Tensor, norm: str, with_film: bool) -> None:
    b, c, frames = x.shape[:3]
    base = base_network(norm).Block(c, 16)
    randomise_norms(base, 2)
    scale_shift = torch.randn(b, 32, generator=torch.Generator().manual_seed(3)) if with_film else None

    class WithFilm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = base

        def forward(self, x: Tensor, film: Tensor | None) -> Tensor:
            return self.block(x, None if film is None else film[:, :, None, None, None].chunk(2, dim=1))

    def ours(x: Tensor, p: dict[str, Tensor], film: Tensor | None) -> Tensor:
        h = nn.functional.conv2d(fold(x), p["block.proj.weight"][:, :, 0], p["block.proj.bias"], padding=1)
        if norm == "group_norm":
            h = group_norm(h, p["block.norm.weight"], p["block.norm.bias"], 8, frames)
        else:
            h = rms_norm(h, p["block.norm.gamma"].flatten())
        return unfold(film_silu(h, film, frames), frames)

    judge(ours, WithFilm(), x, scale_shift)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("width", [16, 24])
def test_resnet_block(x: Tensor, norm: str, width: int) -> None:
    base = base_network(norm).ResnetBlock(x.shape[1], width, time_emb_dim=20)
    randomise_norms(base, 4)
    time = torch.randn(x.shape[0], 20, generator=torch.Generator().manual_seed(5))

    def ours(x: Tensor, p: dict[str, Tensor], time: Tensor) -> Tensor:
        block = ResnetBlock(paper_preset(norm=norm), x.shape[1], width, 20, {}).to(x.dtype)
        block.load_state_dict({k: p[base_name(k)].reshape(v.shape) for k, v in block.state_dict().items()})
        return unfold(block(fold(x), x.shape[2], time, {}), x.shape[2])

    judge(ours, base, x, time)


def test_spatial_linear_attention(x: Tensor) -> None:
    base = base_network("group_norm").SpatialLinearAttention(x.shape[1], heads=2, dim_head=8)

    def ours(x: Tensor, p: dict[str, Tensor]) -> Tensor:
        qkv, out = p["to_qkv.weight"][:, :, 0, 0], p["to_out.weight"][:, :, 0, 0]
        return unfold(spatial_linear_attention(fold(x), qkv, out, p["to_out.bias"], 2), x.shape[2])

    judge(ours, base, x)


def test_spatial_attention(x: Tensor) -> None:
    m = base_network("group_norm")
    base = m.EinopsToAndFrom("b c f h w", "b f (h w) c", m.Attention(x.shape[1], heads=2, dim_head=8))

    def ours(x: Tensor, p: dict[str, Tensor]) -> Tensor:
        return unfold(spatial_attention(fold(x), p["fn.to_qkv.weight"], p["fn.to_out.weight"], 2), x.shape[2])

    judge(ours, base, x)


@pytest.mark.parametrize("dim_head", [8, 48])  # below the rotary width of 32, and above it
def test_temporal_attention(x: Tensor, dim_head: int) -> None:
    m = base_network("group_norm")
    rotary_dim = min(32, dim_head)
    rotary = m.RotaryEmbedding(rotary_dim)

    class Temporal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = m.RelativePositionBias(heads=2, max_distance=32)
            attention = m.Attention(x.shape[1], heads=2, dim_head=dim_head, rotary_emb=rotary)
            self.attention = m.EinopsToAndFrom("b c f h w", "b (h w) f c", attention)

        def forward(self, x: Tensor) -> Tensor:
            nothing = torch.zeros(x.shape[0], dtype=torch.bool)
            return self.attention(x, pos_bias=self.bias(x.shape[2], x.device), focus_present_mask=nothing)

    def ours(x: Tensor, p: dict[str, Tensor]) -> Tensor:
        frames = x.shape[2]
        bias = position_bias(p["bias.relative_attention_bias.weight"], frames, 32)
        qkv, out = p["attention.fn.to_qkv.weight"], p["attention.fn.to_out.weight"]
        return unfold(temporal_attention(fold(x), qkv, out, frames, 2, bias, rotary_tables(frames, rotary_dim)), frames)

    base = Temporal()
    with torch.no_grad():
        base.attention.fn.to_qkv.weight.mul_(3)  # scores that matter: the softmax is far from uniform
    # The base network in fp32 rounds the rotary angle to fp32, as ours always does; its double does not.
    double = in_double(base)
    double.attention.fn.rotary_emb.cached_freqs.copy_(_fp32_angles(rotary, rotary_dim))
    double.attention.fn.rotary_emb.cached_freqs_seq_len = 64
    with torch.no_grad():
        want = double(x.double())
        got = ours(x, dict(base.named_parameters()))
        got_double = ours(x.double(), dict(double.named_parameters()))
    assert relative_l2(got, want) < OP_TOLERANCE
    assert relative_l2(got_double, want) < DOUBLE_TOLERANCE


def _fp32_angles(rotary: nn.Module, rotary_dim: int) -> Tensor:
    angles = torch.zeros(rotary.cached_freqs.shape)
    angles[:64] = rotary.forward(torch.arange(64.0))
    return angles.double()


@pytest.mark.parametrize("rotary_dim", [4, 8, 32])
def test_rotary(rotary_dim: int) -> None:
    rotary = base_network("group_norm").RotaryEmbedding(rotary_dim)
    x = torch.randn(2, 3, 30, 40, generator=torch.Generator().manual_seed(1))
    cos, sin = rotary_tables(30, rotary_dim)
    order = pairs_apart(torch.arange(40)[:, None], 1, rotary_dim)[:, 0]
    with torch.no_grad():
        assert relative_l2(rotate_halves(x[..., order], cos, sin), rotary.rotate_queries_or_keys(x)[..., order]) < 1e-7


@pytest.mark.parametrize(("buckets", "distance"), [(32, 32), (32, 128), (8, 16)])
def test_position_bias(buckets: int, distance: int) -> None:
    base = base_network("group_norm").RelativePositionBias(heads=3, num_buckets=buckets, max_distance=distance)
    for frames in (1, 2, 30, 200):
        assert torch.equal(position_bias(base.relative_attention_bias.weight, frames, distance), base(frames, "cpu"))


def test_position_buckets_of_thirty_frames() -> None:
    """The rows printed in the reference notes."""
    bucket = position_bucket(30, 32, 32)
    first = [0, *range(17, 24), 24, 24, 25, 25, 26, 26, 27, 27, *[28] * 4, *[29] * 3, *[30] * 4, *[31] * 3]
    assert bucket[0].tolist() == first
    last = [*[15] * 3, *[14] * 4, *[13] * 3, *[12] * 4, 11, 11, 10, 10, 9, 9, 8, 8, *range(7, -1, -1)]
    assert bucket[29].tolist() == last
    assert 16 not in bucket


@pytest.mark.parametrize("dim", [4, 8, 16, 24, 32, 48, 64, 96, 128, 192])
def test_time_embedding_at_every_timestep(dim: int) -> None:
    """Angles reach 999, so that a wrong rounding of the frequency shows as 1e-5 (kernels/time_embedding.py)."""
    t = torch.arange(1000)
    base = base_network("group_norm").SinusoidalPosEmb(dim)(t)
    errors = (time_embedding(t, dim) - base.double()).norm(dim=1) / base.double().norm(dim=1)
    assert errors.max() < OP_TOLERANCE


def test_frequencies_are_within_one_ulp_of_the_base_network() -> None:
    """torch's fp32 exp is not correctly rounded and differs between machines; that is all that differs, at any width."""
    t = torch.arange(0, 1000, 37)
    for dim in range(4, 514, 2):
        base = base_network("group_norm").SinusoidalPosEmb(dim)(t).double()
        assert relative_l2(time_embedding(t, dim), base) < 1e-5
        half = dim // 2
        theirs = torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))
        ulp = torch.nextafter(theirs, torch.tensor(2.0)) - theirs
        assert ((frequencies(dim) - theirs).abs() <= ulp).all()


def test_time_mlp() -> None:
    unet = base_network("group_norm").Unet3D(16, dim_mults=(1, 2))

    def ours(t: Tensor, p: dict[str, Tensor]) -> Tensor:
        mlp = TimeMLP(16).to(p["1.weight"].dtype)
        mlp.load_state_dict({f"linear{k}.{n}": p[f"{2 * k - 1}.{n}"] for k in (1, 2) for n in ("weight", "bias")})
        return mlp(t)

    double = in_double(unet.time_mlp)
    t = torch.tensor([0, 1, 417, 999])
    with torch.no_grad():
        want = double(t)
        assert relative_l2(ours(t, dict(unet.time_mlp.named_parameters())), want) < OP_TOLERANCE
        assert relative_l2(ours(t, dict(double.named_parameters())), want) < DOUBLE_TOLERANCE


@pytest.mark.parametrize("up", [False, True])
def test_resampling(up: bool) -> None:
    m = base_network("group_norm")
    base = (m.Upsample if up else m.Downsample)(16)
    x = torch.randn(2, 16, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    conv = nn.functional.conv_transpose2d if up else nn.functional.conv2d

    def ours(x: Tensor, p: dict[str, Tensor]) -> Tensor:
        return unfold(conv(fold(x), p["weight"][:, :, 0], p["bias"], stride=2, padding=1), 3)

    judge(ours, base, x)


@pytest.mark.parametrize("frames", [1, 2, 3, 8])
def test_temporal_conv(frames: int) -> None:
    """Not in the base network: against torch's own circular convolution."""
    conv = nn.Conv1d(6, 6, 3, padding=1, padding_mode="circular")
    x = torch.randn(2, 6, frames, 2, 3, generator=torch.Generator().manual_seed(1))

    class OverFrames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv

        def forward(self, x: Tensor) -> Tensor:
            sites = x.permute(0, 3, 4, 1, 2).reshape(-1, 6, frames)
            return self.conv(sites).view(2, 2, 3, 6, frames).permute(0, 3, 4, 1, 2)

    judge(lambda x, p: unfold(temporal_conv(fold(x), p["conv.weight"], p["conv.bias"], frames), frames), OverFrames(), x)


def test_group_norm_by_frame() -> None:
    norm = nn.GroupNorm(4, 8)
    x = torch.randn(6, 8, 3, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = torch.stack([norm.double()(frame[None].double())[0] for frame in x])
        got = group_norm(x, norm.weight.float(), norm.bias.float(), 4, 3, scope="frame")
    assert relative_l2(got, want) < OP_TOLERANCE


def test_clip_view_is_no_copy() -> None:
    x = torch.randn(6, 8, 3, 5).contiguous(memory_format=torch.channels_last)
    clips = clip_view(x, 3)
    assert clips.shape == (2, 8, 3, 3, 5)
    assert clips.data_ptr() == x.data_ptr()
    assert clips.is_contiguous(memory_format=torch.channels_last_3d)
