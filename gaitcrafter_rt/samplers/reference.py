"""Reference samplers: pure functions over a denoiser, written from the papers and not from the table of rows.

They are what the engine's sampler is tested against. Shared arguments:

- ``denoise(x, t)``: the model's (guided) output for one clip, same shape as x.
- ``x_T``: initial noise of one clip, any shape, float32 or float64; the arithmetic runs in its dtype.
- ``abar``: ``schedule.alphas_cumprod``; ``timesteps``: decreasing, ``schedule.spaced_timesteps``.
- ``noise(t)``: standard normals of timestep t, the shape of x; called only where the sampler adds noise.
- ``limit(x0)``: thresholding of the estimated clean clip (thresholds.py).

All return x_0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from numpy.typing import NDArray

from ..config import Diffusion, SamplerDefaults
from .schedule import alphas_cumprod, spaced_timesteps
from .thresholds import threshold

Array = NDArray[Any]
Denoise = Callable[[Array, int], Array]
Noise = Callable[[int], Array]
Limit = Callable[[Array], Array]
Prediction = Literal["x0", "eps", "v"]


def predict_x0(prediction: Prediction, x: Array, out: Array, bar: float) -> Array:
    """The clean clip implied by a model output: eps by Ho et al. 2020 equation 15, v by Salimans and Ho 2022, section 4."""
    alpha, sigma = math.sqrt(bar), math.sqrt(1 - bar)
    if prediction == "eps":
        return (x - sigma * out) / alpha
    if prediction == "v":
        return alpha * x - sigma * out
    return out


def _levels(abar: Sequence[float] | Array, timesteps: Sequence[int]) -> list[float]:
    """alphas_cumprod along the trajectory; 1, no noise at all, after the last step."""
    return [float(abar[t]) for t in timesteps] + [1.0]


def ddpm_sample(
    denoise: Denoise,
    x_T: Array,
    abar: Sequence[float] | Array,
    timesteps: Sequence[int],
    noise: Noise,
    prediction: Prediction = "eps",
    limit: Limit = lambda x0: x0,
) -> Array:
    """Ancestral sampling, Ho et al. 2020 equations 6 and 7 (posterior mean and variance).

    With fewer timesteps than the schedule has, the betas are those between the kept levels (Nichol and Dhariwal 2021,
    section 4).
    """
    x, bars = x_T, _levels(abar, timesteps)
    for i, t in enumerate(timesteps):
        bar, bar_next = bars[i], bars[i + 1]
        alpha = bar / bar_next
        beta = 1 - alpha
        x0 = limit(predict_x0(prediction, x, denoise(x, t), bar))
        mean = math.sqrt(bar_next) * beta / (1 - bar) * x0 + math.sqrt(alpha) * (1 - bar_next) / (1 - bar) * x
        variance = (1 - bar_next) / (1 - bar) * beta
        x = mean + math.sqrt(variance) * noise(t) if variance > 0 else mean
    return x


def ddim_sample(
    denoise: Denoise,
    x_T: Array,
    abar: Sequence[float] | Array,
    timesteps: Sequence[int],
    noise: Noise,
    prediction: Prediction = "eps",
    limit: Limit = lambda x0: x0,
    eta: float = 0.0,
    rederive_eps: bool = True,
) -> Array:
    """Song et al. 2021 equations 12 and 16. ``eta`` 0 is deterministic, 1 adds as much noise as ddpm.

    ``rederive_eps``: eps follows from the thresholded x0 (as lucidrains' denoising-diffusion-pytorch and diffusers with
    use_clipped_model_output); else it stays the network's own (as diffusers by default).
    """
    x, bars = x_T, _levels(abar, timesteps)
    for i, t in enumerate(timesteps):
        bar, bar_next = bars[i], bars[i + 1]
        raw = predict_x0(prediction, x, denoise(x, t), bar)
        x0 = limit(raw)
        eps = (x - math.sqrt(bar) * (x0 if rederive_eps else raw)) / math.sqrt(1 - bar)
        spread = eta * math.sqrt((1 - bar_next) / (1 - bar)) * math.sqrt(1 - bar / bar_next)
        x = math.sqrt(bar_next) * x0 + math.sqrt(max(0.0, 1 - bar_next - spread**2)) * eps
        if spread > 0:
            x = x + spread * noise(t)
    return x


def dpmpp_2m_sample(
    denoise: Denoise,
    x_T: Array,
    abar: Sequence[float] | Array,
    timesteps: Sequence[int],
    prediction: Prediction = "eps",
    limit: Limit = lambda x0: x0,
) -> Array:
    """DPM-Solver++(2M), Lu et al. 2022 algorithm 2: multistep, second order, data prediction, midpoint form.

    The first step is of first order for want of an earlier x0, the last because the noise goes to 0 (lambda to infinity).
    In diffusers' words: algorithm_type dpmsolver++, solver_type midpoint, solver_order 2, final_sigmas_type zero, which
    makes the last step first-order whatever lower_order_final and euler_at_final say.
    """
    x, bars = x_T, _levels(abar, timesteps)

    def half_log_snr(bar: float) -> float:
        return 0.5 * math.log(bar / (1 - bar))

    before: Array | None = None
    for i, t in enumerate(timesteps):
        bar, bar_next = bars[i], bars[i + 1]
        x0 = limit(predict_x0(prediction, x, denoise(x, t), bar))
        if i + 1 == len(timesteps):
            return x0
        h = half_log_snr(bar_next) - half_log_snr(bar)
        data = x0
        if before is not None:
            r = (half_log_snr(bar) - half_log_snr(bars[i - 1])) / h
            data = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * before
        x = math.sqrt((1 - bar_next) / (1 - bar)) * x - math.sqrt(bar_next) * math.expm1(-h) * data
        before = x0
    return x


def sample(denoise: Denoise, x_T: Array, settings: SamplerDefaults, diffusion: Diffusion, noise: Noise) -> Array:
    """The sampler that ``settings`` names; raises InvalidRequestError as schedule.py does."""
    abar = alphas_cumprod(diffusion.schedule, diffusion.timesteps)
    timesteps = spaced_timesteps(settings.kind, settings.spacing, settings.steps, diffusion.timesteps)

    def limit(x0: Array) -> Array:
        return threshold(x0, settings.thresholding, settings.dynamic_percentile)

    shared: dict[str, Any] = {"prediction": diffusion.prediction, "limit": limit}
    if settings.kind == "ddpm":
        return ddpm_sample(denoise, x_T, abar, timesteps, noise, **shared)
    if settings.kind == "ddim":
        shared |= {"eta": settings.eta, "rederive_eps": settings.rederive_eps}
        return ddim_sample(denoise, x_T, abar, timesteps, noise, **shared)
    return dpmpp_2m_sample(denoise, x_T, abar, timesteps, **shared)
