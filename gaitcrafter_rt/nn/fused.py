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

from ..kernels.conv2d import conv2d, pack_conv, pack_conv_transpose, padding_of, unpack_conv_transpose
from ..kernels.group_norm_silu import affine_silu, channel_moments, norm_affine, rms_norm_silu
from ..kernels.linear import linear_fits, norm_linear
from ..kernels.pixel_shuffle import shuffle_clips, unshuffle_clips
from ..kernels.positional_embedding import add_place
from ..kernels.spatial_attention import attend_sites
from ..kernels.spatial_linear_attention import linear_attend, linear_block, linear_block_fits, pack_linear_block
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


class FusedProjection(_Weights):
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


class FusedLinearAttention(_Weights):
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


class FusedUNet(_Weights):
    """``UNet3D`` on fused ops; the same call, fp32 in and out.

    What depends on the timestep alone (``time_terms``) or on the conditions alone (``condition_terms``, ``condition_maps``) is a
    few thousand numbers in plain torch; ``denoise`` is the rest, and on a GPU launches kernels of this package and nothing else.
    """

    def __init__(self, model: UNet3D, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        u, frames = model.config.unet, model.config.clip.frames
        self.config, self.dtype = model.config, dtype
        self.input_maps, self.time_mlp = model.input_maps, model.time_mlp
        self.null_cond = model.null_cond
        self.init_conv = FusedConv.of(model.init_conv, torch.float32, frames, out=dtype)
        place = None
        if model.positional is not None:
            place = model.positional["frame"][:, :, None, None] + model.positional["spatial"][None]
            place = place.permute(0, 2, 3, 1)
        self.hold("place", place, dtype)
        first, rows = model.init_temporal_attention, FilmRows()
        self.init_temporal_attention = None if first is None else FusedTemporalAttention(first, dtype, frames)
        self.downs = nn.ModuleList(FusedLevel(level, dtype, frames, rows) for level in model.downs)
        self.mid_block1 = FusedResnet(model.mid_block1, dtype, frames, rows)
        spatial, temporal = model.mid_spatial_attention, model.mid_temporal_attention
        self.mid_spatial_attention = None if spatial is None else FusedSpatialAttention(spatial, dtype, frames)
        self.mid_temporal_attention = None if temporal is None else FusedTemporalAttention(temporal, dtype, frames)
        self.mid_block2 = FusedResnet(model.mid_block2, dtype, frames, rows)
        self.ups = nn.ModuleList(FusedLevel(level, dtype, frames, rows, joins=True) for level in model.ups)
        self.final_block = FusedResnet(model.final_block, dtype, frames, rows, joins=True)
        self.final_conv = FusedConv.of(model.final_conv, dtype, frames, out=torch.float32)
        self.film_width = rows.width
        self.hold("film_weight", rows.weight())
        self.hold("film_bias", rows.bias())
        self.axes = list(rows.tables())
        for axis, table in rows.tables().items():
            self.hold(f"table_{axis}", table)
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
    film_weight: Tensor
    film_bias: Tensor

    def forward(
        self, x: Tensor, t: Tensor, labels: dict[str, Tensor] | None = None, cond: Tensor | None = None
    ) -> Tensor:
        """``x [B, C, F, H, W]`` fp32; arguments and result as ``UNet3D.forward``."""
        labels = filled_labels(self.config, labels or {}, len(x), x.device)
        films = self.time_terms(t) + self.condition_terms(labels, cond, len(x))
        return self.denoise(x.contiguous(), films, self.condition_maps(labels))

    def time_terms(self, t: Tensor) -> Tensor:
        """FiLM terms of timesteps ``[n]``: fp32 ``[n, film_width]``."""
        return F.linear(F.silu(self.time_mlp(t)), self.film_weight[:, : 4 * self.config.unet.dim], self.film_bias)

    def condition_terms(self, labels: dict[str, Tensor], cond: Tensor | None, lanes: int) -> Tensor:
        """FiLM terms of conditions, for all wired axes of ``labels`` (``filled_labels``): fp32 ``[lanes, film_width]``."""
        terms = self.film_bias.new_zeros((lanes, self.film_width))
        for axis in self.axes:
            table: Tensor = getattr(self, f"table_{axis}")
            terms = terms + labels[axis].to(table.dtype) @ table
        if self.null_cond is not None:
            vector = self.null_cond.expand(lanes, -1) if cond is None else cond
            terms = terms + F.linear(F.silu(vector.to(terms.dtype)), self.film_weight[:, 4 * self.config.unet.dim :])
        return terms

    def condition_maps(self, labels: dict[str, Tensor]) -> Tensor | None:
        """What is added to every frame of the input: fp32 ``[lanes, C, H, W]``, None without such axes."""
        total = None
        for axis, encoder in self.input_maps.items():
            encoded = encoder(labels[axis])
            total = encoded if total is None else total + encoded
        return None if total is None else total.float().contiguous()

    def denoise(self, x: Tensor, films: Tensor, maps: Tensor | None, lanes: int = 1) -> Tensor:
        """``x [clips, C, F, H, W]`` fp32, each clip in ``lanes`` neighbouring lanes; FiLM rows and maps are those of the lanes."""
        frames, patch = self.config.clip.frames, self.config.unet.patch
        y = unshuffle_clips(x, maps, patch, lanes)
        y = self.init_conv(y)[0]
        if self.place is not None:
            y = add_place(y, self.place.permute(0, 3, 1, 2))
        return shuffle_clips(self._trunk(y, frames, films), frames, patch)

    def _trunk(self, y: Tensor, frames: int, films: Tensor) -> Tensor:
        positions = (self.bias, self.cos, self.sin)
        if self.init_temporal_attention is not None:
            y = self.init_temporal_attention(y, frames, positions)
        residual, skips = y, []
        for level in self.downs:
            y = level(y, None, frames, films, positions)
            skips.append(y)
            if level.resample is not None:
                y = level.resample(y)[0]
        y = self.mid_block1(y, None, frames, films)
        if self.mid_spatial_attention is not None:
            y = self.mid_spatial_attention(y)
        if self.mid_temporal_attention is not None:
            y = self.mid_temporal_attention(y, frames, positions)
        y = self.mid_block2(y, None, frames, films)
        for level in self.ups:
            y = level(y, skips.pop(), frames, films, positions)
            if level.resample is not None:
                y = level.resample(y)[0]
        y = self.final_block(y, residual, frames, films)
        return self.final_conv(y)[0]


def route_convolutions(network: FusedUNet, conv: str) -> FusedUNet:
    """Set which convolutions run by torch's library: none ("triton"), all ("torch"), or those where it is faster alone ("auto")."""
    for module in network.modules():
        if isinstance(module, FusedConv):
            module.route(conv)
    return network


def library_wins(layer: FusedConv) -> bool:
    """Whether torch's convolution alone was faster than the kernel on an H100 in bf16.

    In the whole network it was not, because what the kernel folds in becomes passes of their own (docs/gpu.md).
    """
    phases, kernel, _, _, co = layer.packed.shape
    return phases == 4 or kernel == 4 or (kernel == 3 and co >= 128)
