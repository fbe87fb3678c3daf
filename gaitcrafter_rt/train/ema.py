"""Exponential moving average of the weights; what a model package gets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class Ema:
    """``avg += (1 - decay) * (w - avg)`` with a decay that grows from small, so that early noise is forgotten."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.params = list(model.parameters())
        self.names = [n for n, _ in model.named_parameters()]
        self.avg = [p.detach().clone() for p in self.params]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.avg, [p.detach() for p in self.params], 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.avg, strict=True))

    def arrays(self) -> dict[str, np.ndarray]:
        """The averaged weights as numpy arrays, for a model package."""
        return {name: avg.cpu().numpy() for name, avg in self.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, avg in zip(self.names, self.avg, strict=True):
            avg.copy_(state[name])
