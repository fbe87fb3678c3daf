"""Normalisation, FiLM scale-shift and SiLU of a ResNet block's convolution output.

Source: ``Block`` of video-diffusion-pytorch. Releases up to 0.6.3 use GroupNorm over the whole clip, 0.7.0 uses a
per-position RMS norm over the channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

EPS = 1e-5


def clip_view(x: torch.Tensor, frames: int) -> torch.Tensor:
    """``[B*F, C, H, W]`` as ``[B, C, F, H, W]`` without a copy (channels-last becomes channels-last-3d)."""
    n, c, h, w = x.shape
    return x.view(n // frames, frames, c, h, w).transpose(1, 2)


def group_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, frames: int, scope: str = "clip"
) -> torch.Tensor:
    """GroupNorm with eps 1e-5 of ``x [B*F, C, H, W]``; ``scope`` "clip" takes statistics over all frames of a clip."""
    if scope == "frame":
        return F.group_norm(x, groups, weight, bias, EPS)
    y = F.group_norm(clip_view(x, frames), groups, weight, bias, EPS)
    return y.transpose(1, 2).reshape(x.shape)


def rms_norm(x: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """``x / ||x||_2 * sqrt(C) * gamma`` over the channels of every position; gamma ``[C]``."""
    c = x.shape[1]
    return F.normalize(x, dim=1) * (c**0.5) * gamma.view(1, c, 1, 1)


def film_silu(x: torch.Tensor, scale_shift: torch.Tensor | None, frames: int) -> torch.Tensor:
    """``silu(x * (scale + 1) + shift)``; ``scale_shift [B, 2C]`` holds scale then shift, None means SiLU alone."""
    if scale_shift is None:
        return F.silu(x)
    scale, shift = scale_shift.repeat_interleave(frames, 0)[:, :, None, None].to(x.dtype).chunk(2, dim=1)
    return F.silu(torch.addcmul(shift, x, scale + 1))
