"""LayerNorm over the channels of every position, with a gain and no offset (``PreNorm`` of the base network)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

EPS = 1e-5


def channel_layer_norm(x: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """``(x - mean) / sqrt(var + 1e-5) * gamma`` with the biased variance; ``x [N, C, H, W]``, gamma ``[C]``."""
    y = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), gamma, None, EPS)
    return y.permute(0, 3, 1, 2)
