"""Every kernel launch of a network and of its sampler, recorded on tensors without data, to be compiled and counted."""

from __future__ import annotations

import torch

from ..config import AXES, ModelConfig
from ..kernels.launch import Launch, recording
from ..kernels.sampler_step import DeviceTable, initial_noise, pack_clips, sampler_step
from ..nn.fused import FusedUNet
from ..nn.unet import UNet3D
from ..samplers.table import compile_rows

META = torch.device("meta")


def network_launches(config: ModelConfig, batch: int, dtype: torch.dtype = torch.bfloat16) -> list[Launch]:
    """One call of the U-Net on ``batch`` clips, in order."""
    clip, cond = config.clip, config.conditioning
    with META, torch.no_grad():
        model = FusedUNet(UNet3D(config), dtype)
        x = torch.empty(batch, config.unet.channels, clip.frames, clip.height, clip.width)
        wired = [axis for axis in AXES if getattr(cond, axis) != "none"]
        labels = {axis: torch.empty(batch, len(getattr(config.labels, axis)) + 1) for axis in wired}
        vector = torch.empty(batch, cond.cond_dim) if cond.cond_dim else None
        with recording() as recorder:
            model(x, torch.empty(batch, dtype=torch.int64), labels, vector)
    return recorder.launches


def sampler_launches(config: ModelConfig, batch: int) -> list[Launch]:
    """The kernels of the model's default sampler: initial noise, every row, packing."""
    clip, settings = config.clip, config.sampler
    n = config.unet.channels * clip.frames * clip.height * clip.width
    table = DeviceTable.of(compile_rows(settings, config.diffusion), settings.guidance, META)
    with META, recording() as recorder:
        x, out = torch.empty(batch, n), torch.empty(batch, n)
        null = None if settings.guidance == 1 else torch.empty(batch, n)
        history = torch.empty(batch, 2, n) if table.needs_history else None
        limit = torch.empty(batch) if settings.thresholding == "dynamic" else None
        index, bad = torch.empty(batch, dtype=torch.int64), torch.empty(batch, dtype=torch.int32)
        initial_noise(x, index, index)
        for i, terms in enumerate(table.terms):
            sampler_step(
                x, out, null, table.rows[i], table.streams[i], index, index, limit, history, bad, i % 2,
                settings.thresholding == "clip", *terms,
            )  # fmt: skip
        pack_clips(x, 0.5, bad)
    return recorder.launches
