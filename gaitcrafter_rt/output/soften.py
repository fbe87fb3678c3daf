"""Grey borders as real silhouettes have them.

OpenGait's pretreatment shrinks a mask of about a hundred rows to 64 with a cubic kernel, so the borders of real silhouettes are
grey, and binary clips can be told from them by their borders alone. ``soft_edges`` walks the same road: enlarge the clip, smooth it
to undo the staircase, threshold (a camera's mask is binary too), and shrink it with the same cubic kernel. Pixels that were
foreground stay at 128 or above and the others at 127 or below, so that thresholding at 128 gives the clip back, bit for bit.

Rows and smoothing were chosen to bring the share and the histogram of the greys close to those of rendered walkers before their
threshold (tests/output/test_soften.py measures both).
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from ..data.normalise import resize_cubic

_ENLARGE = 103 / 64
_SMOOTH = 1.3  # standard deviation in pixels of the enlarged picture


def soft_edges(clip: np.ndarray) -> np.ndarray:
    """uint8 [T, H, W] of 0 and 255 to uint8 [T, H, W] of 0..255 with grey borders."""
    _, height, width = clip.shape
    large = (round(width * _ENLARGE), round(height * _ENLARGE))
    blur = ImageFilter.GaussianBlur(_SMOOTH)
    out = np.empty_like(clip)
    for frame, mask in enumerate(clip):
        smooth = np.asarray(Image.fromarray(mask).resize(large, Image.Resampling.BILINEAR).filter(blur))
        grey = resize_cubic(np.where(smooth >= 128, np.uint8(255), np.uint8(0)), height, width)
        out[frame] = np.where(mask >= 128, np.maximum(grey, 128), np.minimum(grey, 127))
    return out
