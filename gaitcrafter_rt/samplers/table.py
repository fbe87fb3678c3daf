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
        why = "ddpm has no eta (its noise is fixed)" if settings.kind == "ddpm" else "dpmpp_2m is deterministic"
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
        else:
            _dpmpp_2m(row, bars[i], bars[i + 1], bars[i - 1] if i else None)
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


def _dpmpp_2m(row: Row, bar: float, bar_next: float, bar_before: float | None) -> None:
    if bar_next == 1:
        row.c_x0 = 1.0
        return
    here, there = (0.5 * math.log(b / (1 - b)) for b in (bar, bar_next))
    h = there - here
    weight = -math.sqrt(bar_next) * math.expm1(-h)
    row.c_x = math.sqrt(1 - bar_next) / math.sqrt(1 - bar)
    row.c_x0 = weight
    if bar_before is not None:
        ratio = (here - 0.5 * math.log(bar_before / (1 - bar_before))) / h
        row.c_x0 += weight * 0.5 / ratio
        row.c_prev1 = -weight * 0.5 / ratio
