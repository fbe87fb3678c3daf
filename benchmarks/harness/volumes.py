"""The network as a graph over whole clips ``[B, C, F, H, W]`` with Conv3d of depth 1, the other form that a peer may prefer.

``gaitcrafter_rt.nn`` folds the frames into the batch and convolves in two dimensions. Some engines plan a graph better that never
folds; this one has the same weights and the same output.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gaitcrafter_rt.kernels.group_norm_silu import EPS
from gaitcrafter_rt.kernels.temporal_attention import (
    attention,
    heads_of,
    pairs_apart,
    position_bias,
    rotary_tables,
    rotate_halves,
)
from gaitcrafter_rt.nn.blocks import (
    BlockNorm,
    Level,
    ResnetBlock,
    SpatialAttention,
    SpatialLinearAttention,
    TemporalAttention,
    TemporalConv,
)
from gaitcrafter_rt.nn.unet import UNet3D


def conv(layer: nn.Module, x: Tensor) -> Tensor:
    """A Conv2d or ConvTranspose2d of ours on ``[B, C, F, H, W]``."""
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    stride, padding = (1, *layer.stride), (0, *layer.padding)  # type: ignore[arg-type]
    function = F.conv_transpose3d if isinstance(layer, nn.ConvTranspose2d) else F.conv3d
    return function(x, layer.weight[:, :, None], layer.bias, stride=stride, padding=padding)


def block_norm(norm: BlockNorm, x: Tensor) -> Tensor:
    if norm.is_rms:
        return F.normalize(x, dim=1) * (x.shape[1] ** 0.5) * norm.gamma.view(1, -1, 1, 1, 1)
    if norm.scope == "clip":
        return F.group_norm(x, norm.groups, norm.weight, norm.bias, EPS)
    b, c, f, h, w = x.shape
    groups = x.reshape(b, norm.groups, c // norm.groups, f, h, w)
    mean = groups.mean((2, 4, 5), keepdim=True)
    centred = groups - mean
    scale = torch.rsqrt(centred.square().mean((2, 4, 5), keepdim=True) + EPS)
    y = (centred * scale).reshape(x.shape)
    return y * norm.weight.view(1, -1, 1, 1, 1) + norm.bias.view(1, -1, 1, 1, 1)


def layer_norm(part: nn.Module, x: Tensor) -> Tensor:
    mean = x.mean(1, keepdim=True)
    centred = x - mean
    scale = torch.rsqrt(centred.square().mean(1, keepdim=True) + EPS)
    return centred * scale * part.norm["gamma"].view(1, -1, 1, 1, 1)  # type: ignore[index]


def film_silu(x: Tensor, scale_shift: Tensor | None) -> Tensor:
    if scale_shift is None:
        return F.silu(x)
    scale, shift = scale_shift[:, :, None, None, None].chunk(2, dim=1)
    return F.silu(x * (scale + 1) + shift)


def resnet_block(block: ResnetBlock, x: Tensor, time: Tensor | None, labels: dict[str, Tensor]) -> Tensor:
    scale_shift = None
    if block.film is not None and time is not None:
        scale_shift = block.film(F.silu(time))
        for axis, table in block.tables.items():
            scale_shift = scale_shift + labels[axis].to(table.dtype) @ table
    h = film_silu(block_norm(block.norm1, conv(block.conv1, x)), scale_shift)
    h = film_silu(block_norm(block.norm2, conv(block.conv2, h)), None)
    return h + (x if block.shortcut is None else conv(block.shortcut, x))


def temporal_attention(part: TemporalAttention, x: Tensor, bias: Tensor | None, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
    b, c, f, h, w = x.shape
    tokens = layer_norm(part, x).permute(0, 3, 4, 2, 1).reshape(b * h * w, f, c)
    to_q, to_k, to_v = part.to_qkv.weight.chunk(3)
    if rotary is not None:
        dim = 2 * rotary[0].shape[-1]
        to_q, to_k = pairs_apart(to_q, part.heads, dim), pairs_apart(to_k, part.heads, dim)
    q, k, v = (heads_of(tokens, weight, part.heads) for weight in (to_q, to_k, to_v))
    q = q * q.shape[-1] ** -0.5
    if rotary is not None:
        q, k = rotate_halves(q, *rotary), rotate_halves(k, *rotary)
    y = attention(q, k, v, bias).transpose(1, 2).reshape(b * h * w, f, -1)
    return x + part.to_out(y).view(b, h, w, f, c).permute(0, 4, 3, 1, 2)


def _frame_tokens(part: nn.Module, x: Tensor) -> Tensor:
    b, c, f, h, w = x.shape
    return layer_norm(part, x).permute(0, 2, 3, 4, 1).reshape(b * f, h * w, c)


def _from_frame_tokens(y: Tensor, x: Tensor) -> Tensor:
    b, c, f, h, w = x.shape
    return y.view(b, f, h, w, c).permute(0, 4, 1, 2, 3)


def spatial_attention(part: SpatialAttention, x: Tensor) -> Tensor:
    tokens = _frame_tokens(part, x)
    q, k, v = (heads_of(tokens, weight, part.heads) for weight in part.to_qkv.weight.chunk(3))
    y = attention(q * q.shape[-1] ** -0.5, k, v, None).transpose(1, 2).flatten(2)
    return x + _from_frame_tokens(part.to_out(y), x)


def spatial_linear_attention(part: SpatialLinearAttention, x: Tensor) -> Tensor:
    tokens = _frame_tokens(part, x)
    q, k, v = (heads_of(tokens, weight, part.heads) for weight in part.to_qkv.weight.chunk(3))
    q = q.softmax(dim=-1) * q.shape[-1] ** -0.5
    context = k.softmax(dim=-2).transpose(-1, -2) @ v
    y = (q @ context).transpose(1, 2).flatten(2)
    return x + _from_frame_tokens(part.to_out(y), x)


def temporal_conv(part: TemporalConv, x: Tensor) -> Tensor:
    y = layer_norm(part, x)
    y = torch.cat((y[:, :, -1:], y, y[:, :, :1]), dim=2)
    return x + F.conv3d(y, part.conv.weight[:, :, :, None, None], part.conv.bias)


class Volumes(nn.Module):
    """``UNet3D``'s weights and arguments, whole clips inside."""

    def __init__(self, net: UNet3D) -> None:
        super().__init__()
        self.net = net
        self.config = net.config

    def forward(self, x: Tensor, t: Tensor, labels: dict[str, Tensor], cond: Tensor | None) -> Tensor:
        net, u = self.net, self.config.unet
        b, c, frames, h, w = x.shape
        time = net.time_mlp(t)
        if net.null_cond is not None and cond is not None:
            time = torch.cat((time, cond.to(time.dtype)), dim=-1)
        y = x
        for axis, encoder in net.input_maps.items():
            y = y + encoder(labels[axis])[:, :, None]
        p = u.patch
        if p > 1:
            y = (
                y.view(b, c, frames, h // p, p, w // p, p)
                .permute(0, 1, 4, 6, 2, 3, 5)
                .reshape(b, c * p * p, frames, h // p, w // p)
            )
        y = self._trunk(conv(net.init_conv, y), frames, time, labels)
        y = conv(net.final_conv, y)
        if p > 1:
            y = y.view(b, c, p, p, frames, h // p, w // p).permute(0, 1, 4, 5, 2, 6, 3).reshape(x.shape)
        return y

    def _trunk(self, y: Tensor, frames: int, time: Tensor, labels: dict[str, Tensor]) -> Tensor:
        net, u = self.net, self.config.unet
        bias = None
        if net.position_bias is not None:
            bias = position_bias(net.position_bias.weight, frames, u.position_max_distance).to(y.dtype)
        rotary = rotary_tables(frames, u.rotary_dim, y.device) if u.rotary_dim else None
        if net.positional is not None:
            place = net.positional["frame"].T[:, :, None, None] + net.positional["spatial"][:, None]
            y = y + place[None].to(y.dtype)
        if net.init_temporal_attention is not None:
            y = temporal_attention(net.init_temporal_attention, y, bias, rotary)
        residual, skips = y, []
        for level in net.downs:
            y = _level(level, y, time, labels, bias, rotary)
            skips.append(y)
            y = y if level.downsample is None else conv(level.downsample, y)
        y = resnet_block(net.mid_block1, y, time, labels)
        if net.mid_spatial_attention is not None:
            y = spatial_attention(net.mid_spatial_attention, y)
        if net.mid_temporal_attention is not None:
            y = temporal_attention(net.mid_temporal_attention, y, bias, rotary)
        y = resnet_block(net.mid_block2, y, time, labels)
        for level in net.ups:
            y = _level(level, torch.cat((y, skips.pop()), dim=1), time, labels, bias, rotary)
            y = y if level.upsample is None else conv(level.upsample, y)
        return resnet_block(net.final_block, torch.cat((y, residual), dim=1), None, {})


def _level(
    level: Level, x: Tensor, time: Tensor, labels: dict[str, Tensor], bias: Tensor | None, rotary: tuple[Tensor, Tensor] | None
) -> Tensor:
    for block in level.blocks:
        x = resnet_block(block, x, time, labels)
    if level.spatial_attention is not None:
        x = spatial_linear_attention(level.spatial_attention, x)
    if level.temporal_attention is not None:
        x = temporal_attention(level.temporal_attention, x, bias, rotary)
    if level.temporal_conv is not None:
        x = temporal_conv(level.temporal_conv, x)
    return x
