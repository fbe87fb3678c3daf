"""What a clip does in time, one number per clip. All take uint8 [B, F, H, W] of 0 and 1 and return float64 [B]."""

from __future__ import annotations

import numpy as np

from ..errors import MissingExtraError
from ..evaluate.period import lower_body_width

# A step (half a gait cycle) of 9 to 20 frames: 0.36 to 0.8 s at 25 frames per second.
_SHORTEST_STEP, _LONGEST_STEP = 9.0, 20.0


def flicker(clips: np.ndarray) -> np.ndarray:
    """Pixels that change from one frame to the next, per pixel of foreground; 0 for a clip of one frame or without foreground."""
    if clips.shape[1] < 2:
        return np.zeros(len(clips))
    changed = (clips[:, 1:] != clips[:, :-1]).sum((2, 3)).mean(1)
    return changed / np.maximum(clips.sum((2, 3)).mean(1), 1)


def toggles(clips: np.ndarray) -> np.ndarray:
    """Pixels per frame that differ from the frame before and from the frame after, which agree with each other."""
    if clips.shape[1] < 3:
        return np.zeros(len(clips))
    before, now, after = clips[:, :-2], clips[:, 1:-1], clips[:, 2:]
    return ((before == after) & (now != before)).sum((2, 3)).mean(1).astype(np.float64)


def gait_band(clips: np.ndarray) -> np.ndarray:
    """Share of the variance of the lower body's width that lies at the frequencies of steps; 0 where the width never changes.

    Hann-windowed periodogram without the mean; the band is widened by half a bin on either side, since a clip holds few steps.
    """
    widths = lower_body_width(clips)
    frames = widths.shape[1]
    power = np.abs(np.fft.rfft((widths - widths.mean(1, keepdims=True)) * np.hanning(frames), axis=1)) ** 2
    bins = np.arange(power.shape[1])
    band = (bins >= frames / _LONGEST_STEP - 0.5) & (bins <= frames / _SHORTEST_STEP + 0.5)
    total = power[:, 1:].sum(1)
    return np.where(total > 0, power[:, band & (bins > 0)].sum(1) / np.maximum(total, 1e-12), 0.0)


def components(clips: np.ndarray) -> np.ndarray:
    """8-connected pieces of foreground per frame. Raises MissingExtraError without scipy."""
    try:
        from scipy import ndimage
    except ImportError as e:
        raise MissingExtraError.for_extra("train", "counting components", e.name) from e
    touching = np.zeros((3, 3, 3), bool)
    touching[1] = True  # frames do not touch
    batch, frames, height, width = clips.shape
    labels, count = ndimage.label(clips.reshape(-1, height, width) != 0, touching)
    owner = np.zeros(count + 1, np.int64)
    owner[labels] = np.arange(batch * frames)[:, None, None]
    return np.bincount(owner[1:], minlength=batch * frames).reshape(batch, frames).mean(1)


def foreground(clips: np.ndarray) -> np.ndarray:
    """Share of pixels that are foreground."""
    return clips.mean(axis=(1, 2, 3), dtype=np.float64)
