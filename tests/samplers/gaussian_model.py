"""A denoiser whose answer is known: the posterior mean of Gaussian pixels, bent a little so that it is not linear.

Pixels ~ N(mean, spread^2) with means beyond [-1, 1], so that thresholding has work to do. The arithmetic runs in double and is
rounded to the dtype of x once, for every prediction type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaitcrafter_rt.config import Diffusion
from gaitcrafter_rt.samplers.schedule import alphas_cumprod

SPREAD = 0.6


def gaussian_denoiser(diffusion: Diffusion) -> Callable[[NDArray[Any], int], NDArray[Any]]:
    """``denoise(x, t)`` in the prediction type of ``diffusion``, for x of any shape."""
    abar = alphas_cumprod(diffusion.schedule, diffusion.timesteps)

    def denoise(x: NDArray[Any], t: int) -> NDArray[Any]:
        wide = x.astype(np.float64)
        mean = 1.6 * np.sin(np.arange(x.size, dtype=np.float64) * 0.37).reshape(x.shape)
        alpha, sigma = np.sqrt(abar[t]), np.sqrt(1 - abar[t])
        x0 = mean + SPREAD**2 * alpha / (alpha**2 * SPREAD**2 + sigma**2) * (wide - alpha * mean)
        x0 += 0.05 * np.sin(2 * wide + t)
        out = x0
        if diffusion.prediction == "eps":
            out = (wide - alpha * x0) / sigma
        elif diffusion.prediction == "v":
            out = alpha * (wide - alpha * x0) / sigma - sigma * x0
        return out.astype(x.dtype)

    return denoise


def relative_l2(got: NDArray[Any], judge: NDArray[Any]) -> float:
    """``||got - judge|| / ||judge||`` in double."""
    judge = judge.astype(np.float64)
    return float(np.linalg.norm(got.astype(np.float64) - judge) / np.linalg.norm(judge))
