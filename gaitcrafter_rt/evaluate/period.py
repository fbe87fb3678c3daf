"""Gait period of a side-view clip from the width of the lower body.

In side view the width between the feet rises and falls once a step, so its period is half a gait cycle. A clip holds
about two steps, too few for a Fourier bin or a bare autocorrelation peak: the period is the one whose constant, sine and
cosine at one and two times its frequency fit the width best (a Lomb-Scargle periodogram of two harmonics), on a grid of a
tenth of a frame and refined by a parabola.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

LOWER_BODY = 0.4  # share of the frame's height, from below
# Gait cycles of 18 to 40 frames are 0.72 to 1.6 s at 25 frames per second.
_SHORTEST_STEP, _LONGEST_STEP, _GRID = 9.0, 20.0, 0.1
# A step that the clip does not hold one and a half times cannot be told from a trend.
_STEPS_IN_CLIP = 1.5
_HARMONICS = 2
# A column needs this many pixels, so that one stray pixel does not widen the figure.
_COLUMN = 2
TOLERANCE = 0.10


def lower_body_width(clips: np.ndarray) -> np.ndarray:
    """Columns between the outermost ones that hold the lower body. [B, F, H, W] to float64 [B, F], 0 to W."""
    height, width = clips.shape[2:]
    columns = (clips[:, :, height - round(LOWER_BODY * height) :] != 0).sum(axis=2) >= _COLUMN
    first = columns.argmax(axis=2)
    last = width - 1 - columns[:, :, ::-1].argmax(axis=2)
    return np.where(columns.any(axis=2), last - first + 1, 0).astype(np.float64)


def can_measure(frames: int) -> bool:
    """Whether a clip of so many frames is long enough for the shortest steps at all."""
    return frames / _STEPS_IN_CLIP >= _SHORTEST_STEP + 2 * _GRID


def gait_period(widths: np.ndarray) -> np.ndarray:
    """Frames per gait cycle (two steps) from the widths of :func:`lower_body_width`.

    Args:
        widths: float64 [B, F]; F must pass :func:`can_measure`.

    Returns:
        float64 [B]; NaN where the width never changes.
    """
    steps, bases = _bases(widths.shape[1])
    centred = widths - widths.mean(axis=1, keepdims=True)
    explained = np.stack([((centred @ basis) ** 2).sum(axis=1) for basis in bases], axis=1)
    peak = explained.argmax(axis=1).clip(1, len(steps) - 2)
    rows = np.arange(len(widths))
    before, at, after = (explained[rows, peak + k] for k in (-1, 0, 1))
    bend = before - 2 * at + after
    shift = np.divide(0.5 * (before - after), bend, out=np.zeros_like(bend), where=bend < 0)
    period = 2 * (steps[peak] + shift.clip(-1, 1) * _GRID)
    return np.where((centred**2).sum(axis=1) > 0, period, np.nan)


@lru_cache(maxsize=8)
def _bases(frames: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Step lengths of the grid, and for each an orthonormal basis [F, 1 + 2 * harmonics] of what it can explain."""
    steps = np.arange(_SHORTEST_STEP, min(_LONGEST_STEP, frames / _STEPS_IN_CLIP) + _GRID / 2, _GRID)
    time = np.arange(frames) - (frames - 1) / 2
    bases = []
    for step in steps:
        turns = [2 * np.pi * k * time / step for k in range(1, _HARMONICS + 1)]
        waves = [np.ones(frames), *(wave(turn) for turn in turns for wave in (np.cos, np.sin))]
        bases.append(np.linalg.qr(np.stack(waves, axis=1))[0])
    return steps, bases


def within_tolerance(period: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """1.0 where a period lies within 10 % of its reference, else 0.0; a NaN period is outside. float64, same shape."""
    return (np.abs(period / reference - 1) <= TOLERANCE).astype(np.float64)
