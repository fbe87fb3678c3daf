"""Grey borders as real silhouettes have them.

OpenGait's pretreatment shrinks a mask of some 115 rows to 64 with a cubic kernel, so real borders are grey and binary clips can be
told from them by their edges alone. ``soft_edges`` walks the same road: it enlarges the clip smoothly to a mask of 115/64 its size,
thresholds it (a camera's mask is binary too), and shrinks it with the same cubic kernel. Pixels that were foreground stay at
128 or above and the others at 127 or below, so that thresholding at 128 gives the clip back, bit for bit.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..data.normalise import resize_cubic

# A person fills about 115 of the 240 rows of a CASIA-B frame.
RAW_ROWS = 115 / 64


def soft_edges(clip: np.ndarray) -> np.ndarray:
    """uint8 [T, H, W] of 0 and 255 to uint8 [T, H, W] of 0..255 with grey borders."""
    _, height, width = clip.shape
    large = (round(width * RAW_ROWS), round(height * RAW_ROWS))
    out = np.empty_like(clip)
    for frame, mask in enumerate(clip):
        smooth = np.asarray(Image.fromarray(mask).resize(large, Image.Resampling.BICUBIC))
        binary = np.where(smooth >= 128, np.uint8(255), np.uint8(0))
        grey = resize_cubic(binary, height, width)
        out[frame] = np.where(mask >= 128, np.maximum(grey, 128), np.minimum(grey, 127))
    return out
