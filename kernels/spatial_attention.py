"""Full attention over the sites of one frame, without rotary or bias (the base network's middle)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .temporal_attention import attention, heads_of


def spatial_attention(x: torch.Tensor, to_qkv: torch.Tensor, to_out: torch.Tensor, heads: int) -> torch.Tensor:
    """``x [N, C, H, W]`` (already normalised), ``to_qkv [3*heads*D, C]``, ``to_out [C, heads*D]``, no biases."""
    n, c, h, w = x.shape
    tokens = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
    q, k, v = (heads_of(tokens, weight, heads) for weight in to_qkv.chunk(3))
    y = attention(q * q.shape[-1] ** -0.5, k, v, None).transpose(1, 2).reshape(n, h * w, -1)
    return F.linear(y, to_out).view(n, h, w, c).permute(0, 3, 1, 2)
