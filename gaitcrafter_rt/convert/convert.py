"""One call from a checkpoint file of the base network to a model package (docs/convert.md)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def convert_checkpoint(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    which: str = "auto",
    labels: str | os.PathLike[str] | Mapping[str, Mapping[str, int]] | None = None,
    frames: int | None = None,
    size: int | None = None,
    norm_groups: int | None = None,
    thresholding: str = "clip",
    prediction: str = "eps",
    timesteps: int | None = None,
    schedule: str | None = None,
    guidance_trained: bool = False,
    name: str | None = None,
    training_data: str = "unknown",
    training_data_terms: str = "unknown",
    identities: str = "unknown",
    command: str = "",
) -> Path:
    """Convert ``path`` (a ``.pt`` file of video-diffusion-pytorch) to a model package at ``out``; returns its folder."""
    raise NotImplementedError
