"""Full attention over the sites of one frame, without rotary or bias (the base network's middle).

Kernel: ``_attend`` of temporal_attention.py; the tokens of a sequence are the neighbouring sites of one image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .launch import empty_channels_last, is_recording, use_kernel
from .temporal_attention import attention, heads_of, launch_attend


def spatial_attention(x: torch.Tensor, to_qkv: torch.Tensor, to_out: torch.Tensor, heads: int) -> torch.Tensor:
    """``x [N, C, H, W]`` (already normalised), ``to_qkv [3*heads*D, C]``, ``to_out [C, heads*D]``, no biases."""
    n, c, h, w = x.shape
    tokens = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
    q, k, v = (heads_of(tokens, weight, heads) for weight in to_qkv.chunk(3))
    y = attention(q * q.shape[-1] ** -0.5, k, v, None).transpose(1, 2).reshape(n, h * w, -1)
    return F.linear(y, to_out).view(n, h, w, c).permute(0, 3, 1, 2)


@torch.library.custom_op("gaitcrafter::attend_sites", mutates_args=())
def attend_sites(qkv: Tensor, heads: int) -> Tensor:
    """``softmax(q k^T D^-0.5) v`` inside every frame: ``[N, 3*heads*D, H, W]`` to ``[N, heads*D, H, W]``."""
    if use_kernel(qkv):
        return _attend_sites(qkv, heads)
    n, width, h, w = qkv.shape
    d = width // (3 * heads)
    q, k, v = qkv.permute(0, 2, 3, 1).reshape(n, h * w, 3, heads, d).permute(2, 0, 3, 1, 4)
    y = attention(q * d**-0.5, k, v, None).transpose(1, 2).reshape(n, h, w, heads * d)
    return y.permute(0, 3, 1, 2)


def _attend_sites(qkv: Tensor, heads: int) -> Tensor:
    return launch_attend(qkv, heads, 1, qkv.shape[2] * qkv.shape[3], 1, 1, None, None)


@attend_sites.register_fake
def _(qkv, heads):
    if is_recording():
        return _attend_sites(qkv, heads)
    n, width, h, w = qkv.shape
    return empty_channels_last(qkv, n, width // 3, h, w)
