"""Linear attention over the sites of one frame (``SpatialLinearAttention`` of video-diffusion-pytorch)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .temporal_attention import heads_of


def spatial_linear_attention(
    x: torch.Tensor, to_qkv: torch.Tensor, to_out: torch.Tensor, to_out_bias: torch.Tensor, heads: int
) -> torch.Tensor:
    """q is softmaxed over its D channels and scaled by D^-0.5, k over the sites; ``context = k v^T`` is D x D.

    ``x [N, C, H, W]`` (already normalised), ``to_qkv [3*heads*D, C]``, ``to_out [C, heads*D]``, ``to_out_bias [C]``.
    """
    n, c, h, w = x.shape
    tokens = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
    q, k, v = (heads_of(tokens, weight, heads) for weight in to_qkv.chunk(3))
    q = q.softmax(dim=-1) * q.shape[-1] ** -0.5
    k = k.softmax(dim=-2)
    context = k.transpose(-1, -2) @ v
    y = (q @ context).transpose(1, 2).reshape(n, h * w, -1)
    return F.linear(y, to_out, to_out_bias).view(n, h, w, c).permute(0, 3, 1, 2)
