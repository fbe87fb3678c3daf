"""Frozen networks to learn from, and the student."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from .. import install
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


def native(folder: str, precision: str, threads: int | None) -> Network:
    """A package's network in the native engine, on the CPU: the calls of a frozen teacher in a half to a fifth of torch's time."""
    engine = install.native().Engine(folder, precision=precision, threads=threads or 0)

    def call(x: Tensor, t: Tensor, labels: dict[str, Tensor]) -> Tensor:
        axes = {axis: rows for axis, given in labels.items() if (rows := sparse_rows(given)) is not None}
        return torch.from_numpy(engine.forward(x.contiguous().numpy(), t.numpy().astype(np.int32), axes))

    return call


def from_host(network: Network, device: torch.device) -> Network:
    """``network`` of ``device`` for tensors of the host: they go there, and the answer comes back as float32."""

    def call(x: Tensor, t: Tensor, labels: dict[str, Tensor]) -> Tensor:
        return network(x.to(device), t.to(device), {axis: given.to(device) for axis, given in labels.items()}).float().cpu()

    return call


def sparse_rows(weights: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Dense weights ``[B, n + 1]``, null last, as the engine's (offsets, labels, weights); None where all are null."""
    dense = weights[:, :-1].numpy()
    clip, label = np.nonzero(dense)
    if not len(clip):
        return None
    offsets = np.concatenate(([0], np.cumsum(np.bincount(clip, minlength=len(dense)))))
    return offsets.astype(np.uint64), label.astype(np.int32), dense[clip, label].astype(np.float32)


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
