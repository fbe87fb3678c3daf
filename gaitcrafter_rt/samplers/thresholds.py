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
    s = dynamic_limit(x0, percentile)
    return x0.clip(-s, s) / s


def dynamic_limit(x0: NDArray[Any], percentile: float) -> Any:
    """The quantile of |x0| that dynamic thresholding divides by, at least 1, a scalar of x0's dtype.

    Between two neighbours it runs ``a + fraction * (b - a)`` in that dtype, as the engine does.
    """
    magnitudes = np.abs(x0).reshape(-1)
    rank = percentile * (magnitudes.size - 1)
    lower = int(rank)
    upper = min(lower + 1, magnitudes.size - 1)
    a, b = np.partition(magnitudes, (lower, upper))[[lower, upper]]
    s = a + x0.dtype.type(rank - lower) * (b - a)
    return x0.dtype.type(1) if s < 1 else s


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
