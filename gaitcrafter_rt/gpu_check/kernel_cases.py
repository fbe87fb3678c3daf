"""Every op at the sizes of the paper's network and of the shipped model: two clips of 30 frames, random values of one seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..kernels.conv2d import conv2d, pack_conv, pack_conv_transpose
from ..kernels.group_norm_silu import affine_silu, channel_moments, group_norm_silu, norm_affine, rms_norm_silu
from ..kernels.launch import Launch, recording, site_tile
from ..kernels.linear import linear_fits, norm_linear
from ..kernels.spatial_attention import attend_sites
from ..kernels.spatial_linear_attention import linear_attend, linear_block, linear_block_fits, pack_linear_block
from ..kernels.temporal_attention import attend_frames, pack_block, rotary_tables, temporal_block
from ..kernels.temporal_conv import pack_temporal_conv, temporal_conv_block

CLIPS, FRAMES = 2, 30
N = CLIPS * FRAMES


class Maker:
    """Random tensors on a device; activations and product weights in ``dtype``, vectors in fp32."""

    def __init__(self, dtype: torch.dtype, device: str = "cuda", seed: int = 0) -> None:
        self.dtype, self.device = dtype, device
        self.generator = None if device == "meta" else torch.Generator(device).manual_seed(seed)

    def vector(self, *shape: int) -> Tensor:
        """fp32, as norms and biases are."""
        return torch.randn(*shape, generator=self.generator, device=self.device)

    def weight(self, *shape: int, terms: int) -> Tensor:
        """Product weights that keep the size of what they multiply, sums having ``terms`` terms."""
        return (self.vector(*shape) * terms**-0.5).to(self.dtype)

    def image(self, c: int, side: int, mean: float = 1.0) -> Tensor:
        """Activations of all frames, off centre as after a bias."""
        x = self.vector(N, side, side, c).permute(0, 3, 1, 2)
        return (x * 2 + mean).to(self.dtype)


@dataclass(frozen=True)
class Case:
    """One op at one size; ``build`` makes its arguments."""

    op: Callable[..., Any]
    name: str
    build: Callable[[Maker], tuple[Any, ...]]
    halves_only: bool = False  # fp32 goes another way


def cases(dtype: torch.dtype) -> list[Case]:
    """Those that the networks have in this type."""
    return [case for case in PAPER + WALKER if dtype.itemsize == 2 or not case.halves_only]


def recorded(dtype: torch.dtype) -> list[Launch]:
    """The launches of all cases, nothing run."""
    with recording() as recorder:
        for case in cases(dtype):
            case.op(*case.build(Maker(dtype, "meta")))
    return recorder.launches


def _conv(side: int, ci: int, co: int, kernel: int, stride: int = 1) -> Case:
    def build(m: Maker) -> tuple[Any, ...]:
        packed = pack_conv(m.weight(co, ci, kernel, kernel, terms=ci * kernel**2))
        return m.image(ci, side), None, packed, m.vector(co), stride, None, None, None, None, True

    return Case(conv2d, f"{kernel}x{kernel} /{stride} {ci}->{co} at {side}", build)


def _conv_after_norm(side: int, c: int) -> Case:
    def build(m: Maker) -> tuple[Any, ...]:
        packed = pack_conv(m.weight(c, c, 3, 3, terms=9 * c))
        return m.image(c, side), None, packed, m.vector(c), 1, m.vector(CLIPS, 2, c), None, None, None, True

    return Case(conv2d, f"3x3 {c}->{c} at {side}, norm on load", build)


def _conv_two_inputs(side: int, ci: int, co: int, kernel: int) -> Case:
    def build(m: Maker) -> tuple[Any, ...]:
        packed = pack_conv(m.weight(co, 2 * ci, kernel, kernel, terms=2 * ci * kernel**2))
        rest, affine = (m.image(co, side), m.vector(CLIPS, 2, co)) if kernel == 1 else (None, None)
        return m.image(ci, side), m.image(ci, side), packed, m.vector(co), 1, None, None, rest, affine, kernel == 3

    return Case(conv2d, f"{kernel}x{kernel} {ci}+{ci}->{co} at {side}, two inputs", build)


def _conv_layer_norm(side: int, c: int, co: int) -> Case:
    def build(m: Maker) -> tuple[Any, ...]:
        return m.image(c, side), None, pack_conv(m.weight(co, c, 1, 1, terms=c)), None, 1, None, m.vector(c)

    return Case(conv2d, f"1x1 {c}->{co} at {side}, LayerNorm on load", build)


def _conv_small(side: int, ci: int, co: int) -> Case:
    def build(m: Maker) -> tuple[Any, ...]:
        packed = pack_conv(m.weight(co, ci, 3, 3, terms=ci * 9))
        return m.image(ci, side), None, packed, m.vector(co), 1, None, None, None, None, True, None, FRAMES

    return Case(conv2d, f"3x3 {ci}->{co} at {side}, several frames a tile", build)


def _projection(side: int, c: int, co: int) -> Case:
    def build(m: Maker) -> tuple[Any, ...]:
        return m.image(c, side), m.vector(c), m.weight(c, co, terms=c)

    return Case(norm_linear, f"{c}->{co} at {side}", build, halves_only=not linear_fits(c, torch.float32))


def _linear_block(side: int, c: int, heads: int, d: int) -> Case:
    def build(m: Maker) -> tuple[Any, ...]:
        weights = pack_linear_block(m.weight(3 * heads * d, c, terms=c), m.weight(c, heads * d, terms=heads * d), heads)
        return m.image(c, side), m.vector(c), *weights, m.vector(c), d

    name = f"{c} channels, {heads} heads of {d} at {side}"
    return Case(linear_block, name, build, halves_only=not linear_block_fits(c, d, torch.float32))


def _channel_moments(side: int, c: int) -> Case:
    return Case(channel_moments, f"{c} channels at {side}", lambda m: (m.image(c, side),))


def _transpose(side: int, c: int) -> Case:
    def build(m: Maker) -> tuple[Any, ...]:
        return m.image(c, side), None, pack_conv_transpose(m.weight(c, c, 4, 4, terms=4 * c)), m.vector(c)

    return Case(conv2d, f"4x4 transpose {c}->{c} at {side}", build)


def _group_norm(side: int, c: int, scope: str) -> Case:
    def build(m: Maker) -> tuple[Any, ...]:
        return m.image(c, side), m.vector(c), m.vector(c), 8, FRAMES, scope, m.vector(CLIPS, 2 * c), m.image(c, side)

    return Case(group_norm_silu, f"{c} channels at {side}, per {scope}", build)


def _rms_norm(side: int, c: int) -> Case:
    def build(m: Maker) -> tuple[Any, ...]:
        return m.image(c, side), m.vector(c), FRAMES, m.vector(CLIPS, 2 * c), m.image(c, side)

    return Case(rms_norm_silu, f"{c} channels at {side}", build)


def _moments(side: int, c: int) -> Case:
    def build(m: Maker) -> tuple[Any, ...]:
        moments = m.vector(N, -(-side * side // site_tile(side * side)), 2, c).abs()
        return moments, m.vector(c), m.vector(c), 8, FRAMES, "clip", side * side, m.vector(CLIPS, 2 * c)

    return Case(norm_affine, f"{c} channels at {side}", build)


def _affine(side: int, c: int) -> Case:
    return Case(affine_silu, f"{c} channels at {side}", lambda m: (m.image(c, side), m.vector(CLIPS, 2, c), m.image(c, side)))


def _positions(m: Maker, heads: int, d: int) -> tuple[Tensor, Tensor, Tensor]:
    cos, sin = rotary_tables(FRAMES, min(d, 32), torch.device(m.device))
    return m.vector(heads, FRAMES, FRAMES), cos, sin


def _block(side: int, c: int, heads: int, d: int) -> Case:
    def build(m: Maker) -> tuple[Any, ...]:
        weights = pack_block(m.weight(3 * heads * d, c, terms=c), m.weight(c, heads * d, terms=heads * d), heads)
        return m.image(c, side), m.vector(c), *weights, FRAMES, d, *_positions(m, heads, d)

    return Case(temporal_block, f"{c} channels, {heads} heads of {d} at {side}", build, halves_only=True)


def _frames(side: int, heads: int, d: int) -> Case:
    def build(m: Maker) -> tuple[Any, ...]:
        return m.image(3 * heads * d, side, mean=0), FRAMES, heads, *_positions(m, heads, d)

    return Case(attend_frames, f"{heads} heads of {d} at {side}", build)


def _sites(side: int, heads: int, d: int) -> Case:
    return Case(attend_sites, f"{heads} heads of {d} at {side}", lambda m: (m.image(3 * heads * d, side, mean=0), heads))


def _linear(side: int, c: int, heads: int, d: int) -> Case:
    def build(m: Maker) -> tuple[Any, ...]:
        weight = m.weight(heads * d, c, terms=heads * d)
        return m.image(3 * heads * d, side, mean=0), weight, m.vector(c), m.image(c, side), heads

    return Case(linear_attend, f"{c} channels, {heads} heads of {d} at {side}", build)


def _temporal_conv(side: int, c: int) -> Case:
    def build(m: Maker) -> tuple[Any, ...]:
        return m.image(c, side), m.vector(c), pack_temporal_conv(m.weight(c, c, 3, terms=3 * c)), m.vector(c), FRAMES

    return Case(temporal_conv_block, f"{c} channels at {side}", build)


PAPER = [
    _conv(64, 1, 64, 7), _conv(64, 64, 64, 3), _conv_after_norm(64, 64), _conv(32, 128, 128, 3), _conv(16, 256, 256, 3),
    _conv_after_norm(8, 512), _conv_small(8, 512, 512), _conv(64, 64, 64, 4, 2), _conv(16, 256, 256, 4, 2), _transpose(32, 64),
    _transpose(8, 256), _conv_two_inputs(64, 64, 64, 3), _conv_two_inputs(64, 64, 64, 1), _conv_two_inputs(8, 512, 256, 3),
    _conv_layer_norm(8, 512, 768), _projection(64, 64, 768), _projection(32, 128, 768), _projection(16, 256, 768),
    _projection(8, 512, 768), _conv(64, 64, 1, 1), _group_norm(64, 64, "clip"), _group_norm(8, 512, "clip"), _rms_norm(64, 64),
    _rms_norm(8, 512), _channel_moments(64, 64), _moments(64, 64), _moments(8, 512), _affine(64, 64), _block(64, 64, 8, 32),
    _frames(32, 8, 32), _frames(8, 8, 32), _sites(8, 8, 32), _linear(64, 64, 8, 32), _linear(8, 512, 8, 32),
    _linear_block(64, 64, 8, 32), _linear_block(32, 128, 8, 32),
]  # fmt: skip
WALKER = [
    _conv(16, 16, 32, 3), _conv(16, 32, 32, 3), _conv_small(4, 128, 128), _projection(4, 128, 192), _group_norm(16, 32, "frame"),
    _moments(4, 128), _temporal_conv(16, 32), _block(8, 64, 4, 16), _frames(4, 4, 16), _sites(4, 4, 16), _conv(16, 32, 32, 4, 2),
    _transpose(4, 64),
]  # fmt: skip
