"""The 3-D U-Net: one class for the ``paper`` preset, the ``walker`` preset and all between.

Structure after ``Unet3D`` of video-diffusion-pytorch. Convolutions are Conv2d with the frames folded
into the batch; only temporal attention, temporal convolution and clip-wide GroupNorm see several frames.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import AXES, ModelConfig
from ..errors import InvalidRequestError
from ..kernels.temporal_attention import position_bucket, rotary_tables
from ..kernels.time_embedding import time_embedding
from .blocks import InputMap, Level, ResnetBlock, SpatialAttention, TemporalAttention, wired_axes


class TimeMLP(nn.Module):
    """Timestep to the vector that every ResNet block is modulated by."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.linear1 = nn.Linear(dim, 4 * dim)
        self.linear2 = nn.Linear(4 * dim, 4 * dim)

    def forward(self, t: Tensor) -> Tensor:
        e = time_embedding(t, self.dim).to(self.linear1.weight.dtype)
        return self.linear2(F.gelu(self.linear1(e)))


class UNet3D(nn.Module):
    """Predicts x0, eps or v (the config says which) from a noisy clip, a timestep and conditions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        u, cond, clip = config.unet, config.conditioning, config.clip
        counts = {axis: len(getattr(config.labels, axis)) for axis in AXES}
        tables = {axis: counts[axis] for axis in wired_axes(cond, "block_table")}
        time_dim = 4 * u.dim + cond.cond_dim
        heads = u.attention_heads
        self.input_maps = nn.ModuleDict(
            {
                axis: InputMap(counts[axis], cond.encoder_dim, (u.channels, clip.height, clip.width))
                for axis in wired_axes(cond, "input_map")
            }
        )
        self.null_cond = nn.Parameter(torch.randn(cond.cond_dim)) if cond.cond_dim else None
        self.time_mlp = TimeMLP(u.dim)
        self.position_bias = nn.Embedding(u.position_buckets, heads) if u.position_buckets else None
        self._hold_positions()
        stem_in = u.channels * u.patch**2
        self.init_conv = nn.Conv2d(stem_in, u.init_dim, u.init_kernel, padding=u.init_kernel // 2)
        self.positional = self._positional() if u.positional_embedding else None
        self.init_temporal_attention = TemporalAttention(u, u.init_dim) if u.init_temporal_attention else None

        dims = [u.init_dim, *u.level_dims]
        last = len(dims) - 2
        self.downs = nn.ModuleList()
        self.ups = nn.ModuleList()
        for i, (width_in, width) in enumerate(pairwise(dims)):
            level = Level(u, i, width_in, width, time_dim, tables)
            if i < last:
                level.downsample = nn.Conv2d(width, width, 4, stride=2, padding=1)
            self.downs.append(level)
        mid = dims[-1]
        self.mid_block1 = ResnetBlock(u, mid, mid, time_dim, tables)
        self.mid_spatial_attention = SpatialAttention(u, mid) if u.mid_spatial_attention else None
        self.mid_temporal_attention = TemporalAttention(u, mid) if u.mid_temporal_attention else None
        self.mid_block2 = ResnetBlock(u, mid, mid, time_dim, tables)
        for i in reversed(range(len(dims) - 1)):
            width_in, width = dims[i], dims[i + 1]
            level = Level(u, i, 2 * width, width_in, time_dim, tables)
            if i > 0:
                level.upsample = nn.ConvTranspose2d(width_in, width_in, 4, stride=2, padding=1)
            self.ups.append(level)
        self.final_block = ResnetBlock(u, 2 * u.init_dim, u.dim, None, {})
        self.final_conv = nn.Conv2d(u.dim, stem_in, 1)

    bucket: Tensor | None
    cos: Tensor | None
    sin: Tensor | None

    def _hold_positions(self) -> None:
        """Tables that depend on the frame count alone, on the weights' device: made anew they would have to be sent there."""
        u, frames = self.config.unet, self.config.clip.frames
        bucket = position_bucket(frames, u.position_buckets, u.position_max_distance) if u.position_buckets else None
        cos, sin = rotary_tables(frames, u.rotary_dim) if u.rotary_dim else (None, None)
        for name, table in (("bucket", bucket), ("cos", cos), ("sin", sin)):
            self.register_buffer(name, table, persistent=False)

    def _positional(self) -> nn.ParameterDict:
        u, clip = self.config.unet, self.config.clip
        h, w = clip.height // u.patch, clip.width // u.patch
        return nn.ParameterDict(
            {
                "spatial": nn.Parameter(torch.randn(u.init_dim, h, w) * 0.02),
                "frame": nn.Parameter(torch.randn(clip.frames, u.init_dim) * 0.02),
            }
        )

    def forward(
        self, x: Tensor, t: Tensor, labels: dict[str, Tensor] | None = None, cond: Tensor | None = None
    ) -> Tensor:
        """One denoiser call.

        ``x [B, C, F, H, W]`` noisy clips, ``t [B]`` timesteps, ``labels`` per wired axis a weight matrix
        ``[B, labels + 1]`` whose last column is null (absent axes are null), ``cond [B, cond_dim]`` for the base
        network's wiring (absent: the null vector). Returns the same shape as ``x``.
        """
        b, c, frames, h, w = x.shape
        shape = self.config.clip
        if (frames, h, w) != (shape.frames, shape.height, shape.width):
            raise InvalidRequestError(
                f"clip of {frames}x{h}x{w}; this model takes {shape.frames}x{shape.height}x{shape.width}"
            )
        labels = filled_labels(self.config, labels or {}, b, x.device)
        time = self.time_mlp(t)
        if self.null_cond is not None:
            vec = self.null_cond.expand(b, -1) if cond is None else cond
            time = torch.cat((time, vec.to(time.dtype)), dim=-1)
        u = self.config.unet
        y = x.transpose(1, 2)
        for axis, encoder in self.input_maps.items():
            y = y + encoder(labels[axis])[:, None]
        y = F.pixel_unshuffle(y.reshape(b * frames, c, h, w), u.patch)
        y = self.init_conv(y.contiguous(memory_format=torch.channels_last))
        y = self._trunk(y, frames, time, labels)
        y = F.pixel_shuffle(self.final_conv(y), u.patch)
        return y.reshape(b, frames, c, h, w).transpose(1, 2)

    def _trunk(self, y: Tensor, frames: int, time: Tensor, labels: dict[str, Tensor]) -> Tensor:
        bias = None
        if self.position_bias is not None and self.bucket is not None:
            bias = self.position_bias.weight[self.bucket].permute(2, 0, 1)
        rotary = (self.cos, self.sin) if self.cos is not None and self.sin is not None else None
        if self.positional is not None:
            n = y.shape[0]
            place = self.positional["frame"][:, :, None, None] + self.positional["spatial"][None]
            y = y + place.to(y.dtype).repeat(n // frames, 1, 1, 1)
        if self.init_temporal_attention is not None:
            y = self.init_temporal_attention(y, frames, bias, rotary)
        residual = y
        skips = []
        for level in self.downs:
            y = level(y, frames, time, labels, bias, rotary)
            skips.append(y)
            if level.downsample is not None:
                y = level.downsample(y)
        y = self.mid_block1(y, frames, time, labels)
        if self.mid_spatial_attention is not None:
            y = self.mid_spatial_attention(y)
        if self.mid_temporal_attention is not None:
            y = self.mid_temporal_attention(y, frames, bias, rotary)
        y = self.mid_block2(y, frames, time, labels)
        for level in self.ups:
            y = level(torch.cat((y, skips.pop()), dim=1), frames, time, labels, bias, rotary)
            if level.upsample is not None:
                y = level.upsample(y)
        return self.final_block(torch.cat((y, residual), dim=1), frames, None, {})


def filled_labels(config: ModelConfig, labels: dict[str, Tensor], batch: int, device: torch.device) -> dict[str, Tensor]:
    """Every wired axis, null where the caller gave none."""
    out = {}
    for axis in AXES:
        if getattr(config.conditioning, axis) == "none":
            continue
        n = len(getattr(config.labels, axis))
        if axis in labels:
            out[axis] = labels[axis]
        else:
            null = torch.zeros(batch, n + 1, device=device)
            null[:, n] = 1
            out[axis] = null
    return out
