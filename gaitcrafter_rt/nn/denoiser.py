"""U-Net, conditions and guidance in torch: what ``csrc/denoiser`` does natively, for tests and for machines with torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..config import AXES, ModelConfig
from ..errors import InvalidRequestError, ModelFormatError
from ..package import read_config, read_weights
from ..ranges import split_ranges
from .unet import UNet3D


def load_unet(folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> UNet3D:
    """The network of a model package, in evaluation mode. Raises ModelFormatError if names or shapes do not fit the config.

    Calibrated ranges are checked and left out: the network itself computes in ``dtype``.
    """
    config = read_config(folder)
    model = UNet3D(config)
    weights, _ = split_ranges(config, read_weights(folder), str(folder))
    try:
        model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    except RuntimeError as e:
        raise ModelFormatError(f"{folder}: {str(e).splitlines()[-1].strip()}") from e
    return model.to(dtype).eval()


def label_weights(config: ModelConfig, axis: str, clips: Sequence[Mapping[int, float] | None]) -> Tensor:
    """Sparse ``{label index: weight}`` per clip to the dense matrix ``[B, labels + 1]``; None or {} is null (last column)."""
    n = len(getattr(config.labels, axis))
    out = torch.zeros(len(clips), n + 1)
    for row, sparse in enumerate(clips):
        if not sparse:
            out[row, n] = 1
            continue
        for index, weight in sparse.items():
            if not 0 <= index < n:
                raise InvalidRequestError(f"{axis} index {index} is outside 0..{n - 1}")
            out[row, index] += weight
    return out


class Denoiser:
    """``model output = null + (conditioned - null) * guidance``; with guidance 1 the null call is not made."""

    def __init__(self, model: UNet3D) -> None:
        self.model = model

    @torch.no_grad()
    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        labels: dict[str, Tensor] | None = None,
        cond: Tensor | None = None,
        guidance: float = 1.0,
        null_axes: Sequence[str] = AXES,
    ) -> Tensor:
        """``x [B, C, F, H, W]``, ``t [B]``, conditions as in ``UNet3D.forward``; ``null_axes`` are dropped in the null call."""
        out = self.model(x, t, labels, cond)
        if guidance == 1:
            return out
        kept = {axis: w for axis, w in (labels or {}).items() if axis not in null_axes}
        null = self.model(x, t, kept, None)
        return null + (out - null) * guidance
