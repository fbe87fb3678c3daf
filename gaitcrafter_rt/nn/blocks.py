"""Blocks of the U-Net, each a thin module over the ops of ``gaitcrafter_rt.kernels``.

Parameter names are the tensor names of a model package; ``csrc/model`` reads the same ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import AXES, Conditioning, UNetConfig
from ..kernels.channel_layer_norm import channel_layer_norm
from ..kernels.group_norm_silu import film_silu, group_norm, rms_norm
from ..kernels.spatial_attention import spatial_attention
from ..kernels.spatial_linear_attention import spatial_linear_attention
from ..kernels.temporal_attention import temporal_attention
from ..kernels.temporal_conv import temporal_conv


class BlockNorm(nn.Module):
    """The norm of a ResNet block, in either checkpoint generation."""

    def __init__(self, cfg: UNetConfig, width: int) -> None:
        super().__init__()
        self.groups, self.scope = cfg.norm_groups, cfg.norm_scope
        self.is_rms = cfg.norm == "rms_norm"
        if self.is_rms:
            self.gamma = nn.Parameter(torch.ones(width))
        else:
            self.weight = nn.Parameter(torch.ones(width))
            self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        if self.is_rms:
            return rms_norm(x, self.gamma)
        return group_norm(x, self.weight, self.bias, self.groups, frames, self.scope)


class ResnetBlock(nn.Module):
    """conv-norm-FiLM-SiLU, conv-norm-SiLU, plus the input (through a 1x1 shortcut where widths differ)."""

    def __init__(
        self, cfg: UNetConfig, width_in: int, width: int, time_dim: int | None, tables: dict[str, int]
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.norm1 = BlockNorm(cfg, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = BlockNorm(cfg, width)
        self.film = nn.Linear(time_dim, 2 * width) if time_dim else None
        # Null is the last row. Zeros: conditions start silent and grow as they help.
        self.tables = nn.ParameterDict({axis: nn.Parameter(torch.zeros(n + 1, 2 * width)) for axis, n in tables.items()})
        self.shortcut = nn.Conv2d(width_in, width, 1) if width_in != width else None

    def forward(self, x: Tensor, frames: int, time: Tensor | None, labels: dict[str, Tensor]) -> Tensor:
        scale_shift = None
        if self.film is not None and time is not None:
            scale_shift = self.film(F.silu(time))
            for axis, table in self.tables.items():
                scale_shift = scale_shift + labels[axis].to(table.dtype) @ table
        h = film_silu(self.norm1(self.conv1(x), frames), scale_shift, frames)
        h = film_silu(self.norm2(self.conv2(h), frames), None, frames)
        return h + (x if self.shortcut is None else self.shortcut(x))


class _PreNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.ParameterDict({"gamma": nn.Parameter(torch.ones(width))})

    def normed(self, x: Tensor) -> Tensor:
        return channel_layer_norm(x, self.norm["gamma"])


class TemporalAttention(_PreNorm):
    """Residual temporal attention of one level."""

    def __init__(self, cfg: UNetConfig, width: int) -> None:
        super().__init__(width)
        self.heads = cfg.attention_heads
        hidden = cfg.attention_heads * cfg.attention_dim_head
        self.to_qkv = nn.Linear(width, 3 * hidden, bias=False)
        self.to_out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, frames: int, bias: Tensor | None, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        y = temporal_attention(
            self.normed(x), self.to_qkv.weight, self.to_out.weight, frames, self.heads, bias, rotary
        )
        return x + y


class SpatialAttention(_PreNorm):
    """Residual full attention inside each frame (middle only)."""

    def __init__(self, cfg: UNetConfig, width: int) -> None:
        super().__init__(width)
        self.heads = cfg.attention_heads
        hidden = cfg.attention_heads * cfg.attention_dim_head
        self.to_qkv = nn.Linear(width, 3 * hidden, bias=False)
        self.to_out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + spatial_attention(self.normed(x), self.to_qkv.weight, self.to_out.weight, self.heads)


class SpatialLinearAttention(_PreNorm):
    """Residual linear attention inside each frame."""

    def __init__(self, cfg: UNetConfig, width: int) -> None:
        super().__init__(width)
        self.heads = cfg.linear_heads
        hidden = cfg.linear_heads * cfg.linear_dim_head
        self.to_qkv = nn.Linear(width, 3 * hidden, bias=False)
        self.to_out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y = spatial_linear_attention(
            self.normed(x), self.to_qkv.weight, self.to_out.weight, self.to_out.bias, self.heads
        )
        return x + y


class TemporalConv(_PreNorm):
    """Residual circular three-tap convolution along the frames."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.conv = nn.Conv1d(width, width, 3)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        return x + temporal_conv(self.normed(x), self.conv.weight, self.conv.bias, frames)


class Level(nn.Module):
    """One level on the way down or up: ResNet blocks, then the attentions that the config switches on."""

    def __init__(
        self, cfg: UNetConfig, level: int, width_in: int, width: int, time_dim: int, tables: dict[str, int]
    ) -> None:
        super().__init__()
        widths = [width_in] + [width] * (cfg.blocks_per_level - 1)
        self.blocks = nn.ModuleList(ResnetBlock(cfg, w, width, time_dim, tables) for w in widths)
        self.spatial_attention = SpatialLinearAttention(cfg, width) if cfg.spatial_linear_attention[level] else None
        self.temporal_attention = TemporalAttention(cfg, width) if cfg.temporal_attention[level] else None
        self.temporal_conv = TemporalConv(width) if cfg.temporal_conv[level] else None
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None

    def forward(
        self,
        x: Tensor,
        frames: int,
        time: Tensor,
        labels: dict[str, Tensor],
        bias: Tensor | None,
        rotary: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        for block in self.blocks:
            x = block(x, frames, time, labels)
        if self.spatial_attention is not None:
            x = self.spatial_attention(x)
        if self.temporal_attention is not None:
            x = self.temporal_attention(x, frames, bias, rotary)
        if self.temporal_conv is not None:
            x = self.temporal_conv(x, frames)
        return x


class InputMap(nn.Module):
    """Encoder of one label axis: embedding, SiLU, linear, a ``[C, H, W]`` map added to every frame of the input."""

    def __init__(self, labels: int, encoder_dim: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.randn(labels + 1, encoder_dim))
        c, h, w = shape
        self.proj = nn.Linear(encoder_dim, c * h * w)
        nn.init.zeros_(self.proj.bias)

    def forward(self, weights: Tensor) -> Tensor:
        """``weights [B, labels + 1]`` to ``[B, C, H, W]``; several labels at once add their embeddings."""
        return self.proj(F.silu(weights.to(self.embedding.dtype) @ self.embedding)).view(-1, *self.shape)


def wired_axes(cond: Conditioning, wiring: str) -> list[str]:
    """The axes, in vocabulary order, that enter the network by ``wiring``."""
    return [axis for axis in AXES if getattr(cond, axis) == wiring]
