"""Noising and the training loss (Ho et al. 2020 eq. 4; Salimans and Ho 2022 for v; Hang et al. 2023 for min-SNR)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..samplers.schedule import ScheduleName, alphas_cumprod


class NoiseSchedule:
    """``alphas_cumprod`` of a schedule as fp32 tensors on the training device."""

    def __init__(self, schedule: ScheduleName, timesteps: int, device: torch.device) -> None:
        ab = torch.from_numpy(alphas_cumprod(schedule, timesteps))
        self.timesteps = timesteps
        self.sqrt_ab = ab.sqrt().float().to(device)
        self.sqrt_1m = (1 - ab).sqrt().float().to(device)
        self.snr = (ab / (1 - ab)).float().to(device)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """``x_t = sqrt(ab) x0 + sqrt(1 - ab) noise``."""
        a, s = self._at(t, x0)
        return a * x0 + s * noise

    def target(self, prediction: str, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should put out."""
        if prediction == "x0":
            return x0
        if prediction == "eps":
            return noise
        a, s = self._at(t, x0)
        return a * noise - s * x0

    def x0_from(self, prediction: str, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The x0 that a network output stands for."""
        if prediction == "x0":
            return out
        a, s = self._at(t, x_t)
        return a * x_t - s * out if prediction == "v" else (x_t - s * out) / a

    def weight(self, rule: str, prediction: str, cap: float, t: Tensor) -> Tensor:
        """Loss weight per clip. ``clamp_snr``: clamp(snr, 1, cap) on the x0 error; ``min_snr``: min(snr, cap) on it."""
        snr = self.snr[t]
        if rule == "uniform":
            return torch.ones_like(snr)
        on_x0 = snr.clamp(1, cap) if rule == "clamp_snr" else snr.clamp(max=cap)
        # An error e in eps is an error e / sqrt(snr) in x0, one in v is e / sqrt(snr + 1).
        scale = {"x0": torch.ones_like(snr), "eps": snr.clamp(min=1e-8), "v": snr + 1}[prediction]
        return on_x0 / scale

    def _at(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, *([1] * (like.ndim - 1)))
        return self.sqrt_ab[t].view(shape), self.sqrt_1m[t].view(shape)
