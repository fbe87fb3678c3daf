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

import numpy as np
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


def _half_log_snr(bar: float) -> float:
    return 0.5 * math.log(bar / (1 - bar))


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

    before: Array | None = None
    for i, t in enumerate(timesteps):
        bar, bar_next = bars[i], bars[i + 1]
        x0 = limit(predict_x0(prediction, x, denoise(x, t), bar))
        if i + 1 == len(timesteps):
            return x0
        h = _half_log_snr(bar_next) - _half_log_snr(bar)
        data = x0
        if before is not None:
            r = (_half_log_snr(bar) - _half_log_snr(bars[i - 1])) / h
            data = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * before
        x = math.sqrt((1 - bar_next) / (1 - bar)) * x - math.sqrt(bar_next) * math.expm1(-h) * data
        before = x0
    return x


def dpmpp_3m_sample(
    denoise: Denoise,
    x_T: Array,
    abar: Sequence[float] | Array,
    timesteps: Sequence[int],
    prediction: Prediction = "eps",
    limit: Limit = lambda x0: x0,
) -> Array:
    """DPM-Solver++(3M): the multistep solver of third order, data prediction (Lu et al. 2022, appendix; the authors' code).

    Orders rise 1, 2, 3; the last step is of first order as in 2M, and below 15 steps the last but one of second
    (lower_order_final of diffusers' DPMSolverMultistepScheduler with solver_order 3).
    """
    x, bars, count = x_T, _levels(abar, timesteps), len(timesteps)
    known: list[tuple[float, Array]] = []  # half log signal-to-noise ratio and x0 of earlier steps, latest first
    for i, t in enumerate(timesteps):
        bar, bar_next = bars[i], bars[i + 1]
        x0 = limit(predict_x0(prediction, x, denoise(x, t), bar))
        if i + 1 == count:
            return x0
        known = [(_half_log_snr(bar), x0), *known[:2]]
        h = _half_log_snr(bar_next) - known[0][0]
        alpha, keep = math.sqrt(bar_next), math.sqrt((1 - bar_next) / (1 - bar))
        order = min(len(known), 2 if count < 15 and i + 2 == count else 3)
        x = keep * x - alpha * math.expm1(-h) * x0
        if order == 1:
            continue
        r0 = (known[0][0] - known[1][0]) / h
        near = (known[0][1] - known[1][1]) / r0
        if order == 2:
            x = x - 0.5 * alpha * math.expm1(-h) * near
            continue
        r1 = (known[1][0] - known[2][0]) / h
        far = (known[1][1] - known[2][1]) / r1
        second = (near - far) / (r0 + r1)
        x = x + alpha * (math.expm1(-h) / h + 1) * (near + r0 * second)
        x = x - alpha * ((math.expm1(-h) + h) / h**2 - 0.5) * second
    return x


def unipc_sample(
    denoise: Denoise,
    x_T: Array,
    abar: Sequence[float] | Array,
    timesteps: Sequence[int],
    prediction: Prediction = "eps",
    limit: Limit = lambda x0: x0,
) -> Array:
    """UniPC of second order, Zhao et al. 2023 algorithms 1 to 3: data prediction, B(h) = exp(-h) - 1.

    Each x is corrected once the model has seen it; the call is not repeated. In diffusers' words: UniPCMultistepScheduler
    with solver_order 2, solver_type bh2, predict_x0, lower_order_final, final_sigmas_type zero.
    """
    x, bars, count = x_T, _levels(abar, timesteps), len(timesteps)
    lambdas = [_half_log_snr(bar) for bar in bars[:-1]]
    known: list[Array] = []  # earlier x0, latest first
    start, first = x_T, x_T  # the corrected x of the step before, and the first-order part of what it led to
    for i, t in enumerate(timesteps):
        x0 = limit(predict_x0(prediction, x, denoise(x, t), bars[i]))
        if i + 1 == count:
            return x0
        if i > 0:
            h = lambdas[i] - lambdas[i - 1]
            scale = -math.sqrt(bars[i]) * math.expm1(-h)
            if i == 1:
                x = first + scale * 0.5 * (x0 - known[0])
            else:
                r = (lambdas[i - 2] - lambdas[i - 1]) / h
                old, new = np.linalg.solve([[1.0, 1.0], [r, 1.0]], _unipc_moments(h))
                x = first + scale * (float(old) * (known[1] - known[0]) / r + float(new) * (x0 - known[0]))
        start, h = x, lambdas[i + 1] - lambdas[i]
        alpha, keep = math.sqrt(bars[i + 1]), math.sqrt((1 - bars[i + 1]) / (1 - bars[i]))
        first = keep * start - alpha * math.expm1(-h) * x0
        x = first
        if i > 0:
            r = (lambdas[i - 1] - lambdas[i]) / h
            x = x - 0.5 * alpha * math.expm1(-h) * (known[0] - x0) / r
        known = [x0, *known[:1]]
    return x


def _unipc_moments(h: float) -> list[float]:
    """Right-hand side of the system that the corrector's weights solve (theorem 3.1): n! phi_(n+1)(-h) (-h) / B(h), n = 1, 2."""
    phi2 = math.expm1(-h) / -h - 1
    phi3 = phi2 / -h - 0.5
    return [phi2 / math.expm1(-h), 2 * phi3 / math.expm1(-h)]


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
    multistep = {"dpmpp_2m": dpmpp_2m_sample, "dpmpp_3m": dpmpp_3m_sample, "unipc": unipc_sample}
    return multistep[settings.kind](denoise, x_T, abar, timesteps, **shared)
