"""Small checkpoints as users of the base network have them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from peers import base_network, randomise_norms
from torch import Tensor, nn

FRAMES, SIZE, COND = 4, 8, 6


def diffusion(norm: str = "group_norm", seed: int = 0, timesteps: int = 1000, **options: Any) -> nn.Module:
    """A ``GaussianDiffusion`` with random weights; ``options`` go to ``Unet3D``."""
    m = base_network(norm)
    torch.manual_seed(seed)
    unet = m.Unet3D(**{"dim": 8, "dim_mults": (1, 2), "channels": 1, "cond_dim": COND, **options})
    randomise_norms(unet, seed)
    return m.GaussianDiffusion(unet, image_size=SIZE, num_frames=FRAMES, channels=unet.channels, timesteps=timesteps)


def perturbed(model: nn.Module, *, null_too: bool) -> nn.Module:
    """What an average lags behind: the same network, every weight a little off, the null condition only if it was trained."""
    other = copy.deepcopy(model)
    gen = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in other.named_parameters():
            if not name.endswith("freqs") and (null_too or "null_cond_emb" not in name):
                p.add_(0.01 * torch.randn(p.shape, generator=gen))
    return other


def saved_by_trainer(folder: Path, model: nn.Module, ema: nn.Module, norm: str = "group_norm") -> Path:
    """``model-7.pt``, written by the base network's own ``Trainer.save`` (whose constructor would want a folder of gifs)."""
    trainer_class = base_network(norm).Trainer
    trainer = object.__new__(trainer_class)
    trainer.step, trainer.model, trainer.ema_model = 7123, model, ema
    trainer.scaler = torch.amp.GradScaler("cpu", enabled=False)
    trainer.results_folder = folder
    trainer.save(7)
    return folder / "model-7.pt"


def saved(folder: Path, content: Any, name: str = "checkpoint.pt") -> Path:
    torch.save(content, folder / name)
    return folder / name


def unet_state(**options: Any) -> dict[str, Tensor]:
    return dict(diffusion(**options).denoise_fn.state_dict())
