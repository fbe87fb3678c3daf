"""What the view and covariate classifier sees of a clip. Needs no torch."""

from __future__ import annotations

import numpy as np

# Means of so many stretches of the clip: coarse phases of the gait cycle, which tell front from back.
STRETCHES = 6
PLANES = STRETCHES + 1


def clip_planes(clips: np.ndarray) -> np.ndarray:
    """Mean frames of six stretches of the clip and the share of frames in which a pixel changes, at half the resolution.

    Args:
        clips: [B, F, H, W] of 0 and 1; an odd last row or column is left out.

    Returns:
        uint8 [B, 7, H / 2, W / 2], 255 = always. A stretch without frames (F < 6) is 0.
    """
    clips = clips[:, :, : clips.shape[2] // 2 * 2, : clips.shape[3] // 2 * 2]
    batch, frames, height, width = clips.shape
    planes = np.zeros((batch, PLANES, height, width), np.float32)
    for i, stretch in enumerate(np.array_split(np.arange(frames), STRETCHES)):
        if len(stretch):
            planes[:, i] = clips[:, stretch].mean(axis=1, dtype=np.float32)
    if frames > 1:
        planes[:, STRETCHES] = (clips[:, 1:] != clips[:, :-1]).mean(axis=1, dtype=np.float32)
    halved = planes.reshape(batch, PLANES, height // 2, 2, width // 2, 2).mean(axis=(3, 5))
    return (halved * 255 + 0.5).astype(np.uint8)
