"""Fixed-length windows out of recordings, at will aligned to the gait.

The legs are furthest apart at double support, twice per gait cycle, so from the side the spread of the lower body over the
columns rises and falls with half the period of the gait: a silhouette does not tell the left leg from the right, and the phase is
known up to half a cycle. In oblique views the two supports look different and the period is often the whole cycle. Seen from the
front or the back the spread may show no rhythm at all; such recordings are cut unaligned.
"""

from __future__ import annotations

import numpy as np

from ..errors import InvalidRequestError

# From half a cycle of a fast walker at 15 frames a second to a whole one of a slow walker at 30.
_PERIODS = (6, 40)
_LOWER = 0.6
_MIN_CORRELATION = 0.3


def lower_body_spread(frames: np.ndarray) -> np.ndarray:
    """Standard deviation over the columns of the foreground below 60 % of the height, in pixels; float [T]. Empty frames give 0."""
    lower = frames[:, int(frames.shape[1] * _LOWER) :] >= 128
    mass = lower.sum(axis=1).astype(np.float64)
    total = np.maximum(mass.sum(axis=1), 1)
    columns = np.arange(frames.shape[2])
    mean = mass @ columns / total
    return np.sqrt((mass * (columns - mean[:, None]) ** 2).sum(axis=1) / total)


def spread_period(spread: np.ndarray) -> int | None:
    """Frames after which the spread repeats (half a gait cycle or a whole one), or None if it shows no clear rhythm."""
    signal = _smooth(spread) - _smooth(spread, 15)
    high = min(_PERIODS[1], len(signal) // 2)
    power = float((signal**2).mean())
    if high <= _PERIODS[0] or power < 1e-3:
        return None
    lags = np.arange(_PERIODS[0] - 1, high + 2)
    lags = lags[lags < len(signal)]
    values = np.array([(signal[:-lag] * signal[lag:]).mean() / power for lag in lags])
    peaks = [i for i in range(1, len(lags) - 1) if values[i - 1] <= values[i] >= values[i + 1]]
    if not peaks or max(values[i] for i in peaks) < _MIN_CORRELATION:
        return None
    # The full cycle correlates as well as half of it, so the first strong peak is the one.
    best = max(values[i] for i in peaks)
    return int(lags[next(i for i in peaks if values[i] >= 0.7 * best)])


def double_supports(frames: np.ndarray) -> list[int]:
    """Frames at which the legs are furthest apart, in order; empty without a clear rhythm."""
    spread = lower_body_spread(frames)
    period = spread_period(spread)
    if period is None:
        return []
    smooth = _smooth(spread)
    reach = max(2, period * 2 // 5)
    peaks: list[int] = []
    for t in range(1, len(smooth) - 1):
        near = smooth[max(0, t - reach) : t + reach + 1]
        if smooth[t] == near.max() and (not peaks or t - peaks[-1] > reach):
            peaks.append(t)
    return peaks


def window_starts(frames: np.ndarray, length: int = 30, stride: int | None = None, align: bool = False) -> tuple[list[int], bool]:
    """First frames of the windows of ``length``, at least ``stride`` (default: ``length``) apart, and whether they are aligned.

    With ``align`` every window starts at a double support; where no rhythm is found, or no such window fits, the windows are cut as
    without it. Raises InvalidRequestError if length or stride is below 1.
    """
    stride = length if stride is None else stride
    if length < 1 or stride < 1:
        raise InvalidRequestError(f"window length and stride must be at least 1, got {length} and {stride}")
    last = len(frames) - length
    if align:
        starts: list[int] = []
        for peak in double_supports(frames):
            if peak <= last and (not starts or peak >= starts[-1] + stride):
                starts.append(peak)
        if starts:
            return starts, True
    return list(range(0, last + 1, stride)), False


def _smooth(signal: np.ndarray, width: int = 3) -> np.ndarray:
    padded = np.pad(signal, width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), mode="valid")
