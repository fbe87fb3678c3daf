"""Three-tap convolution along the frames, circular: a clip is about one gait cycle, so its ends are neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def temporal_conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, frames: int) -> torch.Tensor:
    """``y[f] = sum_k W[:, :, k] x[(f + k - 1) mod F] + bias``; ``x [B*F, C, H, W]``, weight ``[C, C, 3]``."""
    n, c, h, w = x.shape
    clips = x.permute(0, 2, 3, 1).view(n // frames, frames, h, w, c)
    taps = torch.cat((clips.roll(1, 1), clips, clips.roll(-1, 1)), dim=-1)
    y = F.linear(taps, weight.permute(0, 2, 1).reshape(weight.shape[0], 3 * c), bias)
    return y.view(n, h, w, -1).permute(0, 3, 1, 2)
