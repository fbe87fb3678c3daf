"""Made-up clips: a toy figure that swings its legs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gaitcrafter_rt.clips import ClipBatch

CONDITIONS = [
    {"identity": "001", "view": "090", "covariate": "nm"},
    {"identity": {"001": 0.5, "002": 0.5}, "view": "090", "covariate": "bg"},
    {"identity": {"002": 1, "001": 1}, "view": {"000": 1, "018": 0.5}},
    {},
    {"view": "000"},
    {"identity": "001", "view": "090", "covariate": "nm"},
]


def make_batch(conditions: list | None = None, shape: tuple[int, int, int] = (30, 64, 64)) -> ClipBatch:
    conditions = CONDITIONS if conditions is None else conditions
    frames, height, width = shape
    t, y, x = np.ogrid[:frames, :height, :width]
    y, x = y * 64 / height, x * 64 / width
    clips = []
    for i in range(len(conditions)):
        swing = np.sin(2 * np.pi * t / 26 + i) * (y - 36) * 0.55
        legs = ((abs(x - 32 - swing) < 3.2) | (abs(x - 32 + swing) < 3.2)) & (y >= 36)
        clips.append(legs | ((y - 6.5) ** 2 + (x - 32) ** 2 < 42) | ((abs(x - 32) < 6.5) & (y > 11) & (y < 38)))
    bits = np.packbits(np.stack(clips).reshape(len(conditions), -1), axis=1)
    return ClipBatch(bits, shape, conditions, 2**64 - 1, np.arange(len(conditions)) + 2**40, {"model": "toy", "model_sha256": "00"})


@pytest.fixture
def batch() -> ClipBatch:
    return make_batch()


@pytest.fixture
def make() -> Callable[..., ClipBatch]:
    return make_batch
