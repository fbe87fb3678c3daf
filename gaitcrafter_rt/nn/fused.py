"""The U-Net on the fused ops of ``gaitcrafter_rt.kernels``: what runs on a GPU. ``UNet3D`` stays the reference and is what trains.

Weights are packed once for the kernels. Activations are ``[B * F, C, H, W]`` in ``dtype``, channels-last throughout; the stem reads
and the last convolution writes fp32, norms and everything that depends on the timestep alone are fp32. Each ResNet block reads its
skip connection in place, GroupNorm's statistics come out of the convolution before it, and its application goes into the one after.
Without a GPU the ops compute their plain references, so the module gives the same on a CPU to within rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.conv2d import conv2d, pack_conv, pack_conv_transpose
from ..kernels.group_norm_silu import affine_silu, norm_affine, rms_norm_silu
from ..kernels.spatial_attention import attend_sites
from ..kernels.spatial_linear_attention import linear_attend
from ..kernels.temporal_attention import attend_frames, block_fits, pack_block, position_bias, rotary_tables, temporal_block
from ..kernels.temporal_conv import pack_temporal_conv, temporal_conv_block
from .blocks import BlockNorm, Level, ResnetBlock, SpatialAttention, SpatialLinearAttention, TemporalAttention, TemporalConv
from .unet import UNet3D, filled_labels

Positions = tuple[Tensor | None, Tensor | None, Tensor | None]  # bias [heads, F, F], cos and sin [F, pairs]


class _Weights(nn.Module):
    """Buffers: packed weights in the network's dtype, vectors in fp32."""

    def hold(self, name: str, value: Tensor | None, dtype: torch.dtype = torch.float32) -> None:
        self.register_buffer(name, None if value is None else value.detach().to(dtype).contiguous())


class FusedConv(_Weights):
    """A convolution of conv2d.py with its weights."""

    packed: Tensor
    bias: Tensor | None
    gamma: Tensor | None

    def __init__(
        self, packed: Tensor, bias: Tensor | None, dtype: torch.dtype, stride: int = 1, gamma: Tensor | None = None,
        out: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.stride, self.out = stride, out
        self.hold("packed", packed, dtype)
        self.hold("bias", bias)
        self.hold("gamma", gamma)

    @classmethod
    def of(cls, layer: nn.Conv2d | nn.ConvTranspose2d, dtype: torch.dtype, out: torch.dtype | None = None) -> FusedConv:
        """From torch's layer."""
        if isinstance(layer, nn.ConvTranspose2d):
            return cls(pack_conv_transpose(layer.weight), layer.bias, dtype, out=out)
        return cls(pack_conv(layer.weight), layer.bias, dtype, layer.stride[0], out=out)

    @classmethod
    def linear(cls, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, gamma: Tensor | None = None) -> FusedConv:
        """A product over the channels of every site, with LayerNorm before it where ``gamma`` is given."""
        return cls(pack_conv(weight[:, :, None, None]), bias, dtype, gamma=gamma)

    def forward(
        self, x: Tensor, second: Tensor | None = None, affine: Tensor | None = None, residual: Tensor | None = None,
        residual_affine: Tensor | None = None, want_moments: bool = False,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        return conv2d(
            x, second, self.packed, self.bias, self.stride, affine, self.gamma, residual, residual_affine, want_moments, self.out
        )


class FusedNorm(_Weights):
    """Weights of a block's norm, either generation."""

    weight: Tensor
    bias: Tensor

    def __init__(self, norm: BlockNorm) -> None:
        super().__init__()
        self.is_rms, self.groups, self.scope = norm.is_rms, norm.groups, norm.scope
        self.hold("weight", norm.gamma if norm.is_rms else norm.weight)
        self.hold("bias", None if norm.is_rms else norm.bias)

    def affine(self, moments: Tensor, like: Tensor, frames: int, film: Tensor | None) -> Tensor:
        """GroupNorm and FiLM as ``a * x + b`` for a convolution's output ``like`` and its moments."""
        sites = like.shape[2] * like.shape[3]
        return norm_affine(moments, self.weight, self.bias, self.groups, frames, self.scope, sites, film)


class FusedResnet(nn.Module):
    """A ResNet block in three or four launches over its activations (GroupNorm), or five (RMSNorm)."""

    def __init__(self, block: ResnetBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv1, self.conv2 = FusedConv.of(block.conv1, dtype), FusedConv.of(block.conv2, dtype)
        self.norm1, self.norm2 = FusedNorm(block.norm1), FusedNorm(block.norm2)
        self.shortcut = None if block.shortcut is None else FusedConv.of(block.shortcut, dtype)
        self.film, self.tables = block.film, block.tables

    def forward(self, x: Tensor, second: Tensor | None, frames: int, time: Tensor | None, labels: dict[str, Tensor]) -> Tensor:
        film = None
        if self.film is not None and time is not None:
            film = self.film(F.silu(time))
            for axis, table in self.tables.items():
                film = film + labels[axis].to(table.dtype) @ table
        if second is not None and self.shortcut is None:
            x, second = torch.cat((x, second), dim=1), None
        if self.norm1.is_rms:
            h = rms_norm_silu(self.conv1(x, second)[0], self.norm1.weight, frames, film, None)
            rest = x if self.shortcut is None else self.shortcut(x, second)[0]
            return rms_norm_silu(self.conv2(h)[0], self.norm2.weight, frames, None, rest)
        h, moments = self.conv1(x, second, want_moments=True)
        affine = self.norm1.affine(moments, h, frames, film)
        h, moments = self.conv2(h, affine=affine, want_moments=True)
        affine = self.norm2.affine(moments, h, frames, None)
        if self.shortcut is None:
            return affine_silu(h, affine, x)
        return self.shortcut(x, second, residual=h, residual_affine=affine)[0]


class FusedTemporalAttention(_Weights):
    """Stage 2 of temporal_attention.py where it fits, else stage 1 between two products."""

    gamma: Tensor
    qkv: Tensor
    out: Tensor

    def __init__(self, layer: TemporalAttention, dtype: torch.dtype, frames: int) -> None:
        super().__init__()
        self.heads = layer.heads
        gamma, width = layer.norm["gamma"], layer.to_qkv.weight.shape[1]
        self.dim_head = layer.to_qkv.weight.shape[0] // (3 * layer.heads)
        self.is_block = block_fits(width, frames, self.dim_head)
        if self.is_block:
            qkv, out = pack_block(layer.to_qkv.weight, layer.to_out.weight, layer.heads)
            self.hold("gamma", gamma)
            self.hold("qkv", qkv, dtype)
            self.hold("out", out, dtype)
        else:
            self.to_qkv = FusedConv.linear(layer.to_qkv.weight, None, dtype, gamma)
            self.to_out = FusedConv.linear(layer.to_out.weight, None, dtype)

    def forward(self, x: Tensor, frames: int, positions: Positions) -> Tensor:
        if self.is_block:
            return temporal_block(x, self.gamma, self.qkv, self.out, frames, self.dim_head, *positions)
        y = attend_frames(self.to_qkv(x)[0], frames, self.heads, *positions)
        return self.to_out(y, residual=x)[0]


class FusedSpatialAttention(nn.Module):
    """Full attention inside a frame between two products."""

    def __init__(self, layer: SpatialAttention, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = layer.heads
        self.to_qkv = FusedConv.linear(layer.to_qkv.weight, None, dtype, layer.norm["gamma"])
        self.to_out = FusedConv.linear(layer.to_out.weight, None, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.to_out(attend_sites(self.to_qkv(x)[0], self.heads), residual=x)[0]


class FusedLinearAttention(_Weights):
    """Linear attention inside a frame; its output projection is part of the second kernel."""

    out: Tensor
    out_bias: Tensor

    def __init__(self, layer: SpatialLinearAttention, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = layer.heads
        self.to_qkv = FusedConv.linear(layer.to_qkv.weight, None, dtype, layer.norm["gamma"])
        self.hold("out", layer.to_out.weight.T, dtype)
        self.hold("out_bias", layer.to_out.bias)

    def forward(self, x: Tensor) -> Tensor:
        return linear_attend(self.to_qkv(x)[0], self.out, self.out_bias, x, self.heads)


class FusedTemporalConv(_Weights):
    """Circular convolution along the frames."""

    gamma: Tensor
    packed: Tensor
    bias: Tensor

    def __init__(self, layer: TemporalConv, dtype: torch.dtype) -> None:
        super().__init__()
        self.hold("gamma", layer.norm["gamma"])
        self.hold("packed", pack_temporal_conv(layer.conv.weight), dtype)
        self.hold("bias", layer.conv.bias)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        return temporal_conv_block(x, self.gamma, self.packed, self.bias, frames)


class FusedLevel(nn.Module):
    """One level; ``second`` is the skip connection on the way up."""

    def __init__(self, level: Level, dtype: torch.dtype, frames: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(FusedResnet(block, dtype) for block in level.blocks)
        spatial, temporal, conv = level.spatial_attention, level.temporal_attention, level.temporal_conv
        self.spatial_attention = None if spatial is None else FusedLinearAttention(spatial, dtype)
        self.temporal_attention = None if temporal is None else FusedTemporalAttention(temporal, dtype, frames)
        self.temporal_conv = None if conv is None else FusedTemporalConv(conv, dtype)
        self.resample: FusedConv | None = None
        for layer in (level.downsample, level.upsample):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                self.resample = FusedConv.of(layer, dtype)

    def forward(
        self, x: Tensor, second: Tensor | None, frames: int, time: Tensor, labels: dict[str, Tensor], positions: Positions
    ) -> Tensor:
        for block in self.blocks:
            x, second = block(x, second, frames, time, labels), None
        if self.spatial_attention is not None:
            x = self.spatial_attention(x)
        if self.temporal_attention is not None:
            x = self.temporal_attention(x, frames, positions)
        if self.temporal_conv is not None:
            x = self.temporal_conv(x, frames)
        return x


class FusedUNet(_Weights):
    """``UNet3D`` on fused ops; the same call, fp32 in and out."""

    def __init__(self, model: UNet3D, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        u, frames = model.config.unet, model.config.clip.frames
        self.config, self.dtype = model.config, dtype
        self.input_maps, self.time_mlp = model.input_maps, model.time_mlp
        self.null_cond = model.null_cond
        self.init_conv = FusedConv.of(model.init_conv, torch.float32, out=dtype)
        place = None
        if model.positional is not None:
            place = model.positional["frame"][:, :, None, None] + model.positional["spatial"][None]
        self.hold("place", place, dtype)
        first = model.init_temporal_attention
        self.init_temporal_attention = None if first is None else FusedTemporalAttention(first, dtype, frames)
        self.downs = nn.ModuleList(FusedLevel(level, dtype, frames) for level in model.downs)
        self.mid_block1 = FusedResnet(model.mid_block1, dtype)
        spatial, temporal = model.mid_spatial_attention, model.mid_temporal_attention
        self.mid_spatial_attention = None if spatial is None else FusedSpatialAttention(spatial, dtype)
        self.mid_temporal_attention = None if temporal is None else FusedTemporalAttention(temporal, dtype, frames)
        self.mid_block2 = FusedResnet(model.mid_block2, dtype)
        self.ups = nn.ModuleList(FusedLevel(level, dtype, frames) for level in model.ups)
        self.final_block = FusedResnet(model.final_block, dtype)
        self.final_conv = FusedConv.of(model.final_conv, dtype, out=torch.float32)
        bias = None
        if model.position_bias is not None:
            bias = position_bias(model.position_bias.weight, frames, u.position_max_distance)
        cos, sin = rotary_tables(frames, u.rotary_dim) if u.rotary_dim else (None, None)
        for name, value in (("bias", bias), ("cos", cos), ("sin", sin)):
            self.hold(name, value)

    place: Tensor | None
    bias: Tensor | None
    cos: Tensor | None
    sin: Tensor | None

    def forward(
        self, x: Tensor, t: Tensor, labels: dict[str, Tensor] | None = None, cond: Tensor | None = None
    ) -> Tensor:
        """``x [B, C, F, H, W]`` fp32; arguments and result as ``UNet3D.forward``."""
        b, c, frames, h, w = x.shape
        labels = filled_labels(self.config, labels or {}, b, x.device)
        time = self.time_mlp(t)
        if self.null_cond is not None:
            time = torch.cat((time, self.null_cond.expand(b, -1) if cond is None else cond.to(time.dtype)), dim=-1)
        y = x.transpose(1, 2)
        for axis, encoder in self.input_maps.items():
            y = y + encoder(labels[axis])[:, None]
        y = F.pixel_unshuffle(y.reshape(b * frames, c, h, w), self.config.unet.patch)
        y = self.init_conv(y.contiguous(memory_format=torch.channels_last))[0]
        if self.place is not None:
            y = y + self.place.repeat(b, 1, 1, 1).contiguous(memory_format=torch.channels_last)
        y = F.pixel_shuffle(self._trunk(y, frames, time, labels), self.config.unet.patch)
        return y.reshape(b, frames, c, h, w).transpose(1, 2)

    def _trunk(self, y: Tensor, frames: int, time: Tensor, labels: dict[str, Tensor]) -> Tensor:
        positions = (self.bias, self.cos, self.sin)
        if self.init_temporal_attention is not None:
            y = self.init_temporal_attention(y, frames, positions)
        residual, skips = y, []
        for level in self.downs:
            y = level(y, None, frames, time, labels, positions)
            skips.append(y)
            if level.resample is not None:
                y = level.resample(y)[0]
        y = self.mid_block1(y, None, frames, time, labels)
        if self.mid_spatial_attention is not None:
            y = self.mid_spatial_attention(y)
        if self.mid_temporal_attention is not None:
            y = self.mid_temporal_attention(y, frames, positions)
        y = self.mid_block2(y, None, frames, time, labels)
        for level in self.ups:
            y = level(y, skips.pop(), frames, time, labels, positions)
            if level.resample is not None:
                y = level.resample(y)[0]
        y = self.final_block(y, residual, frames, None, {})
        return self.final_conv(y)[0]
