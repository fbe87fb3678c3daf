"""Sheets of samples while a run goes on: DDIM in torch from the averaged weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config import AXES, ModelConfig
from ..nn.unet import UNet3D

if TYPE_CHECKING:
    from .ema import Ema
    from .state import Run


@torch.no_grad()
def ddim(
    model: UNet3D, labels: dict[str, Tensor], batch: int, steps: int, alphas_cumprod: np.ndarray, seed: int = 0
) -> Tensor:
    """``[batch, C, F, H, W]`` by DDIM with eta 0 and clipped x0 (Song et al. 2021 eq. 12), trailing spacing."""
    cfg = model.config
    clip = cfg.clip
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn((batch, cfg.unet.channels, clip.frames, clip.height, clip.width), generator=gen)
    device = next(model.parameters()).device
    x, labels = x.to(device), {axis: weights.to(device) for axis, weights in labels.items()}
    total = len(alphas_cumprod)
    times = np.round(np.arange(total, 0, -total / steps)).astype(int) - 1
    for t, after in zip(times, [*times[1:], -1], strict=True):
        ab = float(alphas_cumprod[t])
        ab_after = float(alphas_cumprod[after]) if after >= 0 else 1.0
        out = model(x, torch.full((batch,), int(t), device=device), labels).float()
        if cfg.diffusion.prediction == "x0":
            x0 = out
        elif cfg.diffusion.prediction == "v":
            x0 = ab**0.5 * x - (1 - ab) ** 0.5 * out
        else:
            x0 = (x - (1 - ab) ** 0.5 * out) / ab**0.5
        x0 = x0.clamp(-1, 1)
        eps = (x - ab**0.5 * x0) / (1 - ab) ** 0.5
        x = ab_after**0.5 * x0 + (1 - ab_after) ** 0.5 * eps
    return x


def preview_labels(cfg: ModelConfig, rows: int) -> dict[str, Tensor]:
    """A spread of labels: row i takes entry i of every vocabulary in turn, views fastest."""
    out = {}
    for axis in AXES:
        if getattr(cfg.conditioning, axis) == "none":
            continue
        n = len(getattr(cfg.labels, axis))
        stride = {"view": 5, "covariate": 1}.get(axis, 7)
        index = torch.tensor([(i * stride) % n for i in range(rows)])
        out[axis] = torch.nn.functional.one_hot(index, n + 1).float()
    return out


def save_sheet(ema: Ema, run: Run, path: Path, rows: int = 8, columns: int = 10) -> None:
    """A PNG of ``rows`` clips, ``columns`` frames each."""
    model = UNet3D(run.config)
    model.load_state_dict({**model.state_dict(), **{k: v.cpu() for k, v in ema.state_dict().items()}})
    model.to(run.device, memory_format=torch.channels_last)
    ab = (run.schedule.sqrt_ab.double() ** 2).cpu().numpy()
    x = ddim(model, preview_labels(run.config, rows), rows, run.settings.sampler_steps, ab)[:, 0].cpu()
    frames = np.linspace(0, x.shape[1] - 1, columns).round().astype(int)
    tiles = ((x[:, frames].clamp(-1, 1) + 1) * 127.5).to(torch.uint8).numpy()
    r, c, h, w = tiles.shape
    Image.fromarray(tiles.transpose(0, 2, 1, 3).reshape(r * h, c * w)).save(path)
