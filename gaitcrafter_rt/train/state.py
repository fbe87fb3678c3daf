"""What a run is made of while it goes on, and what of it a checkpoint keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig
from ..errors import InvalidRequestError
from ..nn.unet import UNet3D
from .diffusion import NoiseSchedule
from .ema import Ema
from .settings import TrainSettings

# Fields that may differ when a run is resumed: they say how long to go on and how to show it.
_FREE = {
    "steps", "hours", "minutes", "compile", "check_every", "threads", "checkpoint_every", "sample_every", "out", "device",
    "sampler_steps", "guidance", "notes", "name",
}  # fmt: skip


@dataclass
class Run:
    """Everything that a checkpoint holds, and what can be rebuilt from the settings."""

    settings: TrainSettings
    config: ModelConfig
    model: UNet3D
    ema: Ema
    optimiser: torch.optim.Optimizer
    schedule: NoiseSchedule
    device: torch.device
    forward: Callable[..., Tensor]  # the model, or what torch.compile made of it
    step: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    recent: list[float] = field(default_factory=list)
    origin: str = ""  # what the weights started from, if not from chance

    def state(self) -> dict[str, Any]:
        return {
            "format_version": 1,
            "settings": self.settings.model_dump_json(),
            "config": self.config.model_dump_json(),
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "cpu_seconds": self.cpu_seconds,
            "wall_seconds": self.wall_seconds,
        }

    def restore(self, state: dict[str, Any]) -> None:
        old = json.loads(state["settings"])
        new = self.settings.model_dump(mode="json")
        changed = [k for k in new if k not in _FREE and old.get(k) != new[k]]
        if changed:
            raise InvalidRequestError(
                f"{self.settings.out} holds a run with other settings: "
                + ", ".join(f"{k} was {old.get(k)!r}, now {new[k]!r}" for k in changed)
                + "; use the old settings or another output folder"
            )
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.cpu_seconds = state["step"], state["cpu_seconds"]
        self.wall_seconds = state.get("wall_seconds", 0.0)
