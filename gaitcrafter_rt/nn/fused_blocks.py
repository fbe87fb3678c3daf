"""The U-Net's blocks on the fused ops of ``gaitcrafter_rt.kernels``; fused.py joins them, blocks.py is their reference.

Weights are packed once for the kernels. GroupNorm's statistics come out of the convolution before it; its application is a pass of
its own in front of a 3x3 convolution, which would activate every pixel nine times (docs/gpu.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..kernels.conv2d import conv2d, pack_conv, pack_conv_transpose, padding_of, unpack_conv_transpose
from ..kernels.group_norm_silu import affine_silu, channel_moments, norm_affine, rms_norm_silu
from ..kernels.linear import linear_fits, norm_linear
from ..kernels.spatial_attention import attend_sites
from ..kernels.spatial_linear_attention import linear_attend, linear_block, linear_block_fits, pack_linear_block
from ..kernels.temporal_attention import attend_frames, block_fits, pack_block, temporal_block
from ..kernels.temporal_conv import pack_temporal_conv, temporal_conv_block
from .blocks import BlockNorm, Level, ResnetBlock, SpatialAttention, SpatialLinearAttention, TemporalAttention, TemporalConv

Positions = tuple[Tensor | None, Tensor | None, Tensor | None]  # bias [heads, F, F], cos and sin [F, pairs]


class FusedWeights(nn.Module):
    """Buffers: packed weights in the network's dtype, vectors in fp32."""

    def hold(self, name: str, value: Tensor | None, dtype: torch.dtype = torch.float32) -> None:
        self.register_buffer(name, None if value is None else value.detach().to(dtype).contiguous())


class FusedConv(FusedWeights):
    """A convolution of conv2d.py with its weights."""

    packed: Tensor
    bias: Tensor | None

    def __init__(
        self, packed: Tensor, bias: Tensor | None, dtype: torch.dtype, frames: int, stride: int = 1,
        out: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.stride, self.out, self.frames = stride, out, frames
        self.library: nn.Conv2d | nn.ConvTranspose2d | None = None  # torch's convolution in place of the kernel
        self.always = False  # for two inputs too, which it takes only after a copy
        self.hold("packed", packed, dtype)
        self.hold("bias", bias)

    @classmethod
    def of(
        cls, layer: nn.Conv2d | nn.ConvTranspose2d, dtype: torch.dtype, frames: int, out: torch.dtype | None = None
    ) -> FusedConv:
        """From torch's layer."""
        if isinstance(layer, nn.ConvTranspose2d):
            return cls(pack_conv_transpose(layer.weight), layer.bias, dtype, frames, out=out)
        return cls(pack_conv(layer.weight), layer.bias, dtype, frames, layer.stride[0], out=out)

    @classmethod
    def linear(cls, weight: Tensor, dtype: torch.dtype, frames: int) -> FusedConv:
        """A product over the channels of every site."""
        return cls(pack_conv(weight[:, :, None, None]), None, dtype, frames)

    def forward(
        self, x: Tensor, second: Tensor | None = None, residual: Tensor | None = None, residual_affine: Tensor | None = None,
        want_moments: bool = False,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        if self.library is not None and (second is None or self.always):
            return self._by_library(x, second, residual, residual_affine, want_moments)
        return conv2d(
            x, second, self.packed, self.bias, self.stride, None, None, residual, residual_affine, want_moments, self.out,
            self.frames,
        )  # fmt: skip

    def route(self, conv: str) -> None:
        """Choose torch's convolution (cuDNN on a GPU), whose weights lie in another order, or the kernel (route_convolutions)."""
        self.always = conv == "torch"
        to_library = self.always or (conv == "auto" and library_wins(self))
        self.library = library_layer(self.packed, self.bias, self.stride) if to_library else None

    def _by_library(
        self, x: Tensor, second: Tensor | None, residual: Tensor | None, residual_affine: Tensor | None, want_moments: bool
    ) -> tuple[Tensor, Tensor]:
        """What ``conv2d`` does, with the parts around the products as passes of their own."""
        assert self.library is not None
        y: Tensor = self.library(x if second is None else torch.cat((x, second), dim=1))
        if residual is not None:
            y = y + residual if residual_affine is None else affine_silu(residual, residual_affine, y)
        moments = channel_moments(y) if want_moments else y.new_empty(0, dtype=torch.float32)
        return y if self.out is None else y.to(self.out), moments


def library_layer(packed: Tensor, bias: Tensor | None, stride: int) -> nn.Conv2d | nn.ConvTranspose2d:
    """torch's layer with the weights of ``pack_conv`` or ``pack_conv_transpose``, channels-last."""
    layer: nn.Conv2d | nn.ConvTranspose2d
    if len(packed) == 4:
        ci, co = packed.shape[3:]
        layer = nn.ConvTranspose2d(ci, co, 4, stride=2, padding=1, bias=bias is not None)
        weight = unpack_conv_transpose(packed)
    else:
        _, kernel, _, ci, co = packed.shape
        layer = nn.Conv2d(ci, co, kernel, stride=stride, padding=padding_of(kernel), bias=bias is not None)
        weight = packed[0].permute(3, 2, 0, 1)
    layer = layer.to(packed.device, packed.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(bias)
    return layer.requires_grad_(False).to(memory_format=torch.channels_last)


def library_wins(layer: FusedConv) -> bool:
    """Whether torch's convolution alone was faster than the kernel on an H100 in bf16.

    In the whole network it was not, because what the kernel folds in becomes passes of their own (docs/gpu.md).
    """
    phases, kernel, _, _, co = layer.packed.shape
    return phases == 4 or kernel == 4 or (kernel == 3 and co >= 128)


class FusedNorm(FusedWeights):
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


class FilmRows:
    """The FiLM layers of all blocks as one: scale and shift of a block are a slice of a row."""

    def __init__(self) -> None:
        self.blocks: list[ResnetBlock] = []
        self.width = 0

    def take(self, block: ResnetBlock) -> slice:
        """The slice of the next block, in the order of the network (csrc/unet has the same)."""
        start = self.width
        self.blocks.append(block)
        self.width += 2 * block.conv2.weight.shape[0]
        return slice(start, self.width)

    def weight(self) -> Tensor:
        """``[width, T]``"""
        return torch.cat([block.film.weight for block in self.blocks if block.film is not None])

    def bias(self) -> Tensor:
        """``[width]``"""
        return torch.cat([block.film.bias for block in self.blocks if block.film is not None])

    def tables(self) -> dict[str, Tensor]:
        """``[n + 1, width]`` of every axis that enters the blocks."""
        return {axis: torch.cat([block.tables[axis] for block in self.blocks], dim=1) for axis in self.blocks[0].tables}


class FusedResnet(nn.Module):
    """A ResNet block in three or four launches over its activations (GroupNorm), or five (RMSNorm)."""

    def __init__(self, block: ResnetBlock, dtype: torch.dtype, frames: int, rows: FilmRows, joins: bool = False) -> None:
        """``joins``: the input comes in two parts."""
        super().__init__()
        self.conv1, self.conv2 = FusedConv.of(block.conv1, dtype, frames), FusedConv.of(block.conv2, dtype, frames)
        self.norm1, self.norm2 = FusedNorm(block.norm1), FusedNorm(block.norm2)
        self.shortcut = None if block.shortcut is None else FusedConv.of(block.shortcut, dtype, frames)
        width = block.conv2.weight.shape[0]
        if joins and self.shortcut is None:  # adds two inputs that lie apart: a product with the identity, which is exact
            self.shortcut = FusedConv.linear(torch.eye(width), dtype, frames)
        self.film = None if block.film is None else rows.take(block)

    def forward(self, x: Tensor, second: Tensor | None, frames: int, films: Tensor) -> Tensor:
        film = None if self.film is None else films[:, self.film]
        if self.norm1.is_rms:
            h = rms_norm_silu(self.conv1(x, second)[0], self.norm1.weight, frames, film, None)
            rest = x if self.shortcut is None else self.shortcut(x, second)[0]
            return rms_norm_silu(self.conv2(h)[0], self.norm2.weight, frames, None, rest)
        h, moments = self.conv1(x, second, want_moments=True)
        affine = self.norm1.affine(moments, h, frames, film)
        # A pass of its own: on load it would be computed nine times, which is slower by far (docs/gpu.md).
        h, moments = self.conv2(affine_silu(h, affine), want_moments=True)
        affine = self.norm2.affine(moments, h, frames, None)
        if self.shortcut is None:
            return affine_silu(h, affine, x)
        return self.shortcut(x, second, residual=h, residual_affine=affine)[0]


class FusedProjection(FusedWeights):
    """LayerNorm and the projection to q, k and v; what is too wide for linear.py goes through the convolution's kernel."""

    gamma: Tensor
    weight: Tensor

    def __init__(self, weight: Tensor, gamma: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.hold("gamma", gamma)
        self.hold("weight", weight.T, dtype)
        self.is_wide = not linear_fits(weight.shape[1], dtype)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_wide:
            return conv2d(x, None, self.weight[None, None, None], None, 1, None, self.gamma)[0]
        return norm_linear(x, self.gamma, self.weight)


class FusedTemporalAttention(FusedWeights):
    """Stage 2 of temporal_attention.py where it fits, else stage 1 between two products."""

    gamma: Tensor
    qkv: Tensor
    out: Tensor

    def __init__(self, layer: TemporalAttention, dtype: torch.dtype, frames: int) -> None:
        super().__init__()
        self.heads = layer.heads
        gamma, width = layer.norm["gamma"], layer.to_qkv.weight.shape[1]
        self.dim_head = layer.to_qkv.weight.shape[0] // (3 * layer.heads)
        self.is_block = block_fits(width, frames, self.dim_head, dtype)
        if self.is_block:
            qkv, out = pack_block(layer.to_qkv.weight, layer.to_out.weight, layer.heads)
            self.hold("gamma", gamma)
            self.hold("qkv", qkv, dtype)
            self.hold("out", out, dtype)
        else:
            self.to_qkv = FusedProjection(layer.to_qkv.weight, gamma, dtype)
            self.to_out = FusedConv.linear(layer.to_out.weight, dtype, frames)

    def forward(self, x: Tensor, frames: int, positions: Positions) -> Tensor:
        if self.is_block:
            return temporal_block(x, self.gamma, self.qkv, self.out, frames, self.dim_head, *positions)
        y = attend_frames(self.to_qkv(x), frames, self.heads, *positions)
        return self.to_out(y, residual=x)[0]


class FusedSpatialAttention(nn.Module):
    """Full attention inside a frame between two products."""

    def __init__(self, layer: SpatialAttention, dtype: torch.dtype, frames: int) -> None:
        super().__init__()
        self.heads = layer.heads
        self.to_qkv = FusedProjection(layer.to_qkv.weight, layer.norm["gamma"], dtype)
        self.to_out = FusedConv.linear(layer.to_out.weight, dtype, frames)

    def forward(self, x: Tensor) -> Tensor:
        return self.to_out(attend_sites(self.to_qkv(x), self.heads), residual=x)[0]


class FusedLinearAttention(FusedWeights):
    """Linear attention inside a frame: from the block's input where it fits, else from projected q, k and v."""

    gamma: Tensor
    q: Tensor
    kv: Tensor
    out: Tensor
    out_bias: Tensor

    def __init__(self, layer: SpatialLinearAttention, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = layer.heads
        gamma, width = layer.norm["gamma"], layer.to_qkv.weight.shape[1]
        self.dim_head = layer.to_qkv.weight.shape[0] // (3 * layer.heads)
        self.is_block = linear_block_fits(width, self.dim_head, dtype)
        self.hold("out_bias", layer.to_out.bias)
        if self.is_block:
            q, kv, out = pack_linear_block(layer.to_qkv.weight, layer.to_out.weight, layer.heads)
            self.hold("gamma", gamma)
            self.hold("q", q, dtype)
            self.hold("kv", kv, dtype)
            self.hold("out", out, dtype)
        else:
            self.to_qkv = FusedProjection(layer.to_qkv.weight, gamma, dtype)
            self.hold("out", layer.to_out.weight.T, dtype)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_block:
            return linear_block(x, self.gamma, self.q, self.kv, self.out, self.out_bias, self.dim_head)
        return linear_attend(self.to_qkv(x), self.out, self.out_bias, x, self.heads)


class FusedTemporalConv(FusedWeights):
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

    def __init__(self, level: Level, dtype: torch.dtype, frames: int, rows: FilmRows, joins: bool = False) -> None:
        super().__init__()
        blocks = enumerate(level.blocks)
        self.blocks = nn.ModuleList(FusedResnet(block, dtype, frames, rows, joins and i == 0) for i, block in blocks)
        spatial, temporal, conv = level.spatial_attention, level.temporal_attention, level.temporal_conv
        self.spatial_attention = None if spatial is None else FusedLinearAttention(spatial, dtype)
        self.temporal_attention = None if temporal is None else FusedTemporalAttention(temporal, dtype, frames)
        self.temporal_conv = None if conv is None else FusedTemporalConv(conv, dtype)
        self.resample: FusedConv | None = None
        for layer in (level.downsample, level.upsample):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                self.resample = FusedConv.of(layer, dtype, frames)

    def forward(self, x: Tensor, second: Tensor | None, frames: int, films: Tensor, positions: Positions) -> Tensor:
        for block in self.blocks:
            x, second = block(x, second, frames, films), None
        if self.spatial_attention is not None:
            x = self.spatial_attention(x)
        if self.temporal_attention is not None:
            x = self.temporal_attention(x, frames, positions)
        if self.temporal_conv is not None:
            x = self.temporal_conv(x, frames)
        return x
