"""The native ops as cases: named tensors, the torch reference on them, and the native call on the same values.

A reference runs in the type of its tensors, so one case serves fp32 (judged in double) and bfloat16 (judged beside eager bfloat16).
The shape lists hold widths that are no multiple of a vector (4, 12, 20, 48 at 4, 8 and 16 lanes) and sizes that fill no tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from native_ops import pixels, planes

from gaitcrafter_rt.kernels.channel_layer_norm import channel_layer_norm
from gaitcrafter_rt.kernels.group_norm_silu import film_silu, group_norm, rms_norm
from gaitcrafter_rt.kernels.spatial_attention import spatial_attention
from gaitcrafter_rt.kernels.spatial_linear_attention import spatial_linear_attention
from gaitcrafter_rt.kernels.temporal_attention import position_bias, rotary_tables, temporal_attention
from gaitcrafter_rt.kernels.temporal_conv import temporal_conv

Tensor = torch.Tensor
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """``reference(tensors)`` and ``native(module, isa, tensors)`` give ``[N, C, H, W]``; the tensors are doubles of fp32 values."""

    tensors: Tensors
    reference: Callable[[Tensors], Tensor]
    native: Callable[[ModuleType, str, Tensors], np.ndarray]

    def want(self) -> Tensor:
        return self.reference(self.tensors)

    def got(self, module: ModuleType, isa: str) -> Tensor:
        return planes(self.native(module, isa, self.tensors))


_draw = 0


@contextmanager
def another_draw(k: int) -> Iterator[None]:
    """Other values from ``rand`` for every k."""
    global _draw
    _draw, before = k, _draw
    yield
    _draw = before


def rand(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """fp32 values as doubles."""
    gen = torch.Generator().manual_seed(seed + sum(shape) + 1_000_003 * _draw)
    return (scale * torch.randn(shape, generator=gen)).double()


def f32(x: Tensor) -> np.ndarray:
    return x.float().numpy()


def maybe(t: Tensors, name: str, convert: Callable[[Tensor], np.ndarray] = f32) -> np.ndarray | None:
    return convert(t[name]) if name in t else None


# Convolutions. frames, height, width, in, out, kernel, stride
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


def conv2d(tensors: Tensors, stride: int = 1, winograd: bool = False) -> Case:
    """``x, weight, bias``; with ``scale, shift [rows, C]`` (rows: frames, or 1 for the clip) of ``silu(x * scale + shift)``."""

    def reference(t: Tensors) -> Tensor:
        x = t["x"]
        if "scale" in t:
            x = F.silu(x * t["scale"][:, :, None, None] + t["shift"][:, :, None, None])
        return F.conv2d(x, t["weight"], t["bias"], stride=stride, padding=t["weight"].shape[2] // 2 if stride == 1 else 1)

    def native(module: ModuleType, isa: str, t: Tensors) -> np.ndarray:
        scale, shift = maybe(t, "scale"), maybe(t, "shift")
        return module.conv2d(isa, pixels(t["x"]), f32(t["weight"]), f32(t["bias"]), stride, scale, shift, winograd)

    return Case(tensors, reference, native)


def random_conv2d(shape: tuple[int, ...]) -> Case:
    frames, h, w, cin, cout, k, stride = shape
    weight = rand(cout, cin, k, k, seed=1, scale=(cin * k * k) ** -0.5)
    return conv2d({"x": rand(frames, cin, h, w), "weight": weight, "bias": rand(cout, seed=2)}, stride)


PENDING = [(20, 1), (72, 1), (12, 2)]  # channels, stride


def random_pending_conv2d(channels: int, stride: int, rows: int, winograd: bool = False) -> Case:
    k = 3 if stride == 1 else 4
    # A large shift: the zeros of the border come after the activation, and a wrong order shows there at once.
    tensors = {
        "x": rand(3, channels, 6, 10), "weight": rand(24, channels, k, k, seed=1, scale=0.05), "bias": rand(24, seed=2),
        "scale": rand(rows, channels, seed=3), "shift": 5 + rand(rows, channels, seed=4),
    }  # fmt: skip
    return conv2d(tensors, stride, winograd)


CONV_TRANSPOSES = [(1, 1, 1, 4, 4), (3, 5, 6, 12, 20), (2, 8, 8, 70, 48), (1, 32, 33, 64, 64)]


def conv_transpose2d(tensors: Tensors) -> Case:
    """``x, weight [in, out, 4, 4], bias``, stride 2."""
    return Case(
        tensors,
        lambda t: F.conv_transpose2d(t["x"], t["weight"], t["bias"], stride=2, padding=1),
        lambda module, isa, t: module.conv_transpose2d(isa, pixels(t["x"]), f32(t["weight"]), f32(t["bias"])),
    )


def random_conv_transpose2d(shape: tuple[int, ...]) -> Case:
    frames, h, w, cin, cout = shape
    weight = rand(cin, cout, 4, 4, seed=1, scale=(4 * cin) ** -0.5)
    return conv_transpose2d({"x": rand(frames, cin, h, w), "weight": weight, "bias": rand(cout, seed=2)})


LINEARS = [(1, 1, 1, 3, 1), (2, 5, 5, 20, 48), (3, 17, 17, 64, 96), (1, 4, 4, 128, 4)]


def linear(tensors: Tensors) -> Case:
    """``x, weight [out, in], bias``, perhaps ``residual``."""
    return Case(
        tensors,
        lambda t: F.conv2d(t["x"], t["weight"][:, :, None, None], t["bias"]) + t.get("residual", 0),
        lambda module, isa, t: module.linear(isa, pixels(t["x"]), f32(t["weight"]), f32(t["bias"]), maybe(t, "residual", pixels)),
    )


def random_linear(shape: tuple[int, ...], with_residual: bool) -> Case:
    frames, h, w, cin, cout = shape
    tensors = {
        "x": rand(frames, cin, h, w), "weight": rand(cout, cin, seed=1, scale=cin**-0.5), "bias": rand(cout, seed=2),
        "residual": rand(frames, cout, h, w, seed=3),
    }  # fmt: skip
    return linear({k: v for k, v in tensors.items() if with_residual or k != "residual"})


# Norms. frames, size, channels, groups
GROUP_NORMS = [(2, 3, 4, 2), (5, 8, 12, 4), (3, 40, 48, 8), (2, 6, 20, 1)]


def conv_group_norm_silu(tensors: Tensors, groups: int, scope: str, winograd: bool = False) -> Case:
    """``x, weight, bias`` of a 3x3 convolution, ``gain, offset`` of its norm, perhaps ``film [1, 2C]`` and ``residual``."""

    def reference(t: Tensors) -> Tensor:
        frames = t["x"].shape[0]
        y = F.conv2d(t["x"], t["weight"], t["bias"], padding=1)
        y = film_silu(group_norm(y, t["gain"], t["offset"], groups, frames, scope), t.get("film"), frames)
        return y + t.get("residual", 0)

    def native(module: ModuleType, isa: str, t: Tensors) -> np.ndarray:
        return module.conv_group_norm_silu(
            isa, pixels(t["x"]), f32(t["weight"]), f32(t["bias"]), f32(t["gain"]), f32(t["offset"]), groups, scope,
            maybe(t, "film", lambda v: f32(v[0])), maybe(t, "residual", pixels), winograd,
        )  # fmt: skip

    return Case(tensors, reference, native)


def random_group_norm_silu(shape: tuple[int, ...], scope: str, bare: bool, winograd: bool) -> Case:
    """Bare: no FiLM and no residual."""
    frames, size, channels, groups = shape
    x = rand(frames, channels, size, size)
    # Frames of different size and a bias far from zero: statistics of the wrong scope, or by cancelling sums, show.
    x = (x * torch.linspace(0.5, 2, frames, dtype=torch.float64)[:, None, None, None]).float().double()
    tensors = {
        "x": x, "weight": rand(channels, channels, 3, 3, seed=1, scale=channels**-0.5 / 3), "bias": 20 + rand(channels, seed=2),
        "gain": 1 + rand(channels, seed=3, scale=0.3), "offset": rand(channels, seed=4),
    }  # fmt: skip
    if not bare:
        tensors |= {"film": rand(1, 2 * channels, seed=5), "residual": rand(frames, channels, size, size, seed=6)}
    return conv_group_norm_silu(tensors, groups, scope, winograd)


SHORTCUTS = [(1, 1, 1, 4, 2), (3, 5, 5, 20, 48), (3, 17, 17, 64, 96), (5, 4, 4, 128, 20)]  # frames, height, width, in, out


def random_shortcut_norm_silu(shape: tuple[int, ...], per_frame: bool) -> Case:
    """``silu(y * scale + shift) + W x + b``."""
    frames, h, w, cin, cout = shape
    rows = frames if per_frame else 1
    tensors = {
        "y": rand(frames, cout, h, w), "scale": rand(rows, cout, seed=1), "shift": rand(rows, cout, seed=2),
        "x": rand(frames, cin, h, w, seed=3), "weight": rand(cout, cin, seed=4, scale=cin**-0.5), "bias": rand(cout, seed=5),
    }  # fmt: skip

    def reference(t: Tensors) -> Tensor:
        activated = F.silu(t["y"] * t["scale"][:, :, None, None] + t["shift"][:, :, None, None])
        return activated + F.conv2d(t["x"], t["weight"][:, :, None, None], t["bias"])

    def native(module: ModuleType, isa: str, t: Tensors) -> np.ndarray:
        vectors = f32(t["scale"]), f32(t["shift"])
        return module.shortcut_norm_silu(isa, pixels(t["y"]), *vectors, pixels(t["x"]), f32(t["weight"]), f32(t["bias"]))

    return Case(tensors, reference, native)


RMS_NORMS = [4, 12, 48, 64]  # channels


def random_rms_norm_silu(channels: int, bare: bool) -> Case:
    tensors = {"x": rand(3, channels, 5, 7), "gamma": 1 + rand(channels, seed=1, scale=0.3)}
    tensors["x"][0, :, 0, 0] = 0  # the norm of a zero pixel is clamped
    if not bare:
        tensors |= {"film": rand(1, 2 * channels, seed=2), "residual": rand(3, channels, 5, 7, seed=3)}
    return Case(
        tensors,
        lambda t: film_silu(rms_norm(t["x"], t["gamma"]), t.get("film"), 3) + t.get("residual", 0),
        lambda module, isa, t: module.rms_norm_silu(
            isa, pixels(t["x"]), f32(t["gamma"]), maybe(t, "film", lambda v: f32(v[0])), maybe(t, "residual", pixels)
        ),
    )


LAYER_NORMS = [4, 12, 64, 100]  # channels


def layer_norm(tensors: Tensors) -> Case:
    """``x, gamma``."""
    return Case(
        tensors,
        lambda t: channel_layer_norm(t["x"], t["gamma"]),
        lambda module, isa, t: module.channel_layer_norm(isa, pixels(t["x"]), f32(t["gamma"])),
    )


def random_layer_norm(channels: int) -> Case:
    return layer_norm({"x": 3 + rand(2, channels, 5, 7), "gamma": rand(channels, seed=1)})


# Attention: x + attention(layer_norm(x)), of ``x, gamma, to_qkv, to_out``.
def attention_weights(channels: int, heads: int, dim: int) -> Tensors:
    hidden = heads * dim
    return {
        "gamma": 1 + rand(channels, seed=1, scale=0.3),
        "to_qkv": rand(3 * hidden, channels, seed=2, scale=1.5 * channels**-0.5),
        "to_out": rand(channels, hidden, seed=3, scale=hidden**-0.5),
    }


# frames, height, width, channels, heads, dim, rotary, buckets
TEMPORAL = [
    (1, 1, 1, 4, 1, 4, 0, 0),  # minimal
    (5, 3, 3, 12, 2, 8, 8, 32),
    (30, 4, 5, 64, 2, 32, 32, 32),  # the paper's head
    (24, 4, 4, 20, 3, 6, 4, 16),  # heads and rotary that fill no vector
    (17, 2, 3, 48, 1, 16, 16, 0),
    (70, 2, 1, 16, 2, 8, 0, 8),  # more queries than one block of scores
]  # fmt: skip


def temporal(tensors: Tensors, heads: int, rotary: int, max_distance: int = 32) -> Case:
    """Perhaps with ``table [buckets, heads]`` of the position bias."""

    def reference(t: Tensors) -> Tensor:
        frames = t["x"].shape[0]
        bias = position_bias(t["table"], frames, max_distance) if "table" in t else None
        rotation = rotary_tables(frames, rotary) if rotary else None
        y = channel_layer_norm(t["x"], t["gamma"])
        return t["x"] + temporal_attention(y, t["to_qkv"], t["to_out"], frames, heads, bias, rotation)

    def native(module: ModuleType, isa: str, t: Tensors) -> np.ndarray:
        weights = f32(t["gamma"]), f32(t["to_qkv"]), f32(t["to_out"])
        return module.temporal_attention(isa, pixels(t["x"]), *weights, heads, maybe(t, "table"), max_distance, rotary)

    return Case(tensors, reference, native)


def random_temporal(shape: tuple[int, ...]) -> Case:
    frames, h, w, channels, heads, dim, rotary, buckets = shape
    tensors = {"x": rand(frames, channels, h, w), **attention_weights(channels, heads, dim)}
    if buckets:
        tensors["table"] = rand(buckets, heads, seed=4)
    return temporal(tensors, heads, rotary)


SPATIAL = [(1, 1, 1, 4, 1, 4), (3, 3, 5, 12, 2, 6), (2, 8, 8, 64, 2, 32), (2, 9, 11, 20, 2, 16)]


def spatial(tensors: Tensors, heads: int) -> Case:
    return Case(
        tensors,
        lambda t: t["x"] + spatial_attention(channel_layer_norm(t["x"], t["gamma"]), t["to_qkv"], t["to_out"], heads),
        lambda module, isa, t: module.spatial_attention(
            isa, pixels(t["x"]), f32(t["gamma"]), f32(t["to_qkv"]), f32(t["to_out"]), heads
        ),
    )


def random_spatial(shape: tuple[int, ...]) -> Case:
    frames, h, w, channels, heads, dim = shape
    return spatial({"x": rand(frames, channels, h, w), **attention_weights(channels, heads, dim)}, heads)


SPATIAL_LINEAR = [(1, 1, 1, 4, 1, 4), (3, 3, 5, 12, 2, 6), (2, 8, 8, 48, 2, 32), (2, 23, 29, 20, 2, 8), (1, 33, 33, 64, 8, 32)]


def spatial_linear(tensors: Tensors, heads: int) -> Case:
    """With ``bias`` of to_out."""

    def reference(t: Tensors) -> Tensor:
        y = channel_layer_norm(t["x"], t["gamma"])
        return t["x"] + spatial_linear_attention(y, t["to_qkv"], t["to_out"], t["bias"], heads)

    def native(module: ModuleType, isa: str, t: Tensors) -> np.ndarray:
        weights = f32(t["gamma"]), f32(t["to_qkv"]), f32(t["to_out"]), f32(t["bias"])
        return module.spatial_linear_attention(isa, pixels(t["x"]), *weights, heads)

    return Case(tensors, reference, native)


def random_spatial_linear(shape: tuple[int, ...]) -> Case:
    frames, h, w, channels, heads, dim = shape
    x = rand(frames, channels, h, w)
    # One site far out in every frame: the softmax over the sites spans tiles with very different maxima.
    x[:, :, 0, 0] *= 30
    weights = attention_weights(channels, heads, dim)
    weights["to_qkv"] *= 3
    return spatial_linear({"x": x.float().double(), **weights, "bias": rand(channels, seed=5)}, heads)


TEMPORAL_CONVS = [(1, 1, 1, 4), (2, 3, 3, 12), (30, 4, 5, 32), (7, 9, 9, 20)]


def temporal_convolution(tensors: Tensors) -> Case:
    """x + temporal_conv(layer_norm(x)), of ``x, gamma, weight [C, C, 3], bias``."""

    def reference(t: Tensors) -> Tensor:
        return t["x"] + temporal_conv(channel_layer_norm(t["x"], t["gamma"]), t["weight"], t["bias"], t["x"].shape[0])

    def native(module: ModuleType, isa: str, t: Tensors) -> np.ndarray:
        return module.temporal_conv(isa, pixels(t["x"]), f32(t["gamma"]), f32(t["weight"]), f32(t["bias"]))

    return Case(tensors, reference, native)


def random_temporal_conv(shape: tuple[int, ...]) -> Case:
    frames, h, w, channels = shape
    weight = rand(channels, channels, 3, seed=2, scale=(3 * channels) ** -0.5)
    return temporal_convolution(
        {
            "x": rand(frames, channels, h, w), "gamma": 1 + rand(channels, seed=1, scale=0.3),
            "weight": weight, "bias": rand(channels, seed=3),
        }
    )  # fmt: skip
