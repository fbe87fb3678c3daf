"""Sinusoidal embedding of the timestep (``SinusoidalPosEmb`` of video-diffusion-pytorch)."""

from __future__ import annotations

import math

import torch


def time_embedding(t: torch.Tensor, dim: int) -> torch.Tensor:
    """``[sin(t f_i), cos(t f_i)]`` with ``f_i = exp(-i ln(10000) / (dim/2 - 1))``; ``t [B]``, result ``[B, dim]`` fp64.

    The base network rounds frequency and angle to fp32, and at t = 999 that moves the angle by up to 3e-5. Weights were
    trained on it, so both roundings are kept (even in fp64) and only the sine itself is exact.
    """
    half = dim // 2
    steps = torch.arange(half, device=t.device, dtype=torch.float64)
    freqs = torch.exp(steps * (-math.log(10000) / (half - 1))).float()
    angle = (t[:, None].float() * freqs[None, :]).double()
    return torch.cat((angle.sin(), angle.cos()), dim=-1)
