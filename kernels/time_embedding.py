"""Sinusoidal embedding of the timestep (``SinusoidalPosEmb`` of video-diffusion-pytorch)."""

from __future__ import annotations

import math

import torch


def frequencies(dim: int, device: torch.device | None = None) -> torch.Tensor:
    """``f_i = exp(-i ln(10000) / (dim/2 - 1))`` for ``i < dim/2``, fp32.

    The exponent is an fp32 product, as in the base network: ``f = fl(exp(fl(i * fl(-ln(10000) / (dim/2 - 1)))))``. Its exp is
    torch's fp32 one, whose last bit depends on the machine (CPU or GPU); ours is exact before rounding.
    """
    half = dim // 2
    # Filled on the device: a copy from the host could not become part of a CUDA graph.
    step = torch.full((), -math.log(10000) / (half - 1), dtype=torch.float32, device=device)
    return torch.exp((torch.arange(half, device=device, dtype=torch.float32) * step).double()).float()


def time_embedding(t: torch.Tensor, dim: int) -> torch.Tensor:
    """``[sin(t f_i), cos(t f_i)]``; ``t [B]``, result ``[B, dim]`` fp64.

    The base network rounds exponent, frequency and angle to fp32; at t = 999 each moves the angle by up to 3e-5. Weights were
    trained on that, so all three roundings are kept (even in fp64) and only the sine itself is exact.
    """
    angle = (t[:, None].float() * frequencies(dim, t.device)[None, :]).double()
    return torch.cat((angle.sin(), angle.cos()), dim=-1)
