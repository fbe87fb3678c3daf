"""Frozen networks to learn from, and the student."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ..nn.unet import UNet3D
from ..train.step import uses_bf16
from .trajectory import Network


def frozen(model: UNet3D, precision: str, device: torch.device) -> Network:
    """``model`` as it is now, for inference: fused kernels on a GPU, where they work and bf16 is wanted, else torch's own."""
    copy = UNet3D(model.config)
    copy.load_state_dict(model.state_dict())
    copy = copy.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    bf16 = uses_bf16(precision, device)

    @torch.no_grad()
    def plain(x: Tensor, t: Tensor, labels: dict[str, Tensor]) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return copy(x, t, labels)

    if device.type != "cuda" or not bf16:
        return plain
    try:
        return _fused(copy, plain, device)
    except Exception as e:  # compilers fail in many ways
        why = f"the fused kernels do not work here ({type(e).__name__}: {str(e)[:200]})"
        warnings.warn(f"{why}; slower ones are used", stacklevel=2)
        return plain


def _fused(copy: UNet3D, plain: Network, device: torch.device) -> Network:
    """The fused network, once it has given what torch gives. Raises RuntimeError if it does not."""
    from ..nn.fused import FusedUNet

    fused = FusedUNet(copy).to(device)
    clip = copy.config.clip
    x = torch.randn(2, copy.config.unet.channels, clip.frames, clip.height, clip.width, device=device)
    t = torch.full((2,), copy.config.diffusion.timesteps // 3, device=device)
    with torch.no_grad():
        ours, torchs = fused(x, t, {}).float(), plain(x, t, {}).float()
    apart = ((ours - torchs).norm() / torchs.norm()).item()
    if not apart < 0.05:  # bf16 leaves about 1 %
        raise RuntimeError(f"relative difference of {apart:.3g} to torch")

    @torch.no_grad()
    def call(x: Tensor, t: Tensor, labels: dict[str, Tensor]) -> Tensor:
        return fused(x, t, labels)

    return call
