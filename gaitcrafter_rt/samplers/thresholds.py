"""What is done to an estimate of the clean clip before it is used."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidRequestError

Thresholding = Literal["none", "clip", "dynamic"]


def threshold(x0: NDArray[Any], kind: Thresholding, percentile: float = 0.9) -> NDArray[Any]:
    """Thresholded x0 of one clip, same shape and dtype.

    ``none`` leaves it; ``clip`` clamps to [-1, 1]; ``dynamic`` clamps to [-s, s] and divides by s, the percentile
    quantile (0 < percentile < 1, linear interpolation) of |x0| over the clip, at least 1 (Saharia et al. 2022,
    section 2.3).
    """
    if kind == "none":
        return x0
    if kind == "clip":
        return x0.clip(-1, 1)
    s = max(float(np.quantile(np.abs(x0), percentile)), 1.0)
    return x0.clip(-s, s) / s


def check_threshold(value: float) -> float:
    """The binarisation threshold itself. Raises InvalidRequestError outside 0..1."""
    if not 0 <= value <= 1:
        raise InvalidRequestError(f"threshold is {value}; it must lie in 0 to 1 (0.5 is the middle grey)")
    return value


def pack_clip(x: NDArray[Any], value: float = 0.5) -> NDArray[np.uint8]:
    """Bits of one clip in [-1, 1], foreground where ``x > 2 * value - 1``, most significant bit first.

    uint8 (ceil(pixels / 8),), pixels in the order of ``x``. NaN is background.
    """
    level = np.float32(2) * np.float32(check_threshold(value)) - np.float32(1)
    return np.packbits(x.reshape(-1) > level)
