"""Sharing eight bits between activations and weights: some ranges are widened so that the convolution's error shrinks.

The engine folds an input channel's step into the weights and rounds those to eight bits with one step per output channel
(``csrc/ops/int8_product.h``). A wide channel sets that step, and the weights of narrow channels are rounded coarsely although
their activations have levels to spare. A wider range for such a channel makes its folded weights larger: less of them is lost.
SmoothQuant (Xiao et al. 2023, arXiv 2211.10438) moves the difficulty between the two by a power of their ratio; here the
expected error is minimised itself.
"""

from __future__ import annotations

import numpy as np

# Beyond it a channel would be left with less than eight levels.
WIDEST = 32.0
_STEPS = 97  # of the search over six octaves, a sixteenth of one apart


def rounding_error(weight: np.ndarray, mean_square: np.ndarray, step: np.ndarray) -> float:
    """Expected squared error of a pixel, summed over the output channels, with activations rounded to ``step [Ci]``.

    Rounding is taken as noise of variance step^2 / 12, independent everywhere. ``weight [Co, Ci, 3, 3]``; ``mean_square [Ci]``
    of the activations.
    """
    squares = np.square(weight).sum((0, 2, 3))
    taps = weight.shape[2] * weight.shape[3]
    weight_step = (np.abs(weight).max((2, 3)) * step).max(1) / 127
    levels = np.divide(mean_square, np.square(step), out=np.zeros_like(mean_square), where=mean_square > 0)
    return float((squares * step**2).sum() + (weight_step**2).sum() * taps * levels.sum()) / 12


def balanced(weight: np.ndarray, mean_square: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranges at least as wide as ``low``, ``high`` (float32 ``[Ci]``) with the least expected error of those tried.

    For fixed weight steps the error is least where step_c is proportional to (mean_square_c / sum of w_c^2)^(1/4); the factor is
    searched for, and a step below what the range needs is raised to that.
    """
    w, m = weight.astype(np.float64), mean_square.astype(np.float64)
    step = (high.astype(np.float64) - low) / 255
    squares = np.square(w).sum((0, 2, 3))
    shape = np.divide(m, squares, out=np.zeros_like(m), where=squares > 0) ** 0.25
    best, least = np.ones_like(step), rounding_error(w, m, step)
    if not shape.any():
        return low, high
    middle = np.median((step / np.where(shape > 0, shape, np.inf))[shape > 0])
    for factor in middle * 2.0 ** np.linspace(-3, 3, _STEPS):
        wider = np.clip(factor * shape / step, 1, WIDEST)
        error = rounding_error(w, m, step * wider)
        if error < least:
            best, least = wider, error
    return (low * best).astype(np.float32), (high * best).astype(np.float32)
