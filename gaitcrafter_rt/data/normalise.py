"""OpenGait's silhouette normalisation (datasets/pretreatment.py of ShiqiYu/OpenGait): every frame fills the
full height and is centred on the column that halves its mass.

The resize follows OpenCV's INTER_CUBIC on 8-bit images (Keys kernel with a = -0.75, weights in 1/2048,
no smoothing before shrinking), so that frames prepared here and frames prepared by OpenGait agree to
within one grey level.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from gaitcrafter_rt.errors import InvalidRequestError

MIN_PIXEL_SUM = 10_000
_WEIGHT_BITS = 11
_MAX_SIDE = 8192
# A one-row crop keeps its aspect, so a hostile frame could ask for a picture of gigabytes.
_MAX_RESIZED_PIXELS = 1 << 24


@lru_cache(maxsize=1024)
def _taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Source indices and integer weights (sum 2048) of every target sample, each [target, 4]."""
    position = (np.arange(target) + 0.5) * (source / target) - 0.5
    start = np.floor(position)
    t = position - start
    a = -0.75
    w0 = ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a
    w1 = ((a + 2) * t - (a + 3)) * t * t + 1
    w2 = ((a + 2) * (1 - t) - (a + 3)) * (1 - t) * (1 - t) + 1
    weights = np.stack((w0, w1, w2, 1.0 - w0 - w1 - w2), axis=1)
    indices = np.clip(start[:, None].astype(np.int64) + np.arange(-1, 3), 0, source - 1)
    return indices, np.rint(weights * (1 << _WEIGHT_BITS)).astype(np.int32)


def resize_cubic(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 [rows, columns] to uint8 [height, width] as OpenCV's INTER_CUBIC does."""
    columns, column_weights = _taps(image.shape[1], width)
    rows, row_weights = _taps(image.shape[0], height)
    wide = image.astype(np.int32)
    across = wide[:, columns[:, 0]] * column_weights[:, 0]
    for tap in range(1, 4):
        across += wide[:, columns[:, tap]] * column_weights[:, tap]
    down = across[rows[:, 0]] * row_weights[:, 0, None]
    for tap in range(1, 4):
        down += across[rows[:, tap]] * row_weights[:, tap, None]
    shift = 2 * _WEIGHT_BITS
    return np.clip((down + (1 << (shift - 1))) >> shift, 0, 255).astype(np.uint8)


def _normalise_frame(frame: np.ndarray, size: int, min_pixel_sum: int) -> np.ndarray | None:
    row_mass = frame.sum(axis=1, dtype=np.int64)
    if row_mass.sum() <= min_pixel_sum:
        return None
    occupied = np.flatnonzero(row_mass)
    crop = frame[occupied[0] : occupied[-1] + 1]
    width = int(size * (crop.shape[1] / crop.shape[0]))
    if width < 1:
        return None
    if width * size > _MAX_RESIZED_PIXELS:
        raise InvalidRequestError(
            f"a frame of {frame.shape[1]} columns has foreground in only {crop.shape[0]} rows; "
            f"resizing it to {size} rows would give {width} columns. Remove it or crop its columns first"
        )
    resized = resize_cubic(crop, size, width)
    mass = resized.sum(axis=0, dtype=np.int64).cumsum()
    if mass[-1] == 0:
        return None
    centre = int(np.argmax(mass > mass[-1] / 2))
    half = size // 2
    result = np.zeros((size, size), np.uint8)
    left, right = max(centre - half, 0), min(centre + half, width)
    offset = left - (centre - half)
    result[:, offset : offset + right - left] = resized[:, left:right]
    return result


def normalise_silhouettes(
    frames: np.ndarray | Iterable[np.ndarray], size: int = 64, min_pixel_sum: int = MIN_PIXEL_SUM
) -> np.ndarray:
    """Normalise raw silhouettes as OpenGait does.

    Args:
        frames: uint8 [frames, rows, columns] or an iterable of uint8 [rows, columns], 0 = background,
            255 = foreground (grey edges allowed). Pictures of a 0/1 kind must be scaled to 0/255 first.
        size: height and width of the result, an even number 8..1024.
        min_pixel_sum: frames whose pixels add up to no more than this are dropped (OpenGait: 10000,
            about 40 foreground pixels).

    Returns:
        uint8 [kept, size, size], 0..255 with grey edges; kept may be 0. Column size//2 halves the mass of
        each frame, and its foreground reaches from the top row to the bottom row.

    Raises:
        InvalidRequestError: a frame is not two-dimensional uint8, is empty or larger than 8192 on a side,
            its foreground is a sliver that would be resized to more than 2**24 pixels, or `size` is not allowed.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size % 2 or not 8 <= size <= 1024:
        raise InvalidRequestError(f"size must be an even number in 8..1024, got {size!r}")
    result = []
    for number, frame in enumerate(frames):
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 2:
            found = f"{frame.dtype} {list(frame.shape)}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise InvalidRequestError(f"frame {number} must be a uint8 array [rows, columns], got {found}")
        if not (0 < frame.shape[0] <= _MAX_SIDE and 0 < frame.shape[1] <= _MAX_SIDE):
            raise InvalidRequestError(f"frame {number} must have 1..{_MAX_SIDE} pixels a side, got {list(frame.shape)}")
        normalised = _normalise_frame(frame, size, min_pixel_sum)
        if normalised is not None:
            result.append(normalised)
    return np.stack(result) if result else np.zeros((0, size, size), np.uint8)
