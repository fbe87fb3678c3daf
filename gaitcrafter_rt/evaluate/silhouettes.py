"""Figures of single clips: connected components, gait energy image, foreground, flicker, overlap."""

from __future__ import annotations

import numpy as np

from ..errors import MissingExtraError

# A frame counts as one figure if its largest component holds at least this share of its foreground.
WHOLE = 0.98


def largest_component_share(clips: np.ndarray) -> np.ndarray:
    """Share of each frame's foreground that its largest 8-connected component holds.

    Args:
        clips: [B, F, H, W], foreground wherever non-zero.

    Returns:
        float64 [B, F], 0 to 1; 0 for a frame without foreground.

    Raises:
        MissingExtraError: scipy is absent.
    """
    try:
        from scipy import ndimage
    except ImportError as e:
        raise MissingExtraError.for_extra("train", "evaluating clips", e.name) from e
    batch, frames, height, width = clips.shape
    stack = clips.reshape(batch * frames, height, width) != 0
    # All frames in one call: neighbours along the first axis do not touch.
    touching = np.zeros((3, 3, 3), bool)
    touching[1] = True
    labels, count = ndimage.label(stack, touching)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    owner = np.zeros(count + 1, np.int64)
    owner[labels] = np.arange(len(stack))[:, None, None]
    largest = np.zeros(len(stack), np.int64)
    np.maximum.at(largest, owner[1:], sizes[1:])
    total = stack.sum((1, 2))
    return (largest / np.maximum(total, 1)).reshape(batch, frames)


def energy_image(clips: np.ndarray) -> np.ndarray:
    """Gait energy image: the mean frame (Han and Bhanu 2006, eq. 1). [B, F, H, W] of 0 and 1 to float32 [B, H * W]."""
    return clips.mean(axis=1, dtype=np.float32).reshape(len(clips), -1)


def foreground_share(clips: np.ndarray) -> np.ndarray:
    """Share of pixels that are foreground. [B, F, H, W] of 0 and 1 to float64 [B]."""
    return clips.mean(axis=(1, 2, 3), dtype=np.float64)


def flicker(clips: np.ndarray) -> np.ndarray:
    """Share of pixels that change from one frame to the next. [B, F, H, W] to float64 [B]; 0 if F is 1."""
    if clips.shape[1] < 2:
        return np.zeros(len(clips))
    return (clips[:, 1:] != clips[:, :-1]).mean(axis=(1, 2, 3))


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of two lists of clips in step. [B, F, H, W] twice to float64 [B]; 1 if both are empty."""
    axes = (1, 2, 3)
    both = np.logical_and(first, second).sum(axes)
    either = np.logical_or(first, second).sum(axes)
    return np.where(either, both / np.maximum(either, 1), 1.0)
