"""Launches that between them start every kernel in every form, at the sizes that the paper's network and the shipped one have."""

from __future__ import annotations

from pathlib import Path

import torch

import gaitcrafter_rt
from gaitcrafter_rt.config import ModelConfig, SamplerDefaults, paper_preset
from gaitcrafter_rt.export.launches import network_launches, sampler_launches
from gaitcrafter_rt.kernels.launch import Launch
from gaitcrafter_rt.package import read_config

WALKER = Path(gaitcrafter_rt.__file__).parent / "models" / "walker"


def paper() -> ModelConfig:
    return ModelConfig(unet=paper_preset(), sampler=SamplerDefaults(kind="ddpm", steps=20, thresholding="dynamic"))


def rms() -> ModelConfig:
    """The newer checkpoint generation, one level."""
    one = dict(dim_mults=[1], spatial_linear_attention=[False], temporal_attention=[False], temporal_conv=[False])
    return ModelConfig(unet=paper_preset(norm="rms_norm", mid_spatial_attention=False, mid_temporal_attention=False, **one))


def all_launches(batch: int = 1, dtype: torch.dtype = torch.bfloat16) -> list[Launch]:
    """The paper's network and its sampler with noise, the shipped model with its own, the RMSNorm generation."""
    walker = read_config(WALKER)
    networks = [launch for config in (paper(), walker, rms()) for launch in network_launches(config, batch, dtype)]
    return networks + sampler_launches(paper(), batch) + sampler_launches(walker, batch)
