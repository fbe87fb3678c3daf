"""The U-Net on the fused ops of ``gaitcrafter_rt.kernels``: what runs on a GPU. ``UNet3D`` stays the reference and is what trains.

Activations are ``[B * F, C, H, W]`` in ``dtype``, channels-last throughout; the stem reads and the last convolution writes fp32,
norms and everything that depends on the timestep alone are fp32. Skip connections are read in place; fused_blocks.py.
Without a GPU the ops compute their plain references, so the module gives the same on a CPU to within rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.add_repeated import add_repeated
from ..kernels.pixel_shuffle import shuffle_clips, unshuffle_clips
from ..kernels.temporal_attention import position_bias, rotary_tables
from .fused_blocks import FilmRows, FusedConv, FusedLevel, FusedResnet, FusedSpatialAttention, FusedTemporalAttention, FusedWeights
from .unet import UNet3D, filled_labels


class FusedUNet(FusedWeights):
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

    def forward(self, x: Tensor, t: Tensor, labels: dict[str, Tensor] | None = None, cond: Tensor | None = None) -> Tensor:
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
            y = add_repeated(y, self.place.permute(0, 3, 1, 2))
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
