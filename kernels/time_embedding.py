"""Sinusoidal embedding of the timestep (``SinusoidalPosEmb`` of video-diffusion-pytorch)."""

from __future__ import annotations

import math

import torch


def time_embedding(t: torch.Tensor, dim: int) -> torch.Tensor:
    """``[sin(t f_i), cos(t f_i)]`` with ``f_i = exp(-i ln(10000) / (dim/2 - 1))``; ``t [B]``, result ``[B, dim]`` fp64.

    The base network rounds the exponent, the frequency and the angle to fp32; at t = 999 each moves the angle by up to 3e-5.
    Weights were trained on that, so all three roundings are kept (even in fp64): ``arg = fl(i * fl(-step))``, ``f = fl(exp(arg))``,
    ``angle = fl(t * f)``. exp and the sine are exact, so every engine lands on the same angle.
    """
    half = dim // 2
    step = torch.tensor(-math.log(10000) / (half - 1), dtype=torch.float32, device=t.device)
    arg = torch.arange(half, device=t.device, dtype=torch.float32) * step
    freqs = torch.exp(arg.double()).float()
    angle = (t[:, None].float() * freqs[None, :]).double()
    return torch.cat((angle.sin(), angle.cos()), dim=-1)
