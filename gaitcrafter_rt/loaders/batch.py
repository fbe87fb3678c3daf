"""What every loader here yields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..dataset.cached import Pixels, decode
from ..errors import InvalidRequestError


class Batch(NamedTuple):
    """B clips. ``pin_memory`` and torch's collate functions know named tuples.

    Attributes:
        clips: uint8 or float32 [B, frames, height, width].
        labels: int64 [B], class numbers (``dataset.classes``), -1 without one.
        views, covariates: int64 [B], numbers into ``dataset.names``, -1 without one.
        numbers: int64 [B], the clip index, or the row of a packed training set.
        synthetic: bool [B], True for what an engine made.
    """

    clips: torch.Tensor
    labels: torch.Tensor
    views: torch.Tensor
    covariates: torch.Tensor
    numbers: torch.Tensor
    synthetic: torch.Tensor


class Form(NamedTuple):
    """How clips become pixels. ``crop`` columns are cut on each side, as OpenGait's transform cuts 10 of 64."""

    pixels: Pixels = "uint8"
    foreground: float | None = None
    crop: int = 0

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raises InvalidRequestError."""
        if not 0 <= self.crop <= (shape[2] - 1) // 2:
            raise InvalidRequestError(f"crop is {self.crop}; clips are {shape[2]} wide")
        decode(np.zeros((0, 1), np.uint8), shape, self.pixels, foreground=self.foreground)

    def clips(self, packed: np.ndarray, shape: tuple[int, int, int]) -> torch.Tensor:
        """Packed clips uint8 [B, bytes] to a tensor [B, frames, height, width - 2 crop]."""
        pixels = decode(packed, shape, self.pixels, foreground=self.foreground)
        if self.crop:
            pixels = np.ascontiguousarray(pixels[..., self.crop : -self.crop])
        return torch.from_numpy(pixels)


def whole(values: np.ndarray | Sequence[int]) -> torch.Tensor:
    """Any integers to int64 [B]; a clip index above 2**63 becomes negative, bit for bit."""
    return torch.from_numpy(np.asarray(values).astype(np.int64))
