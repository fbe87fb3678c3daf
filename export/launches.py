"""Every kernel launch of a network and of its sampler, recorded on tensors without data, to be compiled and counted."""

from __future__ import annotations

import torch

from ..config import ModelConfig
from ..kernels.add_repeated import add_repeated
from ..kernels.dynamic_limits import dynamic_limits
from ..kernels.launch import Launch, recording
from ..kernels.sampler_step import DeviceTable, initial_noise, pack_clips, sampler_step, threshold_level
from ..nn.fused import FusedUNet
from ..nn.unet import UNet3D
from ..samplers.table import compile_rows

META = torch.device("meta")


def network_launches(config: ModelConfig, batch: int, dtype: torch.dtype = torch.bfloat16) -> list[Launch]:
    """One call of the U-Net on ``batch`` clips, in order."""
    clip, u = config.clip, config.unet
    with META, torch.no_grad():
        model = FusedUNet(UNet3D(config), dtype)
        x = torch.empty(batch, u.channels, clip.frames, clip.height, clip.width)
        maps = torch.empty(batch, u.channels, clip.height, clip.width) if len(model.input_maps) else None
        with recording() as recorder:
            model.denoise(x, add_repeated(torch.empty(batch, model.film_width), torch.empty(1, model.film_width)), maps)
    return recorder.launches


def sampler_launches(config: ModelConfig, batch: int) -> list[Launch]:
    """The kernels of the model's default sampler: initial noise, every row, packing."""
    clip, settings = config.clip, config.sampler
    n = config.unet.channels * clip.frames * clip.height * clip.width
    table = DeviceTable.of(compile_rows(settings, config.diffusion), settings, n, META)
    with META, recording() as recorder:
        x, limit, history = torch.empty(batch, n), torch.empty(batch), torch.empty(batch, 2, n)
        lanes = torch.empty(batch, 1 if settings.guidance in (0, 1) else 2, n)
        out, null = lanes[:, 0], lanes[:, 1] if lanes.shape[1] == 2 else None
        index, bad = torch.empty(batch, dtype=torch.int64), torch.empty(batch, dtype=torch.int32)
        initial_noise(x, index, index)
        for row, integers in zip(table.rows, table.integers, strict=True):
            if table.is_dynamic:
                dynamic_limits(x, out, null, row, integers, limit)
            sampler_step(x, out, null, row, integers, index, index, limit, history, bad)
        pack_clips(x, threshold_level(0.5, META), bad)
    return recorder.launches
