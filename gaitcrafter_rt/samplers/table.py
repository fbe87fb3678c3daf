"""The engine's table of rows in Python, in double: the same formulas as ``csrc/sampler/table.cc``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import Diffusion, SamplerDefaults
from ..errors import InvalidRequestError
from .schedule import alphas_cumprod, spaced_timesteps
from .thresholds import threshold


@dataclass
class Row:
    """One step (docs/architecture.md, "The sampler"): which timestep, and the coefficients of its two sums."""

    t: int
    a_x: float = 0.0
    a_out: float = 0.0
    c_x: float = 0.0
    c_x0: float = 0.0
    c_prev1: float = 0.0
    c_prev2: float = 0.0
    c_raw: float = 0.0
    c_noise: float = 0.0

    @property
    def stream(self) -> int:
        """Noise stream of the row."""
        return 1 + self.t


def check(settings: SamplerDefaults) -> None:
    """Raises InvalidRequestError where a setting has no meaning for the sampler's kind."""
    if settings.kind != "ddim" and settings.eta != 0:
        why = "ddpm has no eta (its noise is fixed)" if settings.kind == "ddpm" else f"{settings.kind} is deterministic"
        raise InvalidRequestError(f"eta is {settings.eta} but {why}; set eta to 0 or use ddim")


def compile_rows(settings: SamplerDefaults, diffusion: Diffusion) -> list[Row]:
    """Rows in the order that they run. Raises InvalidRequestError as ``check`` and schedule.py do."""
    check(settings)
    timesteps = spaced_timesteps(settings.kind, settings.spacing, settings.steps, diffusion.timesteps)
    abar = alphas_cumprod(diffusion.schedule, diffusion.timesteps)
    bars = [float(abar[t]) for t in timesteps] + [1.0]
    rows = []
    for i, t in enumerate(timesteps):
        row = Row(t)
        _estimate(row, diffusion.prediction, bars[i])
        if settings.kind == "ddpm":
            _ddpm(row, bars[i], bars[i + 1])
        elif settings.kind == "ddim":
            _ddim(row, bars[i], bars[i + 1], settings.eta, settings.rederive_eps)
        elif i + 1 == len(timesteps):
            row.c_x0 = 1.0  # no noise is left: x becomes x0
        elif settings.kind == "unipc":
            _unipc(row, bars[max(0, i - 2) : i + 1], bars[i + 1])
        else:
            order = dpmpp_order(settings.kind, i, len(timesteps))
            _dpmpp(row, bars[i + 1 - order : i + 1], bars[i + 1])
        rows.append(row)
    return rows


def compile_segment(timesteps: list[int], end: int, diffusion: Diffusion, order: int = 2) -> list[Row]:
    """Rows of DPM-Solver++(2M) through decreasing ``timesteps`` to the noise level of timestep ``end``, -1 for a clean clip.

    A part of a trajectory: its first step is of first order for want of an earlier x0, as is one that ends at a clean clip. With
    ``order`` 1 all are, which is DDIM.
    """
    abar = alphas_cumprod(diffusion.schedule, diffusion.timesteps)
    bars = [float(abar[t]) for t in timesteps] + [float(abar[end]) if end >= 0 else 1.0]
    rows = []
    for i, t in enumerate(timesteps):
        row = Row(t)
        _estimate(row, diffusion.prediction, bars[i])
        if bars[i + 1] == 1.0:
            row.c_x0 = 1.0
        else:
            _dpmpp(row, bars[max(0, i + 1 - order) : i + 1], bars[i + 1])
        rows.append(row)
    return rows


def run_rows(
    rows: list[Row],
    denoise: Callable[[NDArray[Any], int], NDArray[Any]],
    x_T: NDArray[Any],
    noise: Callable[[int], NDArray[Any]],
    settings: SamplerDefaults,
) -> NDArray[Any]:
    """x_0 by the rows, with coefficients and sums in the dtype of ``x_T`` and in the order of the engine.

    With float32 this is the engine's loop bit for bit. ``denoise`` and ``noise`` as in reference.py.
    """
    dtype = x_T.dtype.type
    x, earlier = x_T, [x_T, x_T]
    for row in rows:
        raw = dtype(row.a_x) * x + dtype(row.a_out) * denoise(x, row.t)
        x0 = threshold(raw, settings.thresholding, settings.dynamic_percentile)
        total = dtype(row.c_x) * x + dtype(row.c_x0) * x0
        for c, term in ((row.c_prev1, earlier[0]), (row.c_prev2, earlier[1]), (row.c_raw, raw)):
            if c != 0:
                total = total + dtype(c) * term
        if row.c_noise != 0:
            total = total + dtype(row.c_noise) * noise(row.t)
        x, earlier = total, [x0, earlier[0]]
    return x


def coefficients(rows: list[Row]) -> NDArray[np.float64]:
    """All rows as float64 (rows, 9): t, a_x, a_out, c_x, c_x0, c_prev1, c_prev2, c_raw, c_noise."""
    return np.array([astuple(row) for row in rows], np.float64)


def _estimate(row: Row, prediction: str, bar: float) -> None:
    alpha, sigma = math.sqrt(bar), math.sqrt(1 - bar)
    if prediction == "x0":
        row.a_x, row.a_out = 0.0, 1.0
    elif prediction == "eps":
        row.a_x, row.a_out = 1 / alpha, -sigma / alpha
    else:
        row.a_x, row.a_out = alpha, -sigma


def _ddpm(row: Row, bar: float, bar_next: float) -> None:
    alpha = bar / bar_next
    beta = 1 - alpha
    row.c_x = math.sqrt(alpha) * (1 - bar_next) / (1 - bar)
    row.c_x0 = math.sqrt(bar_next) * beta / (1 - bar)
    row.c_noise = math.sqrt(beta * (1 - bar_next) / (1 - bar))


def _ddim(row: Row, bar: float, bar_next: float, eta: float, rederive_eps: bool) -> None:
    spread = eta * math.sqrt((1 - bar_next) / (1 - bar)) * math.sqrt(1 - bar / bar_next)
    share = math.sqrt(max(0.0, 1 - bar_next - spread * spread)) / math.sqrt(1 - bar)
    row.c_x = share
    row.c_x0 = math.sqrt(bar_next)
    if rederive_eps:
        row.c_x0 = -share * math.sqrt(bar) + row.c_x0
    else:
        row.c_raw = -share * math.sqrt(bar)
    row.c_noise = spread


def dpmpp_order(kind: str, row: int, rows: int) -> int:
    """Order of a row of DPM-Solver++ that is not the last.

    The first rows have no earlier x0. Below 15 rows the last but one of the third-order solver is of second order
    (lower_order_final of the authors' code and of diffusers): without it few-step runs become unstable.
    """
    if kind == "dpmpp_2m":
        return min(2, row + 1)
    return min(3 if rows >= 15 or row + 2 < rows else 2, row + 1)


def _lambda(bar: float) -> float:
    return 0.5 * math.log(bar / (1 - bar))


def _dpmpp(row: Row, past: list[float], bar_next: float) -> None:
    """``past``: the levels of as many rows as this one has orders, its own last."""
    lambdas = [_lambda(bar) for bar in past]
    here, alpha = lambdas[-1], math.sqrt(bar_next)
    h = _lambda(bar_next) - here
    shrink = math.expm1(-h)
    weight = -alpha * shrink
    row.c_x = math.sqrt(1 - bar_next) / math.sqrt(1 - past[-1])
    row.c_x0 = weight
    if len(past) == 1:
        return
    r0 = (here - lambdas[-2]) / h
    if len(past) == 2:
        row.c_x0 += weight * 0.5 / r0
        row.c_prev1 = -weight * 0.5 / r0
        return
    r1 = (lambdas[-2] - lambdas[-3]) / h
    first = alpha * (shrink / h + 1)  # of D1, the first difference
    second = -alpha * ((shrink + h) / (h * h) - 0.5)  # of D2
    # D1 = near + r0 / (r0 + r1) (near - far), D2 = (near - far) / (r0 + r1); near = (x0 - x0[-1]) / r0 and so on.
    near = first * (1 + r0 / (r0 + r1)) + second / (r0 + r1)
    far = -first * r0 / (r0 + r1) - second / (r0 + r1)
    row.c_x0 += near / r0
    row.c_prev1 = -near / r0 + far / r1
    row.c_prev2 = -far / r1


def _unipc(row: Row, past: list[float], bar_next: float) -> None:
    """Corrector of the step that led here, then predictor, both in one sum; ``past``: up to three levels, the row's own last.

    Predictor and corrector differ in multiples of known x0 only, so the corrected x is the predicted x plus such multiples, and
    no earlier x is needed.
    """
    lambdas = [_lambda(bar) for bar in past]
    here = lambdas[-1]
    x0, prev1, prev2 = 0.0, 0.0, 0.0  # what the corrector adds to x
    if len(past) > 1:
        h = here - lambdas[-2]
        scale = -math.sqrt(past[-1]) * math.expm1(-h)
        if len(past) == 2:
            x0, prev1 = 0.5 * scale, -0.5 * scale
        else:
            r = (lambdas[-3] - lambdas[-2]) / h
            old, new = _unipc_weights(r, h)
            change = scale * (old - 0.5) / r  # the predictor had 0.5 for old, 0 for new
            x0, prev1, prev2 = scale * new, -change - scale * new, change
    h = _lambda(bar_next) - here
    keep, weight = math.sqrt(1 - bar_next) / math.sqrt(1 - past[-1]), -math.sqrt(bar_next) * math.expm1(-h)
    row.c_x = keep
    row.c_x0 = keep * x0 + weight
    row.c_prev1 = keep * prev1
    row.c_prev2 = keep * prev2
    if len(past) > 1:
        step = weight * 0.5 / ((lambdas[-2] - here) / h)
        row.c_x0 -= step
        row.c_prev1 += step


def _unipc_weights(r: float, h: float) -> tuple[float, float]:
    """Weights of (x0[-2] - x0[-1]) / r and of x0 - x0[-1] in the second-order corrector, B(h) = expm1(-h)."""
    b = math.expm1(-h)
    phi1 = b / -h - 1
    phi2 = phi1 / -h - 0.5
    b1, b2 = phi1 / b, 2 * phi2 / b
    # [[1, 1], [r, 1]] (old, new) = (b1, b2)
    old = (b1 - b2) / (1 - r)
    return old, b1 - old
