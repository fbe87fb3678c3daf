"""Attention along the frames of every pixel site, with rotary embedding and a relative position bias.

Source: ``Attention`` and ``RelativePositionBias`` of video-diffusion-pytorch. The focus mask of the
base network is all-false in inference and is left out, which is exact.
"""

from __future__ import annotations

import math

import torch


def position_bucket(frames: int, buckets: int, max_distance: int) -> torch.Tensor:
    """T5's bidirectional bucket of ``key - query`` for every frame pair; ``[F, F]`` int64, rows are queries."""
    position = torch.arange(frames)
    n = position[:, None] - position[None, :]  # -(key - query), as the base network has it
    half = buckets // 2
    base = (n < 0).long() * half
    n = n.abs()
    exact = half // 2
    # The base network computes this in fp32; so do we, to land in the same bucket at the edges.
    large = exact + (torch.log(n.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (half - exact)).long()
    return base + torch.where(n < exact, n, large.clamp(max=half - 1))


def position_bias(weight: torch.Tensor, frames: int, max_distance: int) -> torch.Tensor:
    """Bias added to the scores: ``[heads, F, F]`` from the table ``weight [buckets, heads]``."""
    bucket = position_bucket(frames, weight.shape[0], max_distance).to(weight.device)
    return weight[bucket].permute(2, 0, 1)


def rotary_tables(frames: int, rotary_dim: int, device: torch.device | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin ``[F, rotary_dim/2]`` at theta 10000; pair ``i`` is the channels ``2i`` and ``2i + 1``."""
    freqs = 1.0 / (10000 ** (torch.arange(0, rotary_dim, 2, device=device).float() / rotary_dim))
    angle = torch.arange(frames, device=device).float()[:, None] * freqs[None, :]
    return angle.cos(), angle.sin()


def pairs_apart(weight: torch.Tensor, heads: int, rotary_dim: int) -> torch.Tensor:
    """Rows of a q or k projection ``[heads*D, C]`` in an order that puts the first channel of every rotated pair before all second
    ones, head by head. q and k in the same order have the same scores, and halves are cheaper to rotate than interleaved pairs.
    """
    w = weight.view(heads, -1, weight.shape[1])
    rotated = (w[:, 0:rotary_dim:2], w[:, 1:rotary_dim:2], w[:, rotary_dim:])
    return torch.cat(rotated, dim=1).reshape(weight.shape)


def rotate_halves(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of ``x [..., F, D]`` whose channels are in the order of ``pairs_apart``; those past the pairs stay."""
    half = cos.shape[-1]
    a, b = x[..., :half], x[..., half : 2 * half]
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    turned = (a * cos - b * sin, b * cos + a * sin)
    return torch.cat(turned if 2 * half == x.shape[-1] else (*turned, x[..., 2 * half :]), dim=-1)


def heads_of(tokens: torch.Tensor, weight: torch.Tensor, heads: int) -> torch.Tensor:
    """``tokens [N, T, C]`` projected by ``weight [heads*D, C]``: ``[N, heads, T, D]``.

    q, k and v take one product each: a wider one's result would have to be copied apart.
    """
    n, count, _ = tokens.shape
    return torch.nn.functional.linear(tokens, weight).view(n, count, heads, -1).transpose(1, 2)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``softmax(q k^T + bias) v`` written out; on 30-long sequences torch's fused forms are slower on a CPU."""
    scores = q @ k.transpose(-1, -2)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    return scores.softmax(dim=-1) @ v


def temporal_attention(
    x: torch.Tensor,
    to_qkv: torch.Tensor,
    to_out: torch.Tensor,
    frames: int,
    heads: int,
    bias: torch.Tensor | None,
    rotary: tuple[torch.Tensor, torch.Tensor] | None,
) -> torch.Tensor:
    """Self-attention over frames at every site.

    ``x [B*F, C, H, W]`` (already normalised), ``to_qkv [3*heads*D, C]``, ``to_out [C, heads*D]``, ``bias [heads, F, F]``.
    """
    n, c, h, w = x.shape
    b = n // frames
    tokens = x.view(b, frames, c, h, w).permute(0, 3, 4, 1, 2).reshape(b * h * w, frames, c)
    to_q, to_k, to_v = to_qkv.chunk(3)
    if rotary is not None:
        rotary_dim = 2 * rotary[0].shape[-1]
        to_q, to_k = pairs_apart(to_q, heads, rotary_dim), pairs_apart(to_k, heads, rotary_dim)
    q, k, v = (heads_of(tokens, weight, heads) for weight in (to_q, to_k, to_v))
    q = q * q.shape[-1] ** -0.5
    if rotary is not None:
        q, k = rotate_halves(q, *rotary), rotate_halves(k, *rotary)
    y = attention(q, k, v, bias).transpose(1, 2).reshape(b * h * w, frames, -1)
    y = torch.nn.functional.linear(y, to_out)
    return y.view(b, h, w, frames, c).permute(0, 3, 4, 1, 2).reshape(n, c, h, w)
