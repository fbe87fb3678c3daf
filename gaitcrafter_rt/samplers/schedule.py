"""Noise schedules and timestep spacings, in double (docs/samplers.md)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidRequestError

Kind = Literal["ddpm", "ddim", "dpmpp_2m", "dpmpp_3m", "unipc"]
ScheduleName = Literal["cosine", "linear"]
Spacing = Literal["leading", "trailing", "linspace"]

COSINE_OFFSET = 0.008
COSINE_MAX_BETA = 0.9999


def betas(schedule: ScheduleName, timesteps: int) -> NDArray[np.float64]:
    """Variance added at each timestep, float64 (timesteps,), each in (0, 1).

    ``cosine``: Nichol and Dhariwal 2021 equation 17, offset 0.008, capped at 0.9999. ``linear``: Ho et al. 2020, 1e-4 to
    0.02 at 1000 timesteps, scaled by 1000 / timesteps. The base network has the first, its sister for images
    (denoising-diffusion-pytorch) both, with the same numbers. Raises InvalidRequestError for
    timesteps below 1, and for a linear schedule so short that a beta reaches 1.
    """
    if timesteps < 1:
        raise InvalidRequestError(f"timesteps is {timesteps}; a schedule needs at least 1")
    if schedule == "cosine":

        def bar(at: float) -> float:
            c = math.cos(((at / timesteps) + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi * 0.5)
            return c * c

        values = np.array([1 - bar(t + 1) / bar(t) for t in range(timesteps)]).clip(0, COSINE_MAX_BETA)
    else:
        scale = 1000 / timesteps
        first, last = scale * 1e-4, scale * 0.02
        span = max(timesteps - 1, 1)
        values = np.array([first + (last - first) * t / span for t in range(timesteps)])
    if not ((values > 0) & (values < 1)).all():
        raise InvalidRequestError(
            f"the linear schedule at {timesteps} timesteps has a beta outside 0..1; it needs more than 20 timesteps"
        )
    return values


def alphas_cumprod(schedule: ScheduleName, timesteps: int) -> NDArray[np.float64]:
    """Cumulative products of 1 - beta: the share of the clip's variance left at each timestep, float64 (timesteps,)."""
    return np.cumprod(1 - betas(schedule, timesteps), dtype=np.float64)


def spaced_timesteps(kind: Kind, spacing: Spacing, steps: int, train_timesteps: int) -> list[int]:
    """``steps`` timesteps in the order that they run, from noisy to clean.

    The same as ``set_timesteps`` of diffusers' DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler and
    UniPCMultistepScheduler with steps_offset 0, less the timestep -1 that theirs appends for some trailing counts. Raises
    InvalidRequestError for steps outside 1..train_timesteps, and for a spacing that repeats a timestep or begins at 0.
    """
    if not 1 <= steps <= train_timesteps:
        raise InvalidRequestError(f"steps is {steps}; this model allows 1 to {train_timesteps}, its training timesteps")
    drop_zero = kind not in ("ddpm", "ddim")
    points = steps + 1 if drop_zero else steps
    if spacing == "trailing":
        t = [int(v) - 1 for v in np.round(np.arange(train_timesteps, 0, -train_timesteps / steps))[:steps]]
    else:
        if spacing == "linspace":
            t = [int(v) for v in np.linspace(0, train_timesteps - 1, points).round()[::-1]]
        else:
            t = [i * (train_timesteps // points) for i in reversed(range(points))]
        if drop_zero:
            t = t[:-1]
    repeats = len(set(t)) != len(t)
    if repeats or (t[0] == 0 and train_timesteps > 1):
        why = "visits a timestep twice" if repeats else "would begin at timestep 0, where no noise is expected"
        raise InvalidRequestError(
            f"{spacing} spacing of {kind} with {steps} of {train_timesteps} steps {why}; use trailing spacing or another "
            "number of steps"
        )
    return t
