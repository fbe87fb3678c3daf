"""Starting from the weights of a model package instead of from chance."""

from __future__ import annotations

import torch

from ..config import ModelConfig
from ..errors import InvalidRequestError
from ..nn.denoiser import load_unet
from ..nn.unet import UNet3D
from ..package import check_sums, read_config

_MUST_MATCH = ("clip", "unet", "conditioning", "labels", "diffusion")


def start_from(model: UNet3D, config: ModelConfig, folder: str) -> str:
    """Copy the weights of the package ``folder`` into ``model``; returns what the model card says about it.

    Raises InvalidRequestError unless clip, network, wiring, labels and diffusion are the same, ModelFormatError if it is damaged.
    """
    theirs = read_config(folder)
    differing = [name for name in _MUST_MATCH if getattr(theirs, name) != getattr(config, name)]
    if differing:
        raise InvalidRequestError(
            f"--init {folder}: its {' and '.join(differing)} differ from this run's; start from one of the same preset and labels"
        )
    digest = check_sums(folder)["model.safetensors"]
    with torch.no_grad():
        for mine, given in zip(model.parameters(), load_unet(folder).parameters(), strict=True):
            mine.copy_(given)
    return f"Started from the weights of {theirs.name}, sha256 {digest[:16]}, trained before."
