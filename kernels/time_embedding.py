"""Sinusoidal embedding of the timestep (``SinusoidalPosEmb`` of video-diffusion-pytorch)."""

from __future__ import annotations

import math

import torch


def time_embedding(t: torch.Tensor, dim: int) -> torch.Tensor:
    """``[sin(t f_i), cos(t f_i)]`` with ``f_i = exp(-i ln(10000) / (dim/2 - 1))``; ``t [B]``, result ``[B, dim]``."""
    half = dim // 2
    freqs = torch.exp(torch.arange(half, device=t.device) * (-math.log(10000) / (half - 1)))
    angle = t[:, None].float() * freqs[None, :]
    return torch.cat((angle.sin(), angle.cos()), dim=-1)
